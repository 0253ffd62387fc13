"""State of a dataset: from its manifest if the last run finished, else from the summary that the run keeps writing."""

import contextlib
import json
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from lipforge.datasets_manifest.display import counted
from lipforge.datasets_manifest.durations import human_time
from lipforge.datasets_manifest.generations import last_generation
from lipforge.datasets_manifest.manifest import read_manifest
from lipforge.datasets_manifest.schema import Status
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.ledger.records import DatasetError
from lipforge.pipeline.publish.accounts import Totals


@dataclass(frozen=True)
class State:
    words: str
    seconds_kept: float
    seconds_by_reason: dict[str, float]
    seconds_left: float | None
    """None unless a run is in progress."""
    clips_by_outcome: dict[str, int] = field(default_factory=dict)
    is_of_run: bool = False
    """Seconds are those of a run that has not ended, and not of all the dataset."""


def read_status(dataset: str) -> State:
    """Raises DatasetError when no run was started in this folder."""
    store = Store(dataset)
    run = last_run(store)
    if run is None:
        raise DatasetError(f"{dataset} has no runs: is it the --out folder of `lipforge prepare`?")
    units = f"{run['num_units_done']:,} of {counted(run['num_units'], 'unit')}"
    if run["finished_at"] is not None:
        kept, by_reason, clips = _sums(store)
        words = (
            f"finished {run['finished_at']} after {human_time(run['wall_s'])}; "
            f"{counted(run['num_sources'], 'source')} in the last run"
        )
        undone = len({error["source_uri"] for error in run.get("storage_errors", [])})
        if undone:
            words += f"; {counted(undone, 'source is', 'sources are')} not done, because the storage failed: "
            words += "run the same `lipforge prepare` again"
        return State(words, kept, by_reason, None, clips)
    left = None
    words = f"running since {run['started_at']} ({run['phase']}): {run.get('words') or units}"
    if not store.is_being_written():
        words = (
            f"stopped before its end ({run['phase']}): {units} done and safe. "
            "Run the same `lipforge prepare` again to continue."
        )
    else:
        left = run.get("seconds_left")
    return State(words, run["seconds_kept"], run["seconds_by_reason"], left, is_of_run=True)


def last_run(store: Store) -> dict[str, Any] | None:
    """The summary of the last run; see running/summary.py."""
    for folder in reversed(store.folders("runs")):
        with contextlib.suppress(FileNotFoundError):
            return json.loads(store.read(f"runs/{folder}/summary.json"))
    return None


def _sums(store: Store) -> tuple[float, dict[str, float], dict[str, int]]:
    """Seconds kept, seconds by reason, rows by outcome: as the manifest in force says, else counted."""
    generation = last_generation(store)
    if generation is not None and "outcome" in generation.about:
        totals = Totals.from_json(generation.about["outcome"])
        by_reason = dict(totals.seconds_by_outcome)
        return by_reason.pop("kept", 0.0), by_reason, totals.clips_by_outcome
    return _counted(read_manifest(store.root, columns=["status", "reason", "accounted_s"]))


def _counted(rows: pa.Table) -> tuple[float, dict[str, float], dict[str, int]]:
    groups = (
        rows.group_by(["status", "reason"]).aggregate([("accounted_s", "sum"), ("accounted_s", "count")]).to_pylist()
    )
    kept, by_reason, clips = 0.0, {}, {}
    for group in groups:
        seconds, outcome = group["accounted_s_sum"] or 0.0, group["reason"]
        if group["status"] == Status.KEPT:
            outcome = "kept"
            kept += seconds
        else:
            by_reason[outcome] = by_reason.get(outcome, 0.0) + seconds
        clips[outcome] = clips.get(outcome, 0) + group["accounted_s_count"]
    return kept, by_reason, clips
