"""Checkpoints: all that a run needs to go on as if it had never stopped.

    checkpoints/step-00000100/
      network.safetensors     every tensor of the trained network, by its published name, float32
      optimizer.safetensors   the optimizer's state: NAME_OF_PARAMETER/exp_avg ...
      ema.safetensors         averages of the trainable weights, if they are on
      state.json              step, place in the stream, scaler; the sizes of the files above. Written last

Tensors are whole, whatever shared them out among the ranks: a run that was saved with FSDP or DeepSpeed by eight ranks
goes on in one process. Nothing is pickled. Random numbers need no state (randomness.py), nor does the learning rate
(optimizer.py). A checkpoint has a temporary name until it is complete.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lipforge.model.weights.convert import apart
from lipforge.train.loop.run_folder import CHECKPOINTS

_PREFIX = "step-"
_NAME = re.compile(rf"{_PREFIX}\d{{8}}")
_TEMPORARY = ".tmp-"
_STATE = "state.json"
_NETWORK, _OPTIMIZER, _EMA = "network.safetensors", "optimizer.safetensors", "ema.safetensors"


@dataclass(frozen=True)
class Generated:
    """What one validation by generated video found."""

    step: int
    clips: str
    """Hash of all that must stay the same for numbers to be comparable: clips, steps of denoising, judge."""
    num_clips: int
    """That the judge can measure as they are."""
    sync: dict[str, float]
    """Sync confidence of the generated video with its own sound, by clip; without those that show no face."""
    picture: float | None
    """Mean distance of its pictures from the originals; None: a clip shows no face."""
    base: dict[str, float] = field(default_factory=dict)
    """As `sync`, of the base clips."""
    has_forgotten: bool = False
    """Of the base clips, more than the bound."""

    @property
    def mean_sync(self) -> float | None:
        """None: a clip shows no face."""
        return sum(self.sync.values()) / self.num_clips if len(self.sync) == self.num_clips else None


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    step: int
    """Optimizer steps made."""
    stream: dict[str, Any]
    """Place in the stream: `SampleStream.state_dict`."""
    scaler: dict[str, Any] = field(default_factory=dict)
    """State of the gradient scaler of fp16."""
    validation_losses: dict[int, float] = field(default_factory=dict)
    """By step, of the whole run."""
    unlogged: dict[str, Any] = field(default_factory=dict)
    """Sums of the losses since the last line of the log."""
    generated: list[Generated] = field(default_factory=list)
    """Validations by generated video, oldest first."""


@dataclass(frozen=True)
class Tensors:
    """Whole tensors on the CPU, by name."""

    network: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    ema: dict[str, Tensor]


def folder_of(run_dir: Path, step: int) -> Path:
    return run_dir / CHECKPOINTS / f"{_PREFIX}{step:08d}"


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix(_PREFIX))


def checkpoints(run_dir: Path) -> list[Path]:
    """Folders of complete checkpoints, oldest first."""
    folders = (run_dir / CHECKPOINTS).glob(f"{_PREFIX}*")
    return sorted(path for path in folders if _NAME.fullmatch(path.name) and path.is_dir())


def save(run_dir: Path, progress: Progress, tensors: Tensors) -> Path:
    """Write a checkpoint; it appears complete or not at all. Raises OSError."""
    folder = folder_of(run_dir, progress.step)
    temporary = folder.with_name(f"{_TEMPORARY}{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        sizes = {}
        for name, values in ((_NETWORK, tensors.network), (_OPTIMIZER, tensors.optimizer), (_EMA, tensors.ema)):
            if values:
                sizes[name] = write_tensors(temporary / name, values)
        state = json.dumps({**asdict(progress), "sizes": sizes}, indent=2)
        (temporary / _STATE).write_text(state + "\n")
        _flush(temporary / _STATE)
        os.rename(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return folder


def write_tensors(path: Path, values: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> int:
    """Write a file of safetensors and flush it to disk; returns its size in bytes. Raises OSError."""
    try:
        save_file(apart(values), path, metadata)
        path.chmod(0o644)  # the library's files are for their owner alone
    except SafetensorError as error:
        raise OSError(f"cannot write {path}: {error}") from error
    return _flush(path)


def _flush(path: Path) -> int:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_size


def rotate(run_dir: Path, keep_last: int, keep_best: int, ranking: Sequence[int]) -> None:
    """Delete checkpoints but the newest and the best, and what killed saves left. ranking: steps, the best first."""
    folders = checkpoints(run_dir)
    steps = [step_of(folder) for folder in folders]
    kept = {*steps[-keep_last:], *[step for step in ranking if step in steps][:keep_best]}
    gone = [folder for folder, step in zip(folders, steps, strict=True) if step not in kept]
    for folder in (*gone, *(run_dir / CHECKPOINTS).glob(f"{_TEMPORARY}*")):
        shutil.rmtree(folder, ignore_errors=True)


def load_progress(folder: Path) -> Progress:
    """Raises ValueError when the checkpoint is not whole."""
    try:
        state = json.loads((folder / _STATE).read_text())
        sizes = state.pop("sizes")
        losses = {int(step): loss for step, loss in state.pop("validation_losses").items()}
        generated = [Generated(**found) for found in state.pop("generated", [])]  # older checkpoints have none
        progress = Progress(**state, validation_losses=losses, generated=generated)
        if not isinstance(progress.step, int) or progress.step < 0 or not isinstance(sizes, dict):
            raise ValueError(f"step {progress.step!r}, sizes {sizes!r}")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(_damaged(folder, f"{_STATE}: {error}")) from error
    for name, size in sizes.items():
        found = (folder / name).stat().st_size if (folder / name).is_file() else 0
        if found != size:
            raise ValueError(_damaged(folder, f"{name} has {found} bytes of {size}"))
    return progress


def load_tensors(folder: Path) -> Tensors:
    """Raises ValueError when a file is damaged."""
    return Tensors(*(_read(folder, name) for name in (_NETWORK, _OPTIMIZER, _EMA)))


def load_weights(folder: Path) -> dict[str, Tensor]:
    """The network's tensors, with averages in the place of what they are of. Raises ValueError as `load_tensors`."""
    return _read(folder, _NETWORK) | _read(folder, _EMA)


def _read(folder: Path, name: str) -> dict[str, Tensor]:
    if not (folder / name).exists():
        return {}
    try:
        return load_file(folder / name)
    except (OSError, SafetensorError) as error:
        raise ValueError(_damaged(folder, f"{name}: {error}")) from error


def _damaged(folder: Path, detail: str) -> str:
    older = [path for path in checkpoints(folder.parents[1]) if path < folder]
    then = f"the run then goes on after step {step_of(older[-1])}" if older else "the run then begins anew"
    return f"checkpoint {folder} is damaged ({detail}): delete it; {then}"
