"""Score how well each face fits the old sound, in stretches of 4 s, while the frames stream by."""

from collections.abc import Callable

import numpy as np

from lipforge.model.faces.face import FaceBackend
from lipforge.pipeline.clip import Frame
from lipforge.pipeline.config import AlignConfig
from lipforge.pipeline.infer.choose import StretchScore
from lipforge.pipeline.stages.sync import SyncScorer

OldSound = Callable[[int, int], np.ndarray]
"""(start_frame, end_frame) at 25 fps, start may be negative -> float32 [(end - start) * 640], mono, 16 kHz; zeros where
there is none. `lambda start, end: read_audio(uri, info, start, end).samples`."""


class SyncStretches:
    """Takes the frames of the 25 fps grid, with their faces, and scores each face's stretches as they fill."""

    def __init__(self, backend: FaceBackend, scorer: SyncScorer, crop: AlignConfig, sound: OldSound) -> None:
        raise NotImplementedError

    def add(self, frame: Frame) -> None:
        """frame: of the 25 fps grid (`frame.index`), with `faces` by track index and full-size `rgb`."""
        raise NotImplementedError

    def finish(self) -> dict[int, list[StretchScore]]:
        """By track index."""
        raise NotImplementedError
