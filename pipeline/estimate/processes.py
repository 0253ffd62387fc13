"""Run tasks in several processes of this machine at once. A task that takes its process down is another outcome."""

import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.running.executors import Done, Make, Task
from lipforge.pipeline.running.local import LocalExecutor

MOST = 16
"""Processes: more would not tell more about costs than they take from each other."""
LOOK_EVERY_S = 0.5


def processes_for(config: PrepareConfig, num_workers: int) -> int:
    """As many as the run will have here, so that they disturb each other as much, and fit into memory."""
    if config.run.executor == "local":
        return 1
    memory_mb = config.run.cut.memory_mb + config.run.score.memory_mb
    room = int(free_memory_mb() / memory_mb)
    return max(1, min(num_workers, len(os.sched_getaffinity(0)), room, MOST))


def free_memory_mb() -> float:
    """Memory of this machine that new processes can have; infinite where it does not say."""
    with suppress(OSError, ValueError), open("/proc/meminfo") as lines:
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024 / 1e6
    return float("inf")


class Processes:
    """Each has workers of its own, as a run with LocalExecutor. Close it, whatever happens."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._executors = [LocalExecutor() for _ in range(number)]
        self._free: SimpleQueue[LocalExecutor] = SimpleQueue()
        for executor in self._executors:
            self._free.put(executor)
        self._threads = ThreadPoolExecutor(number)
        self._is_closed = False

    def each(self, make: Make, item: Any) -> Iterator[Done]:
        """Let every process do the same item once, all at the same time."""
        futures = [self._threads.submit(self._do, executor, make, item) for executor in self._executors]
        yield from (future.result() for future in futures)

    def run(self, make: Make, items: Iterator[Any]) -> Iterator[Done | None]:
        """Done items, in any order; None when there is none for LOOK_EVERY_S. An item is taken as it can begin."""
        running: set[Future[Done]] = set()
        while True:
            while len(running) < self.number:
                item = next(items, None)
                if item is None:
                    break
                running.add(self._threads.submit(self._next_free, make, item))
            if not running:
                return
            done, running = wait(running, LOOK_EVERY_S, FIRST_COMPLETED)
            yield from (future.result() for future in done)
            if not done:
                yield None

    def _next_free(self, make: Make, item: Any) -> Done:
        executor = self._free.get()
        try:
            return self._do(executor, make, item)
        finally:
            self._free.put(executor)

    def _do(self, executor: LocalExecutor, make: Make, item: Any) -> Done:
        executor.submit(Task("span", item, make))
        while not self._is_closed:
            done = executor.next()
            if done is not None:
                return done
        raise CancelledError

    def close(self) -> None:
        """End all processes, whatever they do."""
        self._is_closed = True
        for executor in self._executors:
            executor.close()
        self._threads.shutdown(cancel_futures=True)
        for executor in self._executors:  # its thread may have begun another process, as after a crash
            executor.close()
