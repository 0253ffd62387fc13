"""Run work in one other process, so that a native crash ends that process and not the run.

The process is a new interpreter: a forked one would wait in vain for the threads of its parent's pools (torch, OpenCV).
"""

import ctypes
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from lipforge.pipeline.ledger.quarantine import DEATHS
from lipforge.pipeline.ledger.records import DatasetError

MAX_DEATHS = 50
"""Of the process, on one item. The quarantine gives up on items long before; this limits one that cannot even start."""
PR_SET_PDEATHSIG = 1
_START = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this process
from lipforge.pipeline.running.child import serve
serve(int(sys.argv[1]), int(sys.argv[2]))
"""


class Child:
    """A process that makes workers and calls them for one item at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._made: dict[int, Callable[[], Any]] = {}
        """What the process has made its workers with."""
        self._make: Callable[[], Callable[[Any], Any]] | None = None
        self._item: Any = None
        self._deaths = 0
        """Of the process, on this item."""

    def begin(self, make: Callable[[], Callable[[Any], Any]], item: Any) -> None:
        """Begin worker(item), where worker = make(), made in the process once."""
        self._make, self._item, self._deaths = make, item, 0
        self._ask()

    def result(self, timeout_s: float) -> tuple[Any, int] | None:
        """(worker(item), attempts); None while it is not done. Raises what the worker raises.

        An item whose process dies is tried again in a new one.
        """
        assert self._connection is not None and self._make is not None
        try:
            if not self._connection.poll(timeout_s):
                return None
            kind, value = self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._died()
            return None
        if kind == "error":
            raise value
        self._made[id(self._make)] = self._make
        return value, self._deaths + 1

    def _ask(self) -> None:
        if self._process is None:
            self._start()
        assert self._connection is not None
        known = id(self._make) in self._made
        try:
            self._connection.send((id(self._make), None if known else self._make, self._item, self._deaths))
        except (BrokenPipeError, ConnectionResetError):
            self._died()

    def _died(self) -> None:
        self.close()
        self._deaths += 1
        if self._deaths == MAX_DEATHS:
            raise DatasetError(
                f"the worker process died {MAX_DEATHS} times in a row. Something ends it from outside: is there memory "
                "for it (about 2 GB)? The system's log (`dmesg`) says what was killed."
            )
        self._ask()

    def _start(self) -> None:
        self._connection, theirs = Pipe()
        command = [sys.executable, "-c", _START, str(theirs.fileno()), str(os.getpid())]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),), env=environment
        )
        theirs.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self._made = {}


def serve(descriptor: int, parent_id: int) -> None:
    """What the process does until its parent closes the connection."""
    if sys.platform == "linux":  # end with the parent, also when that is killed
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_id:
            return
    connection: Connection = Connection(descriptor)
    workers: dict[int, Callable[[Any], Any]] = {}
    while True:
        try:
            name, make, item, deaths = connection.recv()
        except EOFError:
            return
        try:
            DEATHS.set(deaths)
            if name not in workers:
                workers[name] = make()
            answer = ("value", workers[name](item))
        except DatasetError as error:
            answer = ("error", error)
        except Exception:  # noqa: BLE001 - a bug, which the parent raises; not every class survives being sent
            answer = ("error", RuntimeError(traceback.format_exc()))
        connection.send(answer)
