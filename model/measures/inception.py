"""InceptionV3 of FID: what a picture shows, as 2048 numbers.

The network of 2015 with which FID is defined (Szegedy et al. 2015, arXiv 1512.00567; Heusel et al. 2017), as
torch-fidelity ports it from TensorFlow: its blocks and its resizing are used, its way of loading is not, because that
runs what a file says.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lipforge.model.measures.frames import batches, check_frames
from lipforge.model.weights.state_dicts import load_strict, read_state_dict

FILE = "pt_inception-2015-12-05-6726825d.pth"
WIDTH = 2048
SIDE_PX = 299
_FRAMES_AT_ONCE = 4


class InceptionNetwork(nn.Module):
    """float32 [B, 3, H, W] RGB in 0..255 -> [B, 2048]. Keys as in the published file."""

    def __init__(self) -> None:
        from torch_fidelity import feature_extractor_inceptionv3 as blocks

        super().__init__()
        self.Conv2d_1a_3x3 = blocks.BasicConv2d(3, 32, kernel_size=3, stride=2)
        self.Conv2d_2a_3x3 = blocks.BasicConv2d(32, 32, kernel_size=3)
        self.Conv2d_2b_3x3 = blocks.BasicConv2d(32, 64, kernel_size=3, padding=1)
        self.MaxPool_1 = nn.MaxPool2d(3, stride=2)
        self.Conv2d_3b_1x1 = blocks.BasicConv2d(64, 80, kernel_size=1)
        self.Conv2d_4a_3x3 = blocks.BasicConv2d(80, 192, kernel_size=3)
        self.MaxPool_2 = nn.MaxPool2d(3, stride=2)
        self.Mixed_5b = blocks.InceptionA(192, pool_features=32)
        self.Mixed_5c = blocks.InceptionA(256, pool_features=64)
        self.Mixed_5d = blocks.InceptionA(288, pool_features=64)
        self.Mixed_6a = blocks.InceptionB(288)
        self.Mixed_6b = blocks.InceptionC(768, channels_7x7=128)
        self.Mixed_6c = blocks.InceptionC(768, channels_7x7=160)
        self.Mixed_6d = blocks.InceptionC(768, channels_7x7=160)
        self.Mixed_6e = blocks.InceptionC(768, channels_7x7=192)
        self.Mixed_7a = blocks.InceptionD(768)
        self.Mixed_7b = blocks.InceptionE_1(1280)
        self.Mixed_7c = blocks.InceptionE_2(2048)
        self.fc = nn.Linear(WIDTH, 1008)  # its classes, which nothing here asks for

    def forward(self, pixels: Tensor) -> Tensor:
        from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

        resized: Any = interpolate_bilinear_2d_like_tensorflow1x(pixels, size=(SIDE_PX, SIDE_PX), align_corners=False)
        features = (resized - 128) / 128
        for name, layer in self.named_children():
            if name != "fc":
                features = layer(features)
        return features.mean(dim=(2, 3))


class Inception:
    """Features of frames."""

    def __init__(self, models: Mapping[str, bytes], device: str = "cpu") -> None:
        """models: contents by file name, as `weights.load("inception")` returns them.

        Raises ModelFileError when the file holds other weights.
        """
        network = InceptionNetwork()
        load_strict(network, read_state_dict(models[FILE], FILE), FILE)
        self._network, self._device = network.to(device), device

    @torch.no_grad()
    def features(self, frames: np.ndarray) -> np.ndarray:
        """float32 [T, 2048]. frames: uint8 [T, H, W, 3] RGB. Raises ValueError for another shape."""
        check_frames(frames)
        found = [self._network(some.to(self._device)).cpu() for some in batches(frames, _FRAMES_AT_ONCE)]
        return torch.cat(found).numpy() if found else np.zeros((0, WIDTH), np.float32)
