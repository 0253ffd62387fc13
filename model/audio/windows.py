"""Which Whisper features, or mel columns, belong to a frame of video.

Whisper's encoder gives 50 rows a second, so 2 for each frame at 25 fps. LatentSync (ByteDance, Apache-2.0) gives each
frame the rows of two frames before it, its own, and those of two frames after; beyond the ends of a clip the first or
last row repeats.
"""

import numpy as np

ROWS_PER_FRAME = 2
HALF_WINDOW_FRAMES = 2
NUM_ROWS = ROWS_PER_FRAME * (2 * HALF_WINDOW_FRAMES + 1)
"""Rows for one frame."""
NUM_MEL_COLUMNS = 16
"""Mel columns for one frame, 3.2 for each of the same five frames."""


def audio_rows(start: int, num_frames: int, clip_frames: int) -> np.ndarray:
    """Feature rows of consecutive frames: int64 [num_frames, 10].

    start: first frame; clip_frames: frames of the whole clip, whose features are [2 * clip_frames, ...].
    """
    first = ROWS_PER_FRAME * (np.arange(start, start + num_frames) - HALF_WINDOW_FRAMES)
    return np.clip(first[:, None] + np.arange(NUM_ROWS), 0, ROWS_PER_FRAME * clip_frames - 1)


def mel_rows(num_frames: int) -> np.ndarray:
    """Mel columns of the frames of a window: int64 [num_frames, 16].

    They count from the window's first column. A window has ceil(num_frames / 5 * 16) of them; beyond its ends the first
    or last one repeats. The 16 columns are those of the frame, two before and two after, within one column.
    """
    first = -(-NUM_MEL_COLUMNS * (np.arange(num_frames) - HALF_WINDOW_FRAMES) // 5)
    last = -(-NUM_MEL_COLUMNS * num_frames // 5) - 1
    return np.clip(first[:, None] + np.arange(NUM_MEL_COLUMNS), 0, last)
