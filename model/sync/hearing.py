"""What the built-in scorer's audio towers make of a sound, as tokens for a U-Net: the part of it that lips show.

A scorer that can tell whether lips speak a sound has learned what of a sound is seen on lips. A small U-Net with little
data need not learn it anew (docs/models/denoiser.md has what that brings against plain mel columns).
"""

import hashlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lipforge.model.clock import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from lipforge.model.sync.builtin import (
    MEL_PER_FRAME,
    RECEPTIVE_FRAMES,
    LipSyncScorer,
    audio_features,
    log_mel,
    loudness,
    mel_power,
)
from lipforge.model.threads import one_thread

SAMPLES_PER_LEVEL = SAMPLES_PER_FRAME // MEL_PER_FRAME
"""Rows of mel power are 10 ms apart."""
_LEVELS_BEFORE = RECEPTIVE_FRAMES // 2 * MEL_PER_FRAME
_LEVELS_AFTER = (RECEPTIVE_FRAMES // 2 + 1) * MEL_PER_FRAME
"""A moment is heard with 6 frames to each side of the frame that begins there."""
_EDGE_LEVELS = 1
"""A row depends on 120 samples to each side of its 160."""
LOOKS_AHEAD_S = (_LEVELS_AFTER + _EDGE_LEVELS) * SAMPLES_PER_LEVEL / SAMPLE_RATE_HZ
_LAYER = 1
"""Of each tower: it hears 9 frames, and has not yet forgotten what the vectors need not tell."""


class LipHearing:
    """Frozen. One token for each moment."""

    def __init__(self, weights: bytes) -> None:
        """weights: those of `LipSyncScorer`."""
        self.sha256 = hashlib.sha256(weights).hexdigest()
        self._towers = LipSyncScorer(weights).audio_towers()
        self.width = sum(tower.inputs.out_channels + tower.outputs.out_channels for tower in self._towers)

    def tokens(self, read: Callable[[int, int], np.ndarray], rows: np.ndarray, loud: float) -> Tensor:
        """float32 [T, 1, 384]: for each moment, the towers' second layer in its middle, and their vectors.

        read: samples [first, end) of the sound at 16 kHz, float32, zeros beyond its ends. rows: int64 [T], ascending:
        where the frame of each moment begins, in steps of 10 ms. loud: `loudness` of the sound.
        """
        first, end = int(rows[0]) - _LEVELS_BEFORE - _EDGE_LEVELS, int(rows[-1]) + _LEVELS_AFTER + _EDGE_LEVELS
        levels = log_mel(mel_power(read(first * SAMPLES_PER_LEVEL, end * SAMPLES_PER_LEVEL)), loud)
        around = (rows - first - _LEVELS_BEFORE)[:, None] + np.arange(_LEVELS_BEFORE + _LEVELS_AFTER)
        heard = torch.from_numpy(audio_features(levels[around])).transpose(1, 2)
        parts = []
        with torch.no_grad(), one_thread():
            for tower in self._towers:
                hidden = functional.relu(tower.norms[0](tower.inputs(heard)))
                for number, (layer, norm) in enumerate(zip(tower.layers, tower.norms[1:], strict=True)):
                    hidden = functional.relu(norm(layer(hidden)))
                    if number == _LAYER:
                        parts.append(hidden[..., hidden.shape[-1] // 2])
                vectors = functional.normalize(tower.outputs(hidden), dim=1)[..., 0]
                parts.append(vectors * vectors.shape[1] ** 0.5)
            return torch.cat(parts, dim=1)[:, None]


def loud_moments(read: Callable[[int, int], np.ndarray], num_samples: int) -> float:
    """`loudness` of a whole sound, read a minute at a time."""
    minute = 60 * SAMPLE_RATE_HZ
    end = max(1, -(-num_samples // SAMPLES_PER_LEVEL)) * SAMPLES_PER_LEVEL
    powers = (mel_power(read(first, min(first + minute, end))) for first in range(0, end, minute))
    return loudness(np.concatenate([power.mean(axis=1) for power in powers]))
