"""`lipforge train status`: how a run stands, from its files."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

pytest.importorskip("tensorboard", reason="the package tensorboard is not installed")

from lipforge.train.cli import app
from lipforge.train.config import Stage1Config, Stage2Config, SyncNetConfig, TrainerConfig
from lipforge.train.loop import checkpoint, run_folder
from lipforge.train.loop.metrics import MetricsLog
from lipforge.train.status import read_status, status_lines

STEPS = 10
CONFIGS = {"stage1": Stage1Config, "stage2": Stage2Config, "syncnet": SyncNetConfig}


def make_run(run_dir: Path, last_step: int = 6, trainer: str = "stage1", processes: int = 1) -> Path:
    """A run of 10 steps that saves and validates every second one."""
    config: TrainerConfig = CONFIGS[trainer](selection="s.parquet", run_dir=run_dir, num_steps=STEPS)
    with run_folder.locked(run_dir):
        run_folder.write_config(run_dir, config)
        run_folder.write_facts(run_dir, {}, {"processes": processes})
        log = MetricsLog(run_dir, STEPS, True, 0)
        for step in range(1, last_step + 1):
            losses = {"noise": 1 / step, "loss": 1 / step}
            log.log(step, losses, learning_rate=1e-5, grad_norm=1, samples=4, data_wait_s=1.0, seconds=2.0)
            if step % 2 == 0:
                log.log_validation(step, {"noise": abs(step - 4) + 0.5, "loss": abs(step - 4) + 0.5}, 16)
                tensors = checkpoint.Tensors({"weight": torch.ones(1000)}, {}, {})
                checkpoint.save(run_dir, checkpoint.Progress(step, {}), tensors)
        log.close()
    return run_dir


def test_status_tells_step_losses_speed_and_what_goes_on(tmp_path: Path):
    status = read_status(make_run(tmp_path / "run"))
    assert (status.step, status.num_steps, status.losses) == (6, 10, {"noise": 1 / 6, "loss": 1 / 6})
    assert [step for step, _ in status.checkpoints] == [2, 4, 6]
    assert all(size > 4000 for _, size in status.checkpoints)
    assert status.best_validation == (4, {"noise": 0.5, "loss": 0.5})
    text = "\n".join(status_lines(status))
    for words in ("not running", "step         6 of 10 (60.0%)", "2 samples/s", "8 s left", "50% of the time waiting"):
        assert words in text
    assert f"-m lipforge.train.stage1 --config {tmp_path / 'run' / 'config.yaml'}   (begins after step 6)" in text


@pytest.mark.parametrize("trainer", CONFIGS)
def test_command_names_the_trainer_and_the_number_of_processes(tmp_path: Path, trainer: str):
    status = read_status(make_run(tmp_path / "run", 1, trainer, processes=2))
    assert f"--num_processes 2 -m lipforge.train.{trainer} " in status.command


def test_running_process_is_seen_and_not_disturbed(tmp_path: Path):
    run_dir = make_run(tmp_path / "run")
    with run_folder.locked(run_dir):
        status = read_status(run_dir)
        assert status.is_training
        assert "training now" in status_lines(status)[0] and "tensorboard --logdir" in status_lines(status)[-1]
    assert not read_status(run_dir).is_training


def test_finished_run_names_its_model(tmp_path: Path):
    lines = status_lines(read_status(make_run(tmp_path / "run", STEPS)))
    assert "all steps made" in lines[0]
    assert any(line.startswith("model") and line.endswith("run/model") for line in lines)
    assert "num_steps=20" in lines[-1]


def test_run_that_has_no_step_yet_is_told(tmp_path: Path):
    text = "\n".join(status_lines(read_status(make_run(tmp_path / "run", 0))))
    assert "none logged yet" in text and "none yet" in text and "(begins at step 0)" in text


def test_damaged_facts_and_lines_are_no_obstacle(tmp_path: Path):
    run_dir = make_run(tmp_path / "run")
    (run_dir / "facts.json").write_text("{")
    with open(run_dir / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "loss"')
    assert read_status(run_dir).step == 6


def emptied(folder: Path) -> None:
    for path in folder.glob("*.*"):
        if path.is_file():
            path.unlink()


def cut_off(folder: Path) -> None:
    (folder / "config.yaml").write_text("")


def scrambled(folder: Path) -> None:
    (folder / "config.yaml").write_text("a: [")


@pytest.mark.parametrize(
    ("damage", "words"),
    [(emptied, "not a run's folder"), (cut_off, "is damaged: it has no num_steps"), (scrambled, "cannot be read")],
)
def test_broken_folder_is_one_sentence(tmp_path: Path, damage: object, words: str):
    run_dir = make_run(tmp_path / "run", 0)
    assert callable(damage)
    damage(run_dir)
    ended = CliRunner().invoke(app, ["status", str(run_dir)])
    assert ended.exit_code == 2
    assert words in ended.output and len(ended.output.strip().splitlines()) == 1


def test_missing_folder_is_one_sentence(tmp_path: Path):
    ended = CliRunner().invoke(app, ["status", str(tmp_path / "nothing")])
    assert ended.exit_code == 2
    assert ended.output.startswith("lipforge: no folder ")
