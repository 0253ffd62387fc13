"""The mel spectrogram that StableSyncNet takes, 80 columns a second.

The recipe is Wav2Lip's `audio.py` (Prajwal et al. 2020), which LatentSync (ByteDance, Apache-2.0) keeps with these
numbers: pre-emphasis, magnitudes of a short-time Fourier transform, librosa's mel bands, decibels, then a fixed scaling
to -4..4.
"""

import functools

import numpy as np

from lipforge.model.audio.filterbank import slaney_filters

MEL_RECIPE = "mel-1"
"""Identifies what this file computes, as it has no weights to hash. A changed recipe needs a new name."""
NUM_BANDS = 80
HOP = 200
"""Samples between columns at 16 kHz: 80 columns a second, 3.2 for each frame at 25 fps."""
_WINDOW = 800
_LOWEST_HZ, _HIGHEST_HZ = 55.0, 7600.0
_PRE_EMPHASIS = 0.97
_REFERENCE_DB = 20.0
_FLOOR_DB = -100.0
_RANGE = 4.0


def mel_spectrogram(audio: np.ndarray) -> np.ndarray:
    """Mel spectrogram of mono audio.

    audio: float32 [N] mono at 16 kHz in [-1, 1], N >= 1.
    Returns float32 [80, 1 + N // 200] in [-4, 4]; column i is centred on sample 200 * i, with zeros beyond both ends.
    Silence is -4. Raises ValueError for another shape, no samples, or values that are not finite.
    """
    if audio.ndim != 1 or len(audio) == 0 or not np.isfinite(audio).all():
        raise ValueError(f"audio: expected finite samples [N >= 1], got shape {audio.shape}")
    samples = audio.astype(np.float64)
    samples[1:] -= _PRE_EMPHASIS * samples[:-1].copy()
    padded = np.pad(samples, _WINDOW // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::HOP]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_WINDOW) / _WINDOW)
    magnitudes = np.abs(np.fft.rfft(windows * hann, axis=1))
    loudness_db = 20 * np.log10(np.maximum(magnitudes @ _filters().T, 10 ** (_FLOOR_DB / 20))) - _REFERENCE_DB
    scaled = 2 * _RANGE * (loudness_db - _FLOOR_DB) / -_FLOOR_DB - _RANGE
    return np.clip(scaled, -_RANGE, _RANGE).T.astype(np.float32)


@functools.cache
def _filters() -> np.ndarray:
    return slaney_filters(NUM_BANDS, _LOWEST_HZ, _HIGHEST_HZ, _WINDOW)
