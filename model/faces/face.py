"""What every face model returns, and the protocol that the pipeline calls."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np

from lipforge.model.faces.boxes import Box
from lipforge.model.faces.picture import Picture


@dataclass(frozen=True)
class DetectedFace:
    """A detected face. Coordinates are pixels of the image, and may lie outside it for a face that its edge cuts."""

    x0: float
    y0: float
    x1: float
    y1: float
    """The detector's box: from BlazeFace brows to chin, from SCRFD forehead to chin."""
    score: float
    """0..1"""
    keypoints: np.ndarray
    """float32 [K, 2]: image-left eye, image-right eye, nose tip, then any others that the detector gives."""

    @property
    def box(self) -> Box:
        return self.x0, self.y0, self.x1, self.y1


@dataclass(frozen=True)
class FaceLandmarks:
    """Landmarks of one face in one image."""

    points: np.ndarray
    """float32 [K, 2] or [K, 3]: x and y in pixels of the image; z is depth in the same scale, smaller is nearer."""
    score: float
    """How sure the model is that this is a face, 0..1."""
    detected_box: Box | None = None
    """The detector's box, for backends whose landmarks do not reach the forehead."""

    @cached_property
    def box(self) -> Box:
        """From forehead to chin: the detector's box if there is one, otherwise the extent of the landmarks."""
        if self.detected_box is not None:
            return self.detected_box
        x0, y0 = self.points[:, :2].min(axis=0)
        x1, y1 = self.points[:, :2].max(axis=0)
        return float(x0), float(y0), float(x1), float(y1)

    def scaled(self, factor: float) -> "FaceLandmarks":
        """The same face where an image `factor` times as large has it."""
        points = self.points * np.float32(factor)
        points[:, :2] += (factor - 1) / 2  # coordinates are those of pixel centres
        box = self.detected_box
        if box is not None:
            x0, y0, x1, y1 = (edge * factor + (factor - 1) / 2 for edge in box)
            box = x0, y0, x1, y1
        return FaceLandmarks(points, self.score, box)

    @property
    def width_px(self) -> float:
        return self.box[2] - self.box[0]

    @property
    def height_px(self) -> float:
        return self.box[3] - self.box[1]


class Outlines(NamedTuple):
    """Closed outlines in consecutive faces, each float32 [T, P, 2] in pixels."""

    mouth_outer: np.ndarray
    mouth_inner: np.ndarray
    face: np.ndarray


class FaceBackend(Protocol):
    """Detects and follows faces. Not thread-safe."""

    name: str

    def detect(self, picture: Picture) -> list[DetectedFace]:
        """Each face of a picture once, best score first."""
        ...

    def landmarks(self, picture: Picture, prior: DetectedFace | FaceLandmarks) -> FaceLandmarks | None:
        """Landmarks of one face, given where it is in this picture or was in the one before. None: no face there."""
        ...

    def alignment_points(self, points: np.ndarray) -> np.ndarray:
        """Landmarks [..., K, 2 or 3] -> float32 [..., 3, 2] in pixels: image-left brow, image-right brow, nose."""
        ...

    def sync_points(self, points: np.ndarray) -> np.ndarray | None:
        """Landmarks [T, K, 2 or 3] -> float32 [T, P, 3], those listed in lip_points.SYNC_LANDMARKS.

        None if the backend has no such points: lip-sync must then be scored from pixels.
        """
        ...

    def outlines(self, points: np.ndarray) -> Outlines:
        """Landmarks [T, K, 2 or 3] -> the outlines of lips, mouth and face."""
        ...
