"""Training runs of one or more processes on this machine, for tests: what torchrun would start, without its imports.

Processes come from a fork server that has imported the trainers once, so each starts in a moment.
"""

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

_PRELOADED = ["tests.ranks_preloaded"]


@dataclass(frozen=True)
class Ended:
    """How the ranks of a run ended."""

    exit_codes: list[int | None]
    """None: it had to be killed, because it hung."""
    words: str
    """What all ranks wrote."""


class Ranks:
    """A run in progress."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        folder: Path,
        num_ranks: int = 1,
        environment: Mapping[str, str] | None = None,
        before: Callable[[int], None] | None = None,
    ) -> None:
        """module: `stage1`, ... folder: for the output of the processes. before: called in each, with its rank."""
        context = _context()
        port = _free_port()
        folder.mkdir(exist_ok=True)
        self.logs = [folder / f"rank{rank}.log" for rank in range(num_ranks)]
        self.processes: list[ForkServerProcess] = []
        for rank, path in enumerate(self.logs):
            variables = dict(environment or {}) | {"OMP_NUM_THREADS": "1"}
            if num_ranks > 1:
                variables |= {
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(num_ranks),
                    "LOCAL_WORLD_SIZE": str(num_ranks),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                }
            process = context.Process(
                target=_main, args=(f"lipforge.train.{module}", list(arguments), str(path), variables, before, rank)
            )
            process.start()
            self.processes.append(process)

    def signal(self, number: signal.Signals) -> None:
        for process in self.processes:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, number)

    def wait(self, timeout_s: float = 120.0) -> Ended:
        codes: list[int | None] = []
        for process in self.processes:
            process.join(timeout_s)
            codes.append(process.exitcode)
            if process.is_alive():
                process.kill()
                process.join()
        return Ended(codes, "".join(path.read_text() for path in self.logs))


def run_ranks(
    module: str,
    arguments: Sequence[str],
    folder: Path,
    num_ranks: int = 1,
    environment: Mapping[str, str] | None = None,
    before: Callable[[int], None] | None = None,
) -> Ended:
    """Run to the end. Arguments as those of `Ranks`."""
    return Ranks(module, arguments, folder, num_ranks, environment, before).wait()


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def _main(
    module: str,
    arguments: list[str],
    log: str,
    variables: dict[str, str],
    before: Callable[[int], None] | None,
    rank: int,
) -> None:
    import runpy

    import torch

    multiprocessing.set_start_method("fork", force=True)  # as in a process that a launcher starts: for loader workers
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(variables)
    torch.set_num_threads(1)
    if before is not None:
        before(rank)
    sys.argv = [module, *arguments]
    sys.modules.pop(module, None)  # runpy runs it as __main__
    runpy.run_module(module, run_name="__main__", alter_sys=True)
