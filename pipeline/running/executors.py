"""What runs work: this machine without Ray (local.py), or Ray (on_ray.py).

Work of several kinds is in flight at once: sources are probed while units are processed and segments sealed. Whoever
hands it in decides the order. The ledger's guarantees do not depend on any of it: workers may die at any moment.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from lipforge.pipeline.config import PrepareConfig, RunConfig, require_share

Make = Callable[[], Callable[..., Any]]
"""Makes a worker, which is then called for one item at a time. Called once in each process."""


@dataclass(frozen=True, eq=False)
class Task:
    """One item of work."""

    kind: str
    """For whoever handed it in."""
    item: Any
    make: Make
    """Its worker is called with the item. The same object for all tasks of a kind, so that it is sent once."""
    apart: tuple[Make, Make] | None = None
    """The same work in two steps, by workers with other resources: cut(item), then score(item, what cut gave)."""
    is_safe: bool = False
    """Whether it reads no source, and so cannot take its process down."""
    memory_mb: float = 0.0
    """That it may need. Together, what runs on a machine needs no more than that has."""
    after_death: Callable[[], None] | None = None
    """Called on the machine of a worker that died of the task, or with it, before the task is tried again."""


@dataclass(frozen=True)
class Done:
    """A task that is done."""

    task: Task
    value: Any
    host: str
    """Where."""
    wall_s: float
    """That its last attempt took."""
    died_on: tuple[str, ...] = ()
    """Hosts of workers that died of it, or with it, before."""


class Executor(Protocol):
    @property
    def num_workers(self) -> int: ...

    @property
    def in_flight(self) -> int:
        """Tasks handed in and not returned."""
        ...

    def wants_more(self) -> bool:
        """Whether a worker may soon have nothing to do."""
        ...

    def submit(self, task: Task) -> None:
        """Hand in a task."""
        ...

    @property
    def missing(self) -> str:
        """The kind of workers, if any, that there is work for and none of which has started."""
        ...

    def next(self) -> Done | None:
        """The next task that is done, in any order; None when there is none for a while.

        Raises DatasetError and OSError of its worker.
        """
        ...

    def map(self, function: Callable[[Any], Any], items: list[Any], num_gpus: float = 0) -> Iterator[Any]:
        """Results of function(item), in any order, while other tasks stay in flight. num_gpus: that one call needs."""
        ...

    def close(self) -> None:
        """End all workers, whatever they do."""
        ...


def make_executor(config: PrepareConfig) -> Executor:
    """As `run.executor` says."""
    if config.run.executor == "local":
        from lipforge.pipeline.running.local import LocalExecutor

        return LocalExecutor()
    from lipforge.pipeline.running.on_ray import RayExecutor

    return RayExecutor(config.run)


def require_gpu_here(gpus_per_worker: float) -> None:
    """Raises ValueError when GPUs are wanted, and this machine, without a cluster, has none; and for odd numbers."""
    require_share(gpus_per_worker)
    if not gpus_per_worker or os.environ.get("RAY_ADDRESS"):
        return
    import torch

    if not torch.cuda.is_available():
        raise ValueError(f"--gpus-per-worker {gpus_per_worker:g}: torch sees no GPU on this machine")


def workers_here(run: RunConfig) -> int:
    """Workers that this machine has room for, whatever `run.workers` says."""
    if run.executor == "local":
        return 1
    from lipforge.pipeline.running.on_ray import crew_sizes

    run = run.model_copy(update={"workers": None})
    return crew_sizes(run, {"CPU": float(len(os.sched_getaffinity(0)))})[0]
