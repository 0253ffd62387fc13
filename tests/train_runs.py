"""Small training runs for tests: a selection of coded clips, and what a run leaves."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
from safetensors.torch import load_file
from torch import Tensor

from tests.stream_clips import coded_dataset, select

CLIP_FRAMES = 40
OFF = "generate.num_clips=0"
"""Coded clips show no face that could get a new mouth."""
SPEED = ["num_frames=5", "num_steps=4", "save_every=2", "validate_every=2", "num_validation_samples=2"]
"""Settings that make a run of a tiny preset a matter of a second."""


def coded_selection(folder: Path, num_train: int = 8, num_val: int = 2, num_frames: int = CLIP_FRAMES) -> str:
    """Path of a selection: clips of 128 px, the last ones in the val split, two languages, two clips a speaker."""
    rows = coded_dataset(folder / "dataset", [num_train, num_val], num_frames)
    table = rows.to_pylist()
    for number, row in enumerate(table):
        row["split"] = "train" if number < num_train else "val"
        row["speaker"], row["language"] = f"speaker {number // 2}", ("de", "en")[number % 2]
    return select(folder / "selection.parquet", pa.Table.from_pylist(table, rows.schema))


def settings(selection: str, run_dir: Path, *more: str, preset: str = "tiny_stage1") -> list[str]:
    """Arguments of a trainer."""
    speed = SPEED if "syncnet" in preset else [*SPEED, OFF]
    return ["--config", preset, "--set", f"selection={selection}", f"run_dir={run_dir}", *speed, *more]


def losses(run_dir: Path) -> dict[int, dict[str, Any]]:
    """The losses of each logged step of training, by step; nothing that depends on the machine's speed."""
    found = {}
    for line in (run_dir / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        if "loss" in row:
            assert row["step"] not in found, "a step is there twice"
            found[row["step"]] = {
                name: row[name] for name in ("loss", "noise", "lpips", "trepa", "sync") if name in row
            }
    return found


def model_hash(run_dir: Path) -> str:
    (path,) = (run_dir / "model").glob("*.safetensors")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def model_tensors(run_dir: Path) -> dict[str, Tensor]:
    (path,) = (run_dir / "model").glob("*.safetensors")
    return load_file(path)


def largest_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)
