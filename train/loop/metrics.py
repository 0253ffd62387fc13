"""What a run says while it trains: a line to the log, a line to RUN/metrics.jsonl, and TensorBoard. Rank 0 writes.

RUN/metrics.jsonl   {"step": 10, "loss": ..., each loss by name, "learning_rate": ..., "samples_per_s": ...}
                    {"step": 10, "val_loss": ..., each loss as val_NAME, "val_samples": ...}
                    {"step": 10, "val_own_sync_confidence": ..., of generated video, "val_clips": ...}

Losses are written in full precision: a run that resumed has the same digits as one that never stopped.
"""

import json
import logging
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lipforge.datasets_manifest.display import counted
from lipforge.train.drawing import encode_png
from lipforge.train.loop import pictures, run_folder
from lipforge.train.loop.checkpoint import Generated
from lipforge.train.loop.films import Film

log = logging.getLogger(__name__)

GB = 2**30
"""As GPUs are sold, as nvidia-smi counts, and as `lipforge train plan` does."""
NOT_LOSSES = {
    *("step", "learning_rate", "grad_norm", "samples_per_s", "data_wait_share", "memory_gb"),
    *("seconds_per_step", "seconds_left", "time"),
}
"""What a line of training has besides losses."""


class MetricsLog:
    """One per process; on ranks other than 0 it does nothing."""

    def __init__(self, run_dir: Path, num_steps: int, is_main: bool, resume_step: int) -> None:
        """resume_step: the step the run goes on from. Lines of later steps are dropped: they will be made again.

        Raises OSError when the folder cannot be written.
        """
        self._num_steps = num_steps
        self._speed = _Speed(resume_step)
        self._writers: _Writers | None = _Writers(run_dir, resume_step) if is_main else None

    def log(
        self,
        step: int,
        losses: Mapping[str, float],
        learning_rate: float,
        grad_norm: float,
        samples: int,
        data_wait_s: float,
        seconds: float,
    ) -> None:
        """losses: means since the last line, by name, `loss` among them. grad_norm: of the step, before clipping.

        samples, data_wait_s, seconds: of all ranks, and of this rank's time, since the last line.
        """
        if self._writers is None:
            return
        self._speed.add(step, seconds)
        left_s = (self._num_steps - step) * self._speed.seconds_per_step
        memory_gb, where = peak_memory_gb()
        share = min(1.0, data_wait_s / seconds) if seconds > 0 else 0.0
        rates = {
            "learning_rate": learning_rate,
            "grad_norm": grad_norm,
            "samples_per_s": samples / seconds if seconds > 0 else 0.0,
            "data_wait_share": share,
            "memory_gb": memory_gb,
        }
        times = {"seconds_per_step": self._speed.seconds_per_step, "seconds_left": left_s, "time": time.time()}
        self._writers.line({"step": step, **losses, **rates, **times})
        self._writers.scalars(step, {f"train/{name}": value for name, value in {**losses, **rates}.items()})
        words = [
            f"step {step}/{self._num_steps}",
            _in_words(losses),
            f"lr {learning_rate:.3g}",
            f"grad {grad_norm:.3g}",
            f"{rates['samples_per_s']:.3g} samples/s",
            f"{share:.0%} waiting for data",
            f"{memory_gb:.1f} GB {where}",
            f"{duration(left_s)} left" if step < self._num_steps else "done",
        ]
        log.info("%s", " | ".join(words))

    def log_validation(self, step: int, losses: Mapping[str, float], num_samples: int) -> None:
        """losses: means over the held-out samples, by name."""
        if self._writers is None:
            return
        named = {f"val_{name}": value for name, value in losses.items()}
        self._writers.line({"step": step, **named, "val_samples": num_samples, "time": time.time()})
        self._writers.scalars(step, {f"val/{name}": value for name, value in losses.items()})
        log.info("%s", f"step {step}/{self._num_steps} | validation of {num_samples}: {_in_words(losses)}")

    def log_generated(self, step: int, values: Mapping[str, float], found: Generated, ended: str | None) -> None:
        """values: of generated video, means over its clips by name. ended: why the run ends here."""
        if self._writers is None:
            return
        row = {"step": step, **{f"val_{name}": value for name, value in values.items()}, "val_clips": found.num_clips}
        decides = {"picture": found.picture, "has_forgotten": found.has_forgotten, "ended": ended}
        self._writers.line({**row, **decides, "time": time.time()})
        self._writers.scalars(step, {f"val/{name}": value for name, value in values.items()})
        unseen = found.num_clips - len(found.sync)
        told = {name.replace("_confidence", "").replace("_frames", ""): value for name, value in values.items()}
        told = {name: value for name, value in told.items() if not name.endswith("_mouth")}
        lost = f" | no face in {unseen} of them" if unseen else ""
        log.info(
            "%s",
            f"step {step}/{self._num_steps} | {counted(found.num_clips, 'clip')} generated: {_in_words(told)}{lost}",
        )

    def films(self, step: int, films: Mapping[str, Film]) -> None:
        """Save RUN/pictures/step-00000010/CLIP.mp4 and sheet.png, and show the sheet and films in TensorBoard."""
        if self._writers is None or not films:
            return
        folder = Path(run_folder.PICTURES) / f"step-{step:08d}"
        for clip, film in films.items():
            self._writers.file(folder / f"{clip}.mp4", film.mp4)
        sheet = pictures.stacked([film.sheet for film in films.values()])
        self._writers.sheet(step, sheet, folder / "sheet.png", "val/generated")
        for number, gif in enumerate(film.gif for film in films.values() if film.gif is not None):
            self._writers.film(step, f"val/generated_film_{number}", gif)

    def picture(self, step: int, drawn: list[Mapping[str, Tensor]]) -> None:
        """Save RUN/pictures/step-00000010.png, and show it in TensorBoard, with a film of each sample.

        drawn: for each sample, pixels [T, 3, R, R] in -1..1 by label.
        """
        if self._writers is None:
            return
        samples = [pictures.rows_of(sample) for sample in drawn]
        path = Path(run_folder.PICTURES) / f"step-{step:08d}.png"
        self._writers.sheet(step, pictures.stacked([pictures.contact_sheet(rows) for rows in samples]), path)
        for number, rows in enumerate(samples):
            self._writers.film(step, f"val/film_{number}", pictures.film(rows))

    def close(self) -> None:
        if self._writers is not None:
            self._writers.close()
            self._writers = None


class _Speed:
    """Seconds a step takes in this process, without validations and saves."""

    def __init__(self, first_step: int) -> None:
        self._first_step, self._last_step, self._seconds = first_step, first_step, 0.0

    def add(self, step: int, seconds: float) -> None:
        self._last_step, self._seconds = step, self._seconds + seconds

    @property
    def seconds_per_step(self) -> float:
        return self._seconds / max(1, self._last_step - self._first_step)


class _Writers:
    """The files of rank 0. A full disk must not stop one rank alone: lines wait until there is room, and it is said."""

    def __init__(self, run_dir: Path, resume_step: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._run_dir = run_dir
        path = run_dir / run_folder.METRICS
        # Step 0 has lines of its own, which a run that begins anew makes again.
        kept = [line for line, row in _lines(path) if resume_step and row["step"] <= resume_step]
        run_folder.write_whole(path, b"".join(kept))
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 (closed by `close`)
        self._unwritten = b""
        self._board = SummaryWriter(
            str(run_dir / run_folder.TENSORBOARD), purge_step=resume_step + 1 if resume_step else 0
        )
        self._has_warned = False

    def line(self, row: Mapping[str, Any]) -> None:
        plain = {name: _plain(value) for name, value in row.items()}
        self._unwritten += (json.dumps(plain) + "\n").encode()
        self._guarded(self._write_lines)

    def _write_lines(self) -> None:
        end = os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(self._unwritten) != len(self._unwritten):
                raise OSError("no room for a whole line")
        except OSError:
            self._file.truncate(end)
            raise
        self._unwritten = b""
        self._has_warned = False

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        def write() -> None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
            self._board.flush()

        self._guarded(write)

    def sheet(self, step: int, image: Any, path: Path, name: str = "val/samples") -> None:
        """path: in the run's folder; name: in TensorBoard."""
        self.file(path, encode_png(image))

        def write() -> None:
            self._board.add_image(name, image, step, dataformats="HWC")
            self._board.flush()

        self._guarded(write)

    def file(self, path: Path, content: bytes) -> None:
        """path: in the run's folder."""
        self._guarded(lambda: run_folder.write_whole(self._run_dir / path, content))

    def film(self, step: int, name: str, gif: bytes) -> None:
        """As an image: TensorBoard plays GIFs, while `add_video` writes nothing with moviepy 2."""
        from tensorboard.compat.proto import summary_pb2

        made: Any = summary_pb2  # its classes are made when it is imported
        board: Any = self._board.file_writer
        image = made.Summary.Image(encoded_image_string=gif, colorspace=3)
        summary = made.Summary(value=[made.Summary.Value(tag=name, image=image)])
        self._guarded(lambda: board.add_summary(summary, step))

    def _guarded(self, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            if not self._has_warned:
                words = error.strerror or str(error)
                log.warning("%s", f"cannot write metrics in {self._run_dir} ({words}); training goes on, lines wait")
            self._has_warned = True

    def close(self) -> None:
        self._guarded(self._board.close)
        if self._unwritten:
            self._guarded(self._write_lines)
        self._file.close()


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Lines of RUN/metrics.jsonl, in order; a line that was cut off is left out. Without the file: none."""
    return [row for _, row in _lines(run_dir / run_folder.METRICS)]


def _lines(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Whole lines, as written and as read."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    found = []
    for line in content.splitlines(keepends=True):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if line.endswith(b"\n") and isinstance(row, dict) and isinstance(row.get("step"), int):
            found.append((line, row))
    return found


def peak_memory_gb() -> tuple[float, str]:
    """(most memory this process has had, in GB of 2^30 bytes, and where): of the GPU, where there is one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / GB, "of the GPU"
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GB, "of memory"


def duration(seconds: float) -> str:
    """Two units at most: 3 d 4 h, 2 h 10 min, 8 min, 40 s."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def _in_words(losses: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.5g}" for name, value in losses.items())


def _plain(value: Any) -> Any:
    """JSON has no infinity, which the gradient norm is when fp16 overflows."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
