"""How a run stands, from its files alone: `lipforge train status RUN`. Nothing is written."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lipforge.model.trained import step_of_model, weights_name
from lipforge.train.loop import run_folder
from lipforge.train.loop.checkpoint import checkpoints, step_of
from lipforge.train.loop.metrics import NOT_LOSSES, duration, read_metrics

_WAITS_MUCH = 0.2
"""Share of the time from which waiting for data is worth a remark."""


@dataclass(frozen=True)
class Status:
    """A run, as its folder tells."""

    run_dir: Path
    trainer: str
    """stage1, stage2 or syncnet."""
    num_steps: int
    num_processes: int
    is_training: bool
    """A process holds the run's lock now."""
    step: int
    """Of the newest line of the log; 0: none."""
    last: dict[str, Any] = field(default_factory=dict)
    """That line."""
    checkpoints: list[tuple[int, int]] = field(default_factory=list)
    """(step, bytes), oldest first."""
    validations: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    """(step, losses by name), oldest first."""
    generated: list[dict[str, Any]] = field(default_factory=list)
    """Lines of generated video, oldest first: `step`, numbers as `own_sync_confidence`, what they mean for the run."""
    best_model_step: int | None = None
    """Step of RUN/best/model."""
    pictures: list[Path] = field(default_factory=list)
    has_model: bool = False

    @property
    def losses(self) -> dict[str, float]:
        return {name: value for name, value in self.last.items() if name not in NOT_LOSSES}

    @property
    def best_validation(self) -> tuple[int, dict[str, float]] | None:
        return min(self.validations, key=lambda found: found[1]["loss"], default=None)

    @property
    def ended(self) -> str | None:
        """Why the run ended before its last step, if it did."""
        if not self.generated or not self.checkpoints or self.checkpoints[-1][0] != self.generated[-1]["step"]:
            return None
        return self.generated[-1].get("ended")

    @property
    def is_done(self) -> bool:
        return bool(self.checkpoints) and (self.checkpoints[-1][0] >= self.num_steps or self.ended is not None)

    @property
    def command(self) -> str:
        """Goes on with the run."""
        launch = f"--multi_gpu --num_processes {self.num_processes} " if self.num_processes > 1 else ""
        config = self.run_dir / run_folder.CONFIG
        return f"accelerate launch {launch}-m lipforge.train.{self.trainer} --config {config}"


def read_status(run_dir: Path) -> Status:
    """Raises ValueError when the folder is not a run's, or its settings cannot be read."""
    config, facts = _read_config(run_dir), _read_facts(run_dir)
    metrics = read_metrics(run_dir)
    trained = [row for row in metrics if "loss" in row]
    validated = [(row["step"], _validation_losses(row)) for row in metrics if "val_loss" in row]
    return Status(
        run_dir=run_dir,
        trainer=trainer_of(config),
        num_steps=config["num_steps"],
        num_processes=facts.get("processes", 1),
        is_training=run_folder.is_training(run_dir),
        step=trained[-1]["step"] if trained else 0,
        last=trained[-1] if trained else {},
        checkpoints=[(step_of(folder), _size(folder)) for folder in checkpoints(run_dir)],
        validations=validated,
        generated=[_generated(row) for row in metrics if "val_clips" in row],
        best_model_step=_step_of_best(run_dir, trainer_of(config)),
        pictures=sorted((run_dir / run_folder.PICTURES).glob("*.png")),
        has_model=any((run_dir / run_folder.MODEL).glob("*.safetensors")),
    )


def trainer_of(settings: Mapping[str, Any]) -> str:
    """Which trainer settings are for: stage1, stage2 or syncnet."""
    if "unet" not in settings and "syncnet" in settings:
        return "syncnet"
    judged = {"losses", "lpips", "videomae", "syncnet"} & settings.keys()
    return "stage2" if judged or "stage2" in str(settings.get("unet")) else "stage1"


def status_lines(status: Status) -> list[str]:
    """What a person wants to know, a line each."""
    done = "all steps made" if status.ended is None else "ended early"
    state = "training now" if status.is_training else done if status.is_done else "not running"
    lines = [f"{status.run_dir}: {status.trainer}, {state}"]
    if status.last:
        lines.append(f"step         {status.step:,} of {status.num_steps:,} ({status.step / status.num_steps:.1%})")
        lines.append(f"losses       {_named(status.losses)}")
        lines += _speed(status)
    else:
        lines.append(f"step         none logged yet, of {status.num_steps:,}")
    for number, (step, losses) in enumerate(status.validations[-3:]):
        lines.append(f"{'' if number else 'validation':12} step {step:,}: {_named(losses)}")
    if status.best_validation is not None:
        step, losses = status.best_validation
        lines.append(f"lowest loss  step {step:,}: {losses['loss']:.5g}")
    lines += generated_lines(status.generated)
    if status.ended is not None:
        lines.append(f"ended        {status.ended}")
    if status.best_model_step is not None:
        lines.append(f"best         step {status.best_model_step:,}: {status.run_dir / run_folder.BEST}")
    found = ", ".join(f"{step:,} ({size / 1e9:.2f} GB)" for step, size in status.checkpoints)
    lines.append(f"checkpoints  {f'step {found}' if found else 'none yet'}")
    if status.pictures:
        lines.append(f"pictures     {len(status.pictures)}, newest {status.pictures[-1]}")
    return [*lines, *_what_next(status)]


_MARKS = (
    ("original", "original clips"),
    ("original_foreign", "with foreign sound"),
    ("still", "one frame's mouth"),
)
_SHOWN_GENERATED = 8
_PICTURE = {"lpips": "LPIPS", "st_lpips": "ST-LPIPS", "ssim": "SSIM"}


def generated_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A table of generated video: the marks to compare with, the first step, and the newest ones."""
    if not rows:
        return []
    picture = next((name for name in _PICTURE if f"own_{name}" in rows[-1]), None)
    base = any("base_own_sync_confidence" in row for row in rows)
    heads = [
        "own",
        "shifted",
        "(offset)",
        "foreign",
        *([_PICTURE[picture]] if picture else []),
        *(["base", "lost"] if base else []),
    ]
    lines = [f"{'generated':12} {'sync confidence':20}" + "".join(f"{head:>10}" for head in heads)]
    with_marks = next((row for row in reversed(rows) if "original_sync_confidence" in row), {})
    for name, title in _MARKS:
        if (value := with_marks.get(f"{name}_sync_confidence")) is not None:
            column = 3 if name == "original_foreign" else 0
            cells = ["" for _ in range(column)] + [f"{value:.2f}"]
            if name == "still" and picture and (far := with_marks.get(f"still_{picture}")) is not None:
                cells += ["", "", "", f"{far:.3f}"]
            lines.append(f"{'':12} {title:20}" + "".join(f"{cell:>10}" for cell in cells))
    shown = [*rows[:1], *rows[1:][-_SHOWN_GENERATED:]]
    for row in shown:
        names = [f"{sound}_sync_confidence" for sound in ("own", "shifted", "foreign")]
        cells = [f"{row[name]:.2f}" if name in row else "-" for name in names]
        offset = row.get("shifted_sync_offset_frames")
        cells.insert(2, "-" if offset is None else f"{offset:+.1f}")
        cells += [f"{row[f'own_{picture}']:.3f}" if f"own_{picture}" in row else "-"] if picture else []
        if base:
            kept, lost = row.get("base_own_sync_confidence"), row.get("base_forgotten")
            cells += ["-" if kept is None else f"{kept:.2f}", "-" if lost is None else f"{lost:.0%}"]
        note = "   forgot more than max_forgetting" if row.get("has_forgotten") else ""
        lines.append(f"{'':12} {'step {:,}'.format(row['step']):20}" + "".join(f"{cell:>10}" for cell in cells) + note)
    return lines


def _generated(row: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("val_"): value for name, value in row.items()}


def _step_of_best(run_dir: Path, trainer: str) -> int | None:
    path = run_dir / run_folder.BEST / weights_name("syncnet" if trainer == "syncnet" else "unet")
    return step_of_model(path) if path.exists() else None


def _speed(status: Status) -> list[str]:
    last = status.last
    words = [f"{last.get('samples_per_s', 0.0):.3g} samples/s", f"{last.get('memory_gb', 0.0):.1f} GB"]
    if not status.is_done:
        words.append(f"{duration(last['seconds_left'])} left at that speed")
    waits = last.get("data_wait_share", 0.0)
    lines = [f"speed        {', '.join([*words, f'{waits:.0%} of the time waiting for data'])}"]
    if waits > _WAITS_MUCH:
        lines.append("             more num_workers, cached `features` or a `cache_dir` on a local disk make it faster")
    return lines


def _what_next(status: Status) -> list[str]:
    model = status.run_dir / run_folder.MODEL
    if status.is_training:
        board = status.run_dir / run_folder.TENSORBOARD
        return [f"watch        tensorboard --logdir {board}"]
    if status.is_done:
        if status.ended is not None:
            return [f"model        {model}"]
        longer = f"{status.command} --set num_steps={2 * status.num_steps}"
        return [f"model        {model}", f"train longer {longer}"]
    made = f"after step {status.checkpoints[-1][0]:,}" if status.checkpoints else "at step 0"
    return [f"go on        {status.command}   (begins {made})"]


def _validation_losses(row: dict[str, Any]) -> dict[str, float]:
    names = [name for name in row if name.startswith("val_") and name != "val_samples"]
    return {name.removeprefix("val_"): row[name] for name in names}


def _named(losses: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.5g}" for name, value in losses.items())


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _read_config(run_dir: Path) -> dict[str, Any]:
    path = run_dir / run_folder.CONFIG
    if not run_dir.is_dir():
        raise ValueError(f"no folder {run_dir}: give the run_dir of a training run")
    try:
        config = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise ValueError(
            f"{run_dir} is not a run's folder, or its run stopped before it began: it has no {run_folder.CONFIG}"
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict) or not isinstance(config.get("num_steps"), int):
        raise ValueError(f"{path} is damaged: it has no num_steps. Start the run's command again, which writes it anew")
    return config


def _read_facts(run_dir: Path) -> dict[str, Any]:
    try:
        facts = json.loads((run_dir / run_folder.FACTS).read_text())
    except (OSError, ValueError):  # written after config.yaml; it is not needed to say how the run stands
        return {}
    return facts if isinstance(facts, dict) else {}
