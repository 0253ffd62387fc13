"""Without Ray, too: a source that crashes, hangs or meets a bug gets its row, and the others are kept."""

import ctypes
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import av
import pytest
from rich.console import Console

from lipforge.datasets_manifest.manifest import read_manifest
from lipforge.pipeline import flow
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.media.source_file import SourceFile
from lipforge.pipeline.run import prepare
from lipforge.pipeline.running import child, local, workers
from lipforge.pipeline.running.progress import Progress
from lipforge.pipeline.running.summary import Summary
from lipforge.pipeline.sources.inputs import Labels
from lipforge.pipeline.stages.probe import Probe
from tests.coded import noise, write_coded
from tests.ready_child import ready_children


def crash() -> None:
    ctypes.string_at(0)


def hang() -> None:
    time.sleep(600)


def vanish() -> None:
    os.kill(os.getpid(), 9)


def bug() -> None:
    raise TypeError("a bug")


def ffmpeg_error() -> None:
    raise av.error.ArgumentError(22, "Invalid argument returned 22")


def no_memory() -> None:
    raise MemoryError


FAULTS = {
    crash: ("worker_crashed", "Segmentation fault in 2 attempts"),
    vanish: ("worker_crashed", "without a trace"),
    hang: ("timeout", "waiting for 2 s in 2 attempts"),
    bug: ("internal_error", "TypeError: a bug at test_local_faults.py"),
    ffmpeg_error: ("decode_error", "Invalid argument returned 22"),
    no_memory: ("worker_crashed", "out of memory"),
}
"""What happens to a source: the reason of its row, and words of the detail."""


def act_on_bad(owner: Any, method: str, act: Callable[[], None], uri_of: Callable[..., str]) -> None:
    """Let the owner's method first act, when it is called for bad.mkv."""
    real = getattr(owner, method)

    def instead(*arguments: Any) -> Any:
        if uri_of(*arguments).endswith("bad.mkv"):
            act()
        return real(*arguments)

    setattr(owner, method, instead)


class FaultyProbeWorker(workers.ProbeWorker):
    def __init__(self, act: Any, job: workers.Job) -> None:
        super().__init__(job)
        act_on_bad(Probe, "process", act, lambda probe, source: source.uri)


class FaultyUnitWorker(workers.UnitWorker):
    """Its cutting or its scoring fails for bad.mkv; committing the row of the failed unit does not."""

    def __init__(self, act: Any, operator: str, job: workers.Job) -> None:
        super().__init__(job)
        faulty = self.cut.operator if operator == "cut" else self.score.operator

        def uri_of(subject: Any, *rest: Any) -> str:
            is_a_failed_row = operator == "score" and subject.clips[0].stage == "detect_speech"
            return "" if is_a_failed_row else getattr(subject, "unit", subject).video.source.uri

        act_on_bad(faulty, "process", act, uri_of)


def worker_that(act: Callable[[], None]) -> Callable[[Any], Any]:
    return lambda item: act()


class Unsendable(Exception):
    """An error that pickle cannot make again."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__("two numbers")


def make_unsendable() -> None:
    raise Unsendable(1, 2)


@pytest.mark.parametrize("make", [make_unsendable, bug])
def test_a_bug_in_the_process_itself_arrives_with_its_traceback(make: Any) -> None:
    process = child.Child()
    process.begin(partial(worker_that, make), 1)
    with pytest.raises(RuntimeError, match=f"in {make.__name__}\n"):
        while process.result(1.0) is None:
            pass
    process.close()


@pytest.fixture(scope="module")
def ready_child() -> Iterator[type[child.Child]]:
    with ready_children(__name__, "torch") as ready:
        yield ready


@pytest.fixture(autouse=True)
def real_process(ready_child: type[child.Child], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "Child", ready_child)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two sources, each 2 s of noise."""
    videos = tmp_path / "videos"
    videos.mkdir()
    for seed, name in enumerate(("bad.mkv", "good.mkv")):
        write_coded(videos / name, [n / 25 for n in range(50)], noise(32_000, seed))
    return videos


def run_local(folder: Path, retry_failed: bool = False, **run: Any) -> Summary:
    limits = {"executor": "local", "max_attempts": 2, "max_kills": 2, **run}
    config = PrepareConfig.model_validate({"run": limits})
    out = str(folder.parent / "dataset")
    return prepare([str(folder)], out, config, Labels(), Progress(Console(quiet=True)), retry_failed)


def reasons(folder: Path) -> dict[str, tuple[str, str]]:
    """(reason, detail) by file name."""
    rows = read_manifest(str(folder.parent / "dataset")).to_pylist()
    return {os.path.basename(row["source_uri"]): (row["reason"], row["detail"]) for row in rows}


@pytest.mark.parametrize("act", FAULTS, ids=lambda act: act.__name__)
@pytest.mark.parametrize("where", [pytest.param("probe", marks=pytest.mark.slow), "cut"])
def test_a_fault_is_the_row_of_its_source(where: str, act: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_fault(where, act, folder, monkeypatch)


@pytest.mark.parametrize("act", [crash, bug], ids=lambda act: act.__name__)
def test_a_fault_in_scoring_is_too(act: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if act is crash:
        monkeypatch.setattr(local, "Child", child.Child)  # as users get it: a new interpreter
    check_fault("score", act, folder, monkeypatch)


def check_fault(where: str, act: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason, words = FAULTS[act]
    with monkeypatch.context() as patch:
        if where == "probe":
            patch.setattr(flow, "ProbeWorker", partial(FaultyProbeWorker, act))
        else:
            patch.setattr(flow, "UnitWorker", partial(FaultyUnitWorker, act, where))
        summary = run_local(folder, stall_timeout_s=2 if act is hang else 120)
    found = reasons(folder)
    assert found["good.mkv"][0] == "no_face"
    assert found["bad.mkv"][0] == reason and words in found["bad.mkv"][1]
    assert summary.is_complete == (reason != "internal_error")


@pytest.mark.parametrize(
    ("worker", "faulty"),
    [("ProbeWorker", partial(FaultyProbeWorker, bug)), ("UnitWorker", partial(FaultyUnitWorker, ffmpeg_error, "cut"))],
)
def test_what_failed_is_tried_again_when_asked(
    worker: str, faulty: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(flow, worker, faulty)
        run_local(folder)
    before = reasons(folder)
    assert before["bad.mkv"][0] in ("internal_error", "decode_error")
    run_local(folder)
    assert reasons(folder) == before  # known: not tried again
    assert run_local(folder, retry_failed=True).is_complete
    assert reasons(folder)["bad.mkv"][0] == "no_face"


def stuck(make: Any, job: workers.Job) -> Any:
    """make(job), in a process in which reads of bad.mkv never return."""
    act_on_bad(SourceFile, "_read_once", hang, lambda file, size: file.uri)
    return make(job)


@pytest.mark.parametrize("worker", ["ProbeWorker", "UnitWorker"])
def test_a_read_that_never_returns_leaves_its_source_undone(
    worker: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(flow, worker, partial(stuck, getattr(workers, worker)))
        summary = run_local(folder, stall_timeout_s=2)
    assert [os.path.basename(error["source_uri"]) for error in summary.storage_errors] == ["bad.mkv"]
    assert "waiting for 2 s" in summary.storage_errors[0]["detail"]
    assert reasons(folder)["good.mkv"][0] == "no_face"
    assert run_local(folder).is_complete
    assert reasons(folder)["bad.mkv"][0] == "no_face"
