"""The commands of the data pipeline, as `lipforge ...` and as `python -m pipeline ...`."""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

import lipforge
from lipforge.pipeline.change_cli import app as change_app
from lipforge.pipeline.models_cli import app as models_app
from lipforge.pipeline.terminal import STOPPED, Dataset, console, plain_errors, say, say_lost_shards

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Raw talking-head video in, train-ready shards out; and new lips for a video: `infer`, `app`.",
)
app.add_typer(models_app, name="models")
app.add_typer(change_app)


@app.command()
def prepare(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="VIDEOS...",
            help="Files, folders (searched recursively), globs, fsspec URLs, or lists of them: .txt, .csv, .jsonl or "
            ".parquet with `source_uri` and optionally `language`, `speaker`, `start_s`, `end_s`.",
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            help="Dataset folder. An existing one with the same settings is continued. Required without --estimate.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with settings; see `lipforge config`.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.FIELD=VALUE", help="Change one setting. Can be repeated."),
    ] = None,
    models: Annotated[
        str | None,
        typer.Option(
            help="`builtin` (default), or `latentsync`: the published models with their thresholds, after "
            "`lipforge models fetch latentsync`."
        ),
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="Language of sources that no list or path labels: en, zh, pt-BR.")
    ] = None,
    speaker: Annotated[str | None, typer.Option(help="Speaker of sources that no list or path labels.")] = None,
    path_template: Annotated[
        str | None,
        typer.Option(help="Read labels from the folders above each file, for example `{language}/{speaker}/`."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Workers. Those without room on the cluster wait, so that an autoscaler adds nodes. "
            "Default: as many as have room."
        ),
    ] = None,
    executor: Annotated[
        str | None, typer.Option(help="`ray` (default) or `local`: one source at a time, without Ray.")
    ] = None,
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed", help="Try again what crashed, timed out or could not be decoded before."),
    ] = False,
    estimate: Annotated[
        bool,
        typer.Option(
            "--estimate",
            help="Write nothing. Process a small sample, for about a minute, and say what the run would give and cost: "
            "hours, clips, losses by reason, CPU and wall time, memory, disk. With --out DATASET: what is left to do.",
        ),
    ] = False,
) -> None:
    """Turn raw talking-head video into shards, a manifest and a report.

    Stop it at any time: the same command continues and ends with the same bytes. Sources are only read.
    DATASET/manifest accounts for every second of them, with the reason where it was not kept.

    Examples:

        lipforge prepare videos/ --out dataset --language en

        lipforge prepare videos/ --estimate

        lipforge prepare list.csv --out dataset --set align.resolution=512

        ray job submit --working-dir . -- python -m pipeline prepare s3://bucket/raw --out s3://bucket/dataset
    """
    from lipforge.datasets_manifest.report.page import report_after
    from lipforge.pipeline.config import PrepareConfig
    from lipforge.pipeline.config_loader import load_config
    from lipforge.pipeline.estimate.command import print_estimate
    from lipforge.pipeline.run import prepare as run_prepare
    from lipforge.pipeline.running.progress import Progress
    from lipforge.pipeline.sources.inputs import Labels

    with plain_errors():
        overrides = list(set_ or [])
        overrides += [f"models={models}"] if models is not None else []
        overrides += [f"run.workers={workers}"] if workers is not None else []
        overrides += [f"run.executor={executor}"] if executor is not None else []
        settings = load_config(PrepareConfig, config, overrides)
        labels = Labels(language, speaker, path_template)
        if estimate:
            print_estimate(inputs, out, settings, labels, retry_failed)
            return
        if out is None:
            raise ValueError("name the dataset's folder with --out, or add --estimate to see what a run would give")
        summary = run_prepare(
            inputs, out, settings, labels, Progress(console, settings.run.executor == "ray"), retry_failed
        )
        report = report_after(out)
        _print_summary(summary, out, report)
        is_lost = say_lost_shards(out)
        if not summary.seconds_total or not summary.is_complete or is_lost:
            raise typer.Exit(1)


def _print_summary(summary, out: str, report: str) -> None:
    from lipforge.datasets_manifest.durations import human_time
    from lipforge.pipeline.running.progress import outcome_table

    console.print()
    added = summary.seconds_added
    console.print(outcome_table(summary.seconds_kept, summary.seconds_by_reason, summary.clips_by_outcome, added))
    for note in [*summary.notes, *summary.losses()]:
        say(note, style="yellow")
    if summary.seconds_done:
        slowest = max(summary.stage_cpu_s, key=lambda name: summary.stage_cpu_s[name])
        total = sum(summary.stage_cpu_s.values())
        per_second = total / summary.seconds_done
        share = f"{summary.stage_cpu_s[slowest] / total:.0%} of {per_second:.2f} CPU seconds per second of video"
        console.print(
            f"\nslowest stage: {slowest}, {share}; this run took {human_time(summary.wall_s)}", soft_wrap=True
        )
    say(f"shards and manifest: {out}")
    say(f"report: {report}")


@app.command()
def status(dataset: Dataset) -> None:
    """Show the state of a dataset: of the current run, or of the last one."""
    from lipforge.datasets_manifest.durations import human_time
    from lipforge.pipeline.running.progress import outcome_table
    from lipforge.pipeline.running.status import read_status

    with plain_errors():
        state = read_status(dataset)
        say(state.words)
        if state.is_of_run:
            say("this run, so far:")
        console.print(outcome_table(state.seconds_kept, state.seconds_by_reason, state.clips_by_outcome))
        if state.seconds_left is not None:
            console.print(f"about {human_time(state.seconds_left)} left")
        say_lost_shards(dataset)


@app.command()
def explain(
    dataset: Dataset,
    what: Annotated[
        str,
        typer.Argument(metavar="KEY|SOURCE", help="A clip's key, or a source: its path, file name or content hash."),
    ],
) -> None:
    """Explain what happened to one clip or source."""
    from lipforge.pipeline.running.explain import explain as story

    with plain_errors():
        for line in story(dataset, what):
            say(line)


@app.command()
def report(
    dataset: Dataset,
    out: Annotated[Path | None, typer.Option(help="Where to write; default: DATASET/report.html.")] = None,
) -> None:
    """Write the HTML report: clips to look at and play, how many seconds were kept or lost, and why.

    Media that are not small go into a folder beside it: report_media, or NAME_media for --out NAME.html.
    """
    from lipforge.datasets_manifest.report.page import write_report

    with plain_errors():
        say(write_report(dataset, out))
        say_lost_shards(dataset)


@app.command(name="config")
def show_config() -> None:
    """Print all settings with defaults and descriptions, as YAML for `--config`."""
    from lipforge.pipeline.config import PrepareConfig
    from lipforge.pipeline.config_loader import describe

    say(describe(PrepareConfig))


def _print_version(wanted: bool) -> None:
    if wanted:
        console.print(f"lipforge {lipforge.__version__}", markup=False, highlight=False)
        raise typer.Exit


@app.callback()
def lipforge_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    # A path may hold any bytes: print what cannot be encoded as escapes instead of failing on it.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        app(prog_name="lipforge")
    except SystemExit as ended:
        if ended.code == STOPPED:  # Ctrl-C pressed again would only fill the screen while Ray ends
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise
