"""Where a head is turned to, from landmarks of either face backend.

Signs are those of the picture: yaw is positive when the face looks to the picture's right, pitch when it looks up.
"""

from functools import cache
from typing import NamedTuple

import numpy as np


class HeadPose(NamedTuple):
    yaw_deg: float
    """-90..90; 0 looks at the camera."""
    pitch_deg: float
    """-90..90; 0 is the median of people who look at the camera."""


# FaceMesh: points of the two sides, and above and below the eyes, that speech does not move.
_LEFT = (33, 133, 127, 234, 54)
_RIGHT = (263, 362, 356, 454, 284)
_ABOVE = (10, 151, 9)
_BELOW = (2, 164)
_LEVEL_DEG = 6.6
"""FaceMesh's forehead lies in front of the nose's base by this much on a face that looks at the camera: the median of
47 faces whose median yaw is below 15 degrees (docs/inference_faces.md)."""

# Without depth: the means of four parts, compared with how those of a mean head look from each side.
_PARTS_106 = (tuple(range(33, 43)), tuple(range(87, 97)), (74, 77, 83, 86), tuple(range(52, 72)))
"""InsightFace's points of the image-left eye, image-right eye, nose and mouth."""
_PARTS_MESH = (
    (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246),
    (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466),
    (5, 1, 98, 327),
    (61, 291, 0, 17),
)
"""The same parts in FaceMesh."""
_HEAD = np.array([[-0.5, 0.0, 0.0], [0.5, 0.0, 0.0], [0.0, 0.618, -0.36], [0.0, 1.097, -0.085]])
"""Those parts of a mean head that looks at the camera, in distances between the eyes: the median of 35 people, by
FaceMesh. x to the right, y down, z away."""
_STEP_DEG = 2.0


def head_pose(points: np.ndarray) -> HeadPose:
    """points: float [468, 3] (FaceMesh) or [106, 2] (InsightFace), pixels. Raises ValueError for others."""
    if points.shape == (468, 3):
        return _from_depth(points.astype(np.float64))
    if points.shape == (106, 2):
        return pose_of_parts(np.stack([points[list(part)].mean(axis=0) for part in _PARTS_106]))
    raise ValueError(f"points: expected [468, 3] or [106, 2], got {list(points.shape)}")


def _from_depth(points: np.ndarray) -> HeadPose:
    """From two directions in space: across the head, and down the middle of the upper face."""
    across = (points[list(_RIGHT)] - points[list(_LEFT)]).mean(axis=0)
    across /= max(float(np.linalg.norm(across)), 1e-9)
    down = points[list(_BELOW)].mean(axis=0) - points[list(_ABOVE)].mean(axis=0)
    forward = -np.cross(across, down)  # z grows away from the camera
    x, y, z = forward / max(float(np.linalg.norm(forward)), 1e-9)
    return HeadPose(float(np.degrees(np.arctan2(x, -z))), float(np.degrees(np.arcsin(-y))) - _LEVEL_DEG)


def pose_of_parts(parts: np.ndarray) -> HeadPose:
    """The pose in which a mean head looks most like this one.

    parts: float [4, 2], image-left eye, image-right eye, nose, mouth.
    Seen from afar, a turned head and the picture differ by a similarity only; of all poses in steps of 2 degrees, the
    one is taken whose similarity leaves the least. On real faces, by FaceMesh: 1 to 2 degrees of yaw from `head_pose`.
    """
    seen = (parts[:, 0] + 1j * parts[:, 1]).astype(np.complex128)
    seen = seen - seen.mean()
    poses, looks = _looks()
    fits = np.abs(looks @ seen.conj())
    yaw, pitch = poses[int(fits.argmax())]
    return HeadPose(float(yaw), float(pitch) - _LEVEL_DEG)


@cache
def _looks() -> tuple[np.ndarray, np.ndarray]:
    """(float [P, 2] yaw and pitch in degrees, complex [P, 4]: the mean head's parts as seen then, of unit norm)."""
    yaws, pitches = np.arange(-90, 90 + _STEP_DEG, _STEP_DEG), np.arange(-50, 50 + _STEP_DEG, _STEP_DEG)
    poses = np.stack(np.meshgrid(yaws, pitches, indexing="ij"), axis=-1).reshape(-1, 2)
    yaw, pitch = np.radians(poses).T[:, :, None]
    x, y, z = _HEAD.T
    deep = np.cos(pitch) * z - np.sin(pitch) * y
    looks = np.cos(yaw) * x - np.sin(yaw) * deep + 1j * (np.cos(pitch) * y + np.sin(pitch) * z)
    looks -= looks.mean(axis=1, keepdims=True)
    return poses, looks / np.linalg.norm(looks, axis=1, keepdims=True)
