"""What is kept of each face in each frame, and in which frames it can be given new lips.

A frame passes unchanged where drawing would smear: the face is turned to the side, its mouth is covered, the picture's
edge cuts it off, or it is too small. docs/inference_faces.md shows how the limits were found.
"""

from dataclasses import dataclass, field

import numpy as np

from lipforge.model.faces.alignment import align, crop_corners, hidden_ratio, outside_ratio, to_square
from lipforge.model.faces.covered import MouthWatch, mouth_patch
from lipforge.model.faces.face import FaceBackend, FaceLandmarks
from lipforge.model.faces.pose import head_pose
from lipforge.pipeline.clip import Frame
from lipforge.pipeline.config import AlignConfig, Config
from lipforge.pipeline.infer.request import PassReason

MEASURES = np.dtype(
    [
        ("frame", "i4"),  # number of the source frame
        ("time_s", "f8"),
        ("box", "f4", 4),  # x0, y0, x1, y1, as all places: pixels of the frame
        ("points", "f4", (3, 2)),  # the alignment points, not smoothed
        ("yaw_deg", "f2"),
        ("pitch_deg", "f2"),
        ("outside", "f2"),  # share of the aligned crop that lies outside the frame
        ("hidden", "f2"),  # share of the landmarks that do
        ("score", "f2"),  # how sure the face model is, 0..1
        ("covered", "f2"),  # how unlike the person's own mouth this is, see model/faces/covered.py
    ]
)
"""One face in one frame: 64 bytes, so that an hour at 60 fps is 14 MB per face."""


class UsableConfig(Config):
    """Which frames of a face are drawn."""

    max_yaw_deg: float = 60.0
    """As in `InferConfig`."""
    min_height_px: float = 32.0
    """Lower faces pass unchanged: their mouths are 8 px wide."""
    crop: AlignConfig = AlignConfig()
    """How much of a face may lie outside the frame, as in `lipforge prepare`."""


@dataclass
class TrackMeasures:
    """One face through one shot."""

    number: int
    """1, 2, ...: over the whole video, in order of appearance."""
    shot_index: int
    rows: np.ndarray
    """MEASURES [N]: the frames in which it was seen, ascending. Brief gaps are frames without a row."""

    @property
    def height_px(self) -> float:
        """Median."""
        return float(np.median(self.rows["box"][:, 3] - self.rows["box"][:, 1]))


class FaceLog:
    """Collects the measures of all faces of a video, frame by frame."""

    def __init__(self, backend: FaceBackend, crop: AlignConfig) -> None:
        raise NotImplementedError

    def add(self, frame: Frame, time_s: float) -> None:
        """frame: from `TrackFaces` on source frames; `frame.index` is its number in the source."""
        raise NotImplementedError

    def finish(self) -> list[TrackMeasures]:
        """By number."""
        raise NotImplementedError


def usable_frames(track: TrackMeasures, config: UsableConfig) -> tuple[np.ndarray, list[PassReason | None]]:
    """(bool [N], and why not): for each row of the track, whether it can be drawn."""
    raise NotImplementedError
