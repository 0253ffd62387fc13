"""The command `lipforge evaluate`."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from lipforge.pipeline.running.progress_line import ProgressLine
from lipforge.pipeline.terminal import console, errors, plain_errors, say

if TYPE_CHECKING:  # they import torch
    from lipforge.pipeline.evaluate.result import Evaluation
    from lipforge.pipeline.evaluate.run import Progress

app = typer.Typer()
_WIDTH = 140
_OTHERS, _LABELS, _REPORT = "What they are compared with", "Labels", "The report"


@app.command()
def evaluate(
    videos: Annotated[
        list[str],
        typer.Argument(
            metavar="VIDEOS...",
            help="Files, folders (searched recursively), globs, or lists of them. With --model: the originals.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the report: new, empty, or one that was stopped.")],
    reference: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_OTHERS,
            help="The originals: a folder with the same names below it, whatever their extensions. Pictures are "
            "compared frame by frame, each face cut out where the original's is.",
        ),
    ] = None,
    silent: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_OTHERS,
            help="The same videos, drawn by the same model from a silent sound; by name. Does the mouth stay shut?",
        ),
    ] = None,
    foreign: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_OTHERS,
            help="The same videos, drawn from the sound of another clip; by name. How much of the old mouth is left?",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_OTHERS,
            help="A model, as `lipforge infer --model` takes it. It draws VIDEOS with their own sound, with silence "
            "and with the next clip's sound into REPORT/videos, and those are judged.",
        ),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=_LABELS, metavar="language|speaker", help="Numbers for each, too. Can be repeated."
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(rich_help_panel=_LABELS, help="CSV with the columns file, and language, speaker or both."),
    ] = None,
    path_template: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_LABELS,
            help="Read labels from the folders above each file, for example `{language}/{speaker}/`.",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_REPORT, help="Folder of another report: which differences are real, clip by clip."
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option(rich_help_panel=_REPORT, help="How much of each video is judged, from its beginning.")
    ] = 10.0,
    device: Annotated[
        str, typer.Option(rich_help_panel=_REPORT, metavar="cpu|cuda", help="Where networks run: cpu or cuda.")
    ] = "cpu",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", rich_help_panel=_REPORT, help="Replace a report that exists.")
    ] = False,
) -> None:
    """Judge talking videos: lip-sync, picture, mouth, steadiness, and what a single number hides.

    One face of each video is judged. OUT gets report.html (one page, open it in a browser), report.json and
    clips.parquet (one row a video). Whatever cannot be measured is counted with its reason. Stop it at any time: the
    same command goes on from there. docs/evaluation.md says what each number means.

    Examples:

        lipforge evaluate generated/ --reference originals/ --out report

        lipforge evaluate generated/ --reference originals/ --silent mute/ --foreign other-sound/ --out report

        lipforge evaluate originals/ --model runs/a/model --by language --labels labels.csv --out report-a

        lipforge evaluate originals/ --model runs/b/model --against report-a --out report-b
    """
    with plain_errors(), _evaluate_errors():
        from lipforge.pipeline.evaluate.result import FAILED, PAGE
        from lipforge.pipeline.evaluate.run import Request
        from lipforge.pipeline.evaluate.run import evaluate as run_evaluate

        if device not in ("cpu", "cuda"):
            raise ValueError(f"--device {device}: expected cpu or cuda")
        request = Request(
            videos=tuple(videos),
            out=str(out),
            reference=reference,
            silent=silent,
            foreign=foreign,
            model=model,
            by=tuple(dict.fromkeys(by or ())),
            labels=labels,
            path_template=path_template,
            against=against,
            seconds=seconds,
            device=device,
            overwrite=overwrite,
            command=shlex.join(["lipforge", *sys.argv[1:]]),
        )
        with ProgressLine(errors) as line:
            found, rows = run_evaluate(request, partial(_show, line))
        _print(found, rows)
        if against is not None:
            _print_differences(found, rows, against)
        say(f"report: {out / PAGE}")
        if any(row["status"] == FAILED or row["lost"] for row in rows):
            raise typer.Exit(1)


def _show(line: ProgressLine, progress: "Progress") -> None:
    so_far = f"{int(progress.done)} of {progress.total}"
    line.show(progress.what, progress.done, progress.total, so_far, progress.left_s)


@contextmanager
def _evaluate_errors() -> Iterator[None]:
    """What inputs, outputs and models cannot do becomes one sentence and exit code 1."""
    from lipforge.pipeline.evaluate.result import EvaluateError
    from lipforge.pipeline.infer.request import InferError
    from lipforge.pipeline.media.source_file import StorageError

    try:
        yield
    except (EvaluateError, InferError, StorageError) as error:
        errors.print(f"lipforge: {error}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


def _print(found: "Evaluation", rows: list[dict[str, Any]]) -> None:
    from lipforge.pipeline.evaluate.metrics import METRICS
    from lipforge.pipeline.evaluate.result import ALL

    table = Table("metric", "value", "95 % interval", "clips", "better", box=None, pad_edge=False)
    for number in found.numbers:
        if number.group != ALL:
            continue
        metric = METRICS[number.metric]
        value = "-" if number.value is None else f"{number.value:.3f} {metric.unit}".rstrip()
        interval = "-" if number.low is None or number.high is None else f"{number.low:.3f} to {number.high:.3f}"
        table.add_row(metric.title, value, interval, str(number.n), str(metric.better))
    _print_table(table)
    for number in found.numbers:
        if number.group == ALL and number.unmeasured:
            words = ", ".join(f"{count} {reason}" for reason, count in sorted(number.unmeasured.items()))
            say(f"{METRICS[number.metric].title}: not measured: {words}", style="yellow")
    for missing in found.missing:
        say(f"{', '.join(missing.metrics)}: {missing.why}; get it with: {missing.how}", style="yellow")
    for note in found.notes:
        say(note)
    for row in rows:
        if row["status"] == "not measured":
            say(f"{row['video']}: {row['detail']}", style="yellow")


def _print_table(table: Table) -> None:
    """In a file or a pipe, lines are not broken at the 80 characters of a terminal that is not there."""
    (console if console.is_terminal else Console(width=_WIDTH)).print(table)


def _print_differences(found: "Evaluation", rows: list[dict[str, Any]], against: str) -> None:
    from lipforge.pipeline.evaluate.metrics import METRICS
    from lipforge.pipeline.evaluate.page.compare import compare
    from lipforge.pipeline.evaluate.page.verdicts import how, summary, verdict
    from lipforge.pipeline.evaluate.result import ALL
    from lipforge.pipeline.evaluate.run import read_against

    differences = compare(found, rows, *read_against(against), found.seed)
    table = Table("metric", "here", "there", "difference", "95 % interval", "verdict", box=None, pad_edge=False)
    for one in differences:
        if one.group != ALL or one.metric not in METRICS:
            continue
        here, there, apart = (
            "-" if value is None else f"{value:.3f}" for value in (one.value, one.other, one.difference)
        )
        interval = "-" if one.low is None or one.high is None else f"{one.low:.3f} to {one.high:.3f}"
        table.add_row(METRICS[one.metric].title, here, there, apart, interval, verdict(one)[1])
    say(f"\nagainst {against}:")
    _print_table(table)
    for sentence in (*summary(differences), *how(differences)):
        say(sentence)
