"""The result of an evaluation, as REPORT/report.json and REPORT/clips.parquet hold it.

report.json has what is said of the whole; clips.parquet has one row a video. Readers refuse other formats.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 1
REPORT_JSON, CLIPS_PARQUET, PAGE = "report.json", "clips.parquet", "report.html"
ALL = "all"
"""Name of the group of all clips."""
MEASURED, UNMEASURED, FAILED = "measured", "not measured", "failed"
"""Status of a video: judged; nobody is seen in it; the file cannot be used."""


@dataclass(frozen=True)
class Number:
    """One metric of one group of clips."""

    metric: str
    group: str
    """`all`, `language=hi`, `speaker=anna`."""
    n: int
    """Clips measured; for metrics of a set, clips or windows that went in."""
    value: float | None
    """Mean over the clips. None: nothing was measured."""
    low: float | None = None
    """95 % bootstrap interval. None: it takes two clips."""
    high: float | None = None
    unmeasured: dict[str, int] = field(default_factory=dict)
    """Clips without this number, by reason in words."""


@dataclass(frozen=True)
class ModelUsed:
    """A network that judged."""

    name: str
    sha256: str
    licence: str
    of: list[str]
    """Names of metrics."""


@dataclass(frozen=True)
class Missing:
    """Metrics that this machine could not measure."""

    metrics: list[str]
    why: str
    how: str
    """The command that changes it."""


@dataclass(frozen=True)
class Evaluation:
    """All that one run of `lipforge evaluate` found."""

    made: str
    """UTC, ISO 8601."""
    command: str
    lipforge: str
    videos: str
    reference: str | None
    model: str | None
    """The model that drew the videos, when this run made them; with its hash."""
    seed: int
    resamples: int
    """Of the bootstrap."""
    num_videos: int
    numbers: list[Number]
    models: list[ModelUsed]
    missing: list[Missing]
    notes: list[str] = field(default_factory=list)
    """What else a reader should know, in sentences."""
    format: int = FORMAT


class EvaluateError(Exception):
    """The request cannot be met; the message says why and what to do."""


def write_evaluation(folder: Path, found: Evaluation) -> None:
    """Write REPORT/report.json, whole or not at all."""
    path = folder / REPORT_JSON
    temporary = path.with_name(f".tmp-{path.name}")
    temporary.write_text(json.dumps(dataclasses.asdict(found), indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def read_evaluation(folder: Path) -> Evaluation:
    """Raises EvaluateError for a folder without a report, one of another format, and one that is damaged."""
    path = folder / REPORT_JSON if folder.is_dir() else folder
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = content["format"]
    except FileNotFoundError as error:
        raise EvaluateError(f"no report at {path}: `lipforge evaluate VIDEOS --out {folder}` makes one") from error
    except (KeyError, TypeError, ValueError) as error:
        raise EvaluateError(f"{path} is not a report of `lipforge evaluate`, or is damaged: {error}") from error
    if found != FORMAT:
        raise EvaluateError(
            f"{path} has format {found}, and this version of lipforge reads {FORMAT}: evaluate those videos again"
        )
    try:
        return Evaluation(
            **{
                **content,
                "numbers": [Number(**row) for row in content["numbers"]],
                "models": [ModelUsed(**row) for row in content["models"]],
                "missing": [Missing(**row) for row in content["missing"]],
            }
        )
    except (KeyError, TypeError) as error:
        raise EvaluateError(f"{path} is not a report of `lipforge evaluate`, or is damaged: {error}") from error
