"""SSIM and PSNR of frames, by torchmetrics, with the settings that papers use."""

import numpy as np
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from lipforge.model.measures.frames import batches, check_pair, one_number_each

PSNR_CAP_DB = 100.0
"""PSNR of frames without any difference, which has no value of its own."""
SSIM_SIGMA_PX = 1.5
MIN_SIDE_PX = 11
"""SSIM's window."""
_REACH_PX = MIN_SIDE_PX // 2
_FRAMES_AT_ONCE = 4


def ssim(frames: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Structural similarity of each frame with its reference: float32 [T], 1: the same.

    frames, reference: uint8 [T, H, W, 3] RGB, at least 11 px a side. Wang et al. 2004: Gaussian windows of sigma 1.5
    px, values 0..255, mean over the pixels whose window lies inside of the frame and over the three channels.
    Raises ValueError for other shapes.
    """
    check_pair(frames, reference)
    if min(frames.shape[1:3]) < MIN_SIDE_PX:
        raise ValueError(f"SSIM takes frames of at least {MIN_SIDE_PX} px a side, got {list(frames.shape[1:3])}")
    found = []
    for first, second in zip(batches(frames, _FRAMES_AT_ONCE), batches(reference, _FRAMES_AT_ONCE), strict=True):
        _, picture = structural_similarity_index_measure(
            first, second, sigma=SSIM_SIGMA_PX, data_range=255.0, return_full_image=True
        )
        # torchmetrics also counts windows that reach beyond the frame, over reflected pixels
        found.append(picture[..., _REACH_PX:-_REACH_PX, _REACH_PX:-_REACH_PX].mean(dim=(1, 2, 3)))
    return one_number_each(found)


def psnr_db(frames: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of each frame: float32 [T] in dB, at most `PSNR_CAP_DB`.

    frames, reference: uint8 [T, H, W, 3] RGB. Raises ValueError for other shapes.
    """
    check_pair(frames, reference)
    found = [
        peak_signal_noise_ratio(first, second, data_range=255.0, reduction="none", dim=(1, 2, 3))
        for first, second in zip(batches(frames, _FRAMES_AT_ONCE), batches(reference, _FRAMES_AT_ONCE), strict=True)
    ]
    return one_number_each(found).clip(max=PSNR_CAP_DB)
