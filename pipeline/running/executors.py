"""Run work on Ray, or on this machine without it. The only code that knows Ray.

Ray Data streams units through two pools of actors, cut and score, with one unit per row and one row per block, so that
each unit finishes by itself. The ledger's guarantees do not depend on Ray: actors may die at any moment.
"""

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, cast

from lipforge.pipeline.clip import Source, Unit
from lipforge.pipeline.config import PrepareConfig, StageResources
from lipforge.pipeline.ledger.records import DatasetError
from lipforge.pipeline.running.child import Child
from lipforge.pipeline.running.quiet import off_terminal
from lipforge.pipeline.running.workers import (
    CutWorker,
    Job,
    Probed,
    ProbeWorker,
    Record,
    ScoreWorker,
    Undone,
    UnitWorker,
)

WAVE_UNITS = 4096
"""Units per Ray Data execution. Bounds the driver's memory for any number of sources."""
QUIET = (0, 2)
"""File descriptors hidden while Ray starts: stdin, because a background worker that reads the terminal is stopped, and
stderr, where Ray's C++ code prints its log level at any level."""
MAX_RESTARTS = 50
"""Of one worker within a wave, and of one unit on it. The quarantine gives up on units long before; this limits workers
that cannot even start."""


@dataclass(frozen=True)
class _SharedJob:
    """A job in Ray's object store, where a restarted actor finds it as long as the driver holds the reference."""

    reference: Any

    def get(self) -> Job:
        import ray

        return ray.get(self.reference)


class Executor(Protocol):
    num_workers: int

    def map(self, function: Callable[[Any], Any], items: list[Any], num_gpus: float = 0) -> Iterator[Any]:
        """Results of function(item), in any order. num_gpus: that one call needs."""
        ...

    def probe(self, job: Job, sources: list[Source]) -> Iterator[Probed]:
        """Probe and record sources, in any order. Raises DatasetError."""
        ...

    def run_units(self, job: Job, units: list[Unit]) -> Iterator[Record | Undone]:
        """Cut, score and commit units; yields each one's ledger record when it is done. Raises DatasetError."""
        ...

    def close(self) -> None: ...


class LocalExecutor:
    """One thing at a time. Sources are read in a process of their own, so that a native crash does not end the run."""

    num_workers = 1

    def __init__(self) -> None:
        self._child = Child()

    def map(self, function: Callable[[Any], Any], items: list[Any], num_gpus: float = 0) -> Iterator[Any]:
        yield from map(function, items)

    def probe(self, job: Job, sources: list[Source]) -> Iterator[Probed]:
        return self._child.map(partial(ProbeWorker, replace(job, models={})), sources)

    def run_units(self, job: Job, units: list[Unit]) -> Iterator[Record | Undone]:
        return self._child.map(partial(UnitWorker, job), units)

    def close(self) -> None:
        self._child.close()


class _CutActor:
    def __init__(self, shared: _SharedJob) -> None:
        self.worker = CutWorker(shared.get())

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"unit": row["unit"], "cut": _attempt(self.worker, row["unit"])}


class _ScoreActor:
    def __init__(self, shared: _SharedJob) -> None:
        self.worker = ScoreWorker(shared.get())

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        cut = row["cut"]
        return {"outcome": cut if isinstance(cut, _Raised) else _attempt(self.worker, row["unit"], cut)}


class RayExecutor:
    """Fixed pools of actors on a Ray cluster, or on a local Ray for this run only."""

    def __init__(self, config: PrepareConfig) -> None:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        import ray
        import ray.data

        self.config = config
        run = config.run
        if os.environ.get("RAY_ADDRESS"):
            with off_terminal(*QUIET):
                ray.init(logging_level=logging.ERROR, log_to_driver=False)
            total = int(ray.cluster_resources().get("CPU", 1) / (run.cut.cpus + run.score.cpus))
            self.num_workers = run.workers or max(1, total)
            if self.num_workers > total:
                raise DatasetError(
                    f"{self.num_workers} workers need {self.num_workers * (run.cut.cpus + run.score.cpus):g} CPUs, but "
                    f"the cluster has {ray.cluster_resources().get('CPU', 0):g}. Use --workers {total} or less."
                )
        else:
            cpus = len(os.sched_getaffinity(0))
            self.num_workers = run.workers or max(1, cpus)
            wanted = max(cpus, int(self.num_workers * (run.cut.cpus + run.score.cpus) + 0.999))
            with off_terminal(*QUIET):
                ray.init(
                    address="local",
                    num_cpus=wanted,
                    include_dashboard=False,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                )
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        # Restart limits can only be passed this way, which Ray 2.60 announces to remove in 2.64.
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.enable_operator_progress_bars = False
        context.max_errored_blocks = 0  # an error that a worker does not handle is a bug, and ends the run
        context.print_on_execution_start = False

    def map(self, function: Callable[[Any], Any], items: list[Any], num_gpus: float = 0) -> Iterator[Any]:
        return self._tasks(function, items, 5, num_gpus)

    def _tasks(
        self, function: Callable[[Any], Any], items: list[Any], max_retries: int, num_gpus: float = 0
    ) -> Iterator[Any]:
        import ray

        remote: Any = ray.remote(num_cpus=1, num_gpus=num_gpus, max_retries=max_retries)(_attempt)
        shared = ray.put(function)
        waiting = list(reversed(items))
        running: list[Any] = []
        while waiting or running:
            while waiting and len(running) < 2 * self.num_workers:
                running.append(remote.remote(shared, waiting.pop()))
            ready, running = ray.wait(running, num_returns=1)
            yield _value(ray.get(ready[0]))

    def probe(self, job: Job, sources: list[Source]) -> Iterator[Probed]:
        without_models = replace(job, models={})
        return self._tasks(partial(_probe, without_models), sources, MAX_RESTARTS)

    def run_units(self, job: Job, units: list[Unit]) -> Iterator[Record | Undone]:
        import ray

        shared = _SharedJob(ray.put(job))
        for first in range(0, len(units), WAVE_UNITS):
            yield from self._run_wave(shared, units[first : first + WAVE_UNITS])

    def _run_wave(self, job: _SharedJob, units: list[Unit]) -> Iterator[Record | Undone]:
        import ray.data

        size = min(self.num_workers, len(units))
        dataset = ray.data.from_items([{"unit": unit} for unit in units], override_num_blocks=len(units))
        dataset = dataset.map(cast(Any, _CutActor), **_pool(job, size, self.config.run.cut))
        dataset = dataset.map(cast(Any, _ScoreActor), **_pool(job, size, self.config.run.score))
        for row in dataset.iter_rows():
            yield _value(row["outcome"])

    def close(self) -> None:
        import ray

        ray.shutdown()


def _pool(job: _SharedJob, size: int, resources: StageResources) -> dict[str, Any]:
    import ray.data

    return {
        "fn_constructor_args": (job,),
        "compute": ray.data.ActorPoolStrategy(size=size),
        "num_cpus": resources.cpus,
        "memory": resources.memory_mb * 10**6,
        "max_restarts": MAX_RESTARTS,
        "max_task_retries": MAX_RESTARTS,
    }


def _probe(job: Job, source: Source) -> Probed:
    return ProbeWorker(job)(source)


@dataclass(frozen=True)
class _Raised:
    """An error on its way to the driver, whole: Ray's own wrapper loses `errno` and has a traceback for a message."""

    error: Exception


def _attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """function(*arguments), or what it raised if the driver is to explain it. Bugs keep Ray's traceback."""
    try:
        return function(*arguments)
    except (DatasetError, OSError) as error:
        return _Raised(error)


def _value(outcome: Any) -> Any:
    if isinstance(outcome, _Raised):
        raise outcome.error
    return outcome


def make_executor(config: PrepareConfig) -> Executor:
    return LocalExecutor() if config.run.executor == "local" else RayExecutor(config)
