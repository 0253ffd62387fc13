"""The result of every lip-sync scorer."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SyncScore:
    """How well a clip's audio fits its lips."""

    offset_frames: int
    """-15..15 at 25 fps; positive: the audio is early and must be delayed by this much."""
    confidence: float
    """How far the best shift stands out. Each scorer has its own scale: compare only within one `sync_model`."""
    distance: float
    """Between lips and audio at the best shift, on the scorer's own scale; smaller is closer."""
    curve: np.ndarray
    """float32 [31]: how well each offset of -15..15 fits; larger is better."""
    drift_frames: float
    """Change of the offset from the first to the last frame of the clip; 0 unless it is certain."""
