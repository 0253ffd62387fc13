"""Measure what the driver of `prepare` costs, by the number of sources: workers that do nothing answer at once.

python -m benchmarks.flow [--sources N] [--folder F]

Each source is 300 s, one unit, without a face. Parts, plans, segments and the manifest are written as ever. The
baseline is a quarter of the sources: with a driver that does not grow, a unit costs the same.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from lipforge.datasets_manifest.schema import Reason, Stage, Status
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.clip import Source, Unit, Video
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.flow import Flow
from lipforge.pipeline.ledger.settings import load_models, open_dataset, resolve, writing
from lipforge.pipeline.media.probe import VideoInfo
from lipforge.pipeline.publish.publish import publish
from lipforge.pipeline.recipe import whole_unit
from lipforge.pipeline.running.executors import Done, Task
from lipforge.pipeline.running.progress import Progress
from lipforge.pipeline.running.workers import Job, Probed
from lipforge.pipeline.stages.commit import Commit
from lipforge.pipeline.stages.probe import to_record

NUM_WORKERS = 1600
"""As on 100 nodes."""
UNIT_FRAMES = 7500
INFO = VideoInfo(1920, 1080, 0, 25.0, UNIT_FRAMES, 0.0, tuple(2.0 * n for n in range(150)), True, "h264", "aac")


class NoWorkers:
    """An executor whose tasks are done when they are asked for."""

    num_workers = NUM_WORKERS
    missing = ""

    def __init__(self, store: Store) -> None:
        self.workers_s = 0.0
        """CPU seconds of what workers would do."""
        self._commit = Commit(store, {})
        self._tasks: deque[Task] = deque()

    @property
    def in_flight(self) -> int:
        return len(self._tasks)

    def wants_more(self) -> bool:
        return len(self._tasks) < 2 * self.num_workers

    def submit(self, task: Task) -> None:
        self._tasks.append(task)

    def next(self) -> Done:
        task = self._tasks.popleft()
        start_s = time.process_time()
        value = self._done(task)
        self.workers_s += time.process_time() - start_s
        return Done(task, value, f"host{len(self._tasks) % 100}", 1.0)

    def map(self, function: Callable[[Any], Any], items: list[Any], num_gpus: float = 0) -> Iterator[Any]:
        for item in items:
            start_s = time.process_time()
            value = function(item)
            self.workers_s += time.process_time() - start_s
            yield value

    def close(self) -> None:
        pass

    def _done(self, task: Task) -> Any:
        if task.kind == "probe":
            source: Source = task.item
            video = Video(source, 2 * f"{int(source.uri.rpartition('/')[2]):032x}", INFO, fingerprint="1:1")
            return Probed(video, to_record(video), 0.01)
        if task.kind == "unit":
            unit: Unit = task.item
            clip = whole_unit(unit, Status.REJECTED, Stage.TRACK_FACES, Reason.NO_FACE, "")
            return self._commit.write(unit, [clip], {"decode_passes": 1.0})
        return task.make()(task.item)


def run(num_sources: int, folder: str) -> None:
    """Prints units, seconds of the driver and of the rest, and peak memory in 10^9 bytes."""
    store = Store(folder)
    config, hashes = resolve(PrepareConfig.model_validate({"run": {"executor": "local"}}), load_models(PrepareConfig()))
    sources = [Source(f"file:///no/{number}", listed="1:1") for number in range(num_sources)]
    progress = Progress(Console(quiet=True))
    with writing(store):
        open_dataset(store, config, hashes)
        with progress.run(store, config, hashes["config_hash"]) as summary:
            executor = NoWorkers(store)
            start_s = time.process_time()
            Flow(Job(store, config, {}, hashes, summary.run_id), executor, progress, (), None).run(sources)
            publish(store, config, hashes, executor)
            driver_s = time.process_time() - start_s - executor.workers_s
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(f"{summary.num_units_done} {driver_s:.2f} {executor.workers_s:.2f} {peak_gb:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sources", type=int, default=20_000)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        run(options.sources, options.folder)
        return
    print(f"{'sources':>9}{'driver, CPU ms per unit':>26}{'workers, ms':>14}{'peak memory, GB':>18}")
    for number in (options.sources // 4, options.sources):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "benchmarks.flow", "--sources", str(number), "--folder", folder]
            done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
        units, driver_s, workers_s, peak_gb = done.stdout.split()[-4:]
        of_driver, of_workers = 1000 * float(driver_s) / int(units), 1000 * float(workers_s) / int(units)
        print(f"{number:>9,}{of_driver:>26.3f}{of_workers:>14.2f}{float(peak_gb):>18.2f}", flush=True)


if __name__ == "__main__":
    main()
