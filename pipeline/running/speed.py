"""How fast work goes lately, for the time that is left."""

import time
from collections import deque
from collections.abc import Callable

WINDOW_S = 120.0


class Speed:
    """Of the last two minutes. What came before the first result, as loading models, does not count."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._results: deque[tuple[float, float]] = deque()

    def add(self, done: float) -> None:
        """So much is done in all."""
        self._results.append((self._clock(), done))
        while len(self._results) > 2 and self._results[-1][0] - self._results[1][0] > WINDOW_S:
            self._results.popleft()

    def per_s(self) -> float | None:
        """What is done in a second; None while unknown."""
        if len(self._results) < 2:
            return None
        (since_s, before), (_, done) = self._results[0], self._results[-1]
        return (done - before) / max(self._clock() - since_s, 1e-3) or None
