"""Tell a covered mouth (hand, microphone, caption) from a free one, by a small network that looks at one picture.

Trained by `train/scorers/covered.py`; docs/inference_faces.md shows what it finds.
"""

import cv2
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from lipforge.model.faces.alignment import align, to_square
from lipforge.model.faces.picture import Picture
from lipforge.model.threads import one_thread
from lipforge.model.weights.load import ModelFileError

FACE_PX = 64
"""Side of the small aligned faces that patches are cut from."""
PATCH_PX = 40
PATCH = (slice(24, 24 + PATCH_PX), slice(12, 12 + PATCH_PX))
"""Rows and columns of the patch in a small aligned face: from the nose's tip to below the chin."""
_SHARPER = 2
"""Faces are warped at this many times their size, then averaged."""


def small_face_matrix(points: np.ndarray) -> np.ndarray:
    """float64 [2, 3]: from frame pixels to the aligned face, 128 x 128. points: float [3, 2], alignment points."""
    side = FACE_PX * _SHARPER
    return to_square(align(points[None], side), side)[0]


def mouth_patch(picture: Picture, matrix: np.ndarray) -> np.ndarray:
    """uint8 [40, 40, 3]: what the network looks at. matrix: `small_face_matrix`."""
    return _warped(picture, matrix, PATCH[1].start, PATCH[0].start, PATCH_PX)


def small_face(picture: Picture, matrix: np.ndarray) -> np.ndarray:
    """uint8 [64, 64, 3]: the whole aligned face, for training."""
    return _warped(picture, matrix, 0, 0, FACE_PX)


def _warped(picture: Picture, matrix: np.ndarray, left: int, top: int, side: int) -> np.ndarray:
    moved = matrix.copy()
    moved[:, 2] -= (left * _SHARPER, top * _SHARPER)
    large = picture.warp(moved, side * _SHARPER, border=cv2.BORDER_REPLICATE)
    return cv2.resize(large, (side, side), interpolation=cv2.INTER_AREA)


class CoverNetwork(nn.Module):
    """Patches float32 [B, 3, 40, 40] -> logits [B]: positive when the mouth is covered. 31 thousand parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_layer(3, 16, 5, 2),
            *_layer(16, 32, 3, 2),
            *_layer(32, 32, 3, 1),
            *_layer(32, 48, 3, 2),
            nn.Flatten(),
            nn.Dropout(0.4),
            nn.Linear(48 * 5 * 5, 1),
        )

    def forward(self, patches: Tensor) -> Tensor:
        return self.layers(patches)[:, 0]


def _layer(inputs: int, outputs: int, kernel: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


def normalised(patches: np.ndarray) -> Tensor:
    """uint8 [B, 40, 40, 3] -> float32 [B, 3, 40, 40], each patch with mean 0 and deviation 1: light does not matter."""
    flat = patches.reshape(len(patches), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.sqrt(np.einsum("bn,bn->b", flat, flat) / flat.shape[1])[:, None] + 6
    channels_first = flat.reshape(patches.shape).transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(channels_first))


class CoveredMouths:
    """Scores patches, on one core. The same patch always gets the same score."""

    def __init__(self, weights: bytes) -> None:
        """weights: `mouth_cover.safetensors`. Raises ModelFileError for another file."""
        self._network = CoverNetwork()
        try:
            tensors = {key: tensor.float() for key, tensor in load_safetensors(weights).items()}
            missing, unknown = self._network.load_state_dict(tensors, strict=False)
            wrong = [key for key in (*missing, *unknown) if not key.endswith("num_batches_tracked")]
            if wrong:
                raise RuntimeError(f"missing or unknown: {', '.join(wrong)}")
        except (RuntimeError, SafetensorError) as error:
            raise ModelFileError(f"mouth_cover.safetensors: not a network for covered mouths: {error}") from error
        self._network.eval().requires_grad_(False)

    def scores(self, patches: np.ndarray) -> np.ndarray:
        """float32 [B]: logits; positive when the mouth is rather covered than free. patches: uint8 [B, 40, 40, 3]."""
        with torch.inference_mode(), one_thread():
            return self._network(normalised(patches)).numpy()
