"""Run work on a Ray cluster, or on a Ray of this machine. With crew.py the only code that knows Ray.

Actors do one task at a time, and all kinds of tasks, so that a worker has its models once and none waits for a kind
that has run out. Where scoring has GPUs, or workers of its own number, cut and score are two crews, and what cut made
goes from one to the other without passing the driver.
"""

import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import ray

from lipforge.datasets_manifest.storage.trouble import system_words
from lipforge.pipeline.config import RunConfig, StageResources
from lipforge.pipeline.ledger.records import DatasetError
from lipforge.pipeline.running.crew import Call, Crew, Event
from lipforge.pipeline.running.executors import Done, Task
from lipforge.pipeline.running.quiet import off_terminal

QUIET = (0, 2)
"""File descriptors hidden while Ray starts: stdin, because a background worker that reads the terminal is stopped, and
stderr, where Ray's C++ code prints its log level at any level."""
_LOOK_EVERY_S = 10.0
"""For nodes that joined."""
_TELL_AFTER_S = 30.0
log = logging.getLogger(__name__)


class RayExecutor:
    """Crews of actors on Ray. Ends a Ray that it started itself."""

    def __init__(self, run: RunConfig) -> None:
        """Raises DatasetError when this machine, alone, has no GPU and one is wanted."""
        _connect(run)
        self._run = run
        self.is_apart = bool(run.score_workers or run.cut.gpus or run.score.gpus)
        num_cut, num_score = crew_sizes(run, ray.cluster_resources())
        self._cut = Crew(
            run.cut if self.is_apart else _both(run),
            num_cut,
            None if run.workers else lambda: crew_sizes(run, ray.cluster_resources())[0],
        )
        self._score = Crew(
            run.score,
            num_score,
            None if run.score_workers else lambda: crew_sizes(run, ray.cluster_resources())[1],
        )
        self._crews = [self._cut, self._score] if self.is_apart else [self._cut]
        self._done: deque[tuple[Task, Any]] = deque()
        self._foreign: deque[Done] = deque()
        self._in_flight = 0
        self._look_at_s = 0.0

    @property
    def in_flight(self) -> int:
        return self._in_flight + len(self._foreign)

    @property
    def num_workers(self) -> int:
        return self._cut.size

    def wants_more(self) -> bool:
        return self.in_flight < 2 * sum(crew.size for crew in self._crews)

    def submit(self, task: Task) -> None:
        self._submit(task, self._cut)

    def _submit(self, task: Task, crew: Crew) -> None:
        self._in_flight += 1
        make = task.apart[0] if self.is_apart and task.apart else task.make
        crew.submit(Call(task, make, (task.item,), task.memory_mb, stays=self.is_apart and bool(task.apart)))

    @property
    def missing(self) -> str:
        if not self.is_apart:
            return "worker" if self._cut.is_missing else ""
        return "cut worker" if self._cut.is_missing else "score worker" if self._score.is_missing else ""

    def next(self) -> Done | None:
        if self._foreign:
            return self._foreign.popleft()
        return self._next()

    def _next(self) -> Done | None:
        while True:
            # What waits to be scored is held by the cluster: cutting waits when it is much.
            self._cut.is_held = self.is_apart and self._score.num_waiting > 2 * self._score.size
            self._look_for_nodes()
            for crew in self._crews:
                crew.start_work()
            waiting = {ref: crew for crew in self._crews for ref in crew.events}
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=_LOOK_EVERY_S, fetch_local=False)
            if not ready:
                return None
            event = waiting[ready[0]].take(ready[0])
            if event is not None and (done := self._taken(event)):
                return done

    def _look_for_nodes(self) -> None:
        if time.monotonic() >= self._look_at_s:
            for crew in self._crews:
                crew.grow()
            self._look_at_s = time.monotonic() + _LOOK_EVERY_S

    def _taken(self, event: Event) -> Done | None:
        task, before = event.call.task, event.call.before
        if event.is_lost and before is not None:
            before.died_on += event.call.died_on
            self._cut.submit(before)
            return None
        if event.left is not None:
            assert task.apart is not None
            self._score.submit(Call(task, task.apart[1], (task.item, event.left), before=event.call))
            return None
        self._in_flight -= 1
        died_on = event.call.died_on + (before.died_on if before is not None else ())
        return Done(task, event.value, event.host, event.wall_s, died_on)

    def map(self, function: Callable[[Any], Any], items: list[Any], num_gpus: float = 0) -> Iterator[Any]:
        if num_gpus and not self._run.score.gpus:
            yield from self._map_on_gpus(function, items, num_gpus)
            return
        crew = self._score if num_gpus else self._cut  # the GPUs are taken by those that score
        # Those of a map that was not read to its end may still come: they are nobody's.
        make = partial(_given, function)
        waiting = deque(items)
        pending = 0
        while waiting or pending:
            while waiting and pending < 2 * crew.size:
                self._submit(Task("map", waiting.popleft(), make), crew)
                pending += 1
            done = self._next()
            if done is None:
                continue
            if done.task.make is make:
                pending -= 1
                yield done.value
            elif done.task.kind != "map":
                self._foreign.append(done)
        crew.forget(make)

    def _map_on_gpus(self, function: Callable[[Any], Any], items: list[Any], num_gpus: float) -> Iterator[Any]:
        """By a crew of its own."""
        resources = StageResources(cpus=1, memory_mb=self._run.score.memory_mb, gpus=num_gpus)
        crew = Crew(resources, self._run.workers or max(1, int(ray.cluster_resources().get("GPU", 0) / num_gpus)))
        make = partial(_given, function)
        for item in items:
            crew.submit(Call(Task("map", item, make), make, (item,)))
        left = len(items)
        try:
            began_s, is_told = time.monotonic(), False
            while left:
                crew.start_work()
                ready, _ = ray.wait(list(crew.events), num_returns=1, timeout=_LOOK_EVERY_S)
                if not ready:
                    if crew.is_missing and not is_told and time.monotonic() - began_s > _TELL_AFTER_S:
                        is_told = True
                        log.warning(
                            "no worker has started yet: each waits for GPU: %g. `ray status` says what the cluster has",
                            num_gpus,
                        )
                    continue
                event = crew.take(ready[0])
                if event is not None:
                    left -= 1
                    yield event.value
        finally:
            crew.close()

    def close(self) -> None:
        ray.shutdown()


def _given(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return function


def _both(run: RunConfig) -> StageResources:
    """What a worker reserves that cuts and scores."""
    return StageResources(cpus=run.cut.cpus + run.score.cpus, memory_mb=run.cut.memory_mb + run.score.memory_mb)


def crew_sizes(run: RunConfig, cluster: Mapping[str, float]) -> tuple[int, int]:
    """(workers that cut, workers that score) on a cluster with these resources. Workers that do both are the first."""
    cpus, gpus = cluster.get("CPU", 1.0), cluster.get("GPU", 0.0)
    if run.cut.gpus or not (run.score.gpus or run.score_workers):
        pairs = cpus / (run.cut.cpus + run.score.cpus)
        if run.cut.gpus:
            pairs = min(pairs, gpus / (run.cut.gpus + run.score.gpus))
        return run.workers or max(1, int(pairs)), run.score_workers or max(1, int(pairs))
    score = run.score_workers or max(1, int(gpus / run.score.gpus))
    return run.workers or max(1, int((cpus - score * run.score.cpus) / run.cut.cpus)), score


def _connect(run: RunConfig) -> None:
    try:
        _init(run)
    except ConnectionError as error:
        where = os.environ.get("RAY_ADDRESS")
        raise DatasetError(f"the Ray at RAY_ADDRESS={where} cannot be reached. Does it run? {error}") from error
    except OSError as error:
        raise DatasetError(
            f"Ray cannot start: {system_words(error)}. It needs a home folder (HOME) and a temporary one (TMPDIR) that "
            "can be written. `--executor local` runs without Ray"
        ) from error
    wanted = max(run.cut.gpus, run.score.gpus)
    if not os.environ.get("RAY_ADDRESS") and wanted > ray.cluster_resources().get("GPU", 0):
        ray.shutdown()
        raise DatasetError(f"run.cut.gpus or run.score.gpus is {wanted:g}, but Ray sees no such GPU on this machine")


def _init(run: RunConfig) -> None:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    with off_terminal(*QUIET):
        if os.environ.get("RAY_ADDRESS"):
            ray.init(logging_level=logging.ERROR, log_to_driver=False)
            return
        workers = (run.workers or 0) * run.cut.cpus + (run.score_workers or run.workers or 0) * run.score.cpus
        cpus = max(len(os.sched_getaffinity(0)), math.ceil(workers))
        ray.init(
            address="local", num_cpus=cpus, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False
        )
