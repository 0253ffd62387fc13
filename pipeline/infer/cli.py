"""The command `lipforge infer`."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lipforge.datasets_manifest.display import counted
from lipforge.pipeline.infer.request import PASSED_WORDS, InferConfig, InferResult
from lipforge.pipeline.infer.request import SamplingConfig as Sampling
from lipforge.pipeline.running.progress_line import ProgressLine
from lipforge.pipeline.terminal import errors, plain_errors, say

if TYPE_CHECKING:  # it imports torch
    from lipforge.pipeline.infer.protocols import Progress

_SAMPLING, _ALL = Sampling(), InferConfig()
_ABOUT = {
    **{name: field.description or "" for name, field in InferConfig.model_fields.items()},
    **{name: field.description or "" for name, field in Sampling.model_fields.items()},
}


def _help(name: str) -> str:
    return " ".join(_ABOUT[name].split())


_MOST_SPANS = 12
"""Spans that are listed in the terminal."""

app = typer.Typer()


@app.command()
def infer(
    video: Annotated[str | None, typer.Option(help="The video that gets new lips. It is only read.")] = None,
    audio: Annotated[
        str | None,
        typer.Option(
            help="The sound that it shall speak: any sound file, or a video with one. `-`: live, raw PCM on standard "
            "input (16 bit, little endian, 16 kHz, mono); `mic`: live, from the microphone."
        ),
    ] = None,
    out: Annotated[
        str, typer.Option(help="The result: .mp4, .mov, .mkv, .webm, ...; with --pairs, a folder; live, also `-`.")
    ] = "",
    model: Annotated[str | None, typer.Option(rich_help_panel="The model", help=_help("model"))] = None,
    steps: Annotated[int, typer.Option(rich_help_panel="The model", min=1, help=_help("steps"))] = _SAMPLING.steps,
    guidance: Annotated[
        float, typer.Option(rich_help_panel="The model", min=1, help=_help("guidance"))
    ] = _SAMPLING.guidance,
    guidance_band: Annotated[
        tuple[int, int], typer.Option(rich_help_panel="The model", metavar="FROM BELOW", help=_help("guidance_band"))
    ] = _SAMPLING.guidance_band,
    solver: Annotated[
        str, typer.Option(rich_help_panel="The model", metavar="ddim|dpm++|euler|lcm", help=_help("solver"))
    ] = _SAMPLING.solver,
    seed: Annotated[int, typer.Option(rich_help_panel="The model", min=0, help=_help("seed"))] = _SAMPLING.seed,
    device: Annotated[
        str, typer.Option(rich_help_panel="The model", metavar="auto|cpu|cuda|mps", help="auto, cpu, cuda or mps.")
    ] = _ALL.device,
    dtype: Annotated[
        str,
        typer.Option(
            rich_help_panel="The model",
            metavar="auto|fp32|fp16|bf16|int8",
            help=f"auto, fp32, fp16, bf16 or int8. {_help('dtype')}",
        ),
    ] = _ALL.dtype,
    offload: Annotated[bool, typer.Option("--offload", rich_help_panel="The model", help=_help("offload"))] = False,
    vae: Annotated[str | None, typer.Option(rich_help_panel="The model", help=_help("vae"))] = None,
    audio_encoder: Annotated[str | None, typer.Option(rich_help_panel="The model", help=_help("audio_encoder"))] = None,
    face: Annotated[
        str,
        typer.Option(
            rich_help_panel="Whose lips, and how they look", metavar="speaker|largest|all|track:N", help=_help("face")
        ),
    ] = _ALL.face,
    list_faces: Annotated[
        bool,
        typer.Option(
            "--list-faces",
            rich_help_panel="Whose lips, and how they look",
            help="Number the faces, draw them into OUT.faces.jpg, and stop.",
        ),
    ] = False,
    face_points: Annotated[
        Path | None, typer.Option(rich_help_panel="Whose lips, and how they look", help=_help("face_points"))
    ] = None,
    face_models: Annotated[
        str,
        typer.Option(
            rich_help_panel="Whose lips, and how they look",
            metavar="builtin|latentsync",
            help=f"builtin or latentsync. {_help('face_models')}",
        ),
    ] = _ALL.face_models,
    max_yaw_deg: Annotated[
        float, typer.Option(rich_help_panel="Whose lips, and how they look", min=1, max=90, help=_help("max_yaw_deg"))
    ] = _ALL.max_yaw_deg,
    extend: Annotated[
        str, typer.Option(rich_help_panel="Length and file", metavar="loop|hold|trim", help=_help("extend"))
    ] = _ALL.extend,
    audio_end: Annotated[
        str, typer.Option(rich_help_panel="Length and file", metavar="silence|stop", help=_help("audio_end"))
    ] = _ALL.audio_end,
    sharpen: Annotated[
        float, typer.Option(rich_help_panel="Whose lips, and how they look", min=0, max=2, help=_help("sharpen"))
    ] = _ALL.sharpen,
    lossless: Annotated[
        bool, typer.Option("--lossless", rich_help_panel="Length and file", help=_help("lossless"))
    ] = False,
    preview: Annotated[
        bool,
        typer.Option(
            "--preview",
            rich_help_panel="Length and file",
            help="Make the first 2 s first, as OUT.preview.mp4, then all of it; Ctrl-C keeps the preview.",
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", rich_help_panel="Length and file", help=_help("overwrite"))
    ] = False,
    pairs: Annotated[
        str | None,
        typer.Option(
            rich_help_panel="Many at once",
            help="Many at once: a list (.csv, .jsonl, .parquet) with `video`, `audio` and optionally `out` and any "
            "setting, or a folder of videos with a sound of the same name beside each.",
        ),
    ] = None,
    executor: Annotated[
        str,
        typer.Option(
            rich_help_panel="Many at once",
            metavar="local|ray",
            help="With --pairs: `local`, one after the other, or `ray`.",
        ),
    ] = "local",
) -> None:
    """Give a video new lips, so that it speaks a sound.

    Everything but the mouth stays as it is: frame rate, size, colours, rotation, other tracks, chapters. Frames without
    a usable face pass unchanged and are listed. Stop it at any time: the same command goes on from there.

    Examples:

        lipforge infer --video talk.mp4 --audio german.wav --out talk-de.mp4 --model runs/a/model

        lipforge infer --video talk.mp4 --audio german.wav --out talk-de.mp4 --model identity   # all but the network

        lipforge infer --video panel.mp4 --audio new.wav --out panel-new.mp4 --list-faces

        lipforge infer --pairs pairs.csv --out results --model latentsync-unet-1.6
    """
    from lipforge.pipeline.config_loader import validated
    from lipforge.pipeline.infer.run import infer as run_infer
    from lipforge.pipeline.infer.run import number_faces

    with plain_errors(), _infer_errors():
        given: dict[str, Any] = {
            "model": model,
            "sampling": {
                "steps": steps,
                "guidance": guidance,
                "guidance_band": guidance_band,
                "solver": solver,
                "seed": seed,
            },
            "device": device,
            "dtype": dtype,
            "offload": offload,
            "vae": vae,
            "audio_encoder": audio_encoder,
            "face": face,
            "face_points": face_points,
            "face_models": face_models,
            "max_yaw_deg": max_yaw_deg,
            "extend": extend,
            "audio_end": audio_end,
            "sharpen": sharpen,
            "lossless": lossless,
            "overwrite": overwrite,
        }
        config = validated(InferConfig, given)
        if not out:
            raise ValueError("name the result with --out")
        if pairs is not None:
            _run_pairs(pairs, out, config, executor)
            return
        if video is None:
            raise ValueError("name the video with --video, or many with --pairs")
        if list_faces:
            with ProgressLine(errors) as line:
                picture, lines = number_faces(video, out, config, partial(_show, line))
            for words in lines:
                say(words)
            say(f"picture: {picture}")
            return
        if audio is None:
            raise ValueError("name the sound with --audio")
        if audio in ("-", "mic"):
            from lipforge.pipeline.infer.live import run_live

            run_live(video, audio, out, config, lambda text: errors.print(f"lipforge: {text}", markup=False))
            return
        if preview:
            first = str(Path(out).with_suffix(f".preview{Path(out).suffix}"))
            replacing = config.model_copy(update={"overwrite": True})
            with ProgressLine(errors) as line:
                made = run_infer(video, audio, first, replacing, partial(_show, line), limit_s=2.0)
            say(f"preview: {made.out}")
        with ProgressLine(errors) as line:
            result = run_infer(video, audio, out, config, partial(_show, line))
        _print_result(result)


def _show(line: ProgressLine, progress: "Progress") -> None:
    so_far = f"{progress.done_s / max(progress.total_s, 1e-9):.0%} of this step"
    line.show(progress.step, progress.done_s, progress.total_s, so_far, progress.left_s)


@contextmanager
def _infer_errors() -> Iterator[None]:
    """What inputs, outputs and models cannot do becomes one sentence and exit code 1."""
    from lipforge.pipeline.infer.request import InferError
    from lipforge.pipeline.media.container import MediaError
    from lipforge.pipeline.media.source_file import NotThereError, StorageError

    try:
        yield
    except (InferError, MediaError, NotThereError, StorageError) as error:
        errors.print(f"lipforge: {error}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


def _print_result(result: InferResult) -> None:
    from lipforge.datasets_manifest.durations import human_time

    share = result.num_drawn / result.num_frames
    frames = counted(result.num_frames, "frame")
    say(f"{result.out}: {human_time(result.duration_s)}, {frames}, {share:.0%} with a new mouth")
    for span in result.passed[:_MOST_SPANS]:
        say(f"  {span.start_s:.2f} to {span.end_s:.2f} s unchanged: {PASSED_WORDS[span.reason]}")
    if len(result.passed) > _MOST_SPANS:
        say(f"  ... and {len(result.passed) - _MOST_SPANS} more: see {result.report}")
    for note in result.notes:
        say(note, style="yellow")
    speed = result.duration_s / max(result.wall_s, 1e-9)
    say(f"took {human_time(result.wall_s)}, {speed:.2f} times real time; report: {result.report}")


def _run_pairs(place: str, out: str, config: InferConfig, executor: str) -> None:
    from lipforge.pipeline.infer.batch import RESULTS_NAME, Row, left_out, read_pairs, run_pairs

    if executor not in ("local", "ray"):
        raise ValueError(f"--executor {executor}: expected local or ray")

    def show(row: Row, done: int, total: int) -> None:
        words = f"{row.drawn_ratio:.0%} with a new mouth" if row.status == "made" else row.detail
        say(f"{done} of {total}  {row.status}  {row.out}: {words}")

    rows = run_pairs(read_pairs(place, out, config), out, executor, config.overwrite, show)
    for name in left_out(place):
        say(f"left out: {name} has no sound of the same name beside it", style="yellow")
    failed = sum(row.status != "made" for row in rows)
    say(f"{len(rows) - failed} made, {failed} failed: {Path(out) / RESULTS_NAME}")
    if failed:
        raise typer.Exit(1)
