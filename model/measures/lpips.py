"""LPIPS 0.1 of videos, frame by frame: the distance that papers call LPIPS (VGG)."""

from collections.abc import Mapping

import numpy as np
import torch

from lipforge.model.denoiser.lpips import LAYOUTS, Lpips
from lipforge.model.measures.frames import batches, check_pair, one_number_each
from lipforge.model.weights.state_dicts import load_strict, read_state_dict

TRUNK, HEADS = "vgg16-397923af.pth", "lpips_vgg.pth"
MIN_SIDE_PX = 16
_FRAMES_AT_ONCE = 4


class LpipsDistance:
    """Distances of videos, frame by frame."""

    def __init__(self, models: Mapping[str, bytes], device: str = "cpu") -> None:
        """models: contents by file name, as `weights.load("lpips")` returns them.

        Raises ModelFileError when the files hold other weights.
        """
        network = Lpips(LAYOUTS["vgg16"])
        trunk = read_state_dict(models[TRUNK], TRUNK)
        tensors = {key: value for key, value in trunk.items() if not key.startswith("classifier.")}
        load_strict(network, tensors | read_state_dict(models[HEADS], HEADS), f"{TRUNK} and {HEADS}")
        self._network, self._device = network.to(device), device

    @torch.no_grad()
    def distance(self, frames: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """Distance of each frame from its reference: float32 [T], 0: the same.

        frames, reference: uint8 [T, H, W, 3] RGB, at least 16 px a side. Raises ValueError for other shapes.
        """
        check_pair(frames, reference)
        if min(frames.shape[1:3]) < MIN_SIDE_PX:
            raise ValueError(f"LPIPS takes frames of at least {MIN_SIDE_PX} px a side, got {frames.shape[1:3]}")
        found = []
        for first, second in zip(batches(frames, _FRAMES_AT_ONCE), batches(reference, _FRAMES_AT_ONCE), strict=True):
            pixels, target = (values.to(self._device) / 127.5 - 1 for values in (first, second))
            found.append(self._network(pixels, target))
        return one_number_each(found)
