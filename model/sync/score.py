"""What every scorer of lip-sync answers."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SyncScore:
    """How a clip's sound fits its lips."""

    offset_frames: int
    """-15..15 at 25 fps; positive: the audio is early and must be delayed by this much."""
    confidence: float
    """How far the best shift stands out. Each judge has a scale of its own: compare only within one `sync_model`."""
    distance: float
    """Between lips and sound at the best shift, on the judge's own scale; smaller is closer."""
    curve: np.ndarray
    """float32 [31]: how well each offset of -15..15 fits; larger is better."""
