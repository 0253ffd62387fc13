"""Units that take their worker down with them: count attempts, tell crashes from kills, give up in time.

Before a unit starts, its attempt is written down. A native crash or a deadline leaves a trace file on the machine (Python's faulthandler
writes it from outside the interpreter); a process that is killed leaves none. So a unit that crashes is given up after few attempts, while
one that was merely hit by somebody's `kill` or the kernel's memory killer gets more.
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
    """Guards the work on units within one run. Attempts of earlier runs do not count: what ended those is not known."""

    def __init__(self, store: Store, config: RunConfig, run_id: str) -> None:
        self.store = store
        self.config = config
        self.run_id = run_id

    @contextlib.contextmanager
    def attempt(self, unit_id: str, operator: str) -> Iterator[int]:
        """Run a block as one attempt; gives its number, from 1. Raises GivenUp instead of a hopeless attempt.

        When the block takes longer than unit_timeout_s, the process ends.
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
        told = [trace for trace in traces if trace]
        if len(told) >= self.config.max_attempts:
            if told[-1].startswith("Timeout"):
                detail = f"not done within {self.config.unit_timeout_s:g} s in {len(told)} attempts; {_where(told[-1])}"
                raise GivenUp(Reason.TIMEOUT, detail)
            detail = f"{told[-1].splitlines()[0]} in {len(told)} attempts; {_where(told[-1])}"
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
    """The innermost line of our own or of a library that a traceback shows, without its folder."""
    for line in trace.splitlines():
        if line.strip().startswith("File "):
            path, _, rest = line.strip().removeprefix('File "').partition('"')
            return f"at {os.path.basename(path)}{rest}"
    return "no traceback"
