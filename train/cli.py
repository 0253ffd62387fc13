"""The commands `lipforge train ...`: look at a run, and plan its memory. Trainers are programs of their own."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Training runs: how one stands, and how much memory one takes.",
)
console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)


@app.command()
def status(run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="The run_dir of a training run.")]) -> None:
    """How a run stands: steps, losses, speed, checkpoints, validation, and the command that goes on with it.

    Reads files alone, so it works while the run trains, and on another machine that sees its folder.

    Example:

        lipforge train status runs/zh20
    """
    from lipforge.train.status import read_status, status_lines

    try:
        found = read_status(run_dir)
    except ValueError as error:
        errors.print(f"lipforge: {error}")
        raise typer.Exit(2) from error
    for line in status_lines(found):
        console.print(line)
