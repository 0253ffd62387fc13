"""The local executor's child process, forked from a process that has made its imports: it starts in a moment.

It dies, hangs and is killed as the real one; only the start of the interpreter and the imports are saved. The process
that forks has no threads, so nothing in the new one waits for them.
"""

import importlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from typing import Any

from lipforge.pipeline.running import child

_START = "import sys; from tests.ready_child import serve_forks; serve_forks(int(sys.argv[1]), sys.argv[2:])"
_FORK = b"fork"


@contextmanager
def ready_children(*modules: str) -> Iterator[type[child.Child]]:
    """A class in the place of `Child`. modules: that its processes need."""
    ours, theirs = socket.socketpair()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    command = [sys.executable, "-c", _START, str(theirs.fileno()), *modules]
    with ours, subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment) as process:
        theirs.close()

        class ReadyChild(child.Child):
            def _start(self) -> None:
                self._connection, other_end = Pipe()
                forked: Any = _Forked(ours, other_end.fileno())
                self._process = forked
                other_end.close()

        yield ReadyChild
        ours.close()
        process.wait()


class _Forked:
    """What `Child` asks of its process."""

    def __init__(self, forks: socket.socket, descriptor: int) -> None:
        socket.send_fds(forks, [_FORK], [descriptor])
        self._forks, self._id = forks, forks.recv(64)

    def kill(self) -> None:
        self._forks.send(self._id)
        self._forks.recv(64)

    def wait(self) -> None:
        """`kill` has waited for its end."""


def serve_forks(descriptor: int, modules: list[str]) -> None:
    """Fork on request, and kill on request, until the other end of the socket is closed."""
    for module in modules:
        importlib.import_module(module)
    with socket.socket(fileno=descriptor) as requests:
        while True:
            words, descriptors, _, _ = socket.recv_fds(requests, 64, 1)
            if not words:
                return
            if words == _FORK:
                process_id = os.fork()
                if process_id == 0:
                    requests.close()
                    child.serve(descriptors[0], os.getppid())
                    os._exit(0)
                os.close(descriptors[0])
            else:
                process_id = int(words)
                os.kill(process_id, signal.SIGKILL)  # it may have ended, but nobody waited for it: the id is still its
                os.waitpid(process_id, 0)
            requests.send(str(process_id).encode())
