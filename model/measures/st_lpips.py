"""ST-LPIPS: how different two pictures look to people, little moved by a shift of a pixel.

Ghildyal and Liu 2022, "Shift-tolerant Perceptual Similarity Metric" (arXiv 2207.13686). LPIPS with another trunk, whose
every halving first blurs (Zhang 2019, arXiv 1904.11486) on a border of two reflected pixels, and with weights of its
own: its numbers are not those of LPIPS.
"""

from collections.abc import Mapping
from itertools import count, pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lipforge.model.denoiser.lpips import Judgement
from lipforge.model.measures.frames import distances
from lipforge.model.weights.load import ModelFileError
from lipforge.model.weights.state_dicts import load_strict, read_state_dict

ALEX, VGG = "st_lpips_alex.safetensors", "st_lpips_vgg.pth"
MIN_SIDE_PX = 32
_FRAMES_AT_ONCE = 4
_MEAN, _DEVIATION = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""ImageNet's mean and deviation, for pixels in -1..1."""
_SMALL = 1e-10


class StLpipsNetwork(nn.Module):
    """Distances of pictures. Its keys are those of the files in the package stlpips-pytorch 0.0.2."""

    def __init__(self, slices: list[nn.Sequential], widths: list[int]) -> None:
        super().__init__()
        self.scaling_layer = _Scaling()
        self.net = nn.Module()
        for number, layers in enumerate(slices, start=1):
            self.net.add_module(f"slice{number}", layers)
        for number, width in enumerate(widths):
            self.add_module(f"lin{number}", Judgement(width))
        self._depth = len(widths)

    def forward(self, pixels: Tensor, target: Tensor) -> Tensor:
        """Distances [B] of pictures, float [B, 3, H, W] RGB in -1..1, at least 32 px a side."""
        first, second = self.scaling_layer(pixels), self.scaling_layer(target)
        total = pixels.new_zeros(len(pixels))
        for number in range(self._depth):
            layers = self.get_submodule(f"net.slice{number + 1}")
            first, second = layers(first), layers(second)
            difference = (_unit(first) - _unit(second)).square()
            total = total + self.get_submodule(f"lin{number}")(difference).mean(dim=(1, 2, 3))
        return total


def alex_network() -> StLpipsNetwork:
    """On AlexNet whose first layer keeps the size (Krizhevsky et al. 2012)."""
    widths = [64, 192, 384, 256, 256]
    slices = [
        [nn.Conv2d(3, 64, 11, padding=2), _Blur(64), nn.ReLU()],
        [nn.MaxPool2d(3, stride=1), _Blur(64), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU()],
        [nn.MaxPool2d(3, stride=1), _Blur(192), nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()],
        [nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()],
        [nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()],
    ]
    return StLpipsNetwork(_numbered(slices), widths)


def vgg_network() -> StLpipsNetwork:
    """On VGG16 (Simonyan and Zisserman 2014)."""
    widths = [64, 128, 256, 512, 512]
    slices: list[list[nn.Module]] = []
    for (before, width), depth in zip(pairwise([3, *widths]), (2, 2, 3, 3, 3), strict=True):
        layers: list[nn.Module] = [nn.MaxPool2d(2, stride=1), _Blur(before)] if slices else []
        for inputs in [before, *[width] * (depth - 1)]:
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
        slices.append(layers)
    return StLpipsNetwork(_numbered(slices), widths)


_NETWORKS = {ALEX: alex_network, VGG: vgg_network}


class StLpips:
    """Distances of videos, frame by frame."""

    def __init__(self, models: Mapping[str, bytes], device: str = "cpu") -> None:
        """models: contents by file name, as `weights.load("st-lpips")` or `weights.load("st-lpips-vgg")` returns them.

        Raises ModelFileError when the file holds other weights.
        """
        name = next((name for name in _NETWORKS if name in models), None)
        if name is None:
            raise ModelFileError(f"ST-LPIPS takes {ALEX} or {VGG}, got {', '.join(models) or 'no file'}")
        network = _NETWORKS[name]()
        load_strict(network, read_state_dict(models[name], name), name)
        self._network, self._device = network.to(device), device

    def distance(self, frames: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """Distance of each frame from its reference: float32 [T], 0: the same.

        frames, reference: uint8 [T, H, W, 3] RGB, at least 32 px a side. Raises ValueError for other shapes.
        """
        return distances(self._network, frames, reference, self._device, least_px=MIN_SIDE_PX, at_once=_FRAMES_AT_ONCE)


class _Scaling(nn.Module):
    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor(_MEAN)[None, :, None, None])
        self.register_buffer("scale", torch.tensor(_DEVIATION)[None, :, None, None])

    def forward(self, pixels: Tensor) -> Tensor:
        return (pixels - self.shift) / self.scale


class _Blur(nn.Module):
    """Halve the size, after a blur of three pixels each way."""

    filt: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        line = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("filt", (line[:, None] * line).repeat(width, 1, 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        padded = functional.pad(features, (2, 2, 2, 2), mode="reflect")
        return functional.conv2d(padded, self.filt, stride=2, groups=len(self.filt))


def _numbered(slices: list[list[nn.Module]]) -> list[nn.Sequential]:
    """Layers named by their number in the whole trunk, as the files do."""
    number = count()
    found = []
    for layers in slices:
        part = nn.Sequential()
        for layer in layers:
            part.add_module(str(next(number)), layer)
        found.append(part)
    return found


def _unit(features: Tensor) -> Tensor:
    """Unit length over channels. The small number is outside of the root, as published."""
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + _SMALL)
