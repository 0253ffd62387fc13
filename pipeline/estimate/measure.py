"""Process the spans of a sample with the stages of a run, and measure what that takes."""

import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

from lipforge.pipeline.clip import Unit
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.estimate.observation import Observation, observe
from lipforge.pipeline.estimate.processes import Processes
from lipforge.pipeline.ledger.parts import part_name
from lipforge.pipeline.running.workers import Job, Undone, UnitWorker

FEWEST_SPANS = 4
"""Also when they take longer than the budget."""
SPAN_TIMEOUT_S, SPAN_STALL_S = 120.0, 30.0
"""Limits of a span, as `run.unit_timeout_s` and `run.stall_timeout_s` are of a unit: a tenth as long, or less."""

MOST_KILLS = 3
"""Of a span's process, from outside, as where memory is short."""

START = "start"
"""In the place of a span: load the models, and say what that took."""


@dataclass
class Sample:
    """What the processes measured."""

    observations: list[Observation] = field(default_factory=list)
    undone: list[str] = field(default_factory=list)
    """Why spans could not be read: their storage failed."""
    start_wall_s: float = 0.0
    """Until a worker had started and loaded its models."""
    start_cpu_s: float = 0.0
    start_mb: float = 0.0
    """Memory of a worker that has done nothing."""
    wall_s: float = 0.0
    """Of it all."""

    @property
    def seconds(self) -> float:
        return sum(observation.seconds for observation in self.observations)


@dataclass(frozen=True)
class Started:
    cpu_s: float
    peak_mb: float


class SpanWorker:
    """A run's worker, measured. What it commits is deleted at once."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._worker = UnitWorker(job)

    def __call__(self, item: Unit | str) -> Observation | Undone | Started:
        if not isinstance(item, Unit):
            return Started(time.process_time(), peak_mb())
        cpu_s, wall_s = time.process_time(), time.monotonic()
        record = self._worker(item)
        cpu_s, wall_s = time.process_time() - cpu_s, time.monotonic() - wall_s
        if isinstance(record, Undone):
            return record
        self._job.store.delete(part_name(item.unit_id))
        observation = observe(item, record, self._job.config)
        return replace(observation, cpu_s=cpu_s, wall_s=wall_s, peak_mb=peak_mb())


def peak_mb() -> float:
    """Most memory that this process held at once."""
    try:
        with open("/proc/self/status") as lines:  # unlike getrusage, without that of the process that started this one
            return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def for_spans(config: PrepareConfig) -> PrepareConfig:
    """Settings under which a span that crashes or hangs is given up at once, and one that is killed soon."""
    limits = {
        "max_attempts": 1,
        "max_kills": min(config.run.max_kills, MOST_KILLS),
        "unit_timeout_s": min(config.run.unit_timeout_s, SPAN_TIMEOUT_S),
        "stall_timeout_s": min(config.run.stall_timeout_s, SPAN_STALL_S),
    }
    return config.model_copy(update={"run": config.run.model_copy(update=limits)})


def measure(
    job: Job,
    spans: Iterator[Unit],
    processes: Processes,
    budget_s: float,
    is_enough: Callable[[Sample], bool],
    show: Callable[[Sample, float], None],
) -> Sample:
    """Process spans until budget_s have passed, is_enough(sample) or none is left.

    job: with a store of its own. show: called now and then with the sample so far and the seconds that have passed.
    """
    sample = Sample()
    begun_s = time.monotonic()
    make = partial(SpanWorker, replace(job, config=for_spans(job.config)))
    for done in processes.each(make, START):
        sample.start_wall_s = max(sample.start_wall_s, done.wall_s)
        sample.start_cpu_s = max(sample.start_cpu_s, done.value.cpu_s)
        sample.start_mb = max(sample.start_mb, done.value.peak_mb)

    def begun() -> Iterator[Unit]:
        for number, span in enumerate(spans):
            is_over = time.monotonic() - begun_s > budget_s or is_enough(sample)
            if is_over and number >= FEWEST_SPANS:
                return
            yield span

    for done in processes.run(make, begun()):
        if done is not None and isinstance(done.value, Undone):
            sample.undone.append(done.value.detail)
        elif done is not None:
            sample.observations.append(done.value)
        show(sample, time.monotonic() - begun_s)
    sample.wall_s = time.monotonic() - begun_s
    return sample
