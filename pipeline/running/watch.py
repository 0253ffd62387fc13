"""Stop a run in which so much fails that the data is not to blame."""

from collections import deque
from collections.abc import Mapping
from typing import Any

from lipforge.datasets_manifest.schema import Reason
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.ledger.parts import part_name
from lipforge.pipeline.ledger.records import DatasetError
from lipforge.pipeline.running.workers import Job, Record, Undone

BROKEN = (Reason.WORKER_CRASHED, Reason.TIMEOUT, Reason.INTERNAL_ERROR)
"""Reasons of units that took their worker down, or met a bug."""
FEWEST_BROKEN = 5
"""So many units must fail before their share counts."""
RECENT_UNITS = 40
"""The share of units that cannot be decoded is taken over so many."""


def failed_for(record: Mapping[str, Any], reasons: tuple[Reason, ...]) -> bool:
    """Whether a unit has a row with one of these reasons."""
    return any(row.get("reason") in reasons for row in record["rows"])


class UnitWatch:
    """Raises DatasetError when so many units fail that the data is not to blame."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._watch = Watch(job.config, "units")
        self._recent: deque[tuple[str, bool]] = deque(maxlen=RECENT_UNITS)

    def count(self, outcome: Record | Undone) -> None:
        self._watch.count(isinstance(outcome, Undone) or failed_for(outcome, BROKEN))
        if not isinstance(outcome, Undone):
            self._recent.append((outcome["unit_id"], failed_for(outcome, (Reason.DECODE_ERROR,))))
        damaged = [unit_id for unit_id, is_damaged in self._recent if is_damaged]
        most = self._job.config.run.max_decode_error_ratio * RECENT_UNITS
        if len(self._recent) == RECENT_UNITS and len(damaged) > most:
            self._job.store.delete_all([part_name(unit_id) for unit_id in damaged])
            raise DatasetError(
                f"{len(damaged)} of the last {RECENT_UNITS} units cannot be decoded: check the storage that the "
                "sources are on. The next run does these units again. If the files are damaged, "
                "`--set run.max_decode_error_ratio=1` lets it go on."
            )


class Watch:
    """Counts what failed for reasons that are rarely the data's. Raises DatasetError when the share is high."""

    def __init__(self, config: PrepareConfig, what: str) -> None:
        self.config = config.run
        self.what = what
        self.total = self.failed = 0

    def count(self, failed: bool) -> None:
        self.total += 1
        self.failed += failed
        if self.failed >= FEWEST_BROKEN and self.failed > self.config.max_failed_ratio * self.total:
            raise DatasetError(
                f"{self.failed} of {self.total} {self.what} crashed their worker, ran out of time, met a bug or could "
                "not be read from their storage: this is not the data's fault. Finished work is safe; `lipforge "
                "explain` shows where, and the same command continues. `run.max_failed_ratio` is the limit."
            )
