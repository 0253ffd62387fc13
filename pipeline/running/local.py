"""Run work on this machine, one thing at a time, without Ray."""

import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from lipforge.pipeline.running.child import Child
from lipforge.pipeline.running.executors import Done, Task


class LocalExecutor:
    """Sources are read in a process of their own, so that a native crash does not end the run."""

    num_workers = num_ready = 1

    def __init__(self) -> None:
        self._child = Child()
        self._waiting: deque[Task] = deque()

    @property
    def in_flight(self) -> int:
        return len(self._waiting)

    def wants_more(self) -> bool:
        return not self._waiting

    def submit(self, task: Task) -> None:
        self._waiting.append(task)

    def next(self) -> Done:
        task = self._waiting.popleft()
        start_s = time.monotonic()
        if task.is_safe:
            value, attempts = task.make()(task.item), 1
        else:
            value, attempts = self._child.call(task.make, task.item)
        host = socket.gethostname()
        return Done(task, value, host, time.monotonic() - start_s, (host,) * (attempts - 1))

    def map(self, function: Callable[[Any], Any], items: list[Any], num_gpus: float = 0) -> Iterator[Any]:
        """In this process, in order."""
        yield from map(function, items)

    def close(self) -> None:
        self._child.close()
