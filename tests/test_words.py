"""What commands say when something is wrong: the useful line first, in plain words, with the command that helps."""

import errno
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from lipforge.datasets_manifest.cli import app as manifest_app
from lipforge.datasets_manifest.display import counted
from lipforge.datasets_manifest.manifest import read_manifest, write_manifest
from lipforge.datasets_manifest.storage.store import Store
from lipforge.datasets_manifest.storage.trouble import system_words, why_not_made
from lipforge.model.denoiser.layouts import LAYOUTS, read_config
from lipforge.pipeline.cli import app
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.ledger.records import DatasetError
from lipforge.pipeline.ledger.settings import require_writable, writing
from lipforge.pipeline.publish.accounts import Totals
from lipforge.pipeline.running.progress import Progress, outcome_table
from tests.made_dataset import MadeSource, add_sources, make_dataset
from tests.manifests import clip, refused
from tests.test_config_words import FOREIGN

FITS = ("--window-frames", "8")
"""Clips of 1 s hold two windows of 8 frames."""


def run(*arguments: str) -> tuple[int, str]:
    of_manifest = arguments[0] in ("select", "query", "languages")
    result = CliRunner().invoke(manifest_app if of_manifest else app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


@pytest.fixture
def dataset(tmp_path: Path) -> Store:
    """Three clips of quality 60, 45 and 60."""
    return make_dataset(tmp_path / "made", [MadeSource("one", clips=({}, {"quality": 45.0}, {}))])


def test_one_is_not_many() -> None:
    assert [counted(n, "clip") for n in (0, 1, 2, 1204)] == ["0 clips", "1 clip", "2 clips", "1,204 clips"]


# --- a pack that leaves nothing ---


def test_select_names_the_threshold_of_the_pack_that_left_nothing(dataset: Store, tmp_path: Path) -> None:
    out = str(tmp_path / "s.parquet")
    code, text = run("pack", dataset.root, "--set", "min_quality=50")
    assert code == 0 and "keep no clip" not in text
    code, text = run("pack", dataset.root, "--set", "min_quality=90")
    assert code == 0 and "warning: these thresholds keep no clip" in text
    code, text = run("select", dataset.root, "--out", out, "--hours", "1", *FITS)
    first, second, *others = text.splitlines()
    assert code == 1 and others == []
    assert first == (
        f"lipforge: {dataset.root} has no clip for this: `lipforge pack` set min_quality=90, which refuses 3 clips "
        "(3.0 s)."
    )
    command = second.rpartition(": lipforge ")[2].split()
    assert command == ["pack", dataset.root, "--set", "min_quality=50"]
    assert run(*command)[0] == 0
    assert run("select", dataset.root, "--out", out, "--allow-less", *FITS)[0] == 0


def test_any_threshold_is_named_and_a_dataset_that_never_had_a_clip_says_so(dataset: Store, tmp_path: Path) -> None:
    out = str(tmp_path / "s.parquet")
    judged_last_first = {"min_quality": 61.0, "min_sync_confidence": 9.0, "min_speech_ratio": 1.0, "min_clip_s": 9.0}
    for name, value in judged_last_first.items():
        assert run("pack", dataset.root, "--set", f"{name}={value}")[0] == 0
        code, text = run("select", dataset.root, "--out", out, *FITS)
        assert code == 1 and f"`lipforge pack` set {name}={value:g}, which refuses 3 clips" in text, text
    limits = {"thresholds": {"min_quality": 70.0, "quality_model": "q"}}
    write_manifest(str(tmp_path / "never"), [refused(n, "low_quality") for n in range(5)], limits)
    code, text = run("select", str(tmp_path / "never"), "--out", out, "--min-quality", "55")
    assert code == 1 and "its threshold min_quality=70 refuses 5 clips (30.0 s)." in text
    assert "--set min_quality=55" in text


def test_where_the_threshold_is_unknown_only_the_shortage_is_said(tmp_path: Path) -> None:
    for about in ({}, {"thresholds": "none"}, {"thresholds": {"min_quality": "high"}}):
        write_manifest(str(tmp_path), [refused(1, "low_quality")], about)
        code, text = run("select", str(tmp_path), "--out", str(tmp_path / "s.parquet"))
        assert code == 1 and text.startswith("lipforge: not enough training data: found 0.0 s.")


def test_another_language_is_still_offered(tmp_path: Path) -> None:
    rows = [clip(1, language="en"), *(refused(n, "low_quality", language="zh") for n in range(4, 8))]
    write_manifest(str(tmp_path), rows, {"thresholds": {"min_quality": 70.0}})
    code, text = run("select", str(tmp_path), "--out", str(tmp_path / "s.parquet"), "--language", "zh")
    assert code == 1 and "min_quality=70 refuses 4 clips" in text and "6.0 s without --language zh" in text


# --- outputs that cannot be made ---


@contextmanager
def nobody(folder: Path) -> Iterator[None]:
    """The rights of someone who may not write there, also where tests run as root."""
    folder.chmod(0o555)
    if was_root := os.geteuid() == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        if was_root:
            os.seteuid(0)
        folder.chmod(0o755)


def refused_by_system(path: Path) -> OSError:
    with pytest.raises(OSError) as caught:
        os.makedirs(path)
    return caught.value


def test_why_an_output_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("mine")
    for path in (in_the_way, in_the_way / "a" / "b"):
        assert (
            why_not_made(str(path), refused_by_system(path)) == f"{in_the_way} is in the way: a folder is needed there"
        )
    (tmp_path / "link").symlink_to("nowhere")
    path = tmp_path / "link" / "a"
    assert why_not_made(str(path), NotADirectoryError(errno.ENOTDIR, "")).startswith(f"{tmp_path / 'link'} is in the")
    for number, words in (
        (errno.EROFS, f"the disk of {tmp_path} can only be read"),
        (errno.ENOSPC, "No space left on device"),
        (errno.ENOENT, f"{tmp_path} takes no new files or folders"),
    ):
        assert why_not_made(str(tmp_path / "a"), OSError(number, os.strerror(number))) == words
    monkeypatch.chdir("/")
    assert why_not_made("no-such-folder/a", OSError(errno.EROFS, "")) == "the disk of / can only be read"


def test_who_may_not_write_is_told_who_may(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    above = [folder for folder in tmp_path.parents if folder.stat().st_mode & 0o005 != 0o005]
    if above and os.geteuid() == 0:  # pytest's own folders are private: let the other user look through them
        for folder in above:
            folder.chmod(folder.stat().st_mode | 0o055)
    with nobody(tmp_path):
        words = why_not_made(str(tmp_path / "a" / "b"), refused_by_system(tmp_path / "a" / "b"))
    assert words.startswith(f"{tmp_path} may not be changed: ") and "its mode is dr-xr-xr-x" in words


def test_an_estimate_says_what_prepare_would_of_an_output_that_cannot_be_made(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "a" / "b"))
    require_writable(store)
    with nobody(tmp_path), pytest.raises(DatasetError) as estimated:
        require_writable(store)
    with nobody(tmp_path), pytest.raises(DatasetError) as prepared, writing(store):
        pass
    assert str(estimated.value) == str(prepared.value)


def test_system_errors_in_words() -> None:
    assert system_words(OSError("our own text")) == "our own text"
    assert system_words(OSError(errno.ENOSPC, "No space left on device")) == "No space left on device"
    assert system_words(FileNotFoundError(errno.ENOENT, "No such file", "/x/y")) == "/x/y: No such file"
    assert system_words(OSError(errno.EIO, "Input/output error", "/x/y")) == "/x/y: Input/output error"


@pytest.mark.parametrize("end", ["", "/a"])
def test_commands_name_the_file_in_the_way(dataset: Store, tmp_path: Path, end: str) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    words = f"{file} is in the way: a folder is needed there"
    for command in (
        ("prepare", tmp_path / "none.mp4", "--out", f"{file}{end}"),
        ("select", dataset.root, *FITS, "--out", f"{file}{end}/s.parquet"),
        ("query", dataset.root, "SELECT 1", "--parquet", f"{file}{end}/q.parquet"),
        ("report", dataset.root, "--out", f"{file}{end}/r.html"),
        ("status", f"{file}{end}"),
    ):
        code, text = run(*command)
        assert code == 1 and words in text and "Errno" not in text, (command, text)
    assert file.read_text() == "mine"


# --- is the media of a clip there ---


def test_explain_says_whether_the_media_is_there(tmp_path: Path) -> None:
    store = make_dataset(tmp_path / "made", [MadeSource("one", clips=({}, {"quality": 35.0}, {}))])
    rows = {row["status"]: row for row in read_manifest(store.root).to_pylist()}
    for status, where in (("kept", "kept in shards/"), ("rejected", "its media is in refused/")):
        key, shard = rows[status]["key"], rows[status]["shard"]
        code, text = run("explain", store.root, key)
        assert code == 0 and where in text and "gone" not in text
        end = rows[status]["sample_offset"] + rows[status]["sample_size"]
        store.write(shard, store.read(shard)[: end - 1])
        gone = f"its media is gone: {store.path(shard)}"
        assert f"{gone} has {end - 1} bytes, and {end} are needed" in run("explain", store.root, key)[1]
        store.delete(shard)
        assert f"{gone} is not there" in run("explain", store.root, key)[1]
    text = run("explain", store.root, "one.mp4")[1]
    assert "media of 2 clips is gone or damaged: " in text and "media of 1 clip is gone or damaged: " in text


# --- what a run added ---


def test_the_table_at_the_end_tells_this_run_from_the_whole_dataset(dataset: Store) -> None:
    def shown(kept: float, lost: float) -> tuple[Progress, str]:
        progress = Progress(Console(file=io.StringIO(), width=100))
        with progress.run(dataset, PrepareConfig(), "c"):
            progress.finished(Totals({"kept": kept, "low_quality": lost}, {"kept": 5, "low_quality": 1}))
        summary = progress.summary
        console = Console(file=io.StringIO(), width=100)
        console.print(
            outcome_table(
                summary.seconds_kept, summary.seconds_by_reason, summary.clips_by_outcome, summary.seconds_added
            )
        )
        return progress, re.sub(" +", " ", console.file.getvalue())  # type: ignore[attr-defined]

    progress, text = shown(kept=12.0, lost=1.5)  # 3 s were kept before
    assert progress.summary.seconds_added == {"kept": 9.0, "low_quality": 1.5}
    assert "whole dataset 13.5 s 100 % +10.5 s" in text and "kept 12.0 s 89 % 5 +9.0 s" in text
    _, text = shown(kept=3.0, lost=0.0)
    assert "whole dataset 3.0 s 100 % -" in text
    _, text = shown(kept=2.0, lost=1.0)
    assert "kept 2.0 s 67 % 5 -1.0 s" in text and "low_quality 1.0 s 33 % 1 +1.0 s" in text


def test_a_first_run_has_nothing_before_it(tmp_path: Path) -> None:
    progress = Progress(Console(file=io.StringIO(), width=100))
    with progress.run(Store(str(tmp_path)), PrepareConfig(), "c"):
        progress.finished(Totals({"kept": 3.0}, {"kept": 1}))
    assert progress.summary.seconds_added is None


# --- a U-Net's layout ---


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"atention_head_dim": 3}, "atention_head_dim: no such setting; did you mean attention_head_dim?"),
        ({"block_out_channels": []}, "block_out_channels: expected a list of 1 or more (given: [])"),
        ({"flip_sin_to_cos": False}, "flip_sin_to_cos: expected true (given: false)"),
        ({"layers_per_block": "x"}, "layers_per_block: expected a whole number (given: 'x')"),
        ({"motion_module_kwargs": {"zero_init": 1}}, "did you mean motion_module_kwargs.zero_initialize?"),
    ],
)
def test_a_wrong_layout_is_said_in_plain_words(change: dict, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        read_config(LAYOUTS["tiny_stage1"] | change)
    assert words in str(caught.value)
    assert not any(foreign in str(caught.value) for foreign in (*FOREIGN, "validation"))


def test_a_first_run_that_was_stopped_leaves_nothing_to_pack(tmp_path: Path) -> None:
    """An empty manifest would hide from all other commands that the run did not end."""
    store = Store(str(tmp_path / "d"))
    add_sources(store, [MadeSource("talk")])
    for words in (["pack"], ["relabel", "--path-template", "{language}/"], ["prune"], ["gc"]):
        ended = CliRunner().invoke(app, [words[0], store.root, *words[1:]])
        assert ended.exit_code == 1 and "its first run has not ended. Run the same `lipforge prepare`" in ended.output
    assert not (tmp_path / "d" / "manifest").exists()


@pytest.mark.parametrize("command", ["prune", "gc"])
def test_where_nobody_can_be_asked_the_option_is_named(tmp_path: Path, command: str) -> None:
    store = make_dataset(tmp_path / "d", [MadeSource("talk", [{}, {"quality": 1.0}])])
    ended = CliRunner().invoke(app, ["pack", store.root, "--set", "min_quality=41"])
    ended = CliRunner().invoke(app, [command, store.root])
    assert ended.exit_code == 2 and "add --yes" in ended.output


def test_what_runs_the_networks_sends_and_keeps_nothing_about_the_machine(tmp_path: Path) -> None:
    words = "from lipforge.model.audio.speech import SpeechDetector; SpeechDetector()"
    places = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"} | places
    subprocess.run([sys.executable, "-c", words], env=environment, cwd=Path(__file__).parents[1], check=True)
    assert list(tmp_path.rglob("*")) == []
