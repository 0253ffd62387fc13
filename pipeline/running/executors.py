"""Run work on Ray, or in this process. The only code that knows Ray.

Ray Data streams units through two pools of actors, cut and score, with one unit per row and one row per block, so that
each unit finishes by itself. The ledger's guarantees do not depend on Ray: actors may die at any moment.
"""

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

from lipforge.datasets_manifest.schema import Status
from lipforge.datasets_manifest.storage.store import CANNOT_WRITE, Store
from lipforge.pipeline.clip import Unit
from lipforge.pipeline.config import PrepareConfig, StageResources
from lipforge.pipeline.ledger.quarantine import GivenUp, Quarantine
from lipforge.pipeline.ledger.records import DatasetError, Ledger
from lipforge.pipeline.recipe import CutOperator, CutUnit, ScoreOperator, whole_unit
from lipforge.pipeline.running.quiet import off_terminal

WAVE_UNITS = 4096
"""Units per Ray Data execution. Bounds the driver's memory for any number of sources."""
QUIET = (0, 2)
"""File descriptors hidden while Ray starts: stdin, because a background worker that reads the terminal is stopped, and
stderr, where Ray's C++ code prints its log level at any level."""
MAX_RESTARTS = 50
"""Of one worker within a wave, and of one unit on it. The quarantine gives up on units long before; this limits workers
that cannot even start."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """All that a worker needs; it fetches nothing."""

    store: Store
    config: PrepareConfig
    models: Mapping[str, bytes]
    hashes: dict[str, str]
    run_id: str


@dataclass(frozen=True)
class _SharedJob:
    """A job in Ray's object store, where a restarted actor finds it as long as the driver holds the reference."""

    reference: Any

    def get(self) -> Job:
        import ray

        return ray.get(self.reference)


class Executor(Protocol):
    num_workers: int

    def map(self, function: Callable[[Any], Any], items: list[Any]) -> Iterator[Any]:
        """Results of function(item), in any order."""
        ...

    def run_units(self, job: Job, units: list[Unit]) -> Iterator[Record]:
        """Cut, score and commit units; yields each one's ledger record when it is done. Raises DatasetError."""
        ...

    def close(self) -> None: ...


class LocalExecutor:
    """Everything in this process, in sequence: for debugging and tests. A native crash ends the run."""

    num_workers = 1

    def map(self, function: Callable[[Any], Any], items: list[Any]) -> Iterator[Any]:
        yield from map(function, items)

    def run_units(self, job: Job, units: list[Unit]) -> Iterator[Record]:
        cut = CutOperator(job.config, job.models)
        score = ScoreOperator(job.config, job.models, job.store, job.hashes)
        for unit in units:
            try:
                yield score.process(cut.process(unit))
            except OSError as error:
                if error.errno not in CANNOT_WRITE:
                    raise
                raise DatasetError(_cannot_write_words(error)) from error

    def close(self) -> None:
        pass


class _Guarded:
    """Common to cut and score workers: the ledger and the quarantine."""

    def __init__(self, shared: _SharedJob) -> None:
        self.job = job = shared.get()
        self.ledger = Ledger(job.store)
        self.quarantine = Quarantine(job.store, job.config.run, job.run_id)

    def guarded(self, unit: Unit, operator: str, work: Callable[[int], Any]) -> Any:
        """work(attempt), or a CutUnit with a failed row once the unit is given up."""
        try:
            with self.quarantine.attempt(unit.unit_id, operator) as attempt:
                return work(attempt)
        except GivenUp as error:
            row = whole_unit(unit, Status.FAILED, operator, error.reason, error.detail)
            return CutUnit(unit, [row], {}, 0.0, self.job.config.run.max_attempts)


class _CutWorker(_Guarded):
    def __init__(self, shared: _SharedJob) -> None:
        super().__init__(shared)
        self.operator = CutOperator(self.job.config, self.job.models)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        unit: Unit = row["unit"]
        if self.ledger.read_unit(unit.unit_id) is not None:
            return {"unit": unit, "cut": None}  # committed by an attempt whose answer was lost
        return {"unit": unit, "cut": self.guarded(unit, "cut", lambda attempt: self.operator.process(unit, attempt))}


class _ScoreWorker(_Guarded):
    def __init__(self, shared: _SharedJob) -> None:
        super().__init__(shared)
        job = self.job
        self.operator = ScoreOperator(job.config, job.models, job.store, job.hashes)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        unit: Unit = row["unit"]
        done = self.ledger.read_unit(unit.unit_id)
        if done is not None:
            return {"record": done, "fatal": ""}
        try:
            record = self.guarded(unit, "score", lambda _: self.operator.process(row["cut"]))
            if isinstance(record, CutUnit):  # given up: nothing to measure, only a row to commit
                record = self.operator.process(record)
        except OSError as error:
            if error.errno not in CANNOT_WRITE:
                raise
            return {"record": None, "fatal": _cannot_write_words(error)}
        return {"record": record, "fatal": ""}


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

    def map(self, function: Callable[[Any], Any], items: list[Any]) -> Iterator[Any]:
        import ray

        remote = ray.remote(num_cpus=1, max_retries=5)(_call)
        shared = ray.put(function)
        waiting = list(reversed(items))
        running: list[Any] = []
        while waiting or running:
            while waiting and len(running) < 2 * self.num_workers:
                running.append(remote.remote(shared, waiting.pop()))
            ready, running = ray.wait(running, num_returns=1)
            yield ray.get(ready[0])

    def run_units(self, job: Job, units: list[Unit]) -> Iterator[Record]:
        import ray

        shared = _SharedJob(ray.put(job))
        for first in range(0, len(units), WAVE_UNITS):
            yield from self._run_wave(shared, units[first : first + WAVE_UNITS])

    def _run_wave(self, job: _SharedJob, units: list[Unit]) -> Iterator[Record]:
        import ray.data

        size = min(self.num_workers, len(units))
        dataset = ray.data.from_items([{"unit": unit} for unit in units], override_num_blocks=len(units))
        dataset = dataset.map(cast(Any, _CutWorker), **_pool(job, size, self.config.run.cut))
        dataset = dataset.map(cast(Any, _ScoreWorker), **_pool(job, size, self.config.run.score))
        for row in dataset.iter_rows():
            if row["fatal"]:
                raise DatasetError(row["fatal"])
            yield row["record"]

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


def _call(function: Callable[[Any], Any], item: Any) -> Any:
    return function(item)


def _cannot_write_words(error: OSError) -> str:
    what = os.strerror(error.errno) if error.errno else str(error)
    return (
        f"cannot write to the dataset: {what}. Finished work is safe. Make room and run the same command again: it "
        "continues from here."
    )


def make_executor(config: PrepareConfig) -> Executor:
    return LocalExecutor() if config.run.executor == "local" else RayExecutor(config)
