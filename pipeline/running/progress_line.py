"""One line that shows how far a command is: a bar on a terminal, a line of text now and then in a log."""

import time

from rich import progress as rich_progress
from rich.console import Console

from lipforge.datasets_manifest.durations import human_time

SAY_EVERY_S = 30.0
"""Between lines where nobody watches."""


class ProgressLine:
    """Use it in a `with`; call `show` as often as you like."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said_at_s = time.monotonic()
        self._bar = rich_progress.Progress(
            rich_progress.TextColumn("{task.description}", markup=False),
            rich_progress.BarColumn(),
            rich_progress.TextColumn("{task.fields[left]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("begin", total=None, left="")

    def __enter__(self) -> "ProgressLine":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, what: str, done: float, total: float, so_far: str, left_s: float | None) -> None:
        """what: is being done; so_far: `done` of `total` in words; left_s: None while unknown."""
        words = so_far if left_s is None else f"{so_far}, {human_time(left_s)} left"
        if self._console.is_terminal:
            self._bar.update(self._task, description=what, completed=done, total=total, left=words)
        elif time.monotonic() > self._said_at_s + SAY_EVERY_S:
            self._said_at_s = time.monotonic()
            self._console.print(f"{what}: {words}", markup=False, highlight=False, soft_wrap=True)
