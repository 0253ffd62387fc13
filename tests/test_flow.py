"""What a run leaves depends on the order of its sources alone: not on who is done when, nor on when it was stopped."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lipforge.datasets_manifest.schema import Reason, Stage, Status
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.clip import Source, Unit, Video
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.flow import Flow
from lipforge.pipeline.ledger import segments
from lipforge.pipeline.media.probe import VideoInfo
from lipforge.pipeline.publish.publish import publish
from lipforge.pipeline.recipe import whole_unit
from lipforge.pipeline.running import on_ray
from lipforge.pipeline.running.executors import Done, Task
from lipforge.pipeline.running.progress import Progress
from lipforge.pipeline.running.workers import Job, Probed, Undone
from lipforge.pipeline.sources import intake
from lipforge.pipeline.stages.commit import Commit
from lipforge.pipeline.stages.probe import to_record

HASHES = {"config_hash": "c" * 16, "models_hash": "m" * 16}
CONFIG = PrepareConfig.model_validate({"run": {"executor": "local", "max_failed_ratio": 1}})
NUM_SOURCES = 24


class Stopped(Exception):
    """The run was killed."""


class AnyOrder:
    """Workers that are done in an order of their own, and stop the run after some tasks."""

    num_workers = 3
    missing = ""

    def __init__(self, store: Store, seed: int, stops_after: int | None, undone: bool) -> None:
        self._random = random.Random(seed)
        self._left = stops_after
        self._undone = undone
        self._commit = Commit(store, {})
        self._tasks: list[Task] = []

    @property
    def in_flight(self) -> int:
        return len(self._tasks)

    def wants_more(self) -> bool:
        return len(self._tasks) < 6

    def submit(self, task: Task) -> None:
        self._tasks.append(task)

    def next(self) -> Done | None:
        if self._random.random() < 0.1:
            return None
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                raise Stopped
        task = self._tasks.pop(self._random.randrange(len(self._tasks)))
        return Done(task, self._answer(task), "host", 1.0)

    def map(self, function: Callable[[Any], Any], items: list[Any], num_gpus: float = 0) -> Iterator[Any]:
        yield from map(function, items)

    def close(self) -> None:
        pass

    def _answer(self, task: Task) -> Any:
        if task.kind == "probe":
            return probed(task.item)
        if task.kind == "unit":
            unit: Unit = task.item
            if self._undone and self._random.random() < 0.2:
                return Undone(unit, "the storage failed")
            clip = whole_unit(unit, Status.REJECTED, Stage.TRACK_FACES, Reason.NO_FACE, "")
            return self._commit.write(unit, [clip], {"decode_passes": 1.0})
        return task.make()(task.item)


def probed(source: Source) -> Probed:
    """Every fifth has the content of the one before; every seventh cannot be used. They are 1 to 4 units long."""
    number = int(source.uri)
    content = number - 1 if number % 5 == 4 else number
    frames = 7500 * (1 + content % 4)
    info = VideoInfo(64, 64, 0, 25.0, frames, 0.0, tuple(10.0 * n for n in range(frames // 250)), True, "h264", "aac")
    reason = Reason.NO_AUDIO if number % 7 == 6 else None
    video = Video(source, f"{content + 1:032x}" * 2, info, reason, fingerprint="1")
    return Probed(video, to_record(video), 0.0)


def run(folder: Path, seed: int, stops_after: int | None = None, undone: bool = False) -> None:
    store = Store(str(folder))
    progress = Progress(Console(quiet=True))
    with progress.run(store, CONFIG, "c"):
        executor = AnyOrder(store, seed, stops_after, undone)
        flow = Flow(Job(store, CONFIG, {}, HASHES, f"run{seed}"), executor, progress, (), None)
        flow.run([Source(str(number), listed="1") for number in range(NUM_SOURCES)])
        publish(store, CONFIG, HASHES, executor)


def left(folder: Path) -> dict[str, bytes]:
    """Plans, sealed segments and manifest; parts, if any are left."""
    files = [path for name in ("ledger/segments", "manifest", "parts") for path in (folder / name).rglob("*")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.is_file()}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "MAX_UNITS", 9)
    monkeypatch.setattr(intake, "MAX_AHEAD", 5)
    monkeypatch.setattr(intake, "_BLOCK", 4)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("flow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "MAX_UNITS", 9)
        run(folder, 0)
    found = left(folder)
    assert sum(".plan." in name for name in found) > 4 and not any(name.startswith("parts") for name in found)
    return found


@pytest.mark.parametrize("seed", range(1, 6))
def test_any_order_gives_the_same_segments(seed: int, tmp_path: Path, expected: dict[str, bytes]) -> None:
    run(tmp_path, seed)
    assert left(tmp_path) == expected


@pytest.mark.parametrize("seed", range(12))
def test_a_run_that_is_stopped_anywhere_goes_on_to_the_same_segments(
    seed: int, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    for attempt in range(200):
        try:
            run(tmp_path, 100 * seed + attempt, stops_after=3 + seed + 9 * attempt)
            break
        except Stopped:
            continue
    assert attempt > 0 and left(tmp_path) == expected


def test_units_that_stay_undone_are_done_by_later_runs(tmp_path: Path, expected: dict[str, bytes]) -> None:
    for seed in range(4):
        run(tmp_path, seed, undone=True)
    run(tmp_path, 9)
    found = left(tmp_path)
    plans = {name: data for name, data in expected.items() if ".plan." in name}
    assert {name: data for name, data in found.items() if ".plan." in name} == plans
    assert not any(name.startswith("parts") for name in found)


def test_results_that_others_wait_for_are_in_flight() -> None:
    """`map` takes results of other tasks on its way, and keeps them for `next`."""
    executor = on_ray.RayExecutor.__new__(on_ray.RayExecutor)
    executor._in_flight = 0
    executor._foreign = on_ray.deque([Done(Task("unit", 1, str), 2, "host", 1.0)])
    assert executor.in_flight == 1
    done = executor.next()
    assert done is not None and done.value == 2 and executor.in_flight == 0
