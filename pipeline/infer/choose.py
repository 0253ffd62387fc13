"""Whose lips are made new: per shot, from how well each face fits the old sound, or from its size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lipforge.pipeline.infer.usable import TrackMeasures


@dataclass(frozen=True)
class StretchScore:
    """How well a face fits the old sound, in a stretch of up to 4 s."""

    start_frame: int
    """At 25 fps."""
    num_frames: int
    confidence: float
    offset_frames: int
    speech: bool
    """The old sound is not silent there."""


@dataclass(frozen=True)
class Choice:
    """What is drawn."""

    tracks: dict[int, list[int]]
    """By shot: numbers of the tracks that get new lips. A shot of listeners has none."""
    notes: list[str]
    """What a person should know, in whole sentences."""


def choose_faces(
    how: str,
    tracks: Sequence[TrackMeasures],
    scores: Mapping[int, Sequence[StretchScore]],
    min_confidence: float,
    picture: Path | None = None,
) -> Choice:
    """how: speaker, largest, all or track:N. scores: by track number, from `SyncStretches`; empty without old sound.

    min_confidence: of a match, the profile's `min_sync_confidence`. Raises ValueError for another `how` or N, naming
    those that fit and the picture of the numbered faces.
    """
    raise NotImplementedError
