"""Voice embeddings: who speaks, as a direction in 256 dimensions. The same person gives vectors with a high cosine.

The voice encoder of Resemblyzer 0.1.4 (Apache-2.0; Wan et al. 2018, arXiv 1710.10467), whose wheel carries the weights:
three LSTM layers hear 1.6 s of a mel spectrogram at a time. The package's arithmetic, without its trimming of pauses.
"""

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from lipforge.model.audio.filterbank import slaney_filters
from lipforge.model.clock import SAMPLE_RATE_HZ
from lipforge.model.threads import one_thread
from lipforge.model.weights.state_dicts import load_strict, read_state_dict

BUNDLE = "voice"
FILE = "resemblyzer_voice_encoder.pt"
WIDTH = 256
"""Numbers of an embedding."""

_HOP, _WINDOW = 160, 400
"""Samples: a column of the mel spectrogram every 10 ms, of 25 ms."""
_NUM_BANDS = 40
_PARTIAL_COLUMNS = 160
"""Of one partial utterance: 1.6 s."""
_STEP_COLUMNS = 77
"""Between the starts of partial utterances: 1.3 a second, rounded to columns."""
_MIN_COVERAGE = 0.75
"""Share of the last partial utterance that sound must fill; it is left out otherwise, unless it is the only one."""
_QUIETEST_RMS = 10 ** (-30 / 20)
"""-30 dB of full scale, as root mean square: quieter sound is raised to it, louder sound stays."""
_SILENCE_PEAK = 1e-4
"""A peak below 3 steps of 16 bits is rounding or dither: no voice."""
_BATCH = 64
"""Partial utterances that the network hears at once."""
_ONLY_FOR_TRAINING = ("similarity_weight", "similarity_bias")


class VoiceNetwork(nn.Module):
    """float [B, T, 40] mel power, without logarithm -> unit vectors [B, 256], all >= 0; zeros where nothing fires."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(_NUM_BANDS, WIDTH, num_layers=3, batch_first=True)
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, mel: Tensor) -> Tensor:
        _, (hidden, _) = self.lstm(mel)
        return nn.functional.normalize(torch.relu(self.linear(hidden[-1])), dim=1)


class VoiceEncoder:
    """Embeds clips on one CPU thread. content: the file `FILE` of the bundle `BUNDLE`, as `load_file` reads it.

    Raises ModelFileError for anything but exactly these weights; nothing in the file is run.
    """

    def __init__(self, content: bytes) -> None:
        tensors = read_state_dict(content, FILE)
        for name in _ONLY_FOR_TRAINING:
            tensors.pop(name, None)
        self._network = VoiceNetwork()
        load_strict(self._network, tensors, FILE)

    def embed(self, samples: np.ndarray) -> np.ndarray:
        """The voice of one clip: float32 [256], a unit vector with values >= 0.

        samples: float32 [N >= 1] mono at 16 kHz in [-1, 1]: 2 s and more of one person's speech. From 1.2 s down the
        rest of 1.6 s counts as silence, and the vector says less. Zeros for digital silence (peak below 1e-4): no
        voice. Raises ValueError for another shape, no samples, or values that are not finite.
        As float16 it moves cosines by 1e-4.
        """
        return self.embed_clips([samples])[0]

    def embed_clips(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """The voices of several clips: float32 [len(clips), 256]; each as `embed` takes and gives it.

        The clips' partial utterances go through the network together, 64 at a time: a fifth less time, but numbers may
        differ by 1e-7 with the company of a clip. Where bytes are to be the same always, embed clips one at a time.
        """
        partials = [_partials(samples) for samples in clips]
        ends = np.cumsum([len(some) for some in partials])
        embedded = self._embed_partials(
            np.concatenate([np.empty((0, _PARTIAL_COLUMNS, _NUM_BANDS), np.float32), *partials])
        )
        means = [
            some.mean(axis=0) if len(some) else np.zeros(WIDTH, np.float32) for some in np.split(embedded, ends)[:-1]
        ]
        return np.stack([_unit(mean) for mean in means]) if means else np.empty((0, WIDTH), np.float32)

    @torch.inference_mode()
    def _embed_partials(self, mels: np.ndarray) -> np.ndarray:
        """float32 [P, 160, 40] -> [P, 256]"""
        with one_thread():
            parts = [self._network(torch.from_numpy(mels[at : at + _BATCH])) for at in range(0, len(mels), _BATCH)]
        return torch.cat(parts).numpy() if parts else np.empty((0, WIDTH), np.float32)


def _partials(samples: np.ndarray) -> np.ndarray:
    """Mel spectrograms of a clip's partial utterances: float32 [P, 160, 40]; P is 0 for silence, else at least 1."""
    if samples.ndim != 1 or len(samples) == 0 or not np.isfinite(samples).all():
        raise ValueError(f"samples: expected finite ones [N >= 1], got shape {samples.shape}")
    if np.abs(samples).max() < _SILENCE_PEAK:
        return np.empty((0, _PARTIAL_COLUMNS, _NUM_BANDS), np.float32)
    rms = np.sqrt(np.mean(samples.astype(np.float64) ** 2))
    samples = samples * np.float32(max(1.0, _QUIETEST_RMS / rms))
    starts = _starts(len(samples))
    end = (starts[-1] + _PARTIAL_COLUMNS) * _HOP
    mel = _mel(np.pad(samples, (0, max(0, end - len(samples)))))
    return np.stack([mel[start : start + _PARTIAL_COLUMNS] for start in starts])


def _starts(num_samples: int) -> list[int]:
    """First columns of the partial utterances: at least one."""
    num_columns = -(-(num_samples + 1) // _HOP)
    starts = list(range(0, max(1, num_columns - _PARTIAL_COLUMNS + _STEP_COLUMNS + 1), _STEP_COLUMNS))
    covered = (num_samples - starts[-1] * _HOP) / (_PARTIAL_COLUMNS * _HOP)
    return starts[:-1] if covered < _MIN_COVERAGE and len(starts) > 1 else starts


def _mel(samples: np.ndarray) -> np.ndarray:
    """librosa's mel spectrogram with its defaults: power, float32 [1 + N // 160, 40], a column centred every 10 ms."""
    padded = np.pad(samples.astype(np.float64), _WINDOW // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_WINDOW) / _WINDOW)
    power = np.abs(np.fft.rfft(windows * hann, axis=1)) ** 2
    return (power @ _filters().T).astype(np.float32)


@functools.cache
def _filters() -> np.ndarray:
    return slaney_filters(_NUM_BANDS, 0, SAMPLE_RATE_HZ / 2, _WINDOW)


def _unit(vector: np.ndarray) -> np.ndarray:
    length = float(np.linalg.norm(vector))
    return vector / np.float32(length) if length else vector
