"""Which frames of a clip a training sample shows: a pure function of seed, epoch and key."""

import hashlib
from dataclasses import dataclass

import numpy as np

from lipforge.model.clock import FPS

MEL_COLUMNS_PER_S = 80


class ClipTooShortError(ValueError):
    """A clip has too few frames for two windows that are far enough apart."""


@dataclass(frozen=True)
class Window:
    start: int
    """First of the consecutive target frames."""
    other_start: int
    """First frame of the second window: the reference, or for a SyncNet the sound that does not belong to the target."""


def draw_window(seed: int, epoch: int, key: str, num_starts: int, min_distance_frames: int) -> Window:
    """A random pair of windows of a clip.

    num_starts: how many places a window has in the clip (frames of the clip - frames of a window + 1).
    min_distance_frames: least distance of the two starts. Every target that has a second window at all is equally likely, and then
    every second window. Raises ClipTooShortError when there is no pair.
    """
    if num_starts <= min_distance_frames:
        raise ClipTooShortError(
            f"clip {key} has {num_starts} places for a window, and two of them should be {min_distance_frames} frames "
            "apart: take longer clips"
        )
    starts = np.arange(num_starts)
    allowed = starts[(starts >= min_distance_frames) | (starts < num_starts - min_distance_frames)]
    digest = hashlib.blake2b(f"{seed}/{epoch}/{key}".encode(), digest_size=16).digest()
    start = int(allowed[int.from_bytes(digest[:8], "big") % len(allowed)])
    others = starts[np.abs(starts - start) >= min_distance_frames]
    return Window(start, int(others[int.from_bytes(digest[8:], "big") % len(others)]))


def mel_columns(start: int, num_frames: int) -> tuple[int, int]:
    """First mel column of a window, and how many: LatentSync's int(80 * start / 25), ceil(num_frames / 5 * 16)."""
    return MEL_COLUMNS_PER_S * start // FPS, -(-num_frames * 16 // 5)
