"""How much the offset between audio and lips changes within a clip, from the similarities that give the offset."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np

MAX_RATE = 0.06
"""Fastest drift that is searched, as a share of the time. Film at 24 fps played at 25 is 0.042."""
STEP_FRAMES = 0.5
LEAST_FRAMES = 2.0
"""A smaller drift leaves both ends of a clip within one frame of its middle: it is not told from none."""
MIN_GAIN = 0.15
"""The drifting line must be this much better than the best constant offset, as a share of its height ..."""
MIN_GAIN_OVER_LEAST = 0.01
"""... and this much better than the best line of at most LEAST_FRAMES. docs/models/lip_sync.md has numbers."""
_FINE = 4
"""Steps between two shifts. Only rounded, a drift would look like the nearest whole frame."""


def drift_frames(similar: np.ndarray, num_frames: int, is_match: Callable[[np.ndarray], bool]) -> float:
    """Change of the offset from the first to the last frame of a clip of num_frames frames; 0.0 unless it is certain.

    similar: float [T, S], how well frame t fits the audio at each shift, in the order of offsets; T <= num_frames, as
    a scorer's window takes some frames. Lines of offsets a + b * t are compared by the mean similarity along them.
    is_match: whether similarities of this form are those of lips that speak the audio. It is asked about those with the
    drift taken out, because among many lines some fit even the wrong audio a little.
    """
    num_rows, num_shifts = similar.shape
    fine = _between(similar)
    times = (np.arange(num_rows) - (num_rows - 1) / 2) / num_frames
    num_steps = int(min(MAX_RATE * num_frames, num_shifts / 2) / STEP_FRAMES)
    drifts = np.arange(-num_steps, num_steps + 1) * STEP_FRAMES
    sums = np.concatenate([np.zeros_like(fine[:1]), fine.cumsum(axis=0)])
    best = np.array([_along(sums, _steps(drift, times)).max() for drift in drifts])
    drift = float(drifts[best.argmax()])
    height = best.max() - np.median(sums[-1]) / num_rows
    flat, least = best[num_steps], best[np.abs(drifts) <= LEAST_FRAMES].max()
    if best.max() - flat < MIN_GAIN * height or best.max() - least < MIN_GAIN_OVER_LEAST * height or height <= 0:
        return 0.0
    columns = np.arange(num_shifts) * _FINE + _steps(drift, times)[:, None]
    straight = np.take_along_axis(fine, columns.clip(0, fine.shape[1] - 1), axis=1)
    return drift if is_match(straight) else 0.0


def _between(similar: np.ndarray) -> np.ndarray:
    """[T, (S - 1) * _FINE + 1]: similarities at the shifts and between them, by cubic convolution (Keys 1981)."""
    padded = np.pad(similar, ((0, 0), (1, 2)), mode="edge")
    fine = np.empty((len(similar), similar.shape[1] * _FINE))
    for step in range(_FINE):
        x = step / _FINE
        weights = (x * (x * (2 - x) - 1), x * x * (3 * x - 5) + 2, x * (x * (4 - 3 * x) + 1), x * x * (x - 1))
        taps = (padded[:, tap : tap + similar.shape[1]] for tap in range(4))
        fine[:, step::_FINE] = sum(weight / 2 * tap for weight, tap in zip(weights, taps, strict=True))
    return fine[:, : 1 - _FINE]


def _steps(drift: float, times: np.ndarray) -> np.ndarray:
    return np.rint(drift * times * _FINE).astype(int)


def _along(sums: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Mean similarity along each line of one slope that stays within the shifts.

    sums: [T + 1, F], running sums over the frames; steps: [T], of the line from its middle, in ascending or descending
    order: frames with the same step are taken at once.
    """
    edges = [0, *(np.flatnonzero(np.diff(steps)) + 1), len(steps)]
    first, end = max(0, -steps.min()), sums.shape[1] - max(0, steps.max())
    total = np.zeros(end - first)
    for start, stop in pairwise(edges):
        line = slice(first + steps[start], end + steps[start])
        total += sums[stop, line] - sums[start, line]
    return total / len(steps)
