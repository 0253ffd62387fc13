"""LPIPS 0.1: how different two pictures look to people (Zhang et al. 2018, arXiv 1801.03924; BSD-2-Clause licence).

Features of VGG16 (Simonyan and Zisserman 2014, arXiv 1409.1556) from five depths, compared point by point with weights
that were fitted to people's judgements.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.vgg import make_layers

LAYOUTS: dict[str, dict[str, Any]] = {
    "vgg16": {"widths": [64, 128, 256, 512, 512]},
    # For trying things out, with random weights.
    "tiny": {"widths": [4, 4, 8, 8, 8]},
}

_DEPTHS = (2, 2, 3, 3, 3)
"""Convolutions of VGG16 before each pooling."""
_ENDS = (0, 4, 9, 16, 23, 30)
"""Where the compared features are taken, in layers of the trunk: after the last ReLU before each pooling."""
_MEAN = (-0.030, -0.088, -0.188)
_DEVIATION = (0.458, 0.448, 0.450)
"""ImageNet's mean and deviation, for pixels in -1..1."""
_SMALL = 1e-20


class Lpips(nn.Module):
    """Distances of pictures; 0: the same.

    Its keys are those of torchvision's VGG16 without the classifier (`features.0.weight`, ...) and those of the linear
    layers in the package `lpips` (`lin0.model.1.weight`, ...).
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: Mapping[str, Any]) -> None:
        """config: `widths` of the five depths, as in `LAYOUTS`."""
        super().__init__()
        widths: list[int] = config["widths"]
        layers: list[str | int] = []
        for width, depth in zip(widths, _DEPTHS, strict=True):
            layers += [*[width] * depth, "M"]
        self.features = make_layers(layers)[: _ENDS[-1]]
        for number, width in enumerate(widths):
            setattr(self, f"lin{number}", Judgement(width))
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(_DEVIATION)[:, None, None], persistent=False)

    def forward(self, pixels: Tensor, target: Tensor) -> Tensor:
        """Distances [B] of pictures, float [B, 3, H, W] RGB in -1..1, at least 16 x 16."""
        first, second = ((pictures - self.mean) / self.deviation for pictures in (pixels, target))
        total = pixels.new_zeros(len(pixels))
        for number, (start, end) in enumerate(pairwise(_ENDS)):
            first, second = self.features[start:end](first), self.features[start:end](second)
            difference = (_unit(first) - _unit(second)).square()
            total = total + self.get_submodule(f"lin{number}")(difference).mean(dim=(1, 2, 3))
        return total


class Judgement(nn.Module):
    """How much each channel counts; [B, C, h, w] -> [B, 1, h, w]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # The weights were fitted with dropout in the first place; nothing here trains them.
        self.model = nn.Sequential(nn.Identity(), nn.Conv2d(width, 1, 1, bias=False))

    def forward(self, difference: Tensor) -> Tensor:
        return self.model(difference)


def _unit(features: Tensor) -> Tensor:
    """Unit length over channels. The small number is inside of the root, so that points of zeros have a gradient."""
    return features * (features.square().sum(dim=1, keepdim=True) + _SMALL).rsqrt()
