"""What `lipforge prepare --estimate` does at the terminal."""

import shlex
import sys

import typer

from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.estimate.page import print_page
from lipforge.pipeline.estimate.run import estimate
from lipforge.pipeline.running.progress_line import ProgressLine
from lipforge.pipeline.sources.inputs import Labels
from lipforge.pipeline.terminal import STOPPED, console, errors

FLAG = "--estimate"


def print_estimate(
    inputs: list[str], out: str | None, config: PrepareConfig, labels: Labels, retry_failed: bool
) -> None:
    """Ends with exit code 1 where `prepare` would: no source has any video, or storage failed."""
    try:
        with ProgressLine(console) as line:
            found = estimate(inputs, out, config, labels, line, retry_failed)
    except KeyboardInterrupt as error:
        errors.print("lipforge: stopped. Nothing was written.", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(STOPPED) from error
    print_page(console, found, run_command(sys.argv[1:], out))
    if not found.has_video or found.population.unread or found.sample.undone:
        raise typer.Exit(1)


def run_command(arguments: list[str], out: str | None) -> str:
    """The command line that does what was estimated. arguments: of this one."""
    named = [] if out is not None else ["--out", "DATASET"]
    return shlex.join(["lipforge", *(argument for argument in arguments if argument != FLAG), *named])
