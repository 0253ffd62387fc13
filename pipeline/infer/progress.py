"""How far a run is, and how long it still takes."""

import time
from collections import deque
from collections.abc import Callable

from lipforge.pipeline.infer.protocols import OnProgress, Progress

_WINDOW_S = 20.0
"""The speed is that of the last seconds: the start of a step is slow."""


class Steps:
    """Tells one listener about the steps of a run, one after the other."""

    def __init__(self, listen: OnProgress, names: list[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._listen, self._names, self._clock = listen, names, clock
        self._step = ""
        self._seen: deque[tuple[float, float]] = deque()

    def show(self, step: str, done_s: float, total_s: float) -> None:
        """done_s of total_s seconds of video."""
        now_s = self._clock()
        if step != self._step:
            self._step, self._seen = step, deque([(now_s, done_s)])
        self._seen.append((now_s, done_s))
        while len(self._seen) > 2 and now_s - self._seen[0][0] > _WINDOW_S:
            self._seen.popleft()
        (first_s, first_done_s), (last_s, last_done_s) = self._seen[0], self._seen[-1]
        speed = (last_done_s - first_done_s) / (last_s - first_s) if last_s > first_s else 0.0
        left_s = (total_s - done_s) / speed if speed > 0 else None
        number = self._names.index(step) + 1
        self._listen(Progress(f"{number} of {len(self._names)}: {step}", done_s, total_s, left_s))
