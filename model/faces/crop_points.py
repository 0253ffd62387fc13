"""Landmarks of a face in crops that are aligned already, where there is nothing to detect."""

import cv2
import numpy as np

from lipforge.model.faces.face import DetectedFace, FaceLandmarks
from lipforge.model.faces.lip_points import SYNC_LANDMARKS
from lipforge.model.faces.mediapipe import MediaPipeFaces
from lipforge.model.faces.picture import Picture

_HEIGHT_PX = 256
_WIDTH_PX = _HEIGHT_PX * 3 // 4
"""The crop is the 3:4 template stretched to a square: landmarks are found at natural proportions."""
_MARGIN_X_PX, _MARGIN_Y_PX = _WIDTH_PX // 2, _HEIGHT_PX // 4
"""FaceMesh needs the surroundings of a face, which the crop lacks."""


def crop_landmarks(frames: np.ndarray, faces: MediaPipeFaces) -> list[np.ndarray | None]:
    """FaceMesh points of the face in each aligned crop: float32 [468, 3], or None where a frame shows no face.

    frames: uint8 [T, R, R, 3]. Points are pixels of a picture of 256 px height in natural proportions, with margins.
    """
    found: list[np.ndarray | None] = []
    prior: DetectedFace | FaceLandmarks = _template_face()
    for frame in frames:
        upright = cv2.resize(frame, (_WIDTH_PX, _HEIGHT_PX), interpolation=cv2.INTER_AREA)
        margins = (_MARGIN_Y_PX, _MARGIN_Y_PX, _MARGIN_X_PX, _MARGIN_X_PX)
        padded = Picture.of(cv2.copyMakeBorder(upright, *margins, cv2.BORDER_REPLICATE))
        followed = faces.landmarks(padded, prior)
        if followed is None and not isinstance(prior, DetectedFace):
            followed = faces.landmarks(padded, _template_face())
        prior = followed or _template_face()
        found.append(None if followed is None else followed.points)
    return found


def upright_transform(resolution: int) -> np.ndarray:
    """float64 [2, 3]: pixels of a crop of that side to pixels of the picture that points are in."""
    wide, high = _WIDTH_PX / resolution, _HEIGHT_PX / resolution
    return np.array([[wide, 0, (wide - 1) / 2 + _MARGIN_X_PX], [0, high, (high - 1) / 2 + _MARGIN_Y_PX]])


def crop_points(frames: np.ndarray, faces: MediaPipeFaces) -> np.ndarray | None:
    """What the lip-sync scorer takes: float32 [T, len(SYNC_LANDMARKS), 3], or None if a frame shows no face."""
    found = [points for points in crop_landmarks(frames, faces) if points is not None]
    return None if len(found) < len(frames) else np.stack([points[SYNC_LANDMARKS] for points in found])


def _template_face() -> DetectedFace:
    """Position of an aligned face in the padded crop."""
    left, top = _MARGIN_X_PX, _MARGIN_Y_PX
    eyes = np.array([[0.26, 0.30], [0.74, 0.30]]) * [_WIDTH_PX, _HEIGHT_PX] + [left, top]
    keypoints = np.concatenate([eyes, np.zeros((4, 2))]).astype(np.float32)
    right, bottom = left + 0.9 * _WIDTH_PX, top + 0.9 * _HEIGHT_PX
    return DetectedFace(left + 0.1 * _WIDTH_PX, top + 0.15 * _HEIGHT_PX, right, bottom, 1.0, keypoints)
