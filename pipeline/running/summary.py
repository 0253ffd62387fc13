"""What a run did: saved in runs/<run_id>/summary.json while it runs, and at its end."""

import datetime
import os
import platform
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from lipforge.datasets_manifest.display import counted
from lipforge.datasets_manifest.durations import human_time
from lipforge.datasets_manifest.schema import Reason

PACKAGES = (
    "lipforge",
    "av",
    "opencv-python",
    "ray",
    "scenedetect",
    "ai-edge-litert",
    "insightface",
    "onnxruntime",
    "torch",
    "numpy",
)


@dataclass
class Summary:
    """`seconds_*` are seconds of video; `wall_s` is the time that the run took."""

    run_id: str
    started_at: str
    finished_at: str | None = None
    wall_s: float = 0.0
    phase: str = "probe"
    num_sources: int = 0
    num_unusable: int = 0
    num_units: int = 0
    num_units_done: int = 0
    num_workers: int = 0
    seconds_total: float = 0.0
    """Of all sources in the dataset, once the run is done."""
    seconds_before: float = 0.0
    """Of this run's sources, finished by earlier runs."""
    seconds_in: float = 0.0
    """To be processed by this run."""
    seconds_done: float = 0.0
    """Processed by this run."""
    seconds_left: float | None = None
    """Of time, by the speed of the last minutes; None while unknown."""
    words: str = ""
    """What the run shows of its progress."""
    seconds_kept: float = 0.0
    """During the run: of its sources, including earlier runs. Once it is done: of the dataset."""
    seconds_by_reason: dict[str, float] = field(default_factory=dict)
    """Like seconds_kept, for what was not kept."""
    seconds_added: dict[str, float] | None = None
    """Once the run is done: what it added to those of the manifest before, `kept` and by reason; negative where a
    verdict changed. None for the first manifest of a dataset."""
    clips_by_outcome: dict[str, int] = field(default_factory=dict)
    """Once the run is done: number of manifest rows that are `kept`, and of each reason."""
    notes: list[str] = field(default_factory=list)
    """For the user: folders that cannot be read, labels that differ."""
    storage_errors: list[dict[str, Any]] = field(default_factory=list)
    """Sources and units that were not done, because the storage of the source failed: source_uri, detail, seconds."""
    stage_cpu_s: dict[str, float] = field(default_factory=dict)
    """CPU seconds of this run."""
    config_hash: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether every source got its verdict: not so where storage failed, or a bug of ours."""
        return not self.losses()

    def losses(self) -> list[str]:
        """What the run could not do and why, one sentence each. Empty when it did all."""
        words = []
        if self.storage_errors:
            first = self.storage_errors[0]["detail"]
            seconds = sum(error["seconds"] for error in self.storage_errors)
            sources = len({error["source_uri"] for error in self.storage_errors})
            words.append(
                f"storage_error: {counted(sources, 'source')} ({human_time(seconds)}) not done, because the storage "
                f"failed or a file changed. The first: {first}. Once that is over, run the same command again."
            )
        bugs = self.clips_by_outcome.get(Reason.INTERNAL_ERROR, 0)
        if bugs:
            words.append(
                f"internal_error: {counted(bugs, 'span was', 'spans were')} lost to a bug in Lipforge. Please report "
                "it, with what `lipforge explain` says; `--retry-failed` tries them again."
            )
        return words

    def as_record(self) -> dict[str, Any]:
        stages = [{"name": name, "cpu_s": round(cpu_s, 3)} for name, cpu_s in self.stage_cpu_s.items()]
        plain = {name: value for name, value in self.__dict__.items() if name != "stage_cpu_s"}
        return {**plain, "stages": stages}


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
