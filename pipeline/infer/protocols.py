"""What the engine asks of a model and of a sound, so that either can be replaced by a stub that costs nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor


class LipModel(Protocol):
    """Gives aligned faces new lips, one window at a time. The same input gives the same output on one device."""

    name: str
    sha256: str
    resolution: int
    """R, side of the aligned faces, in pixels."""
    window_frames: int
    """T, frames of a window at 25 fps."""
    audio_encoder: str
    """What its tokens come from, as `open_voice` takes it; empty: it hears nothing."""

    def draw(self, faces: np.ndarray, tokens: Tensor | None) -> Tensor:
        """A window in the space where overlapping windows are mixed: float32 [T, ...], latents of a diffusion model.

        faces: uint8 [T, R, R, 3] RGB, aligned. tokens: float32 [T, K, D], what is heard around each frame.
        """
        ...

    def show(self, drawn: Tensor) -> np.ndarray:
        """float32 [N, R, R, 3] RGB in 0..255: the faces of N frames from `draw`, whole, mouth and surroundings."""
        ...


class Voice(Protocol):
    """The new sound as a model hears it. Streams: memory does not grow with its length."""

    duration_s: float
    looks_ahead_s: float
    """How far beyond the last moment of a window it listens."""

    def tokens(self, times_s: np.ndarray) -> Tensor:
        """float32 [T, K, D]: what is heard around each moment. times_s: ascending, on the sound's clock.

        Times at exact multiples of 1/25 s give the published windows. Before its start and after its end is silence.
        Calls go forward in time; a call may go back by a few seconds.
        """
        ...


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    step: str
    """find faces, draw, finish, ..."""
    done_s: float
    """Seconds of video."""
    total_s: float
    left_s: float | None
    """Estimated seconds until this step is done; None while unknown."""


OnProgress = Callable[[Progress], None]
Stopped = Callable[[], bool]
"""Asked often; True ends the run at the next frame, with Cancelled."""


class Cancelled(Exception):
    """The run was stopped. What is finished stays; the same request goes on from there."""
