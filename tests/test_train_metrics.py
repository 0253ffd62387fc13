"""What a run says while it trains: metrics.jsonl, the line of the log, TensorBoard, pictures."""

import io
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("tensorboard", reason="the package tensorboard is not installed")

from lipforge.train.drawing import SIDE_PX, TEXT_PX
from lipforge.train.loop.metrics import NOT_LOSSES, MetricsLog, duration, read_metrics
from lipforge.train.loop.pictures import NUM_SHOWN, contact_sheet, film, to_frames

THIRD = 0.1 / 3


def write_steps(run_dir: Path, steps: range, resume_step: int = 0, is_main: bool = True, **more: Any) -> None:
    log = MetricsLog(run_dir, 10, is_main, resume_step)
    for step in steps:
        log_step(log, step, **more)
    log.close()


def log_step(log: MetricsLog, step: int, losses: Mapping[str, float] | None = None, grad_norm: float = 1.5) -> None:
    losses = losses or {"noise": THIRD * step, "loss": THIRD * step}
    log.log(step, losses, learning_rate=1e-5, grad_norm=grad_norm, samples=8, data_wait_s=0.5, seconds=2.0)


def board(run_dir: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(run_dir / "tensorboard")).Reload()


def test_each_step_is_a_line_with_losses_in_full_precision(tmp_path: Path):
    write_steps(tmp_path, range(1, 4))
    rows = read_metrics(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert [row["noise"] for row in rows] == [THIRD, THIRD * 2, THIRD * 3]
    assert {name for name in rows[0] if name not in NOT_LOSSES} == {"noise", "loss"}
    assert rows[0]["samples_per_s"] == 4 and rows[0]["data_wait_share"] == 0.25 and rows[0]["memory_gb"] > 0.05


def test_line_is_there_when_the_step_is_logged(tmp_path: Path):
    log = MetricsLog(tmp_path, 10, True, 0)
    log_step(log, 1)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
    log.close()


def test_line_of_the_log_says_losses_speed_memory_and_time_left(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO):
        write_steps(tmp_path, range(1, 3))
    line = caplog.messages[-1]
    for words in ("step 2/10", "noise 0.066667", "lr 1e-05", "4 samples/s", "25% waiting for data", "GB", "16 s left"):
        assert words in line


def test_time_left_after_a_resume_counts_steps_of_this_process(tmp_path: Path):
    write_steps(tmp_path, range(7, 9), resume_step=6)
    assert [row["seconds_left"] for row in read_metrics(tmp_path)] == [6.0, 4.0]


def test_resume_drops_lines_of_steps_that_will_be_made_again(tmp_path: Path):
    write_steps(tmp_path, range(1, 6))
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 3, "lo')  # killed while it wrote
    write_steps(tmp_path, range(4, 7), resume_step=3)
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in board(tmp_path).Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]


def test_kept_lines_keep_their_bytes(tmp_path: Path):
    write_steps(tmp_path, range(1, 4))
    before = (tmp_path / "metrics.jsonl").read_bytes()
    write_steps(tmp_path, range(4, 4), resume_step=3)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_validation_is_a_line_of_its_own(tmp_path: Path):
    log = MetricsLog(tmp_path, 10, True, 0)
    log.log_validation(5, {"noise": 0.25, "loss": 0.25}, 16)
    log.close()
    (row,) = read_metrics(tmp_path)
    assert (row["step"], row["val_loss"], row["val_noise"], row["val_samples"]) == (5, 0.25, 0.25, 16)
    assert "loss" not in row


def test_infinite_gradient_norm_is_null_in_json(tmp_path: Path):
    write_steps(tmp_path, range(1, 2), grad_norm=float("inf"))
    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))["grad_norm"] is None


def test_other_ranks_write_nothing(tmp_path: Path):
    write_steps(tmp_path, range(1, 3), is_main=False)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_said_once_and_no_line_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    log = MetricsLog(tmp_path, 10, True, 0)
    log_step(log, 1)
    assert log._writers is not None
    file = log._writers._file
    monkeypatch.setattr(log._writers, "_file", Full(file))
    log_step(log, 2)
    log_step(log, 3)
    monkeypatch.undo()
    log_step(log, 4)
    log.close()
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4]
    assert sum("cannot write metrics" in message for message in caplog.messages) == 1


class Full:
    """A file that takes half of what is written."""

    def __init__(self, file: Any) -> None:
        self.fileno, self.truncate, self._file = file.fileno, file.truncate, file

    def write(self, content: bytes) -> int:
        return self._file.write(content[: len(content) // 2])


def test_pictures_lie_in_the_run_and_in_tensorboard(tmp_path: Path):
    log = MetricsLog(tmp_path, 10, True, 0)
    pixels = torch.linspace(-1, 1, 5)[:, None, None, None].expand(5, 3, 32, 32)
    log.picture(10, [{"target": pixels, "estimate": pixels}, {"target": pixels, "estimate": pixels}])
    log.close()
    with Image.open(tmp_path / "pictures" / "step-00000010.png") as image:
        assert image.width == 5 * SIDE_PX and image.height > 4 * (TEXT_PX + SIDE_PX)
    shown = board(tmp_path)
    assert set(shown.Tags()["images"]) == {"val/samples", "val/film_0", "val/film_1"}
    assert shown.Images("val/film_0")[0].encoded_image_string.startswith(b"GIF8")


def test_pixels_become_frames():
    pixels = torch.tensor([-1.2, -1.0, 0.0, 1.0, 1.2])[:, None, None, None].expand(5, 3, 2, 2)
    assert to_frames(pixels)[:, 0, 0, 0].tolist() == [0, 0, 128, 255, 255]


def test_sheet_has_a_line_for_each_row_of_any_length():
    frames = np.full((16, 64, 64, 3), 200, np.uint8)
    sheet = contact_sheet([("target", frames), ("generated", frames[:3])])
    assert sheet.shape[1] == NUM_SHOWN * SIDE_PX
    middle = TEXT_PX + SIDE_PX // 2
    assert (sheet[middle, :SIDE_PX] == 200).all()
    second = sheet[-SIDE_PX // 2]
    assert (second[: 3 * SIDE_PX] == 200).all() and (second[3 * SIDE_PX :] == 255).all()


def test_film_plays_all_frames_at_25_a_second():
    frames = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.full((6, 64, 64, 3), 40, np.uint8)
    with Image.open(io.BytesIO(film([("target", frames), ("still", frames[:1])]))) as image:
        assert getattr(image, "n_frames", 0) == 6 and image.info["duration"] == 40
        assert image.width == 2 * SIDE_PX


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.4, "59 s"), (59.9, "1 min"), (3599, "1 h 0 min"), (7800, "2 h 10 min"), (273_600, "3 d 4 h")],
)
def test_durations_have_two_units_at_most(seconds: float, words: str):
    assert duration(seconds) == words
