"""Commands on finished datasets: thresholds, labels, languages, export, tidying up."""

import shlex
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from lipforge.datasets_manifest.display import counted
from lipforge.pipeline.terminal import Dataset, console, plain_errors, progress_bar, say, say_lost_shards

if TYPE_CHECKING:  # it is read when a command needs it
    from lipforge.pipeline.config import RunConfig

app = typer.Typer()


def run_settings(workers: int | None, executor: str | None) -> "RunConfig":
    """How to distribute the work of a command. None: as `prepare` does. Raises ValueError."""
    from lipforge.pipeline.config import PrepareConfig
    from lipforge.pipeline.config_loader import load_config

    given = {"workers": workers, "executor": executor}
    return load_config(PrepareConfig, None, [f"run.{n}={value}" for n, value in given.items() if value is not None]).run


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
    """Apply new thresholds to a dataset. Nothing is measured again, and no shard is changed.

    Each time, a new manifest is put in force. A stricter threshold takes clips out of it; they stay in their shards. A
    looser one copies clips that come in into new shards. Selections keep working: they name their own clips.
    Thresholds: min_clip_s, max_outside_ratio, min_speech_ratio, max_av_offset_frames, max_av_drift_frames, and, on the
    scale of the dataset's models, min_sync_confidence, short_sync_factor and min_quality.
    """
    from lipforge.datasets_manifest.report.page import report_after
    from lipforge.pipeline.maintain import repack
    from lipforge.pipeline.running.progress import outcome_table

    with plain_errors():
        with progress_bar("write the manifest") as show:
            packed = repack(dataset, list(set_ or []), shard_size_mb, show)
        outcome = dict(packed.totals.seconds_by_outcome)
        say(f"thresholds: {packed.thresholds.words()}")
        console.print(outcome_table(outcome.pop("kept", 0.0), outcome, packed.totals.clips_by_outcome))
        if not packed.totals.clips_by_outcome.get("kept") and packed.totals.clips_by_outcome:
            say("warning: these thresholds keep no clip. None is lost: looser ones bring them back", style="yellow")
        if packed.is_unfinished:
            say(
                "note: the last run did not end, and what it has not sealed is not in this manifest: run the same "
                "`lipforge prepare` again",
                style="yellow",
            )
        _say_left_over(dataset, len(packed.left_over))
        say(f"report: {report_after(dataset)}")
        if say_lost_shards(dataset):
            raise typer.Exit(1)


def _say_left_over(dataset: str, num_shards: int) -> None:
    from lipforge.datasets_manifest.storage.store import Store

    if not num_shards:
        return
    if Store(dataset).is_local:
        say(f"deleted {counted(num_shards, 'shard')} that a stopped command left: nothing refers to them")
        return
    say(
        f"note: {counted(num_shards, 'shard is', 'shards are')} left from a stopped command. Whoever reads all of "
        f"shards/ sees their clips twice; once a day old, this deletes them: lipforge gc {shlex.quote(dataset)}",
        style="yellow",
    )


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
    gpus_per_worker: Annotated[
        float,
        typer.Option(
            min=0, help="GPUs that a worker reserves; 0.25: four workers share one; 0: Whisper runs on the CPU."
        ),
    ] = 0,
) -> None:
    """Identify the spoken language of each source without a label.

    Whisper gives every clip with speech a vote, kept or not, and most votes win. Languages that you gave stay. Only the
    manifest is rewritten, no shard. Stop it at any time: the same command continues.
    """
    from lipforge.pipeline.maintain import identify_languages as run_identify

    with plain_errors():
        with progress_bar("identify languages") as show:
            found = run_identify(dataset, whisper, run_settings(workers, executor), show, gpus_per_worker)
        for language, sources in sorted(found.sources.items(), key=lambda item: (-item[1], item[0])):
            say(f"{language}: {counted(sources, 'source')}")
        if not found.sources:
            console.print("every source with clips has a label")
        if found.missed_gpu:
            say("note: torch cannot use the workers' GPUs, so Whisper ran on the CPU: check torch.cuda there")


@app.command()
def identify_speakers(
    dataset: Dataset,
    workers: Annotated[int | None, typer.Option(help="Workers; default: one per CPU of the cluster.")] = None,
    executor: Annotated[
        str | None, typer.Option(help="`ray` (default) or `local`: all in this process, for debugging.")
    ] = None,
) -> None:
    """Name the speakers of sources without a label, by their voices.

    One person in several sources gets one name, `voice-...`; labels that you gave stay, and an unlabelled voice that
    sounds like one of them takes its name. After `lipforge models fetch voice`. Names stay when sources are added.
    docs/models/voices.md says how often this is right. Stop it at any time: the same command continues.
    """
    from lipforge.pipeline.maintain import name_speakers

    with plain_errors():
        with progress_bar("listen to voices") as show:
            found = name_speakers(dataset, run_settings(workers, executor), show)
        clips = counted(found.clips, "clip has", "clips have")
        say(f"{clips} a voice; {counted(found.voices, 'voice')} in the dataset")


@app.command()
def relabel(
    dataset: Dataset,
    list_file: Annotated[
        str | None,
        typer.Argument(metavar="[LIST]", help="A list of sources as `prepare` takes it, with `language` or `speaker`."),
    ] = None,
    path_template: Annotated[
        str | None,
        typer.Option(help="Read labels from the folders above each source, for example `{language}/{speaker}/`."),
    ] = None,
) -> None:
    """Change the language and speaker of sources that are in a dataset. No media is touched.

    What the list or the template does not label keeps its labels.

    Examples:

        lipforge relabel dataset labels.csv

        lipforge relabel dataset --path-template "{language}/{speaker}/"
    """
    from lipforge.pipeline.maintain import relabel as run_relabel

    with plain_errors():
        with progress_bar("write the manifest") as show:
            done = run_relabel(dataset, list_file, path_template, show)
        say(f"new labels for {counted(done.sources, 'source')}; {counted(done.others, 'keeps its own', 'keep theirs')}")
        if done.unknown:
            listed = counted(len(done.unknown), "entry", "entries")
            say(f"note: not in the dataset: {listed} of the list, for example {done.unknown[0]}", style="yellow")


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
    from lipforge.pipeline.maintain import export_as_files, export_dataset
    from lipforge.pipeline.publish.export import SELECTION_NAME

    with plain_errors():
        if as_ not in ("dataset", "files"):
            raise ValueError(f"--as {as_}: expected dataset or files")
        if as_ == "files" and shard_size_mb is not None:
            raise ValueError("--shard-size-mb is for a dataset: --as files makes no shards")
        with progress_bar("copy clips") as show:
            if as_ == "files":
                made = export_as_files(selection, out, show)
                shards, where = "", f"how trainers read it: {out}/README.txt"
            else:
                made = export_dataset(selection, out, 512.0 if shard_size_mb is None else shard_size_mb, show)
                shards, where = f"{counted(made.shards, 'shard')}, ", f"selection: {out}/{SELECTION_NAME}"
        clips = counted(made.clips, "clip")
        say(f"{out}: {clips}, {made.hours:.2f} hours, {shards}{made.size_bytes / 1e6:.1f} MB in total")
        say(where)


def _confirm(question: str) -> None:
    """Ends the command unless somebody says yes. Raises ValueError where nobody can."""
    if not sys.stdin.isatty():
        raise ValueError(f"{question} Nobody can be asked here: add --yes")
    typer.confirm(question, abort=True)


@app.command()
def prune(dataset: Dataset, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Delete the media of clips that a threshold refused. A still of each stays for the report.

    Their rows and measures stay, but a looser threshold can no longer bring them back.
    """
    from lipforge.datasets_manifest.storage.store import Store
    from lipforge.pipeline.ledger.settings import require_dataset
    from lipforge.pipeline.maintain import prune as run_prune
    from lipforge.pipeline.publish.prune import find_prunable

    with plain_errors():
        store = Store(dataset)
        require_dataset(store)
        found = find_prunable(store)
        if not found.tars:
            console.print("nothing to prune")
            return
        what = (
            f"the media of {counted(found.clips, 'refused clip')}"
            if found.clips
            else "media that nothing needs any more"
        )
        if not yes:
            _confirm(f"Delete {what} ({found.size_bytes / 1e6:.1f} MB)?")
        run_prune(dataset)
        console.print(f"deleted {what}: {found.size_bytes / 1e6:.1f} MB freed")


@app.command()
def gc(dataset: Dataset, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Delete what nothing refers to: manifests before the one in force, and what stopped commands left behind.

    Shards and selections are not touched.
    """
    from lipforge.datasets_manifest.storage.store import Store
    from lipforge.pipeline.ledger.settings import require_dataset
    from lipforge.pipeline.maintain import collect_garbage
    from lipforge.pipeline.publish.gc import find_garbage

    with plain_errors():
        store = Store(dataset)
        require_dataset(store)
        found = find_garbage(store)
        if not found.names:
            console.print("nothing to delete")
            return
        say(
            f"{counted(len(found.generations), 'manifest')} before the one in force: their rows cannot be looked up "
            "afterwards"
        )
        say(f"{counted(len(found.left_over), 'file')} that stopped commands left behind")
        if not yes:
            _confirm(f"Delete {counted(len(found.names), 'file')} ({found.size_bytes / 1e6:.1f} MB)?")
        collect_garbage(dataset)
        say(f"deleted {counted(len(found.names), 'file')}: {found.size_bytes / 1e6:.1f} MB freed")
