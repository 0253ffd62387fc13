"""Frames of two videos, a few at a time, as networks take them."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor


def check_pair(frames: np.ndarray, reference: np.ndarray) -> None:
    """Raises ValueError unless both are videos of one shape."""
    check_frames(frames)
    check_frames(reference)
    if frames.shape != reference.shape:
        raise ValueError(f"two videos to compare have other shapes: {list(frames.shape)} and {list(reference.shape)}")


def check_frames(frames: np.ndarray) -> None:
    """Raises ValueError unless this is a video: uint8 [T, H, W, 3]."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"expected a video uint8 [T, H, W, 3], got {frames.dtype} {list(frames.shape)}")


def batches(frames: np.ndarray, size: int) -> Iterator[Tensor]:
    """float32 [at most `size`, 3, H, W] in 0..255, until the frames uint8 [T, H, W, 3] end."""
    for first in range(0, len(frames), size):
        yield torch.from_numpy(np.ascontiguousarray(frames[first : first + size])).permute(0, 3, 1, 2).float()


@torch.no_grad()
def distances(
    network: Callable[[Tensor, Tensor], Tensor],
    frames: np.ndarray,
    reference: np.ndarray,
    device: str,
    *,
    least_px: int,
    at_once: int,
) -> np.ndarray:
    """Distance of each frame from its reference: float32 [T].

    network: two batches of pixels [B, 3, H, W] in -1..1 -> [B, ...], a number each; frames, reference: uint8
    [T, H, W, 3] RGB, at least `least_px` a side. Raises ValueError for other shapes.
    """
    check_pair(frames, reference)
    if min(frames.shape[1:3]) < least_px:
        raise ValueError(f"expected frames of at least {least_px} px a side, got {list(frames.shape[1:3])}")
    found = []
    for pair in zip(batches(frames, at_once), batches(reference, at_once), strict=True):
        pixels, target = (values.to(device) / 127.5 - 1 for values in pair)
        found.append(network(pixels, target))
    return one_number_each(found)


def one_number_each(found: list[Tensor]) -> np.ndarray:
    """float32 [T] from the values of batches."""
    return torch.cat([values.reshape(-1) for values in found]).float().cpu().numpy() if found else np.zeros(0, "f4")
