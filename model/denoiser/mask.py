"""Input frames of the denoiser: a face as pixels, with the mouth hidden.

The mask is LatentSync's (ByteDance, Apache-2.0): one fixed shape for all aligned faces. There 1 means "kept"; here a
mask is named by what its 1 means, so 1 is where the mouth is generated.
"""

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_SIDE = 256
_OUTLINE = (
    *((9, 95), (77, 95), (78, 128), (177, 128), (178, 95), (246, 95), (247, 134), (244, 169), (223, 201)),
    *((202, 220), (183, 231), (152, 242), (108, 241), (95, 238), (49, 215), (22, 188), (11, 163)),
)
"""Corners of the hidden area, (x, y) in an aligned face of 256 x 256 px: cheeks, mouth and chin, without the nose."""


def mouth_mask(resolution: int) -> Tensor:
    """float32 [1, R, R]: 1 where the mouth is generated, 0 where the original shows."""
    mask = np.zeros((_SIDE, _SIDE), np.float32)
    cv2.fillPoly(mask, [np.array(_OUTLINE)], 1.0)
    shrinks = resolution < _SIDE
    scaled = cv2.resize(mask, (resolution, resolution), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return torch.from_numpy((scaled > 0.5).astype(np.float32))[None]


def to_pixels(frames: Tensor, resolution: int) -> Tensor:
    """Frames as network input: uint8 [..., H, W, 3] RGB to float32 [..., 3, R, R] in -1..1.

    Resizes if needed: bicubic with antialiasing, rounded to whole steps of 255, as published.
    """
    images = frames.reshape(-1, *frames.shape[-3:]).movedim(-1, 1).float()
    if images.shape[-2:] != (resolution, resolution):
        size = (resolution, resolution)
        images = functional.interpolate(images, size, mode="bicubic", antialias=True).round().clamp(0, 255)
    return (images / 127.5 - 1).reshape(*frames.shape[:-3], 3, resolution, resolution)


def hide_mouth(pixels: Tensor, mask: Tensor) -> Tensor:
    """Masked pixels: grey (0) where the mask is 1. pixels: float [..., 3, R, R] in -1..1; mask: [1, R, R]."""
    return pixels * (1 - mask)
