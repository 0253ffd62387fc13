"""What the U-Net hears around each frame, as tokens [T, K, D]: one code for training and for inference."""

import torch
from torch import Tensor

from lipforge.model.audio.mel import NUM_BANDS
from lipforge.model.audio.windows import mel_rows

MEL_WIDTH = NUM_BANDS
_MEL_RANGE = 4.0


def whisper_tokens(states: Tensor, rows: Tensor) -> Tensor:
    """float32 [T, 50, 384] for whisper-tiny: 10 rows of 5 states around each frame, as published.

    states: [L, S, D], from `WhisperFeatures`; rows: int64 [T, 10], from `audio_rows`.
    """
    return states[rows].flatten(1, 2)


def mel_tokens(mel: Tensor, shifts: Tensor | None = None) -> Tensor:
    """float32 [..., T, 16, 80] in -1..1: the mel columns around each frame of a window.

    mel: [..., 80, M], M = ceil(T / 5 * 16), of the window. shifts: int64 [T], columns by which a frame is heard later
    than its number says.
    """
    num_columns = mel.shape[-1]
    num_frames = num_columns * 5 // 16
    columns = torch.from_numpy(mel_rows(num_frames))
    if shifts is not None:
        columns = (columns + shifts[:, None]).clamp(0, num_columns - 1)
    return (mel / _MEL_RANGE).transpose(-1, -2)[..., columns, :]
