"""What the commands share: how they print, and how errors become messages and exit codes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, NoReturn

import typer
from rich.console import Console

console = Console(emoji=False)
errors = Console(stderr=True, emoji=False)
STOPPED = 130
"""Exit code after Ctrl-C, as shells have it."""


def say(text: str, style: str | None = None) -> None:
    """Print a line as it is: no markup, no colours of rich's own, not wrapped."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


Dataset = Annotated[str, typer.Argument(metavar="DATASET", help="A dataset made by `lipforge prepare`.")]


def say_lost_shards(dataset: str) -> bool:
    """Print which shards of a dataset are gone; whether any is."""
    from lipforge.datasets_manifest.lost import lost_shards

    lost = lost_shards(dataset)
    if lost is not None:
        say(f"warning: {lost}", style="yellow")
    return lost is not None


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar in a terminal while the block runs; gives a function to call with (done, total)."""
    from rich.progress import Progress as Bars

    with Bars(console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Expected errors become one message and exit code 1 (2 for wrong usage); bugs keep their traceback."""
    from lipforge.datasets_manifest.storage.trouble import CANNOT_WRITE, UnreadableError, system_words
    from lipforge.model.weights.load import ModelFileError
    from lipforge.pipeline.ledger.records import DatasetError

    try:
        yield
    except (DatasetError, ModelFileError, UnreadableError) as error:
        _fail(str(error), 1, error)
    except ValueError as error:
        _fail(str(error), 2, error)
    except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
        _fail(system_words(error), 1, error)
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        _fail(f"{system_words(error)}. Finished work is safe; run the same command again.", 1, error)
    except KeyboardInterrupt as error:
        _fail("stopped. Finished work is safe; the same command continues from here.", STOPPED, error)


def _fail(message: str, code: int, error: BaseException) -> NoReturn:
    errors.print(f"lipforge: {message}", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(code) from error
