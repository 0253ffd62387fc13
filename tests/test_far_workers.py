"""Commands on finished datasets share their work with a cluster, and end with the same bytes."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lipforge.datasets_manifest.manifest import read_manifest
from lipforge.datasets_manifest.selection import SELECTION_COLUMNS, write_selection
from lipforge.datasets_manifest.storage.store import Store
from lipforge.model.clock import FPS
from lipforge.pipeline import maintain
from lipforge.pipeline.publish import export_files as files_module
from lipforge.pipeline.publish import tasks as tasks_module
from tests.far_workers import FarWorkers
from tests.made_dataset import MadeSource, make_dataset
from tests.stream_clips import coded_sample, write_shards


def stand_in(monkeypatch: pytest.MonkeyPatch, workers: FarWorkers) -> None:
    """For RayExecutor."""
    make = maintain.make_executor
    monkeypatch.setattr(
        maintain, "make_executor", lambda config: workers if config.run.executor == "ray" else make(config)
    )


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> FarWorkers:
    workers = FarWorkers(maintain.PrepareConfig())
    stand_in(monkeypatch, workers)
    monkeypatch.setattr(tasks_module, "DELETED_TOGETHER", 2)
    return workers


def content(root: Path) -> dict[str, bytes]:
    names = (name for name in Store(str(root)).list("") if not name.startswith("runs/"))
    return {name: Store(str(root)).read(name) for name in names}


def nothing(done: int, total: int) -> None:
    pass


def on_both(monkeypatch: pytest.MonkeyPatch, command: Callable[[Path], Any], root: Path) -> tuple[Any, Any]:
    """What a command leaves in a folder, alone and with a cluster. The folder's first content is the same for both."""
    results = []
    before = root.with_name("before")
    if root.exists():
        shutil.copytree(root, before)
    for address in (None, "far:6379"):
        shutil.rmtree(root, ignore_errors=True)
        if before.exists():
            shutil.copytree(before, root)
        with monkeypatch.context() as patch:
            patch.delenv("RAY_ADDRESS", raising=False)
            if address:
                patch.setenv("RAY_ADDRESS", address)
            command(root)
        results.append(content(root))
    return results[0], results[1]


def select_all(root: Path, path: Path) -> str:
    rows = [{**row, "dataset": str(root), "split": "train"} for row in read_manifest(str(root)).to_pylist()]
    write_selection(str(path), pa.Table.from_pylist(rows, SELECTION_COLUMNS), {"seed": 7})
    return str(path)


def test_an_export_as_a_dataset(tmp_path: Path, far: FarWorkers, monkeypatch: pytest.MonkeyPatch) -> None:
    make_dataset(tmp_path / "d", [MadeSource("one", [{}] * 9), MadeSource("two", language="hi")])
    chosen, seen = select_all(tmp_path / "d", tmp_path / "all.parquet"), []

    def command(out: Path) -> None:
        seen.clear()
        made = maintain.export_dataset(chosen, str(out), 0.1, lambda *counts: seen.append(counts))
        assert made.clips == 12 and made.shards > 4

    alone, shared = on_both(monkeypatch, command, tmp_path / "out")
    assert alone == shared and len(far.items) == sum(name.startswith("shards/") for name in alone)
    assert seen[0] == (0, 12) and seen[-1] == (12, 12) and len(seen) == len(far.items) + 1


def test_an_export_whose_driver_is_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_dataset(tmp_path / "d", [MadeSource("one", [{}] * 9)])
    chosen, out, whole = select_all(tmp_path / "d", tmp_path / "all.parquet"), tmp_path / "out", tmp_path / "whole"
    num_shards = maintain.export_dataset(chosen, str(whole), 0.1, nothing).shards

    def stop_at_half(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    workers = FarWorkers(maintain.PrepareConfig())
    stand_in(monkeypatch, workers)
    monkeypatch.setenv("RAY_ADDRESS", "far:6379")
    with pytest.raises(KeyboardInterrupt):
        maintain.export_dataset(chosen, str(out), 0.1, stop_at_half)
    copied = len(Store(str(out)).list("ledger/shards"))
    assert 0 < copied < num_shards and not (out / "manifest").exists()
    workers.items.clear()
    maintain.export_dataset(chosen, str(out), 0.1, nothing)
    assert len(workers.items) == num_shards - copied
    names = [name for name in content(whole) if name.startswith(("shards/", "ledger/"))]
    assert {name: content(out)[name] for name in names} == {name: content(whole)[name] for name in names}


def test_an_export_as_files(tmp_path: Path, far: FarWorkers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "_GROUP", 2)
    frames = [25, 30, 40]
    rows = write_shards(tmp_path / "d", [[coded_sample(n, count) for n, count in enumerate(frames)]], frames)
    rows = [
        {**row, "dataset": str(tmp_path / "d"), "split": "train", "duration_s": row["num_frames"] / FPS}
        | {"accounted_s": 1.0}
        for row in rows.to_pylist()
    ]
    chosen = str(tmp_path / "all.parquet")
    write_selection(chosen, pa.Table.from_pylist(rows, SELECTION_COLUMNS), {"seed": 7})
    alone, shared = on_both(
        monkeypatch, lambda out: maintain.export_as_files(chosen, str(out), nothing), tmp_path / "out"
    )
    assert alone == shared and len(far.items) == 2 and sum(name.endswith(".mp4") for name in alone) == 3


def test_gc_and_prune(tmp_path: Path, far: FarWorkers, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "d"
    store = make_dataset(root, [MadeSource("one", [{"quality": 1.0}] * 20), MadeSource("two")])
    assert len(store.list("refused")) > 2
    alone, shared = on_both(monkeypatch, lambda root: maintain.prune(str(root)), root)
    assert alone == shared and store.list("refused") == []
    assert any(isinstance(item, list) and item[0].startswith("refused/") for item in far.items)

    for quality in (50, 51, 52):
        maintain.repack(str(root), [f"min_quality={quality}"], None)
    shutil.rmtree(root.with_name("before"))
    far.items.clear()
    alone, shared = on_both(monkeypatch, lambda root: maintain.collect_garbage(str(root)), root)
    assert alone == shared and len(store.list("manifest")) < 4
    kinds = [{"generation" in name for name in item} for item in far.items]
    num_first = kinds.count({True})
    assert num_first > 1 and kinds == [{True}] * num_first + [{False}] * (len(kinds) - num_first)
