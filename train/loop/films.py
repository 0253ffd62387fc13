"""A generated clip to look at and listen to: its videos side by side, once with each sound."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lipforge.model.clock import SAMPLES_PER_FRAME, SYNC_MARGIN_FRAMES
from lipforge.pipeline.media.shown import write_shown
from lipforge.train.drawing import SIDE_PX, caption, small
from lipforge.train.loop import pictures


@dataclass(frozen=True, eq=False)
class Film:
    mp4: bytes
    """With sound."""
    sheet: np.ndarray
    """uint8 [H, W, 3]"""
    gif: bytes | None


def film_of(videos: Mapping[str, np.ndarray], sounds: Mapping[str, np.ndarray], with_gif: bool) -> Film:
    """videos: uint8 [T, R, R, 3] by label; sounds: float32 [(T + 30) * 640], with margins, by label of the video that
    was drawn with it.
    """
    rows = list(videos.items())
    return Film(
        mp4=_mp4(videos, sounds),
        sheet=pictures.contact_sheet(rows),
        gif=pictures.film(rows) if with_gif else None,
    )


def _mp4(videos: Mapping[str, np.ndarray], sounds: Mapping[str, np.ndarray]) -> bytes:
    """Every sound once, with a white line above the video that it belongs to and black ones above the others."""
    margin = SYNC_MARGIN_FRAMES * SAMPLES_PER_FRAME
    faces = np.concatenate([np.stack([small(frame) for frame in frames]) for frames in videos.values()], axis=2)
    parts = []
    for heard in sounds:
        titles = [caption(label, SIDE_PX) for label in videos]
        shown = [line if label == heard else 255 - line for label, line in zip(videos, titles, strict=True)]
        line = np.concatenate(shown, axis=1)
        parts.append(np.concatenate([np.repeat(line[None], len(faces), axis=0), faces], axis=1))
    audio = np.concatenate([sound[margin:-margin] for sound in sounds.values()])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        write_shown(path, np.concatenate(parts), audio)
        return path.read_bytes()
