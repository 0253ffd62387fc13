"""What the U-Net hears around each frame, as tokens [T, K, D]: one code for training and for inference."""

import torch
from torch import Tensor

from lipforge.model.audio.mel import NUM_BANDS
from lipforge.model.audio.windows import NUM_MEL_COLUMNS, mel_rows

MEL_WIDTH = NUM_BANDS + NUM_MEL_COLUMNS
"""Numbers of one token of mel: a column's bands, and which of a frame's columns it is."""
_MEL_RANGE = 4.0


def whisper_tokens(states: Tensor, rows: Tensor) -> Tensor:
    """float32 [T, 50, 384] for whisper-tiny: 10 rows of 5 states around each frame, as published.

    states: [L, S, D], from `WhisperFeatures`; rows: int64 [T, 10], from `audio_rows`.
    """
    return states[rows].flatten(1, 2)


def mel_tokens(mel: Tensor, shifts: Tensor | None = None) -> Tensor:
    """float32 [..., T, 16, 96]: the mel columns around each frame of a window, 80 bands in -1..1.

    The other 16 numbers are 1 at the column's place and 0 elsewhere: attention takes tokens in no order, and what was
    heard before a frame must not look like what comes after it. (Whisper's states have their place in them.)
    mel: [..., 80, M], M = ceil(T / 5 * 16), of the window. shifts: int64 [T], columns by which a frame is heard later
    than its number says.
    """
    num_columns = mel.shape[-1]
    num_frames = num_columns * 5 // 16
    columns = torch.from_numpy(mel_rows(num_frames))
    if shifts is not None:
        columns = (columns + shifts[:, None]).clamp(0, num_columns - 1)
    heard = (mel / _MEL_RANGE).transpose(-1, -2)[..., columns, :]
    places = torch.eye(NUM_MEL_COLUMNS, dtype=heard.dtype, device=heard.device).expand(*heard.shape[:-1], -1)
    return torch.cat([heard, places], dim=-1)
