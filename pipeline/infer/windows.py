"""Draw a run window by window, with overlaps, so that no seam shows.

A model draws a fixed number of frames at once. Windows begin every `step` frames; where two overlap, what they drew is
mixed in the space of the model's `draw`, from one to the other, and shown once. The last window is moved back, so that
it is full; a run that is shorter than a window is continued backward and forward, like a mirror.
"""

from collections import deque

import numpy as np
import torch
from torch import Tensor

from lipforge.model.clock import FPS
from lipforge.pipeline.infer.protocols import LipModel, Voice

OVERLAP_RATIO = 0.25
"""Share of a window that the next one draws again."""


class MouthStream:
    """Draws the faces of one run in order. Wherever it begins, it gives the same faces."""

    def __init__(self, model: LipModel, voice: Voice, wanted: int, num_frames: int) -> None:
        """wanted: the first frame to give; num_frames: of the whole run."""
        self.model, self.voice, self.num_frames = model, voice, num_frames
        self.window = model.window_frames
        self.overlap = round(OVERLAP_RATIO * self.window)
        self.step = self.window - self.overlap
        self._starts = deque(window_starts(num_frames, self.window, self.step))
        while self._starts[0] + self.window <= wanted:
            self._starts.popleft()
        self._wanted = wanted
        self.first = self._starts[0]
        """The frame that `push` must begin with."""
        self._next = self.first
        self._faces: deque[tuple[int, np.ndarray, float]] = deque()
        self._tail: tuple[int, Tensor] | None = None
        """Where the last window goes on after what was shown, and what it drew there."""
        self._ready: list[tuple[int, np.ndarray]] = []

    def push(self, face: np.ndarray, heard_s: float) -> None:
        """The next face: uint8 [R, R, 3] RGB; heard_s: the moment of the sound that it is drawn for."""
        self._faces.append((self._next, face, heard_s))
        self._next += 1
        while self._starts and self._next >= self._starts[0] + self.window:
            self._draw(self._starts.popleft())

    def finish(self) -> None:
        """The run has ended: draw what is left."""
        while self._starts:
            self._draw(self._starts.popleft())
        if self._tail is not None:
            start, rest = self._tail
            self._show(start, rest)
            self._tail = None

    def ready(self) -> list[tuple[int, np.ndarray]]:
        """(frame, float32 [R, R, 3] in 0..255) of those that are drawn now, in order; each once."""
        found, self._ready = self._ready, []
        return found

    def _draw(self, start: int) -> None:
        taken = [entry for entry in self._faces if start <= entry[0] < start + self.window]
        order = _mirrored(len(taken), self.window)
        heard_s = np.array([entry[2] for entry in taken])
        missing = np.arange(1, self.window - len(taken) + 1)
        heard_s = np.concatenate([heard_s, heard_s[-1] + missing / FPS])
        tokens = self.voice.tokens(heard_s) if self.model.audio_encoder else None
        drawn = self.model.draw(np.stack([taken[index][1] for index in order]), tokens)[: len(taken)]
        if self._tail is not None:
            before, rest = self._tail
            shared = before + len(rest) - start
            assert shared > 0 and before <= start
            self._show(before, rest[: start - before])
            weights = (torch.arange(1, shared + 1) / (shared + 1)).to(drawn).reshape(-1, *[1] * (drawn.ndim - 1))
            mixed = (1 - weights) * rest[start - before :] + weights * drawn[:shared]
            drawn = torch.cat([mixed, drawn[shared:]])
        next_start = self._starts[0] if self._starts else start + len(drawn)
        self._show(start, drawn[: next_start - start])
        rest = drawn[next_start - start :]
        self._tail = (next_start, rest) if self._starts and len(rest) else None
        while self._faces and self._faces[0][0] < next_start:
            self._faces.popleft()

    def _show(self, start: int, drawn: Tensor) -> None:
        skipped = max(0, self._wanted - start)
        if skipped < len(drawn):
            faces = self.model.show(drawn[skipped:])
            self._ready += [(start + skipped + index, face) for index, face in enumerate(faces)]


def window_starts(num_frames: int, window: int, step: int) -> list[int]:
    """First frames of the windows that cover a run; the last one ends with it."""
    if num_frames <= window:
        return [0]
    starts = list(range(0, num_frames - window, step))
    return [*starts, num_frames - window]


def _mirrored(count: int, wanted: int) -> list[int]:
    """Indices 0..count-1, then back, then forward, ..., each end once."""
    period = max(1, 2 * count - 2)
    return [min(index % period, period - index % period) if count > 1 else 0 for index in range(wanted)]
