"""Units that take their worker down: tell crashes from kills, give up in time.

Whoever hands out work counts the workers that died of it (`DEATHS`). A native crash or a timeout leaves a trace file on
the machine, written by Python's faulthandler or by the stall watch; a killed process leaves none. So a unit that
crashes is given up after few attempts, while one whose worker was killed, by a person or for lack of memory, gets more.
A trace that ends in a read of the source blames its storage.
"""

import contextlib
import faulthandler
import os
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import IO

from lipforge.datasets_manifest.schema import Reason
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.config import RunConfig

STALL_CPU_S = 0.02
"""A thread that used less than this within stall_timeout_s is waiting for something that does not come."""
_TRACE = ".trace"
READING = 'source_file.py"'
"""In a trace: the source was being read."""


DEATHS: ContextVar[int] = ContextVar("DEATHS", default=0)
"""Workers that died during the task at hand, in this run: whoever calls a worker sets it."""


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
    def attempt(self, unit_id: str, operator: str, more_s: float = 0.0) -> Iterator[int]:
        """Run a block as one attempt; gives its number, from 1. Raises GivenUp instead of a hopeless attempt.

        The process ends when the block takes longer than unit_timeout_s + more_s, or waits for stall_timeout_s.
        """
        limit_s = self.config.unit_timeout_s + more_s
        number = DEATHS.get() + 1
        if number > 1:
            traces = self._traces(unit_id)
            own = [trace for (of, _), trace in traces.items() if of == operator]
            self._check(own, number - 1 - len(traces), limit_s)
        trace_path = _traces(self.run_id) / f"{unit_id}~{operator}~{number:03d}{_TRACE}"
        trace_path.parent.mkdir(parents=True, exist_ok=True)
        with open(trace_path, "wb") as trace:
            faulthandler.enable(trace)
            faulthandler.dump_traceback_later(limit_s, exit=True, file=trace)
            try:
                with _stall_watch(self.config.stall_timeout_s, trace):
                    yield number
            finally:
                faulthandler.cancel_dump_traceback_later()
                faulthandler.disable()
        trace_path.unlink(missing_ok=True)

    def _check(self, written: list[str], kills: int, limit_s: float) -> None:
        if len(written) >= self.config.max_attempts:
            trace = written[-1]
            where = f"in {len(written)} attempts; {_where(trace)}"
            if trace.startswith(("Timeout", "Stalled")):
                stalled = trace.startswith("Stalled")
                what = f"waiting for {self.config.stall_timeout_s:g} s" if stalled else f"not done within {limit_s:g} s"
                is_reading = READING in _block(trace)
                raise GivenUp(Reason.STORAGE_ERROR if is_reading else Reason.TIMEOUT, f"{what} {where}")
            raise GivenUp(Reason.WORKER_CRASHED, f"{trace.splitlines()[0]} {where}")
        if kills >= self.config.max_kills:
            raise GivenUp(Reason.WORKER_CRASHED, f"the worker vanished without a trace in {kills} attempts")

    def _traces(self, unit_id: str) -> dict[tuple[str, str], str]:
        """By (operator, attempt): of those that ended here or, as `store_traces` ran there, on another machine."""
        found: dict[tuple[str, str], bytes] = {}
        for path in _traces(self.run_id).glob(f"{unit_id}~*{_TRACE}"):
            _, operator, attempt = path.name.split("~")
            with contextlib.suppress(OSError):
                found[operator, attempt] = path.read_bytes()
        for name in self.store.list(f"runs/{self.run_id}/attempts/{unit_id}"):
            *_, operator, attempt = name.split("/")
            found[operator, attempt] = self.store.read(name)
        texts = {key: data.decode(errors="replace").strip() for key, data in sorted(found.items())}
        return {key: text for key, text in texts.items() if text}


def _traces(run_id: str) -> Path:
    """Where workers of this machine write traces."""
    return Path(tempfile.gettempdir()) / f"lipforge-{os.getuid()}" / run_id


def store_traces(store: Store, run_id: str) -> None:
    """Put traces of workers that died on this machine where workers on others find them."""
    for path in _traces(run_id).glob(f"*{_TRACE}"):
        trace = path.read_bytes()
        if trace:  # attempts under way have empty ones
            store.write(f"runs/{run_id}/attempts/{path.name.replace('~', '/')}", trace)
            path.unlink()


def clear_traces(run_id: str) -> None:
    """Delete what a run's workers left on this machine."""
    shutil.rmtree(_traces(run_id), ignore_errors=True)


def clear_attempts(store: Store, run_id: str) -> None:
    """Delete what is known of the deaths in a run that is over."""
    store.delete_folder(f"runs/{run_id}/attempts")


@contextlib.contextmanager
def _stall_watch(stall_s: float, trace: IO[bytes]) -> Iterator[None]:
    """End the process, with a trace, when the calling thread waits for stall_s, as in a read that never returns."""
    thread_id = threading.get_ident()
    clock = time.pthread_getcpuclockid(thread_id)
    done = threading.Event()

    def watch() -> None:
        moved_s, since_s = time.clock_gettime(clock), time.monotonic()
        while not done.wait(min(1.0, stall_s / 4)):
            cpu_s = time.clock_gettime(clock)
            if cpu_s - moved_s > STALL_CPU_S:
                moved_s, since_s = cpu_s, time.monotonic()
            elif time.monotonic() - since_s > stall_s:
                stack = traceback.extract_stack(sys._current_frames()[thread_id])
                lines = [f'  File "{frame.filename}", line {frame.lineno} in {frame.name}' for frame in reversed(stack)]
                trace.write("\n".join(["Stalled", *lines]).encode(errors="replace"))
                trace.flush()
                os._exit(1)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _where(trace: str) -> str:
    """The innermost line that a traceback shows, without its folder."""
    for line in _block(trace).splitlines():
        if line.strip().startswith("File "):
            path, _, rest = line.strip().removeprefix('File "').partition('"')
            return f"at {os.path.basename(path)}{rest}"
    return "no traceback"


def _block(trace: str) -> str:
    """Of a trace of several threads, that of the thread that crashed, or of the work: it is the oldest, so the last."""
    current = trace.partition("Current thread ")[2]
    return current or trace.rpartition("Thread 0x")[2]
