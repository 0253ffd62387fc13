"""Run work on this machine, one thing at a time, without Ray."""

import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from lipforge.pipeline.running.child import Child
from lipforge.pipeline.running.executors import Done, Task

_LOOK_EVERY_S = 1.0
"""Progress is shown at least this often."""


class LocalExecutor:
    """Sources are read in a process of their own, so that a native crash does not end the run."""

    num_workers = 1
    missing = ""

    def __init__(self) -> None:
        self._child = Child()
        self._waiting: deque[Task] = deque()
        self._since_s: float | None = None
        """When the first of them began in the other process; None while it has not."""

    @property
    def in_flight(self) -> int:
        return len(self._waiting)

    def wants_more(self) -> bool:
        return not self._waiting

    def submit(self, task: Task) -> None:
        self._waiting.append(task)

    def next(self) -> Done | None:
        task, host = self._waiting[0], socket.gethostname()
        if task.is_safe:
            start_s = time.monotonic()
            value = task.make()(task.item)
            self._waiting.popleft()
            return Done(task, value, host, time.monotonic() - start_s)
        if self._since_s is None:
            self._since_s = time.monotonic()
            self._child.begin(task.make, task.item)
        found = self._child.result(_LOOK_EVERY_S)
        if found is None:
            return None
        value, attempts = found
        wall_s, self._since_s = time.monotonic() - self._since_s, None
        self._waiting.popleft()
        return Done(task, value, host, wall_s, (host,) * (attempts - 1))

    def map(self, function: Callable[[Any], Any], items: list[Any], num_gpus: float = 0) -> Iterator[Any]:
        """In this process, in order."""
        yield from map(function, items)

    def close(self) -> None:
        self._child.close()
