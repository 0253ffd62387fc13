"""Run work in one forked process, so that a native crash ends that process and not the run."""

import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from lipforge.pipeline.ledger.records import DatasetError

MAX_DEATHS = 50
"""Of the process, on one item. The quarantine gives up on items long before; this limits one that cannot even start."""
PR_SET_PDEATHSIG = 1


class Child:
    """A process that makes a worker once and then calls it for one item at a time."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]]) -> None:
        """make: run in the process. Nothing is pickled on the way there, since it is forked."""
        self.make = make
        self._process: Any = None
        self._connection: Connection | None = None

    def map(self, items: list[Any]) -> Iterator[Any]:
        """worker(item) for each, in order. An item whose process dies is tried again in a new one."""
        for item in items:
            for _ in range(MAX_DEATHS):
                answer = self._ask(item)
                if answer is not None:
                    break
            else:
                code = self._process.exitcode
                raise DatasetError(
                    f"the worker process died {MAX_DEATHS} times in a row, the last time with code {code}"
                )
            kind, value = answer
            if kind == "error":
                raise value
            yield value

    def _ask(self, item: Any) -> tuple[str, Any] | None:
        """("value", result) or ("error", exception); None when the process died."""
        if self._process is None or not self._process.is_alive():
            self._start()
        assert self._connection is not None and self._process is not None
        try:
            self._connection.send(item)
            return self._connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join()
            return None

    def _start(self) -> None:
        self.close()
        context = multiprocessing.get_context("fork")
        self._connection, theirs = context.Pipe()
        arguments = (self.make, theirs, self._connection, os.getpid())
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        sys.stdout.flush()
        sys.stderr.flush()
        self._process.start()
        theirs.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            self._process.terminate()
            self._process.join()
            self._process = None


def _serve(
    make: Callable[[], Callable[[Any], Any]], connection: Connection, parents_end: Connection, parent_id: int
) -> None:
    parents_end.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":  # end with the parent, also when that is killed: it holds the dataset's lock
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_id:
            return
    worker = None
    while True:
        try:
            item = connection.recv()
        except EOFError:
            return
        try:
            worker = worker or make()
            answer = ("value", worker(item))
        except Exception as error:  # noqa: BLE001 - the parent raises it
            error.add_note("".join(traceback.format_exception(error)))
            answer = ("error", error)
        try:
            connection.send(answer)
        except (pickle.PicklingError, TypeError, AttributeError):
            connection.send(("error", RuntimeError(f"an answer that cannot be sent: {answer!r}")))
