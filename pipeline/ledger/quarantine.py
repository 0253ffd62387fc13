"""Units that take their worker down: count attempts, tell crashes from kills, give up in time.

An attempt is recorded before its unit starts. A native crash or a timeout leaves a trace file on the machine, written
by Python's faulthandler; a killed process leaves none. So a unit that crashes is given up after few attempts, while one
whose worker was killed, by a person or for lack of memory, gets more.
"""

import contextlib
import faulthandler
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lipforge.datasets_manifest.schema import Reason
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.config import RunConfig


class GivenUp(Exception):
    """The unit used up its attempts."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class Quarantine:
    """Guards the work on units within one run. Attempts of earlier runs do not count: why they ended is unknown."""

    def __init__(self, store: Store, config: RunConfig, run_id: str) -> None:
        self.store = store
        self.config = config
        self.run_id = run_id

    @contextlib.contextmanager
    def attempt(self, unit_id: str, operator: str) -> Iterator[int]:
        """Run a block as one attempt; gives its number, from 1. Raises GivenUp instead of a hopeless attempt.

        The process ends when the block takes longer than unit_timeout_s.
        """
        folder = f"runs/{self.run_id}/attempts/{unit_id}/{operator}"
        number = len(self.store.list(folder)) + 1
        traces = [self._read_trace(unit_id, operator, n) for n in range(1, number)]
        self._check(traces)
        self.store.write(f"{folder}/{number:03d}", b"")
        trace_path = self._trace_path(unit_id, operator, number)
        trace_path.parent.mkdir(parents=True, exist_ok=True)
        with open(trace_path, "wb") as trace:
            faulthandler.enable(trace)
            faulthandler.dump_traceback_later(self.config.unit_timeout_s, exit=True, file=trace)
            try:
                yield number
            finally:
                faulthandler.cancel_dump_traceback_later()
                faulthandler.disable()
        trace_path.unlink(missing_ok=True)

    def _check(self, traces: list[str]) -> None:
        written = [trace for trace in traces if trace]
        if len(written) >= self.config.max_attempts:
            where = f"in {len(written)} attempts; {_where(written[-1])}"
            if written[-1].startswith("Timeout"):
                raise GivenUp(Reason.TIMEOUT, f"not done within {self.config.unit_timeout_s:g} s {where}")
            detail = f"{written[-1].splitlines()[0]} {where}"
            raise GivenUp(Reason.WORKER_CRASHED, detail)
        if len(traces) >= self.config.max_kills:
            raise GivenUp(Reason.WORKER_CRASHED, f"the worker vanished without a trace in {len(traces)} attempts")

    def _trace_path(self, unit_id: str, operator: str, number: int) -> Path:
        return Path(tempfile.gettempdir()) / f"lipforge-{os.getuid()}" / self.run_id / f"{unit_id}-{operator}-{number}"

    def _read_trace(self, unit_id: str, operator: str, number: int) -> str:
        try:
            return self._trace_path(unit_id, operator, number).read_text(errors="replace").strip()
        except OSError:
            return ""


def _where(trace: str) -> str:
    """The innermost line that a traceback shows, without its folder."""
    for line in trace.splitlines():
        if line.strip().startswith("File "):
            path, _, rest = line.strip().removeprefix('File "').partition('"')
            return f"at {os.path.basename(path)}{rest}"
    return "no traceback"
