"""What several tests share, made once per session: model files, hostile media, and datasets prepared from them."""

import fcntl
import gc
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lipforge.datasets_manifest.manifest import read_manifest
from lipforge.model.weights import load as weights
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.run import prepare
from lipforge.pipeline.running import local
from lipforge.pipeline.running.progress import Progress
from lipforge.pipeline.running.summary import Summary
from lipforge.pipeline.sources.inputs import Labels
from tests import media
from tests.coded import noise, write_coded

LONGEST_FIRST = (
    "test_ray_faults.py",
    "test_end_to_end.py",
    "test_train_strategies.py",
    "test_hostile.py",
    "test_train_runs.py",
    "test_package.py",
    "test_infer_run.py",
    "test_app_browser.py",
    "test_local_faults.py",
    "test_terminal.py",
    "test_stream_resume.py",
    "test_odd_pictures.py",
    "test_fuzz.py",
)
"""Files that would leave the other process of tests without work, if they came last."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST_FIRST)


gc.disable()  # while tests are imported: a sixth of that time is for garbage that is none


def pytest_collection_finish(session: pytest.Session) -> None:
    """What the imports left stays until the end: a collection of garbage that looks at it takes 0.4 s each time."""
    gc.collect()
    gc.freeze()
    gc.enable()


class InProcess:
    """In the place of the local executor's child process: tests may patch what the worker uses."""

    def __init__(self) -> None:
        self.made: dict[Callable[[], Callable[[Any], Any]], Callable[[Any], Any]] = {}

    def begin(self, make: Callable[[], Callable[[Any], Any]], item: Any) -> None:
        self.begun = make, item

    def result(self, timeout_s: float) -> tuple[Any, int]:
        make, item = self.begun
        if make not in self.made:
            self.made[make] = make()
        return self.made[make](item), 1

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True, scope="session")
def _in_this_process() -> Iterator[None]:
    """tests/test_local_faults.py tests the real child process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "Child", InProcess)
        yield


LOCAL = PrepareConfig.model_validate({"run": {"executor": "local"}, "encode": {"preset": "ultrafast"}})
"""Without Ray; see `InProcess`."""
NASTY_NAMES = (
    "with spaces.mp4",
    'it\'s "quoted".mp4',
    "$(touch x).mp4",
    "new\nline.mp4",
    "emoji \N{GRINNING FACE}.mp4",
    "-leading-dash.mp4",
    "concat:a|b.mp4",
    "100%d [1]*?.mp4",
    os.fsdecode(b"not utf-8 \xff\xfe.mp4"),
)


@pytest.fixture(scope="session")
def models() -> dict[str, bytes]:
    """Model files of the built-in profile, by name."""
    return weights.load("builtin")


@pytest.fixture(scope="session")
def hostile_media(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One file of each kind of tests/media.py, in one folder. Nobody may change them.

    The first process of tests that needs them makes them; each has a copy.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # of all processes of tests
    made, names = shared / "made_media", shared / "made_media.json"
    with open(shared / "made_media.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not names.exists():
            made.mkdir()
            names.write_text(json.dumps({kind: path.name for kind, path in media.make_all(made).items()}))
    folder = tmp_path_factory.mktemp("media")
    paths = {kind: folder / name for kind, name in json.loads(names.read_text()).items()}
    for path in paths.values():
        shutil.copyfile(made / path.name, path)
        os.utime(path, (1_600_000_000, 1_600_000_000))
    return paths


@pytest.fixture(scope="session")
def talking_clip(hostile_media: dict[str, Path]) -> Path:
    """6.4 s of a person who talks, in sync."""
    return hostile_media["base"]


def run_prepare(inputs: list[str], out: Path, config: PrepareConfig = LOCAL, labels: Labels | None = None) -> Summary:
    """`lipforge prepare`, with nothing shown."""
    console = Console(file=open(os.devnull, "w"))  # noqa: SIM115
    return prepare(inputs, str(out), config, labels or Labels(), Progress(console))


def snapshot(folder: Path, but: Path | None = None) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of change of every file below a folder, by path; links and folders stand for themselves."""
    found = {}
    for root, folders, files in os.walk(folder):
        if but is not None and Path(root) == but:
            folders.clear()
            continue
        for name in files:
            path = os.path.join(root, name)
            if os.path.isfile(path):
                with open(path, "rb") as file:
                    found[path] = (file.read(), os.stat(path).st_mtime_ns)
            else:
                found[path] = (b"", 0)
    return found


@dataclass(frozen=True)
class Prepared:
    """A dataset, and what it was made from."""

    folder: Path
    """The input folder."""
    out: Path
    summary: Summary
    rows: list[dict[str, Any]]
    sources_before: dict[str, tuple[bytes, int]]

    def rows_of(self, path: Path) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["source_uri"] == str(path)]


@pytest.fixture(scope="session")
def hostile_dataset(hostile_media: dict[str, Path], models: dict[str, bytes]) -> Prepared:
    """All of tests/media.py, nasty file names, and a folder of traps, prepared once. The output lies in the input."""
    folder = hostile_media["base"].parent
    names = folder / "names"
    names.mkdir()
    for seed, name in enumerate(NASTY_NAMES):
        made = write_coded(folder / "short.mkv", [n / 25 for n in range(25)], noise(16_000, seed))
        made.rename(names / name)
    (names / "loop").symlink_to(folder)
    (names / "self.mp4").symlink_to("self.mp4")
    (names / "nowhere.mp4").symlink_to("does-not-exist.mp4")
    (names / "folder.mp4").mkdir()
    os.mkfifo(names / "pipe.mp4")
    (names / "notes.txt").write_text("no list of mine\n")
    copy = names / "copy of base.mp4"
    copy.write_bytes(hostile_media["base"].read_bytes())
    locked = folder / "locked"
    locked.mkdir(mode=0)
    before = snapshot(folder)
    out = folder / "dataset"
    summary = run_prepare([str(folder)], out)
    rows = read_manifest(str(out)).to_pylist()
    return Prepared(folder, out, summary, rows, before)


@pytest.fixture(scope="session")
def small_inputs(hostile_media: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of five files: two are kept, one misses a threshold, one has no face, one is no media."""
    folder = tmp_path_factory.mktemp("small")
    for name in ("base", "odd_size", "music", "text"):
        path = hostile_media[name]
        (folder / path.name).write_bytes(path.read_bytes())
    write_coded(folder / "coded.mkv", [n / 25 for n in range(50)], noise(32_000))
    return folder


@pytest.fixture(scope="session")
def ray_dataset(small_inputs: Path, models: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """`small_inputs` prepared on a Ray of this machine, with two pairs of workers. Nobody may change it."""
    out = tmp_path_factory.mktemp("ray") / "dataset"
    before = snapshot(small_inputs)
    config = PrepareConfig.model_validate({**LOCAL.model_dump(), "run": {"executor": "ray", "workers": 2}})
    summary = run_prepare([str(small_inputs)], out, config)
    return Prepared(small_inputs, out, summary, read_manifest(str(out)).to_pylist(), before)
