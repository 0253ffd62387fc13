"""The commands of the data pipeline, as `lipforge ...` and as `python -m pipeline ...`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import lipforge
from lipforge.pipeline.models_cli import app as models_app

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Raw talking-head video in, train-ready shards out; and new lips for a video: `infer`, `app`.",
)
app.add_typer(models_app, name="models")

console = Console(emoji=False)
errors = Console(stderr=True, emoji=False)


def say(text: str, style: str | None = None) -> None:
    """Print a line as it is: no markup, no colours of rich's own, not wrapped."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


Dataset = Annotated[str, typer.Argument(metavar="DATASET", help="A dataset made by `lipforge prepare`.")]


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


@app.command()
def prepare(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="VIDEOS...",
            help="Files, folders (searched recursively), globs, fsspec URLs, or lists of them: .txt, .csv, .jsonl or "
            ".parquet with `uri` and optionally `language`, `speaker`, `start_s`, `end_s`.",
        ),
    ],
    out: Annotated[str, typer.Option(help="Dataset folder. An existing one with the same settings is continued.")],
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
    workers: Annotated[int | None, typer.Option(help="Pairs of workers; default: one per CPU of the cluster.")] = None,
    executor: Annotated[
        str | None, typer.Option(help="`ray` (default) or `local`: one source at a time, without Ray.")
    ] = None,
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed", help="Try again what crashed, timed out or could not be decoded before."),
    ] = False,
) -> None:
    """Turn raw talking-head video into shards, a manifest and a report.

    Stop it at any time: the same command continues and ends with the same bytes. Sources are only read.
    DATASET/manifest accounts for every second of them, with the reason where it was not kept.

    Examples:

        lipforge prepare videos/ --out dataset --language en

        lipforge prepare list.csv --out dataset --set align.resolution=512

        ray job submit --working-dir . -- python -m pipeline prepare s3://bucket/raw --out s3://bucket/dataset
    """
    from lipforge.datasets_manifest.report.page import write_report
    from lipforge.pipeline.config import PrepareConfig
    from lipforge.pipeline.config_loader import load_config
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
        summary = run_prepare(
            inputs, out, settings, labels, Progress(console, settings.run.executor == "ray"), retry_failed
        )
        report = write_report(out)
        _print_summary(summary, out, report)
        if not summary.seconds_total or not summary.is_complete:
            raise typer.Exit(1)


def _print_summary(summary, out: str, report: str) -> None:
    from lipforge.datasets_manifest.durations import human_time
    from lipforge.pipeline.running.progress import outcome_table

    console.print()
    console.print(outcome_table(summary.seconds_kept, summary.seconds_by_reason, summary.clips_by_outcome))
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
def pack(
    dataset: Dataset,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="THRESHOLD=VALUE", help="A threshold, for example min_quality=50. Can be repeated."
        ),
    ] = None,
    shard_size_mb: Annotated[float | None, typer.Option(help="Largest size of new shards, in 10^6 bytes.")] = None,
) -> None:
    """Apply new thresholds to a dataset. Nothing is measured again.

    A looser threshold moves clips from parts/ into new shards. A stricter one rewrites the shards with clips that no
    longer pass, and moves these clips to parts/. Thresholds: min_speech_ratio, max_av_offset_frames, and
    min_sync_confidence and min_quality on the scale of the dataset's models.
    """
    from lipforge.datasets_manifest.report.page import write_report
    from lipforge.pipeline.maintain import repack
    from lipforge.pipeline.running.progress import outcome_table

    with plain_errors():
        thresholds, totals = repack(dataset, list(set_ or []), shard_size_mb)
        outcome = dict(totals.seconds_by_outcome)
        say(f"thresholds: {thresholds.words()}")
        console.print(outcome_table(outcome.pop("kept", 0.0), outcome, totals.clips_by_outcome))
        say(f"report: {write_report(dataset)}")


@app.command()
def identify_languages(
    dataset: Dataset,
    whisper: Annotated[
        str,
        typer.Option(
            help="`tiny`, `base` or `small`, after `lipforge models fetch whisper`, or the path of a multilingual "
            "checkpoint of openai-whisper."
        ),
    ] = "tiny",
    workers: Annotated[int | None, typer.Option(help="Workers; default: one per CPU of the cluster.")] = None,
    executor: Annotated[
        str | None, typer.Option(help="`ray` (default) or `local`: all in this process, for debugging.")
    ] = None,
) -> None:
    """Identify the spoken language of each source without a label.

    Whisper gives every clip with speech a vote, kept or not, and most votes win. Languages that you gave stay. Only the
    manifest is rewritten, no shard. Stop it at any time: the same command continues.
    """
    from rich.progress import Progress as Bars

    from lipforge.pipeline.config import PrepareConfig
    from lipforge.pipeline.config_loader import load_config
    from lipforge.pipeline.maintain import identify_languages as run_identify

    with plain_errors():
        overrides = [f"run.workers={workers}"] if workers is not None else []
        overrides += [f"run.executor={executor}"] if executor is not None else []
        with Bars(console=console, transient=True, disable=not console.is_terminal) as bars:
            bar = bars.add_task("identify languages", total=None)

            def show(done: int, total: int) -> None:
                bars.update(bar, completed=done, total=total)

            found = run_identify(dataset, whisper, load_config(PrepareConfig, None, overrides).run, show)
        for language, sources in sorted(found.items(), key=lambda item: (-item[1], item[0])):
            say(f"{language}: {sources} sources")
        if not found:
            console.print("every source with clips has a label")


@app.command()
def export(
    selection: Annotated[str, typer.Argument(metavar="SELECTION", help="A selection, from `lipforge select --out`.")],
    out: Annotated[str, typer.Option(help="An empty or new folder, or an fsspec URL.")],
    as_: Annotated[
        str, typer.Option("--as", help="`dataset`, or `files`: MP4s with their sound, and lists of them.")
    ] = "dataset",
    shard_size_mb: Annotated[
        float | None, typer.Option(help="Largest size of a shard of a dataset, in 10^6 bytes. Default: 512.")
    ] = None,
) -> None:
    """Copy the clips of a selection into a dataset of its own, to share; or into files for another trainer.

    Every sample is verified and copied, from one or more datasets. A dataset gets shards, a manifest of these clips,
    the selection with its splits (selection.parquet), and a record of where they came from. With `--as files` the
    trainers of LatentSync, Wav2Lip and MuseTalk can read the folder: its README.txt says how. Stop it at any time:
    the same command continues.

    Examples:

        lipforge select dataset --language zh --hours 20 --out zh20.parquet && lipforge export zh20.parquet --out zh20

        lipforge export zh20.parquet --out zh20-files --as files
    """
    from rich.progress import Progress as Bars

    from lipforge.pipeline.publish.export import SELECTION_NAME
    from lipforge.pipeline.publish.export import export as run_export
    from lipforge.pipeline.publish.export_files import export_files

    with plain_errors():
        if as_ not in ("dataset", "files"):
            raise ValueError(f"--as {as_}: expected dataset or files")
        if as_ == "files" and shard_size_mb is not None:
            raise ValueError("--shard-size-mb is for a dataset: --as files makes no shards")
        with Bars(console=console, transient=True, disable=not console.is_terminal) as bars:
            bar = bars.add_task("copy clips", total=None)

            def show(done: int, total: int) -> None:
                bars.update(bar, completed=done, total=total)

            if as_ == "files":
                made = export_files(selection, out, show)
                shards, where = "", f"how trainers read it: {out}/README.txt"
            else:
                made = run_export(selection, out, 512.0 if shard_size_mb is None else shard_size_mb, show)
                shards, where = f"{made.shards} shards, ", f"selection: {out}/{SELECTION_NAME}"
        say(f"{out}: {made.clips} clips, {made.hours:.2f} hours, {shards}{made.size_bytes / 1e6:.1f} MB in total")
        say(where)


@app.command()
def prune(dataset: Dataset, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Delete the media of clips that a threshold refused. A still of each stays for the report.

    Their rows and measures stay, but a looser threshold can no longer bring them back.
    """
    from lipforge.datasets_manifest.storage.store import Store
    from lipforge.pipeline.maintain import prune as run_prune
    from lipforge.pipeline.publish.prune import find_prunable

    with plain_errors():
        found = find_prunable(Store(dataset))
        if not found.parts and not found.posters:
            console.print("nothing to prune")
            return
        counts = {"the media of {} refused clips": len(found.parts), "{} stills of kept clips": len(found.posters)}
        what = " and ".join(words.format(count) for words, count in counts.items() if count)
        if not yes:
            typer.confirm(f"Delete {what} ({found.size_bytes / 1e6:.1f} MB)?", abort=True)
        run_prune(dataset)
        console.print(f"deleted {what}: {found.size_bytes / 1e6:.1f} MB freed")


@app.command()
def status(dataset: Dataset) -> None:
    """Show the state of a dataset: of the current run, or of the last one."""
    from lipforge.datasets_manifest.durations import human_time
    from lipforge.pipeline.running.progress import outcome_table
    from lipforge.pipeline.running.status import read_status

    with plain_errors():
        state = read_status(dataset)
        say(state.words)
        console.print(outcome_table(state.seconds_kept, state.seconds_by_reason, state.clips_by_outcome))
        if state.seconds_left is not None:
            console.print(f"about {human_time(state.seconds_left)} left")


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
    out: Annotated[Path | None, typer.Option(help="Where to write; default: the last run's folder.")] = None,
) -> None:
    """Write the HTML report: how many seconds were kept or lost and why, with examples."""
    from lipforge.datasets_manifest.report.page import write_report

    with plain_errors():
        say(write_report(dataset, out))


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
    app(prog_name="lipforge")
