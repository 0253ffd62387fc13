"""Ranks stay in step: what happens to one of them is known to all before the next collective operation.

A rank that raised alone would leave the others waiting for it. So errors of the data, requests to stop and losses that
are not finite are exchanged, and all ranks act on them at the same place.
"""

import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import FrameType
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

T = TypeVar("T")


class TrainingError(Exception):
    """Training cannot go on; the message says why and what to do. Raised on all ranks alike."""


class Together:
    """One per process. Collective: all ranks call the same methods in the same order."""

    def __init__(self, accelerator: Accelerator, mixed_precision: str = "no") -> None:
        """mixed_precision: no, bf16 or fp16."""
        self.accelerator = accelerator
        self._half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(mixed_precision)
        self.signal: int | None = None
        """A signal that asked this process to save and exit."""
        self.is_ending = False
        """All ranks know that the run ends here."""

    def listen(self) -> None:
        """Take SIGTERM (Slurm, spot machines) and Ctrl-C as a request to save and exit; a second Ctrl-C ends at once.

        SIGTERM may come twice, from a launcher and from a scheduler.
        """
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number

    def autocast(self) -> AbstractContextManager[Any]:
        """Half precision where it is safe, as the run was told; the same for every strategy."""
        return nullcontext() if self._half is None else torch.autocast(self.accelerator.device.type, self._half)

    def leave(self) -> None:
        """End together: a rank that left early would make the others fail."""
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()

    def stop_requested(self) -> int | None:
        """The signal that any rank got, the same answer on all ranks."""
        found = int(self._maximum(torch.tensor([self.signal or 0])).item())
        return found or None

    def do(self, work: Callable[[], T], *expected: type[Exception]) -> T:
        """What `work` returns on this rank. If it raises one of `expected` on any rank, all ranks raise.

        That one raises its own error, the others TrainingError with the same words.
        """
        caught, result = None, None
        try:
            result = work()
        except expected as error:
            caught = error
        try:
            self.agree("" if caught is None else _own_words(caught))
        except TrainingError:
            if caught is not None:
                raise caught from None
            raise
        return result  # type: ignore[return-value]

    def agree(self, problem: str) -> None:
        """Raise TrainingError on all ranks when any of them has a problem; empty: none."""
        if not self._maximum(torch.tensor([int(bool(problem))])).item():
            return
        problems = [words for words in gather_object([problem]) if words]
        self.is_ending = True
        raise TrainingError("; ".join(dict.fromkeys(problems)))

    def total(self, values: Tensor) -> Tensor:
        """Sum over all ranks."""
        return self.accelerator.reduce(values, "sum")  # type: ignore[return-value]

    def _maximum(self, values: Tensor) -> Tensor:
        values = values.to(self.accelerator.device)
        if self.accelerator.num_processes > 1:
            torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MAX)
        return values


def _own_words(error: Exception) -> str:
    """An error that a DataLoader worker raised comes with its traceback as text: the last line is its own."""
    words = str(error)
    if not words.startswith("Caught "):
        return words
    return words.strip().splitlines()[-1].partition(": ")[2]
