"""Mel filter banks: how the bins of a spectrum are summed into bands.

Trained weights depend on every bit of these arrays, so each published recipe is a function of its own.
"""

import numpy as np

from lipforge.model.clock import SAMPLE_RATE_HZ


def slaney_filters(num_bands: int, lowest_hz: float, highest_hz: float, fft_size: int) -> np.ndarray:
    """librosa's default: triangles on Slaney's scale (Auditory Toolbox, 1998), each of unit area over frequency.

    Returns float64 [num_bands, fft_size // 2 + 1].
    """
    edges_hz = _slaney_to_hz(np.linspace(_hz_to_slaney(lowest_hz), _hz_to_slaney(highest_hz), num_bands + 2))
    return _triangles(edges_hz, _bins_hz(fft_size)) * 2 / (edges_hz[2:] - edges_hz[:-2])[:, None]


def htk_filters(num_bands: int, lowest_hz: float, highest_hz: float, fft_size: int) -> np.ndarray:
    """Triangles of height 1 on HTK's scale (Young et al., The HTK Book): float64 [num_bands, fft_size // 2 + 1]."""
    return _triangles(_htk_edges_hz(num_bands, lowest_hz, highest_hz), _bins_hz(fft_size))


def htk_filters_on_bins(num_bands: int, lowest_hz: float, highest_hz: float, fft_size: int) -> np.ndarray:
    """As `htk_filters`, with corners rounded down to whole bins, as python_speech_features 0.6 does."""
    corners = np.floor((fft_size + 1) * _htk_edges_hz(num_bands, lowest_hz, highest_hz) / SAMPLE_RATE_HZ)
    return _triangles(corners, np.arange(fft_size // 2 + 1))


def _triangles(corners: np.ndarray, places: np.ndarray) -> np.ndarray:
    """float64 [B, P]: triangle b rises from corner b to b + 1 and falls to b + 2. corners: [B + 2]; places: [P]."""
    low, middle, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rising, falling = (places - low) / (middle - low), (high - places) / (high - middle)
    return np.maximum(0, np.minimum(rising, falling))


def _bins_hz(fft_size: int) -> np.ndarray:
    return np.fft.rfftfreq(fft_size, 1 / SAMPLE_RATE_HZ)


def _htk_edges_hz(num_bands: int, lowest_hz: float, highest_hz: float) -> np.ndarray:
    low, high = (2595 * np.log10(1 + hz / 700) for hz in (lowest_hz, highest_hz))
    return 700 * (10 ** (np.linspace(low, high, num_bands + 2) / 2595) - 1)


# Slaney's scale: linear up to 1 kHz = 15 mel, then 27 mel for each factor of 6.4.
_BREAK_HZ, _BREAK_MEL, _MEL_PER_NEPER = 1000.0, 15.0, 27 / np.log(6.4)


def _hz_to_slaney(hz: float) -> float:
    if hz < _BREAK_HZ:
        return hz * _BREAK_MEL / _BREAK_HZ
    return _BREAK_MEL + _MEL_PER_NEPER * np.log(hz / _BREAK_HZ)


def _slaney_to_hz(mel: np.ndarray) -> np.ndarray:
    curved = _BREAK_HZ * np.exp(np.maximum(mel - _BREAK_MEL, 0) / _MEL_PER_NEPER)
    return np.where(mel < _BREAK_MEL, mel * _BREAK_HZ / _BREAK_MEL, curved)
