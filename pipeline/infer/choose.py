"""Whose lips are made new: per shot, from how well each face fits the old sound, or from its size."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lipforge.pipeline.infer.usable import TrackMeasures

SAME_OFFSET = 1
"""Frames at 25 fps. Stretches of one video in which the right face is scored agree on the offset within this."""
LISTENS_BELOW = 1.3
"""A stretch of 3 s or more at the video's own offset reads higher than this wherever the face speaks
(docs/inference_faces.md); for the built-in scorer, whose matches begin at 2.2. Other scorers: in that proportion."""
_MATCH = 2.2
_JUDGED_FRAMES = 75
_SPEAKS = 0.5
"""A stretch shows who listens if at least this share of it is speech."""


@dataclass(frozen=True)
class StretchScore:
    """How well a face fits the old sound, in a stretch of up to 4 s."""

    start_frame: int
    """At 25 fps."""
    num_frames: int
    confidence: float
    offset_frames: int
    speech_ratio: float
    """Share of the time in which somebody speaks, seen or not."""


@dataclass(frozen=True)
class Choice:
    """What is drawn."""

    tracks: dict[int, list[int]]
    """By shot: numbers of the tracks that get new lips. A shot of listeners has none."""
    notes: list[str]
    """What a person should know, in whole sentences."""


Scores = Mapping[int, Sequence[StretchScore]]
"""By track number."""


def choose_faces(
    how: str, tracks: Sequence[TrackMeasures], scores: Scores, min_confidence: float, picture: Path | None = None
) -> Choice:
    """how: speaker, largest, all or track:N. scores: from `SyncStretches`; empty without an old sound.

    min_confidence: of a match, the profile's `min_sync_confidence`. Raises ValueError for another `how` or N, naming
    those that fit and the picture that shows the numbers.
    """
    shots: dict[int, list[TrackMeasures]] = {}
    for track in tracks:
        shots.setdefault(track.shot_index, []).append(track)
    if how == "all":
        return Choice({shot: [track.number for track in those] for shot, those in shots.items()}, [])
    if how == "largest":
        return Choice({shot: [_largest(those).number] for shot, those in shots.items()}, [])
    if how == "speaker":
        return _speakers(shots, scores, min_confidence)
    found = re.fullmatch(r"track:(\d{1,9})", how)
    if found is None:
        raise ValueError(f"face={how}: expected speaker, largest, all or track:N, with N the number of a face")
    number = int(found[1])
    chosen = next((track for track in tracks if track.number == number), None)
    if chosen is None:
        where = f"; {picture} shows them" if picture else ""
        raise ValueError(f"face={how}: no face has this number; there {_there_are(len(tracks))}{where}")
    return Choice({chosen.shot_index: [number]}, [])


def common_offset(scores: Scores, min_confidence: float) -> int | None:
    """The offset that most of the evidence of a whole video agrees on, in frames at 25 fps. None: too little does."""
    matches = [one for those in scores.values() for one in those if one.confidence >= min_confidence]
    weights = np.array([one.confidence * one.num_frames for one in matches])
    offsets = np.array([one.offset_frames for one in matches])
    if len(matches) == 0:
        return None
    support = {int(at): weights[np.abs(offsets - at) <= SAME_OFFSET].sum() for at in np.unique(offsets)}
    best = max(support, key=lambda at: (support[at], -abs(at)))
    return best if support[best] > 0.5 * weights.sum() else None


def _speakers(shots: Mapping[int, list[TrackMeasures]], scores: Scores, min_confidence: float) -> Choice:
    offset = common_offset(scores, min_confidence)
    evidence = {track: _evidence(those, offset) for track, those in scores.items()}
    matched = {
        shot
        for shot, those in shots.items()
        if any(_matches(one, offset, min_confidence) for track in those for one in scores.get(track.number, ()))
    }
    chosen: dict[int, list[int]] = {}
    num_listening = num_by_size = 0
    for shot, those in shots.items():
        listening = all(_listens(scores.get(track.number, ()), offset, min_confidence) for track in those)
        if matched - {shot} and listening:
            chosen[shot] = []
            num_listening += 1
            continue
        best = max(those, key=lambda track: (evidence.get(track.number, 0.0), _area(track), -track.number))
        if len(those) > 1 and shot not in matched:
            best = _largest(those)
            num_by_size += 1
        chosen[shot] = [best.number]
    return Choice(chosen, _notes(scores, matched, num_listening, num_by_size))


def _evidence(scores: Sequence[StretchScore], offset: int | None) -> float:
    """Confidence times frames, of the stretches in which somebody speaks and the offset is the video's own."""
    return sum(
        one.confidence * one.num_frames * one.speech_ratio
        for one in scores
        if offset is None or abs(one.offset_frames - offset) <= SAME_OFFSET
    )


def _matches(one: StretchScore, offset: int | None, min_confidence: float) -> bool:
    at_offset = offset is None or abs(one.offset_frames - offset) <= SAME_OFFSET
    return at_offset and one.confidence >= min_confidence


def _listens(scores: Sequence[StretchScore], offset: int | None, min_confidence: float) -> bool:
    """Somebody else speaks while this face is seen: it was judged, and fits nowhere."""
    judged = [one for one in scores if one.num_frames >= _JUDGED_FRAMES and one.speech_ratio >= _SPEAKS]
    limit = LISTENS_BELOW * min_confidence / _MATCH
    fits = (
        one.confidence >= (limit if offset is None or abs(one.offset_frames - offset) <= SAME_OFFSET else min_confidence)
        for one in scores
    )
    return bool(judged) and not any(fits)


def _notes(scores: Scores, matched: set[int], num_listening: int, num_by_size: int) -> list[str]:
    notes = []
    if not matched and num_by_size:
        why = "no face fits the old sound" if scores else "there is no old sound to tell who speaks"
        notes.append(f"The largest face of each shot gets new lips, because {why}; choose with --face track:N.")
    elif num_by_size:
        notes.append(f"In {_shots(num_by_size)} nobody fits the old sound: the largest face gets new lips there.")
    if num_listening:
        notes.append(f"In {_shots(num_listening)} the face that is seen listens while another speaks: it stays as it is.")
    return notes


def _shots(count: int) -> str:
    return "one shot" if count == 1 else f"{count} shots"


def _there_are(count: int) -> str:
    if count == 0:
        return "is no face in the video"
    return "is only face 1" if count == 1 else f"are faces 1 to {count}"


def _area(track: TrackMeasures) -> float:
    """Median area times the number of frames: who is seen large, and for long."""
    box = track.rows["box"]
    return float(np.median((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]))) * len(box)


def _largest(tracks: Sequence[TrackMeasures]) -> TrackMeasures:
    return max(tracks, key=lambda track: (_area(track), -track.number))
