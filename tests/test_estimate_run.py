"""`lipforge prepare --estimate` on real files: it says what prepare then does, and writes nothing."""

import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from lipforge.datasets_manifest.manifest import read_manifest
from lipforge.pipeline.cli import app
from lipforge.pipeline.clip import Unit
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.estimate import measure, population, run
from lipforge.pipeline.estimate.command import run_command
from lipforge.pipeline.estimate.run import Estimate, estimate
from lipforge.pipeline.running import local
from lipforge.pipeline.running.progress_line import ProgressLine
from lipforge.pipeline.sources.inputs import Labels
from tests.conftest import LOCAL, run_prepare, snapshot
from tests.ready_child import ready_children
from tests.test_local_faults import crash, hang


def estimated(folder: Path, out: Path | None = None, config: PrepareConfig = LOCAL) -> Estimate:
    line = ProgressLine(Console(file=open(os.devnull, "w")))  # noqa: SIM115
    return estimate([str(folder)], None if out is None else str(out), config, Labels(language="en"), line)


def cli(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["prepare", *map(str, arguments)], env={"COLUMNS": "80"})
    return result.exit_code, result.output


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))  # for other processes, too
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


@pytest.fixture(scope="module")
def prepared(small_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of small_inputs."""
    out = tmp_path_factory.mktemp("prepared") / "dataset"
    run_prepare([str(small_inputs)], out)
    return out


def files_in(folder: Path) -> list[Path]:
    """Ours: libraries write files of their own."""
    return [path for path in folder.rglob("lipforge*/**/*") if not path.is_dir()]


def test_all_processed_is_what_prepare_gives_and_nothing_is_written(
    small_inputs: Path, prepared: Path, temporary: Path
) -> None:
    before = snapshot(small_inputs)
    found = estimated(small_inputs)
    rows = read_manifest(str(prepared)).to_pylist()
    truth: dict[str, float] = {}
    for row in rows:
        outcome = "kept" if row["status"] == "kept" else row["reason"]
        truth[outcome] = truth.get(outcome, 0.0) + row["accounted_s"]
    said = found.forecast.outcome_s
    assert {name: there.value for name, there in said.items()} == pytest.approx(
        {name: seconds for name, seconds in truth.items() if seconds}
    )
    assert all(there.low == pytest.approx(there.high) for there in said.values())
    assert found.forecast.clips.value == sum(row["status"] == "kept" for row in rows)
    shards = sum(path.stat().st_size for path in (prepared / "shards").rglob("*.tar"))
    assert found.forecast.disk.shards.value == pytest.approx(shards, rel=0.02)
    assert [language.name for language in found.forecast.languages] == ["en"]
    assert snapshot(small_inputs) == before and files_in(temporary) == []


def test_what_a_dataset_holds_is_left_out(small_inputs: Path, prepared: Path) -> None:
    before = snapshot(prepared)
    code, text = cli(small_inputs, "--out", prepared, "--executor=local", "--set=encode.preset=ultrafast", "--estimate")
    assert code == 0 and "Nothing is left to process." in text
    assert snapshot(prepared) == before


def test_with_a_dataset_only_what_is_new_is_estimated(
    small_inputs: Path, prepared: Path, talking_clip: Path, tmp_path: Path
) -> None:
    (tmp_path / "new.mp4").write_bytes(talking_clip.read_bytes() + b"1")
    (tmp_path / "copy.mp4").write_bytes(talking_clip.read_bytes())
    line = ProgressLine(Console(file=open(os.devnull, "w")))  # noqa: SIM115
    found = estimate([str(small_inputs), str(tmp_path)], str(prepared), LOCAL, Labels(), line)
    assert found.population.num_known == 4 and found.population.before_s > 12
    said = {name: there.value for name, there in found.forecast.outcome_s.items()}
    assert said["duplicate"] == pytest.approx(6.4, abs=0.1) and sum(said.values()) == pytest.approx(12.8, abs=0.2)
    assert [unit.video.source.uri for unit in found.population.units] == [str(tmp_path / "new.mp4")]


def test_settings_must_fit_the_dataset(small_inputs: Path, prepared: Path) -> None:
    code, text = cli(small_inputs, "--out", prepared, "--executor=local", "--estimate")
    assert code == 1 and "was made with other settings: encode.preset was ultrafast" in text


def test_the_page_fits_a_narrow_terminal(talking_clip: Path) -> None:
    code, text = cli(talking_clip, "--executor=local", "--set=encode.preset=ultrafast", "--estimate")
    assert code == 0, text
    tables = text.partition("What you will get")[2].partition("CPU and wall time are")[0]
    assert max(map(len, tables.splitlines())) <= 80
    for words in ("kept", "clips", "starting", "time with 1 worker (this machine)", "disk: the dataset"):
        assert words in tables
    assert text.splitlines()[-1].endswith("--out DATASET")


def test_out_is_needed_without_estimate(small_inputs: Path) -> None:
    code, text = cli(small_inputs)
    assert code == 2 and "name the dataset's folder with --out" in text


@pytest.mark.parametrize("estimating", [True, False])
def test_a_folder_without_video_gets_the_same_message(tmp_path: Path, estimating: bool) -> None:
    (tmp_path / "in").mkdir()
    code, text = cli(
        tmp_path / "in", "--executor=local", *(["--estimate"] if estimating else ["--out", tmp_path / "o"])
    )
    assert code == 2 and "no videos found in the inputs" in text


def test_only_broken_files_end_with_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no media")
    code, text = cli(tmp_path, "--executor=local", "--estimate")
    assert code == 1 and "1 source cannot be used, unreadable: bad.mp4" in text and "What you will get" not in text


def test_of_many_sources_a_sample_is_probed_and_the_rest_is_taken_to_be_alike(
    talking_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        (tmp_path / f"{number}.mp4").write_bytes(talking_clip.read_bytes() + bytes([number]))
    monkeypatch.setattr(population, "MOST_PROBED", 2)
    monkeypatch.setattr(measure, "FEWEST_SPANS", 1)
    monkeypatch.setattr(run, "BUDGET_S", 0.0)
    found = estimated(tmp_path)
    assert len(found.population.probed) == 2 and len(found.sample.observations) == 1
    assert found.forecast.found_s.value == pytest.approx(6 * 6.4, rel=0.01)
    assert found.forecast.disk.shards.value == pytest.approx(
        6 * found.sample.observations[0].media_bytes["shards"], rel=0.01
    )
    assert (
        found.forecast.crews[0].wall_s.value > found.forecast.crews[-1].wall_s.value or len(found.forecast.crews) == 1
    )


class BadSpanWorker(measure.SpanWorker):
    """Acts when it gets a span of bad.mp4."""

    act: Callable[[], None]

    def __call__(self, item: Unit | str):
        cut = self._worker.cut
        real = cut.operator.process

        def process(unit: Unit):
            if unit.video.source.uri.endswith("bad.mp4"):
                self.act()
            return real(unit)

        cut.operator.process = process
        try:
            return super().__call__(item)
        finally:
            cut.operator.process = real


class CrashingSpanWorker(BadSpanWorker):
    act = staticmethod(crash)


class HangingSpanWorker(BadSpanWorker):
    act = staticmethod(hang)


@pytest.mark.parametrize(("worker", "reason"), [(CrashingSpanWorker, "worker_crashed"), (HangingSpanWorker, "timeout")])
def test_a_file_that_takes_its_process_down_is_a_loss_with_a_reason(
    worker: type, reason: str, talking_clip: Path, tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    for number, name in enumerate(("bad.mp4", "good.mp4")):
        (tmp_path / "in" / name).write_bytes(talking_clip.read_bytes() + bytes([number]))
    monkeypatch.setattr(measure, "SpanWorker", worker)
    monkeypatch.setattr(measure, "SPAN_STALL_S", 1.0)
    with ready_children(__name__, "torch") as ready:
        monkeypatch.setattr(local, "Child", ready)
        found = estimated(tmp_path / "in")
    said = {name: there.value for name, there in found.forecast.outcome_s.items()}
    assert said[reason] == pytest.approx(6.4, abs=0.1) and said["kept"] > 4
    assert files_in(temporary) == []


def test_sigterm_leaves_nothing(small_inputs: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(measure.Processes, "run", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit, match="143"):
        estimated(small_inputs)
    assert list(temporary.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before


def kill_once(folder: Path) -> None:
    mark = folder / "killed"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


class KilledOnce(measure.SpanWorker):
    def __call__(self, item):
        if isinstance(item, Unit):
            kill_once(Path(os.environ["TMPDIR"]))
        return super().__call__(item)


def test_a_worker_that_is_killed_once_is_no_loss(
    talking_clip: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "SpanWorker", KilledOnce)
    with ready_children(__name__, "torch") as ready:
        monkeypatch.setattr(local, "Child", ready)
        found = estimated(talking_clip)
    assert (temporary / "killed").exists()
    assert "worker_crashed" not in found.forecast.outcome_s and found.forecast.outcome_s["kept"].value > 4


def test_ctrl_c_leaves_nothing(small_inputs: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(measure.Processes, "run", stopped)
    code, text = cli(small_inputs, "--executor=local", "--estimate")
    assert code == 130 and text == "lipforge: stopped. Nothing was written.\n"
    assert list(temporary.iterdir()) == []


def test_the_command_that_starts_the_run_is_this_one_without_the_flag() -> None:
    assert (
        run_command(["prepare", "my talks/", "--estimate", "--out", "d"], "d") == "lipforge prepare 'my talks/' --out d"
    )
    assert run_command(["prepare", "a.mp4", "--estimate"], None) == "lipforge prepare a.mp4 --out DATASET"
