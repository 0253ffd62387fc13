"""What a run did: kept in runs/<run_id>/summary.json while it goes on, and at its end."""

import datetime
import os
import platform
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

PACKAGES = ("lipforge", "av", "opencv-python", "ray", "scenedetect", "ai-edge-litert", "onnxruntime", "torch", "numpy")


@dataclass
class Summary:
    """What a run did: written to runs/<run_id>/summary.json while it goes on and at its end."""

    run_id: str
    started_at: str
    finished_at: str | None = None
    wall_s: float = 0.0
    phase: str = "probe"
    num_sources: int = 0
    num_units: int = 0
    num_units_done: int = 0
    num_workers: int = 0
    seconds_total: float = 0.0
    """Of all sources in the dataset, once the run is done."""
    seconds_in: float = 0.0
    """Of the units of this run's sources."""
    seconds_done: float = 0.0
    seconds_kept: float = 0.0
    seconds_by_reason: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What a person should know: folders that cannot be read, labels that differ."""
    stage_cpu_s: dict[str, float] = field(default_factory=dict)
    config_hash: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    def as_record(self) -> dict[str, Any]:
        stages = [{"name": name, "cpu_s": round(cpu_s, 3)} for name, cpu_s in self.stage_cpu_s.items()]
        return {**self.__dict__, "stages": stages}


def new_run_id() -> str:
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    return f"{stamp}-{os.getpid()}"


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
