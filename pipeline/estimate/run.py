"""`lipforge prepare --estimate`: from the inputs to a forecast, as a list of what happens. Nothing is written."""

import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lipforge.datasets_manifest.display import counted
from lipforge.datasets_manifest.durations import human_time
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.estimate.columns import sums
from lipforge.pipeline.estimate.forecast import SEED, Forecast, forecast
from lipforge.pipeline.estimate.measure import Sample, measure
from lipforge.pipeline.estimate.observation import KEPT
from lipforge.pipeline.estimate.population import Population, survey
from lipforge.pipeline.estimate.processes import Processes, processes_for
from lipforge.pipeline.estimate.ranges import Uncertain
from lipforge.pipeline.estimate.sample import sample_order, span_s
from lipforge.pipeline.estimate.wall import fixed_costs
from lipforge.pipeline.ledger.quarantine import clear_traces
from lipforge.pipeline.ledger.records import DatasetError
from lipforge.pipeline.ledger.settings import (
    check_set,
    is_begun,
    load_models,
    require_writable,
    resolve,
    stored_where_unset,
)
from lipforge.pipeline.run import RETRIED, TRIED_AGAIN, no_videos, store_of
from lipforge.pipeline.running.executors import workers_here
from lipforge.pipeline.running.progress_line import ProgressLine
from lipforge.pipeline.running.summary import new_run_id
from lipforge.pipeline.running.workers import Job
from lipforge.pipeline.sources.inputs import Labels, Unreadable, find_sources

BUDGET_S = 60.0
"""Of time, for the sample."""
ENOUGH = 0.1
"""Width of the ranges of kept seconds and CPU time, as shares of these: then the sample is large enough."""
FEWEST_FOR_ENOUGH = 12
"""Spans: the ranges of fewer tell little of themselves."""


@dataclass(frozen=True)
class Estimate:
    """All that the page shows."""

    population: Population
    sample: Sample
    forecast: Forecast
    config: PrepareConfig
    unreadable: list[Unreadable]
    notes: list[str]
    num_workers: int
    """That the run will have."""
    here: int
    """Workers that this machine has room for."""

    @property
    def has_video(self) -> bool:
        """Whether there is any video in the sources, or in the dataset."""
        return bool(self.forecast.found_s.value or self.population.before_s)


def estimate(
    inputs: list[str],
    out: str | None,
    config: PrepareConfig,
    labels: Labels,
    line: ProgressLine,
    retry_failed: bool = False,
) -> Estimate:
    """Raises ValueError for the user's mistakes and DatasetError, as `prepare` does.

    out: what this dataset holds is left out, and the settings must fit it. None, or no dataset: all is to be done.
    """
    with _place() as place:
        ledger = place.store if out is None else store_of(out)
        check_set(ledger, config)
        require_writable(ledger)
        models = load_models(config)
        exclude = Path(ledger.root) if out is not None and ledger.is_local else None
        sources, unreadable, notes = find_sources(inputs, labels, exclude)
        if not sources and not unreadable:
            raise no_videos()
        config, hashes = resolve(stored_where_unset(ledger, config), models)
        is_begun(ledger, config, hashes)
        job = Job(place.store, config, models, hashes, place.run_id)
        opening_s = time.process_time()
        here = workers_here(config.run)
        num_workers = here if config.run.executor == "local" else config.run.workers or here
        place.processes = processes = Processes(processes_for(config, num_workers))

        def show(done: int, total: int) -> None:
            line.show("probe", done, total, f"{done:,} of {counted(total, 'source')}", None)

        again = RETRIED if retry_failed else TRIED_AGAIN
        population = survey(job, ledger, sources, again, processes, show)
        sample = _sample(job, population, processes, line)
    if population.units and not sample.observations:
        raise DatasetError(
            f"no span of the sample could be read from its storage; the first: {sample.undone[0]}. "
            "Mend it and run the same command again."
        )
    fixed = fixed_costs(opening_s, config.run.executor == "ray")
    result = forecast(population, sample, config, fixed, num_workers, here)
    return Estimate(population, sample, result, config, unreadable, notes, num_workers, here)


def _sample(job: Job, population: Population, processes: Processes, line: ProgressLine) -> Sample:
    if not population.units:
        return Sample()
    spans = sample_order(population.units, span_s(population.units, job.config), SEED)

    def show(sample: Sample, passed_s: float) -> None:
        words = f"{counted(len(sample.observations), 'span')}, {human_time(sample.seconds)} of video"
        left_s = max(BUDGET_S - passed_s, 0.0) if sample.observations else None
        line.show("sample", min(passed_s, BUDGET_S), BUDGET_S, words, left_s)

    def is_enough(sample: Sample) -> bool:
        if len(sample.observations) < FEWEST_FOR_ENOUGH:
            return False
        found = sums(population, sample.observations, np.random.default_rng(SEED))
        cpu_s = sum(found.stage_cpu_s.values(), Uncertain.exact(0.0))
        return max(found.outcome_s[KEPT].range.spread, cpu_s.range.spread) < ENOUGH

    line.show("sample", 0.0, BUDGET_S, "loading models", None)
    return measure(job, spans, processes, BUDGET_S, is_enough, show)


@dataclass
class _Place:
    """Where the work is done, and what must be cleared away afterwards."""

    store: Store
    """For what the stages write."""
    run_id: str
    processes: Processes | None = None


@contextmanager
def _place() -> Iterator[_Place]:
    """Nothing of it is left when the block ends, also when the command is stopped, or its terminal closed."""
    place = _Place(Store(tempfile.mkdtemp(prefix="lipforge-estimate-")), f"estimate-{new_run_id()}")
    try:
        with _handled(_end, signal.SIGTERM, signal.SIGHUP):
            yield place
    finally:
        with _handled(signal.SIG_IGN, signal.SIGINT):  # who is impatient presses Ctrl-C twice
            if place.processes is not None:
                place.processes.close()
            clear_traces(place.run_id)
            shutil.rmtree(place.store.root, ignore_errors=True)


def _end(number: int, _: object) -> None:
    raise SystemExit(128 + number)


@contextmanager
def _handled(handler: Any, *signals: signal.Signals) -> Iterator[None]:
    """Handle signals like this for a while, if this is the thread that may."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {one: signal.signal(one, handler) for one in signals}
    try:
        yield
    finally:
        for one, old in before.items():
            signal.signal(one, old)
