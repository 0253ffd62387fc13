"""LPIPS 0.1 of videos, frame by frame: the distance that papers call LPIPS (VGG)."""

from collections.abc import Mapping

import numpy as np

from lipforge.model.denoiser.lpips import LAYOUTS, Lpips
from lipforge.model.measures.frames import distances
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

    def distance(self, frames: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """Distance of each frame from its reference: float32 [T], 0: the same.

        frames, reference: uint8 [T, H, W, 3] RGB, at least 16 px a side. Raises ValueError for other shapes.
        """
        return distances(self._network, frames, reference, self._device, least_px=MIN_SIDE_PX, at_once=_FRAMES_AT_ONCE)
