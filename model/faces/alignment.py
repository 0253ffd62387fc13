"""Three-point face alignment: where the brows and the nose go in the square crop that models see.

Published with LatentSync (ByteDance, Apache-2.0; the affine transform of its data pipeline): a similarity transform
maps three points of the face onto a template of 75 x 100 units, then the result is resized to a square. Here both are
one matrix.
"""

import cv2
import numpy as np

TEMPLATE_SIZE = (75.0, 100.0)
"""Width and height, in template units."""
TEMPLATE_POINTS = np.array([[17.0, 20.0], [58.0, 20.0], [37.5, 40.0]])
"""Image-left brow, image-right brow, nose, in template units."""
_UNITS_TO_PX = 2.8 / 256
"""Template pixels per template unit and pixel of resolution."""
_KEEP = 0.2
"""Share of the previous frame's correction in this frame's."""


def template_points(resolution: int) -> np.ndarray:
    """float64 [3, 2]: the three points in pixels of the template, before it is resized to a square."""
    return TEMPLATE_POINTS * (resolution * _UNITS_TO_PX)


def template_size_px(resolution: int) -> tuple[int, int]:
    """(width, height) of the template before it is resized: (210, 280) at 256."""
    width, height = (round(side * resolution * _UNITS_TO_PX) for side in TEMPLATE_SIZE)
    return width, height


def align(points: np.ndarray, resolution: int) -> np.ndarray:
    """Matrices that map a clip's frames to the template, smoothed over time.

    points: float [T, 3, 2] left brow, right brow, nose of one face in consecutive frames, in pixels.
    Returns float64 [T, 2, 3], frame pixels to template pixels. Call it once per clip: smoothing starts afresh.

    Each is the least-squares similarity between points scaled to unit sample deviation. Its translation is corrected by
    the distance between the two normalised noses: 0.8 of this frame's distance plus 0.2 of the previous correction.
    """
    target = template_points(resolution)
    target_mean = target.mean(axis=0)
    target_scale = (target - target_mean).std(ddof=1)
    target_unit = (target - target_mean) / target_scale
    matrices = np.empty((len(points), 2, 3))
    correction: np.ndarray | None = None
    for index, source in enumerate(np.asarray(points, dtype=np.float64)):
        mean = source.mean(axis=0)
        scale = (source - mean).std(ddof=1)
        unit = (source - mean) / scale
        u, _, vt = np.linalg.svd(unit.T @ target_unit)
        rotation = (u @ vt).T
        turn = rotation * (target_scale / scale)
        here = target_unit[2] - unit[2]
        correction = here if correction is None else _KEEP * correction + (1 - _KEEP) * here
        matrices[index, :, :2] = turn
        matrices[index, :, 2] = target_mean - turn @ mean + correction
    return matrices


def steady(points: np.ndarray, sigma_frames: float) -> np.ndarray:
    """Smooth out a detector's frame-to-frame noise in a clip's points [T, 3, 2], with a two-sided Gaussian.

    At 0.7 frames the crop shakes half as much in quiet shots and still follows a hand-held camera; wider ones lag.
    """
    if sigma_frames == 0:
        return points
    reach = int(np.ceil(3 * sigma_frames))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma_frames) ** 2)
    padded = np.pad(np.asarray(points, dtype=np.float64), ((reach, reach), (0, 0), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=0)
    return windows @ (weights / weights.sum())


def to_square(matrices: np.ndarray, resolution: int) -> np.ndarray:
    """Compose template matrices [..., 2, 3] with the resize to resolution x resolution; pixel centres stay centres."""
    width, height = template_size_px(resolution)
    scale = np.array([resolution / width, resolution / height])
    square = matrices * scale[:, None]
    square[..., 2] += (scale - 1) / 2
    return square


def crop_corners(matrix: np.ndarray, resolution: int) -> np.ndarray:
    """float64 [4, 2]: the square crop's corners in pixels of the frame, for a `to_square` matrix [2, 3]."""
    low, high = -0.5, resolution - 0.5
    corners = np.array([[low, low], [high, low], [high, high], [low, high]])
    return (corners - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T


def outside_ratio(corners: np.ndarray, width: int, height: int) -> float:
    """Share of a parallelogram [4, 2] that lies outside a frame of that size."""
    if (corners >= -0.5).all() and (corners <= (width - 0.5, height - 0.5)).all():
        return 0.0
    right, bottom = width - 0.5, height - 0.5
    frame = np.array([[-0.5, -0.5], [right, -0.5], [right, bottom], [-0.5, bottom]], np.float32)
    inside, _ = cv2.intersectConvexConvex(corners.astype(np.float32), frame)
    whole = abs(float(np.linalg.det(corners[1:4:2] - corners[0])))
    return min(1.0, max(0.0, 1 - inside / whole))


def hidden_ratio(points: np.ndarray, width: int, height: int) -> float:
    """Share of landmarks [K, 2 or 3] that lie outside a frame of that size."""
    x, y = points[:, 0], points[:, 1]
    return float(((x < 0) | (y < 0) | (x > width - 1) | (y > height - 1)).mean())
