"""What the commands share: how they print, and how errors become messages and exit codes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console

console = Console(emoji=False)
errors = Console(stderr=True, emoji=False)


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
    from lipforge.datasets_manifest.storage.store import CANNOT_WRITE
    from lipforge.datasets_manifest.storage.trouble import UnreadableError
    from lipforge.model.weights.load import ModelFileError
    from lipforge.pipeline.ledger.records import DatasetError

    try:
        yield
    except (DatasetError, FileNotFoundError, ModelFileError, UnreadableError) as error:
        errors.print(f"lipforge: {error}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    except ValueError as error:
        errors.print(f"lipforge: {error}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error
    except NotADirectoryError as error:
        errors.print(f"lipforge: a file is where a folder is needed: {error.filename}", markup=False, soft_wrap=True)
        raise typer.Exit(1) from error
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        where = f" ({error.filename})" if error.filename else ""
        words = f"cannot write: {error.strerror}{where}. Finished work is safe; run the same command again."
        errors.print(f"lipforge: {words}", markup=False, soft_wrap=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        errors.print("lipforge: stopped. Finished work is safe; the same command continues from here.")
        raise typer.Exit(130) from error
