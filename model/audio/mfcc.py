"""Mel-frequency cepstral coefficients as python_speech_features 0.6 (MIT licence) computes them: SyncNet's audio input.

Its mel scale and lifter are HTK's (Young et al., The HTK Book); its DCT-II is orthonormal.
"""

import functools

import numpy as np

from lipforge.model.audio.filterbank import htk_filters_on_bins
from lipforge.model.clock import SAMPLE_RATE_HZ

_NUM_CEPSTRA = 13
_HOP_SAMPLES = 160
"""100 rows a second, 4 for each frame at 25 fps."""
_WINDOW_SAMPLES, _FFT_SAMPLES = 400, 512
_NUM_FILTERS = 26
_PRE_EMPHASIS = 0.97
_LIFTER = 22
_SMALLEST = np.finfo(np.float64).eps
"""Replaces an energy of exactly 0, which has no logarithm."""


def mfcc(samples: np.ndarray) -> np.ndarray:
    """MFCC with the default settings of python_speech_features.

    samples: int16 [N] mono at 16 kHz, N >= 1. Loudness counts, so the scale of the samples does too.
    Returns float64 [1 + ceil((N - 400) / 160), 13], a row every 10 ms: the logarithm of the energy, then cepstra 1..12.
    Row i covers samples 160 i .. 160 i + 400 without a taper, with zeros after the end.
    """
    signal = samples.astype(np.float64)
    signal[1:] -= _PRE_EMPHASIS * signal[:-1].copy()
    num_rows = 1 + max(0, -(-(len(signal) - _WINDOW_SAMPLES) // _HOP_SAMPLES))
    padded = np.pad(signal, (0, (num_rows - 1) * _HOP_SAMPLES + _WINDOW_SAMPLES - len(signal)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW_SAMPLES)[::_HOP_SAMPLES]
    power = np.abs(np.fft.rfft(windows, _FFT_SAMPLES)) ** 2 / _FFT_SAMPLES
    cepstra = np.log(_above_zero(power @ _filters().T)) @ _cosines().T
    cepstra[:, 0] = np.log(_above_zero(power.sum(axis=1)))
    return cepstra


def _above_zero(energy: np.ndarray) -> np.ndarray:
    return np.where(energy == 0, _SMALLEST, energy)


@functools.cache
def _filters() -> np.ndarray:
    return htk_filters_on_bins(_NUM_FILTERS, 0, SAMPLE_RATE_HZ / 2, _FFT_SAMPLES)


@functools.cache
def _cosines() -> np.ndarray:
    """float64 [13, 26]: the first rows of the orthonormal DCT-II, liftered."""
    order, band = np.arange(_NUM_CEPSTRA)[:, None], np.arange(_NUM_FILTERS)
    rows = np.sqrt(2 / _NUM_FILTERS) * np.cos(np.pi * order * (band + 0.5) / _NUM_FILTERS)
    return rows * (1 + _LIFTER / 2 * np.sin(np.pi * order / _LIFTER))  # row 0, which the energy replaces, is not scaled
