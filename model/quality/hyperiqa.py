"""HyperIQA: image quality as people rate it, 0..100, without a reference.

Su et al., "Blindly Assess Image Quality in the Wild Guided by a Self-Adaptive Hyper Network" (CVPR 2020; MIT licence),
with the weights `koniq_pretrained.pkl`, fitted to the KonIQ-10k ratings. From the content features of a ResNet-50 a
hyper-network predicts the weights of a small target network, which scores local distortion features from four depths.
"""

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from lipforge.model.threads import full_precision, one_thread
from lipforge.model.weights.state_dicts import load_strict, read_state_dict

WEIGHTS_FILE = "koniq_pretrained.pkl"
INPUT_PX = 224
_TARGET_WIDTHS = (224, 112, 56, 28, 14)
"""Inputs of the target network, then units of its hidden layers; its output is one number."""
_HYPER_WIDTH = 112
_GRID = 7
"""Width and height of the deepest feature map, in cells."""
_DISTORTION_WIDTH = 16
_BATCH = 16


class HyperIQA(nn.Module):
    """Images in, scores out, with the keys of the published file."""

    def __init__(self) -> None:
        super().__init__()
        self.res = DistortionResNet()
        self.conv1 = nn.Sequential(
            nn.Conv2d(2048, 1024, 1),
            nn.ReLU(),
            nn.Conv2d(1024, 512, 1),
            nn.ReLU(),
            nn.Conv2d(512, _HYPER_WIDTH, 1),
            nn.ReLU(),
        )
        for layer, (inputs, units) in enumerate(pairwise(_TARGET_WIDTHS), start=1):
            setattr(self, f"fc{layer}w_conv", nn.Conv2d(_HYPER_WIDTH, inputs * units // _GRID**2, 3, padding=1))
            setattr(self, f"fc{layer}b_fc", nn.Linear(_HYPER_WIDTH, units))
        self.fc5w_fc = nn.Linear(_HYPER_WIDTH, _TARGET_WIDTHS[-1])
        self.fc5b_fc = nn.Linear(_HYPER_WIDTH, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Scores [B] of images, trained towards 0 (bad) to 100 (excellent), not clipped.

        images: float [B, 3, 224, 224] RGB, normalised with ImageNet's mean and deviation.
        """
        deepest, hidden = self.res.features(images)
        content = self.conv1(deepest)
        mean = content.mean(dim=(2, 3))
        for layer, units in enumerate(_TARGET_WIDTHS[1:], start=1):
            matrix = self.get_submodule(f"fc{layer}w_conv")(content).reshape(len(images), units, -1)
            bias = self.get_submodule(f"fc{layer}b_fc")(mean)
            hidden = torch.sigmoid(torch.einsum("bui,bi->bu", matrix, hidden) + bias)
        return (self.fc5w_fc(mean) * hidden).sum(dim=1) + self.fc5b_fc(mean)[:, 0]


class DistortionResNet(ResNet):
    """ResNet-50 without its classifier, with distortion features after each stage."""

    def __init__(self) -> None:
        super().__init__(Bottleneck, [3, 4, 6, 3])
        del self.fc
        self.lda1_pool, self.lda1_fc = _distortions(256, 16), nn.Linear(16 * 64, _DISTORTION_WIDTH)
        self.lda2_pool, self.lda2_fc = _distortions(512, 32), nn.Linear(32 * 16, _DISTORTION_WIDTH)
        self.lda3_pool, self.lda3_fc = _distortions(1024, 64), nn.Linear(64 * 4, _DISTORTION_WIDTH)
        self.lda4_pool, self.lda4_fc = nn.AvgPool2d(_GRID), nn.Linear(2048, _TARGET_WIDTHS[0] - 3 * _DISTORTION_WIDTH)

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images [B, 3, 224, 224] -> the deepest feature map [B, 2048, 7, 7] and distortion features [B, 224]."""
        hidden = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = []
        for stage in range(1, 5):
            hidden = self.get_submodule(f"layer{stage}")(hidden)
            pooled = self.get_submodule(f"lda{stage}_pool")(hidden)
            features.append(self.get_submodule(f"lda{stage}_fc")(pooled.flatten(1)))
        return hidden, torch.cat(features, dim=1)


def _distortions(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.AvgPool2d(_GRID))


class HyperIQAQuality:
    """Scores clips of aligned faces, on one core or a GPU; there, the same frames always get the same number.

    Images are prepared as in LatentSync's `preprocess/filter_visual_quality.py`: the middle 224 x 224 pixels, unscaled
    (its `CenterCrop`). That is deterministic, unlike the random crops that hyperIQA's own demo averages. LatentSync
    scores the first, middle and last frame of a clip, and keeps clips of 40 and more.
    """

    name = "hyperiqa"

    def __init__(self, content: bytes, device: str = "cpu") -> None:
        """content: the bytes of `koniq_pretrained.pkl`. device: of torch. A GPU's numbers differ in the last digits.

        Raises ModelFileError if content is not that file.
        """
        self._network = HyperIQA()
        self._device = torch.device(device)
        load_strict(self._network, read_state_dict(content, WEIGHTS_FILE), WEIGHTS_FILE)
        self._network.to(self._device)

    def score(self, frames: np.ndarray) -> float:
        """Mean score of some frames of one clip, about 0..100, 100 is best.

        frames: uint8 [N, S, S, 3] RGB, S >= 224. Of 512 px images only the middle 44 % of each side counts.
        """
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or len(frames) == 0:
            raise ValueError(f"expected uint8 frames [N, S, S, 3], got {frames.dtype} {frames.shape}")
        if min(frames.shape[1:3]) < INPUT_PX:
            raise ValueError(f"expected frames of at least {INPUT_PX} px, got {frames.shape[1:3]}")
        images = centre_crop(frames)
        with torch.inference_mode(), one_thread(), full_precision():
            batches = torch.from_numpy(images).to(self._device).split(_BATCH)
            scores = [self._network(normalised(batch)) for batch in batches]
        return float(torch.cat(scores).mean())


def centre_crop(frames: np.ndarray) -> np.ndarray:
    """The middle 224 x 224 pixels of frames [N, H, W, 3]; halves round to even, as in torchvision's `CenterCrop`."""
    top, left = (round((side - INPUT_PX) / 2) for side in frames.shape[1:3])
    return frames[:, top : top + INPUT_PX, left : left + INPUT_PX]


def normalised(images: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] RGB -> float32 [B, 3, H, W] normalised by ImageNet's mean and deviation."""
    mean = torch.tensor([0.485, 0.456, 0.406], device=images.device)
    deviation = torch.tensor([0.229, 0.224, 0.225], device=images.device)
    return ((images / 255 - mean) / deviation).permute(0, 3, 1, 2)
