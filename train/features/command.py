"""The command `lipforge features`, also `python -m train.features`: caches what frozen models compute.

Units of work (units.py, extract.py) run in this process or on Ray, through an executor of
pipeline/running/executors.py. Each writes one feature shard (write.py), which appears complete or not at all.
"""

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lipforge.datasets_manifest.display import counted
from lipforge.pipeline.terminal import STOPPED, console, errors, progress_bar, say

if TYPE_CHECKING:
    import pyarrow as pa

    from lipforge.train.features.extract import ComputeUnit, FeatureReport, LogVariance, ModelFiles
    from lipforge.train.features.units import FeatureUnit

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")
_SAY_EVERY_S = 10.0


@app.command()
def features(
    selection: Annotated[str, typer.Argument(metavar="SELECTION", help="Output of `lipforge select`.")],
    out: Annotated[str, typer.Option(help="Folder or URL of the features. What is there already is kept.")],
    whisper: Annotated[
        str | None,
        typer.Option(
            help="Compute Whisper's encoder states with this checkpoint: tiny, base or small once fetched, or a file."
        ),
    ] = None,
    mel: Annotated[bool, typer.Option("--mel", help="Compute the mel spectrogram that StableSyncNet takes.")] = False,
    vae: Annotated[
        str | None,
        typer.Option(
            help="Compute posterior moments of the frames, with and without the mouth, with this VAE: sd-vae-ft-mse, "
            "once fetched, taesd, which ships, a diffusers folder or its .safetensors, or blocks, which blurs."
        ),
    ] = None,
    shrink_to_px: Annotated[
        int | None,
        typer.Option(min=32, help="Shrink frames to this side for the VAE: for training with `resize` at 128 px, say."),
    ] = None,
    log_variance: Annotated[
        Literal["both", "target", "none"],
        typer.Option(
            help="Pictures whose log-variance is stored beside the mean of the VAE: with and without the mouth, those "
            "with it alone, or none. taesd and blocks have none to store."
        ),
    ] = "both",
    bf16: Annotated[
        bool, typer.Option("--bf16", help="Let the VAE compute in bfloat16: faster on CPUs and GPUs that have it.")
    ] = False,
    executor: Annotated[
        Literal["ray", "local"], typer.Option(help="`local`: everything in this process, for debugging.")
    ] = "ray",
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Default: one per CPU of the cluster, or as many as its GPUs have room for."),
    ] = None,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="GPUs that a worker reserves for Whisper and the VAE; 0.25: four workers share one; 0: CPUs alone. "
            "Default: 1 if this machine has a GPU, else 0.",
        ),
    ] = None,
    batch_frames: Annotated[
        int,
        typer.Option(min=1, help="Frames that the VAE, and chunks of 30 s that Whisper takes at once, of any clips."),
    ] = 8,
) -> None:
    """Cache what training would compute with frozen models at each step.

    You may stop it at any time: the same command resumes. Damaged clips are reported and left out, and the exit code is
    then 1. The table at the end shows what each feature costs.

    Example:

        lipforge features zh20.parquet --out zh20-features --whisper tiny --mel --vae sd-vae-ft-mse
    """
    from lipforge.datasets_manifest.storage.trouble import UnreadableError
    from lipforge.model.weights.load import ModelFileError
    from lipforge.pipeline.ledger.records import DatasetError
    from lipforge.train.features.index import FeatureError

    try:
        files = _read_models(whisper, mel, vae, log_variance, shrink_to_px, bf16)
        total = compute_features(selection, out, files, executor, workers, gpus_per_worker, batch_frames)
    except (DatasetError, FeatureError, FileNotFoundError, ModelFileError, UnreadableError) as error:
        _say_error(f"lipforge: {error}")
        raise typer.Exit(1) from error
    except ValueError as error:
        _say_error(f"lipforge: {error}")
        raise typer.Exit(2) from error
    except KeyboardInterrupt as error:
        _say_error("lipforge: stopped. Finished units are safe; the same command resumes.")
        raise typer.Exit(STOPPED) from error
    for line in cost_lines(total):
        say(line)
    say("models, as the settings of a stream name them:")
    for kind, model in files.by_kind().items():
        say(f"  {kind}: {model}")
    if total.damaged:
        keys = ", ".join(f"'{damaged.key}'" for damaged in total.damaged)
        _say_error(
            f"lipforge: {counted(len(total.damaged), 'clip is', 'clips are')} damaged and without features; all others "
            "have them. A stream needs features of every clip, "
            f'so leave the damaged ones out of the selection: --where "key NOT IN ({keys})"'
        )
        raise typer.Exit(1)


def _say_error(text: str) -> None:
    errors.print(text, markup=False, highlight=False, soft_wrap=True)


def _read_models(
    whisper: str | None, mel: bool, vae: str | None, log_variance: "LogVariance", shrink_to_px: int | None, bf16: bool
) -> "ModelFiles":
    from lipforge.model.audio.language import read_whisper_file
    from lipforge.model.denoiser.vae import PIXELS_PER_LATENT, read_vae_files
    from lipforge.train.features.extract import ModelFiles

    if shrink_to_px is not None and (vae is None or shrink_to_px % PIXELS_PER_LATENT):
        raise ValueError(f"--shrink-to-px takes a multiple of {PIXELS_PER_LATENT}, and goes with --vae")
    if whisper is None and not mel and vae is None:
        raise ValueError("nothing to compute: give --whisper, --mel or --vae")
    return ModelFiles(
        whisper=None if whisper is None else read_whisper_file(whisper),
        mel=mel,
        vae=None if vae is None else (vae, *read_vae_files(vae)),
        log_variance=log_variance,
        shrink_to_px=shrink_to_px,
        bf16=bf16,
    )


def compute_features(
    selection: str,
    out: str,
    files: "ModelFiles",
    executor: Literal["ray", "local"],
    workers: int | None,
    gpus_per_worker: float | None = 0,
    batch_frames: int = 8,
) -> "FeatureReport":
    """Make the features that the folder `out` lacks. Returns what this run did.

    gpus_per_worker: None: 1 if this machine has a GPU, else 0.

    Raises DatasetError when nothing can be written, a shard is gone or another command writes there,
    FeatureError when the folder holds something else, or features of other models or clips, and as read_selection.
    """
    from lipforge.datasets_manifest.selection import read_selection
    from lipforge.datasets_manifest.storage.store import Store
    from lipforge.pipeline.ledger.settings import writing
    from lipforge.train.features.extract import ComputeUnit
    from lipforge.train.features.index import check_models, models_of
    from lipforge.train.features.units import plan
    from lipforge.train.features.write import finished_shards, refuse_foreign_folder, write_index

    if not out:
        raise ValueError("--out is empty; name a folder")
    store = Store(out)
    num_gpus = _num_gpus(files, gpus_per_worker)
    clips = read_selection(selection)
    refuse_foreign_folder(store)  # before anything is written there
    with writing(store):
        stored = finished_shards(store)
        check_models(out, models_of(stored), files.by_kind())
        _refuse_enlarging(clips, files.shrink_to_px)
        units = plan(clips, stored, tuple(files.by_kind()))
        num_clips = sum(len(unit.clips) for unit in units)
        say(f"{counted(len(clips), 'clip')}, {num_clips:,} to do, in {counted(len(units), 'unit')}")
        total = _run(ComputeUnit(store, files, batch_frames, num_gpus > 0), units, executor, workers, num_gpus)
        write_index(store, finished_shards(store))
    return total


def _refuse_enlarging(clips: "pa.Table", shrink_to_px: int | None) -> None:
    smallest = min(clips["crop_px"].unique().to_pylist(), default=0)
    if shrink_to_px is not None and smallest < shrink_to_px:
        raise ValueError(f"--shrink-to-px {shrink_to_px}: the selection has frames of {smallest} px")


def _num_gpus(files: "ModelFiles", wanted: float | None) -> float:
    """That a worker reserves. Raises ValueError when this machine, alone, has no GPU and one is wanted."""
    import torch

    from lipforge.pipeline.running.executors import require_gpu_here

    if files.whisper is None and files.vae is None:
        if wanted:
            raise ValueError("--gpus-per-worker is for --whisper and --vae: the other features are computed on CPUs")
        return 0
    if wanted is None:
        return 1 if torch.cuda.is_available() else 0
    require_gpu_here(wanted)
    return wanted


def _run(
    compute: "ComputeUnit",
    units: "list[FeatureUnit]",
    executor: Literal["ray", "local"],
    workers: int | None,
    num_gpus: float,
) -> "FeatureReport":
    from lipforge.pipeline.config import PrepareConfig
    from lipforge.pipeline.ledger.records import DatasetError
    from lipforge.pipeline.running.executors import make_executor
    from lipforge.pipeline.running.quiet import off_terminal
    from lipforge.train.features.extract import FeatureReport

    total = FeatureReport()
    if not units:
        return total
    checked = compute if executor == "local" else replace(compute, on_gpu=False)
    with progress_bar("load the models"), off_terminal(2):  # packages that are imported now warn about each other
        checked.load_models()  # a wrong model file ends the run before it begins
    total.num_loads += 1
    del checked
    pool = make_executor(PrepareConfig.model_validate({"run": {"executor": executor, "workers": workers}}))
    num_clips, num_done, said_at = sum(len(unit.clips) for unit in units), 0, time.monotonic()
    try:
        with progress_bar("compute features") as show:
            for number, outcome in enumerate(pool.map(compute, units, num_gpus), start=1):
                if outcome.fatal:
                    raise DatasetError(f"{outcome.fatal}. What is finished is safe; run the same command again.")
                if compute.on_gpu and "cpu" in outcome.devices - total.devices:
                    _say_error("a worker was given a GPU that its torch cannot use: it computes on its CPU")
                total.add(outcome)
                for damaged in outcome.damaged:
                    _say_error(f"skipped: {damaged}")
                num_done += outcome.num_clips + len(outcome.damaged)
                show(num_done, num_clips)
                if number == len(units) or (not console.is_terminal and time.monotonic() > said_at + _SAY_EVERY_S):
                    said_at = time.monotonic()
                    done = f"{number:,} of {counted(len(units), 'unit')}, {counted(total.num_clips, 'clip')}"
                    say(f"{done}, {total.video_s:.0f} s of video")
    finally:
        pool.close()
    return total


def cost_lines(total: "FeatureReport") -> list[str]:
    """A table of what one second of video cost in this run, by feature and step."""
    if not total.num_clips:
        return []
    lines = [f"{'per second of video':<20}{'bytes':>12}{'compute s':>12}"]
    for step, seconds in sorted(total.seconds.items()):
        size = f"{total.size_bytes[step] / total.video_s:,.0f}" if step in total.size_bytes else ""
        if not size and seconds < total.video_s * 5e-5:
            continue  # models that were already loaded
        lines.append(f"{step:<20}{size:>12}{seconds / total.video_s:>12.4f}")
    lines.append(f"computed on: {', '.join(sorted(total.devices))}; models loaded: {counted(total.num_loads, 'time')}")
    return lines
