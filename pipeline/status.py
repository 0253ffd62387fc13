"""How a dataset stands, from the file that its newest run keeps writing."""

import json
from dataclasses import dataclass

from pipeline.ledger import DatasetError
from pipeline.storage import Store


@dataclass(frozen=True)
class State:
    words: str
    seconds_in: float
    seconds_kept: float
    seconds_by_reason: dict[str, float]
    seconds_left: float | None
    """None unless a run is in progress."""


def read_status(dataset: str) -> State:
    """Raises DatasetError when no run has begun in this folder."""
    store = Store(dataset)
    names = [name for name in store.list("runs") if name.endswith("/summary.json")]
    if not names:
        raise DatasetError(f"{dataset} has no runs: is it the --out folder of `lipforge prepare`?")
    summary = json.loads(store.read(names[-1]))
    done, total = summary["seconds_done"], summary["seconds_in"]
    running = summary["finished_at"] is None and _is_held(store)
    left = None
    if running and done > 0:
        left = (total - done) / done * summary["wall_s"]
    if summary["finished_at"] is not None:
        words = f"finished {summary['finished_at']} after {summary['wall_s']:.0f} s: {summary['num_sources']} sources"
    elif running:
        words = f"running since {summary['started_at']} ({summary['phase']}): {summary['num_units_done']} of {summary['num_units']} units"
    else:
        words = (
            f"stopped before its end ({summary['phase']}): {summary['num_units_done']} of {summary['num_units']} units are safe. "
            "Run the same `lipforge prepare` again to go on."
        )
    in_s = summary.get("seconds_total") or total
    return State(words, in_s, summary["seconds_kept"], summary["seconds_by_reason"], left)


def _is_held(store: Store) -> bool:
    """True when a writing command holds the dataset now. An object store cannot tell: False."""
    try:
        with store.only_writer():
            return False
    except BlockingIOError:
        return True
