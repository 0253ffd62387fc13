"""How a drawn face joins the picture around it: a soft mask, and the colours of the surroundings."""

import cv2
import numpy as np

from lipforge.model.denoiser.mask import mouth_mask

FEATHER = 0.07
"""Width of the soft border inside of the mask, as a share of the crop."""
_MATCH_PX = 64
"""Colours are matched at this size: only what is smoother than skin texture is changed."""
_MATCH_SIGMA = 5.0
"""Of the blur that carries the difference of the surroundings inwards, in pixels of that size."""


class Blender:
    """For crops of one size."""

    def __init__(self, resolution: int, sharpen: float = 0.0) -> None:
        mask = mouth_mask(resolution)[0].numpy()
        self.alpha = feathered(mask, FEATHER * resolution)
        """float32 [R, R]: share of the drawn face; 0 outside of the mask."""
        self.sharpen = sharpen
        visible = cv2.resize(1 - mask, (_MATCH_PX, _MATCH_PX), interpolation=cv2.INTER_AREA)
        self._visible = (visible > 0.999).astype(np.float32)
        self._weight = np.maximum(_blurred(self._visible), 1e-4)

    def matched(self, drawn: np.ndarray, original: np.ndarray) -> np.ndarray:
        """The drawn face with the colours that the original has around the mask: float32 [R, R, 3] in 0..255.

        drawn: float32 [R, R, 3]; original: uint8 [R, R, 3], the crop that it was drawn from. Around the mask both show
        the same, so their difference there is the network's error of colour. It is carried inwards, smoothly.
        """
        size = (_MATCH_PX, _MATCH_PX)
        difference = cv2.resize(original.astype(np.float32) - drawn, size, interpolation=cv2.INTER_AREA)
        inwards = _blurred(difference * self._visible[..., None]) / self._weight[..., None]
        whole = cv2.resize(inwards, drawn.shape[1::-1], interpolation=cv2.INTER_CUBIC)
        found = drawn + whole
        if self.sharpen:
            soft = cv2.GaussianBlur(found, (0, 0), len(drawn) / 170)
            found = found + np.float32(self.sharpen) * (found - soft)
        return np.clip(found, 0, 255)


def feathered(mask: np.ndarray, width_px: float) -> np.ndarray:
    """float32 [R, R]: 0 outside of a mask, 1 deeper inside than width_px, smooth between."""
    depth = cv2.distanceTransform((mask > 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    share = np.clip(depth / np.float32(width_px), 0, 1)
    return share * share * (3 - 2 * share)


def _blurred(values: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(values, (0, 0), _MATCH_SIGMA, borderType=cv2.BORDER_CONSTANT)
