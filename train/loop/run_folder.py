"""The folder of a run: who writes to it, its settings, and what it was made from.

RUN/config.yaml         the settings, resolved
RUN/facts.json          versions, hashes of selection and models
RUN/metrics.jsonl       a line a logged step          RUN/tensorboard/, RUN/pictures/
RUN/checkpoints/        step-00000100/ ...
RUN/model/              the newest weights, for inference      RUN/best/model/   the best ones
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import yaml

import lipforge
from lipforge.train.config import TrainerConfig

CONFIG, FACTS, METRICS, LOCK = "config.yaml", "facts.json", "metrics.jsonl", ".lock"
CHECKPOINTS, MODEL, PICTURES, TENSORBOARD = "checkpoints", "model", "pictures", "tensorboard"
BEST = "best/model"

_MAY_CHANGE = {
    *("selection", "run_dir", "features", "num_steps", "save_every", "validate_every", "log_every", "keep_last"),
    *("keep_best", "num_validation_samples", "batch_size", "gradient_accumulation_steps", "num_workers", "cache_dir"),
    *("cache_gb", "on_damage", "resume", "device", "mixed_precision", "gradient_checkpointing", "init"),
    *("init_differences", "compile", "channels_last", "vae", "audio_encoder", "lpips", "videomae", "losses"),
    *("generate", "early_stopping", "base_selection", "max_forgetting", "on_forgetting"),
}
"""Settings that a resumed run may change: what they name (selection, models) is compared by content, not by path."""
_OPTIMIZER_MAY_CHANGE = {"learning_rate", "schedule", "warmup_steps", "max_grad_norm", "weight_decay"}
_PACKAGES = ("torch", "accelerate", "diffusers", "numpy")


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """The run belongs to this command. Raises ValueError when another one has it, or when it is no run's folder."""
    if run_dir.exists() and not run_dir.is_dir():
        raise ValueError(f"run_dir {run_dir} is a file: give a folder")
    if run_dir.is_dir() and any(run_dir.iterdir()) and not (run_dir / LOCK).exists():
        raise ValueError(f"run_dir {run_dir} holds other files: a run needs a folder of its own")
    run_dir.mkdir(parents=True, exist_ok=True)
    with _held(run_dir):
        yield


@contextmanager
def _held(run_dir: Path) -> Iterator[IO[str]]:
    with open(run_dir / LOCK, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"another process trains in {run_dir} now: wait for it, stop it, or set another run_dir"
            ) from error
        yield file


def is_training(run_dir: Path) -> bool:
    """Whether a process holds the lock now. Writes nothing."""
    try:
        with open(run_dir / LOCK) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def write_config(run_dir: Path, config: TrainerConfig) -> None:
    write_whole(run_dir / CONFIG, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False).encode())


def check_config(run_dir: Path, config: TrainerConfig) -> None:
    """Raises ValueError when a run cannot go on with these settings. A new run: nothing to compare."""
    before = _papers(run_dir / CONFIG, yaml.safe_load)
    if before is None:
        return
    now = config.model_dump(mode="json")
    changed = [
        name for name in now if name not in _MAY_CHANGE and name != "optimizer" and before.get(name) != now[name]
    ]
    old, new = before.get("optimizer", {}), now["optimizer"]
    changed += [f"optimizer.{name}" for name in new if name not in _OPTIMIZER_MAY_CHANGE and old.get(name) != new[name]]
    if changed:
        words = ", ".join(f"{name} (was {_value(before, name)!r}, is {_value(now, name)!r})" for name in changed)
        raise ValueError(f"{run_dir} cannot go on with another {words}: set it as it was, or take another run_dir")


def _papers(path: Path, parse: Callable[[str], Any]) -> dict[str, Any] | None:
    """A mapping from a file of the run; None for a new run. Raises ValueError when it is damaged, or gone."""
    try:
        found = parse(path.read_text())
        if not isinstance(found, dict):
            raise ValueError(f"expected a mapping, found {type(found).__name__}")
        return found
    except FileNotFoundError:
        if not (path.parent / CHECKPOINTS).exists():
            return None
        detail = "gone"
    except (OSError, ValueError, yaml.YAMLError) as error:
        detail = f"damaged ({str(error).splitlines()[0]})"
    raise ValueError(f"{path} is {detail}: put it back from a copy, or take another run_dir")


def _value(tree: dict[str, Any], name: str) -> Any:
    section, _, leaf = name.rpartition(".")
    return (tree.get(section) or {}).get(leaf) if section else tree.get(leaf)


def check_facts(run_dir: Path, facts: dict[str, str]) -> None:
    """Raises ValueError when models of a resumed run are other files than before. facts: hash by name."""
    found = _papers(run_dir / FACTS, json.loads)
    before = {} if found is None else found.get("models", {})
    for name, sha256 in facts.items():
        if before.get(name, sha256) != sha256:
            raise ValueError(
                f"{run_dir} cannot go on with another {name}: its sha256 was {before[name][:16]}..., and is "
                f"{sha256[:16]}...: set the one it was begun with, or take another run_dir"
            )


def write_facts(run_dir: Path, models: dict[str, str], about: dict[str, Any]) -> None:
    """models: sha256 by name; about: what else made the run what it is (selection, ranks)."""
    facts = {
        "lipforge": lipforge.__version__,
        "packages": {name: version(name) for name in _PACKAGES},
        "models": models,
        **about,
    }
    write_whole(run_dir / FACTS, (json.dumps(facts, indent=2) + "\n").encode())


def write_whole(path: Path, content: bytes) -> None:
    """A file that appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{path.name}")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
