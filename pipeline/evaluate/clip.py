"""What is judged: an aligned face at 25 fps with its sound, whether a video file or a trainer made it."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class AlignedClip:
    """One face for the whole of its time. T frames at 25 fps."""

    name: str
    frames: np.ndarray
    """uint8 [T, R, R, 3] RGB, aligned as `lipforge prepare` aligns (or by the reference's transform)."""
    audio: np.ndarray
    """float32 [(T + 30) * 640], mono 16 kHz in -1..1: the clip's sound with 15 frames of margin on each side, zeros
    where there is none."""
    points: np.ndarray
    """float32 [T, 468, 3]: FaceMesh points in pixels of the upright crop, as `crop_landmarks` gives them."""
    language: str = "und"
    speaker: str | None = None


class Unmeasurable(Exception):
    """This clip cannot be judged; the message is the reason, in a few words (`no face`, `no sound`, ...)."""
