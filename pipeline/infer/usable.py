"""What is kept of each face in each frame, and in which frames it can be given new lips.

A frame passes unchanged where drawing would smear: the face is turned to the side, its mouth is covered, the picture's
edge cuts it off, or it is too small. docs/inference_faces.md shows how the limits were found.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from pydantic import Field

from lipforge.model.faces.alignment import crop_corners, hidden_ratio, outside_ratio
from lipforge.model.faces.covered import FACE_PX, CoveredMouths, mouth_patch, small_face_matrix
from lipforge.model.faces.face import FaceBackend, FaceLandmarks
from lipforge.model.faces.picture import Picture
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
        ("covered", "f2"),  # logit: positive when the mouth is rather covered than free
    ]
)
"""One face in one frame: 64 bytes, so an hour at 60 fps is 14 MB per face."""

BATCH = 64
"""Patches of mouths are scored together, this many at once."""
COVERED_ENTER, COVERED_LEAVE = 2.5, 1.0
"""A mouth counts as covered where the mean logit of 0.2 s rises above the first, and around that as far as it stays
above the second."""
COVERED_MEAN_S = 0.2
COVERED_MARGIN_S = 0.08
"""What covers a mouth is on its way there before most of the mouth is hidden."""
YAW_BACK_DEG = 4.0
"""A face that was turned too far is used again from this much below the limit."""
MIN_USED_S = 0.2
"""Between two passages that pass unchanged, a shorter one passes too: a mouth that is drawn for a blink flickers."""


class UsableConfig(Config):
    """Which frames of a face are drawn."""

    max_yaw_deg: float = Field(default=50.0, gt=0, le=90)
    """As in `InferConfig`."""
    min_height_px: float = Field(default=32.0, ge=0)
    """Lower faces pass unchanged: their mouths are some 8 px wide."""
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


@dataclass
class _Open:
    shot_index: int
    blocks: list[np.ndarray] = field(default_factory=list)
    used: int = 0
    """Rows of the last block."""

    def row(self) -> tuple[np.ndarray, int]:
        """A free row, as (block, its index)."""
        if not self.blocks or self.used == len(self.blocks[-1]):
            self.blocks.append(np.zeros(256, MEASURES))
            self.used = 0
        self.used += 1
        return self.blocks[-1], self.used - 1


class FaceLog:
    """Collects the measures of all faces of a video, frame by frame."""

    def __init__(self, backend: FaceBackend, covered: CoveredMouths) -> None:
        self.backend = backend
        self.covered = covered
        self._tracks: dict[int, _Open] = {}
        self._waiting: list[tuple[np.ndarray, int, np.ndarray]] = []
        """Rows without a score yet, with their patches."""

    def add(self, frame: Frame, time_s: float) -> None:
        """frame: from `TrackFaces` on source frames; `frame.index` is its number in the source."""
        for track, face in frame.faces.items():
            assert frame.picture is not None
            block, index = self._tracks.setdefault(track, _Open(frame.shot_index)).row()
            block[index], patch = self._measure(frame.picture, face)
            block[index]["frame"], block[index]["time_s"] = frame.index, time_s
            self._waiting.append((block, index, patch))
            if len(self._waiting) == BATCH:
                self._score()

    def finish(self) -> list[TrackMeasures]:
        """By number, which is the order of appearance; of faces that appear together, the larger first."""
        self._score()
        tracks = []
        for number, track in enumerate(sorted(self._tracks), start=1):
            found = self._tracks[track]
            rows = np.concatenate([*found.blocks[:-1], found.blocks[-1][: found.used]])
            tracks.append(TrackMeasures(number, found.shot_index, rows))
        return tracks

    def _measure(self, picture: Picture, face: FaceLandmarks) -> tuple[np.ndarray, np.ndarray]:
        """(MEASURES [], patch of the mouth)"""
        width, height = picture.size_px
        points = self.backend.alignment_points(face.points)
        matrix = small_face_matrix(points)
        row = np.zeros((), MEASURES)
        row["box"], row["points"], row["score"] = face.box, points, face.score
        row["yaw_deg"], row["pitch_deg"] = head_pose(face.points)
        row["hidden"] = hidden_ratio(face.points, width, height)
        row["outside"] = outside_ratio(crop_corners(matrix, 2 * FACE_PX), width, height)
        return row, mouth_patch(picture, matrix)

    def _score(self) -> None:
        if self._waiting:
            scores = self.covered.scores(np.stack([patch for *_, patch in self._waiting]))
            for (block, index, _), score in zip(self._waiting, scores, strict=True):
                block[index]["covered"] = score
            self._waiting.clear()


def usable_frames(track: TrackMeasures, config: UsableConfig) -> tuple[np.ndarray, list[PassReason | None]]:
    """(bool [N], and why not): for each row of the track, whether it can be drawn."""
    rows = track.rows
    time_s = rows["time_s"]
    height = rows["box"][:, 3] - rows["box"][:, 1]
    cut_off = (rows["outside"] > config.crop.max_outside_ratio) | (rows["hidden"] > config.crop.max_hidden_ratio)
    yaw = np.abs(smooth(rows["yaw_deg"].astype(np.float32), time_s, COVERED_MEAN_S))
    reasons = np.full(len(rows), "", dtype=object)
    for bad, reason in (
        (covered_frames(rows["covered"].astype(np.float32), time_s), PassReason.MOUTH_COVERED),
        (_stays(yaw > config.max_yaw_deg, yaw > config.max_yaw_deg - YAW_BACK_DEG), PassReason.SIDE_FACE),
        (smooth(height, time_s, 1.0) < config.min_height_px, PassReason.FACE_TOO_SMALL),
        (cut_off, PassReason.FACE_CUT_OFF),
    ):
        reasons[bad] = reason
    for first, end in _runs(reasons == ""):
        if first > 0 and end < len(rows) and time_s[end] - time_s[first] < MIN_USED_S:
            reasons[first:end] = reasons[first - 1]
    return reasons == "", [reason or None for reason in reasons]


def covered_frames(logits: np.ndarray, time_s: np.ndarray) -> np.ndarray:
    """bool [N]: frames of a track in which the mouth is covered. logits, time_s: float [N]."""
    mean = smooth(logits, time_s, COVERED_MEAN_S)
    covered = _stays(mean > COVERED_ENTER, mean > COVERED_LEAVE)
    for first, end in list(_runs(covered)):
        near = (time_s >= time_s[first] - COVERED_MARGIN_S) & (time_s <= time_s[end - 1] + COVERED_MARGIN_S)
        covered |= near
    return covered


def smooth(values: np.ndarray, time_s: np.ndarray, width_s: float) -> np.ndarray:
    """float64 [N]: the mean of the values within half of `width_s` of each, whatever the frame rate."""
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    first = np.searchsorted(time_s, time_s - width_s / 2 - 1e-6)
    end = np.searchsorted(time_s, time_s + width_s / 2 + 1e-6)
    return (sums[end] - sums[first]) / (end - first)


def _stays(enters: np.ndarray, stays: np.ndarray) -> np.ndarray:
    """bool [N]: the runs of `stays` in which `enters` is true somewhere."""
    kept = np.zeros(len(stays), dtype=bool)
    for first, end in _runs(stays):
        kept[first:end] = enters[first:end].any()
    return kept


def _runs(flags: np.ndarray) -> Iterator[tuple[int, int]]:
    """(first, end) of each run of true flags."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
