"""What the points of a face say about its mouth: how far it opens, how it moves, how far it is from another one.

Points are FaceMesh's in pixels of the upright crop of 256 px height (`AlignedClip.points`); x and y count.
"""

import numpy as np

from lipforge.model.clock import FPS
from lipforge.model.faces.lip_points import NUM_SPEAKING, SYNC_LANDMARKS

_INNER_GAPS = ((82, 87), (13, 14), (312, 317))
"""Points of the inner lip, above and below, in the middle of the mouth."""
_FOREHEAD, _CHIN = 10, 152
NUM_LIPS = 40
"""Of `SYNC_LANDMARKS`, the first are lips; the chin follows, then the upper face."""
_TREND_FRAMES = FPS
"""Slower changes of an opening come from the head, not from speech."""
_LEAST_SHIFT_FRAMES = FPS
"""A mouth this much later says something else."""


def opening_curve(points: np.ndarray) -> np.ndarray:
    """How far the inner lips are apart, over the height of the face: float64 [T]; 0 is closed, 0.2 wide open.

    points: float [T, 468, 3]. The height is the clip's median, as the chin moves with the mouth.
    """
    flat = points[..., :2].astype(np.float64)
    gaps = [np.linalg.norm(flat[:, above] - flat[:, below], axis=-1) for above, below in _INNER_GAPS]
    height = np.median(np.linalg.norm(flat[:, _FOREHEAD] - flat[:, _CHIN], axis=-1))
    return np.mean(gaps, axis=0) / max(float(height), 1e-6)


def movement(curve: np.ndarray) -> float:
    """How much an opening moves: standard deviation without changes slower than a second."""
    return float(_moving(curve).std())


def lip_distance_px(points: np.ndarray, reference: np.ndarray) -> float:
    """Mean distance of the 40 lip points to the reference's, frame by frame, upper faces laid on each other.

    points, reference: float [T, 468, 3].
    """
    found, wanted = _flat(points), _flat(reference)
    laid = _laid_on(found, wanted)
    return float(np.abs(laid[:, :NUM_LIPS] - wanted[:, :NUM_LIPS]).mean())


def jitter_px(points: np.ndarray) -> float:
    """Mean length of the second difference over time of lip and chin points, upper faces laid on the first one's.

    points: float [T >= 3, 468, 3]. Pixels per frame squared: what shakes reads high, what glides reads 0.
    """
    flat = _flat(points)
    middle = np.median(np.real(flat), axis=0) + 1j * np.median(np.imag(flat), axis=0)
    laid = _laid_on(flat, np.broadcast_to(middle, flat.shape))
    return float(np.abs(np.diff(laid[:, :NUM_SPEAKING], n=2, axis=0)).mean())


def leak(drawn: np.ndarray, old: np.ndarray) -> float:
    """Share of an old mouth's movement that is left in a new one, which speaks another sound: 0 none, 1 copied.

    drawn, old: opening curves [T] of the same frames. The slope of the new opening on the old one, minus the mean slope
    on the old one moved by a second and more, which is what unrelated mouths have.
    Raises ValueError for an old mouth that does not move, and for less than 2.5 s.
    """
    num_frames = len(old)
    if num_frames < 2.5 * _LEAST_SHIFT_FRAMES:
        raise ValueError("shorter than 2.5 s")
    new, before = _moving(drawn), _moving(old)
    power = float((before**2).mean())
    if power < LEAST_MOVEMENT**2:
        raise ValueError("the old mouth does not move")
    shifts = range(_LEAST_SHIFT_FRAMES, num_frames - _LEAST_SHIFT_FRAMES + 1)
    unrelated = np.mean([(new * np.roll(before, shift)).mean() for shift in shifts])
    return float((new * before).mean() - unrelated) / power


LEAST_MOVEMENT = 0.004
"""Of a mouth that speaks; below, an opening is the noise of its points."""


def _moving(curve: np.ndarray) -> np.ndarray:
    """The curve minus its mean of a second around each frame, and with mean 0."""
    width = min(_TREND_FRAMES, len(curve)) // 2 * 2 + 1
    padded = np.pad(curve.astype(np.float64), width // 2, mode="edge")
    slow = np.convolve(padded, np.full(width, 1 / width), "valid")
    moving = curve - slow
    return moving - moving.mean()


def _flat(points: np.ndarray) -> np.ndarray:
    """complex128 [T, len(SYNC_LANDMARKS)]: lips, chin, then the upper face; x + iy."""
    chosen = points[:, SYNC_LANDMARKS].astype(np.float64)
    return chosen[..., 0] + 1j * chosen[..., 1]


def _laid_on(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Points after the similarity that brings each frame's upper face onto the target's by least squares."""
    upper, wanted = points[:, NUM_SPEAKING:], target[:, NUM_SPEAKING:]
    middle, wanted_middle = upper.mean(axis=1, keepdims=True), wanted.mean(axis=1, keepdims=True)
    away, wanted_away = upper - middle, wanted - wanted_middle
    turn = (wanted_away * away.conj()).sum(axis=1) / np.maximum((np.abs(away) ** 2).sum(axis=1), 1e-12)
    return turn[:, None] * (points - middle) + wanted_middle
