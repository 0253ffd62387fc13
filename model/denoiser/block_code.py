"""A stand-in for a VAE that needs no file: four numbers for each block of 8 x 8 pixels. For trying things out.

The numbers are the lowest terms of a block's cosine transform: mean lightness, mean colour between red and blue, and
how lightness changes downwards and to the right. Green and magenta are lost, and all that is finer than a block: 26.5
dB on talking heads at 256 px and 23.9 at 128, where TAESD has 29.9 and 26.3 (docs/models/autoencoders.md).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

BLOCK_CODE = "blocks-1"
"""Identifies what this file computes, as it has no weights to hash. A changed code needs a new name."""
_SIDE = 8
_DEVIATIONS = (5.5, 1.65, 1.2, 1.25)
"""Of each number on talking heads at 128 and 256 px; latents are divided by them."""


class BlockCode(nn.Module):
    """Encodes by an orthonormal basis of blocks, decodes by its transpose and a 3 x 3 mean that hides the seams."""

    def __init__(self) -> None:
        super().__init__()
        flat = torch.full((_SIDE,), _SIDE**-0.5)
        slope = torch.cos((torch.arange(_SIDE) + 0.5) * math.pi / _SIDE) / (_SIDE / 2) ** 0.5
        grey = torch.full((3,), 3**-0.5)
        red_blue = torch.tensor([1.0, 0.0, -1.0]) / 2**0.5
        terms = ((grey, flat, flat), (red_blue, flat, flat), (grey, slope, flat), (grey, flat, slope))
        basis = torch.stack([torch.einsum("c,v,h->cvh", *term) for term in terms])
        self.register_buffer("basis", basis, persistent=False)  # [4, 3, 8, 8]
        self.register_buffer("deviations", torch.tensor(_DEVIATIONS).reshape(1, 4, 1, 1), persistent=False)

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels [N, 3, R, R] in -1..1 to scaled latents [N, 4, R / 8, R / 8], deviation about 1."""
        return functional.conv2d(pixels, self.get_buffer("basis"), stride=_SIDE) / self.get_buffer("deviations")

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents [N, 4, r, r] to pixels [N, 3, 8 r, 8 r]. Differentiable."""
        numbers = latents * self.get_buffer("deviations")
        pixels = functional.conv_transpose2d(numbers, self.get_buffer("basis"), stride=_SIDE)
        return functional.avg_pool2d(pixels, 3, stride=1, padding=1, count_include_pad=False)
