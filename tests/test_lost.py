"""A shard that somebody deleted is noticed by every command that speaks of the dataset."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from lipforge.datasets_manifest.lost import lost_shards
from lipforge.datasets_manifest.report.page import write_report
from lipforge.datasets_manifest.storage.files import to_json
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline import run as run_module
from lipforge.pipeline.cli import app
from lipforge.pipeline.publish.gc import find_garbage
from lipforge.pipeline.running.summary import Summary
from tests.made_dataset import MadeSource, make_dataset


@pytest.fixture
def store(tmp_path: Path) -> Store:
    sources = [MadeSource("one"), MadeSource("two", [{}, {}, {"quality": 1.0}], "hi"), MadeSource("three", [{}], "en")]
    store = make_dataset(tmp_path / "d", sources)
    summary = Summary("r", "2026-01-01", "2026-01-01", phase="done", seconds_total=7.0)
    store.write("runs/20260101T000000Z-1/summary.json", to_json(summary.as_record()))
    return store


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, [*arguments])
    return result.exit_code, result.output


@pytest.fixture
def prepared(store: Store, monkeypatch: pytest.MonkeyPatch) -> Summary:
    """What `prepare` returns for it, with nothing to do."""
    summary = Summary("r", "2026-01-01", "2026-01-01", phase="done", seconds_total=7.0, clips_by_outcome={"kept": 6})
    monkeypatch.setattr(run_module, "prepare", lambda *_: summary)
    return summary


@pytest.mark.usefixtures("prepared")
@pytest.mark.parametrize(
    ("command", "code"),
    [(["pack"], 1), (["prepare", "/videos", "--out"], 1), (["status"], 0), (["report"], 0)],
    ids=["pack", "prepare", "status", "report"],
)
def test_every_command_says_which_shard_is_gone_and_what_it_held(store: Store, command: list[str], code: int) -> None:
    assert run(*command, store.root)[0] == 0 and "gone" not in run(*command, store.root)[1]
    lost = store.list("shards/hi")[0]
    store.delete(lost)
    words = "1 of the 3 shards is gone, with 2 kept clips (2.0 s) that cannot be trained on any more: "
    found = run(*command, store.root)
    assert found[0] == code and words + store.path(lost) in found[1] and "Restore it from a copy" in found[1]
    assert store.list("shards/hi") == []


def test_the_report_says_it(store: Store) -> None:
    for name in (store.list("shards/hi") + store.list("shards/und"))[:2]:
        store.delete(name)
    path = run("report", store.root)[1].splitlines()[0]
    page = Path(path).read_text()
    assert "Shards are lost:" in page and "2 of the 3 shards are gone, with 5 kept clips" in page


def test_a_shard_of_refused_clips_alone_is_named_too(store: Store) -> None:
    assert run("pack", store.root, "--set", "min_quality=90")[0] == 0
    store.delete(store.list("shards/hi")[0])
    assert "1 of the 3 shards is gone, with 0 kept clips" in (lost_shards(store.root) or "")


def test_nothing_is_said_of_other_folders_and_of_other_files(store: Store, tmp_path: Path) -> None:
    for name in store.list("refused"):
        store.delete(name)
    assert lost_shards(store.root) is None and lost_shards(str(tmp_path / "none")) is None
    assert find_garbage(store).left_over == {}


def test_the_report_and_its_media_are_no_garbage_and_change_nothing(store: Store) -> None:
    store.write(f"report_media/{'0' * 32}.mp4", b"of an earlier report")
    before = {name: store.read(name) for folder in ("shards", "manifest", "refused") for name in store.list(folder)}
    assert write_report(store.root) == store.path("report.html")
    assert store.list("report_media") == []
    store.write("report_media/mine.jpg", b"")
    assert find_garbage(store).names == []
    assert run("pack", store.root)[0] == 0
    assert {name: store.read(name) for name in before} == before
    assert store.list("report_media") == ["report_media/mine.jpg"] and store.exists("report.html")
