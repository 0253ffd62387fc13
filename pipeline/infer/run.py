"""Give one video new lips: look, choose, draw, finish. This file is the order of the work; each part has its own."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from lipforge.datasets_manifest.schema import Reason
from lipforge.datasets_manifest.storage.trouble import why_not_made
from lipforge.pipeline.infer.blend import Blender
from lipforge.pipeline.infer.draw import Drawing
from lipforge.pipeline.infer.drawable import passed_spans
from lipforge.pipeline.infer.lips import BUILTIN, open_lip_model
from lipforge.pipeline.infer.memory import give_back
from lipforge.pipeline.infer.plan import runs_of
from lipforge.pipeline.infer.progress import Steps
from lipforge.pipeline.infer.protocols import Cancelled, LipModel, OnProgress, Stopped, Voice
from lipforge.pipeline.infer.report import Looks, write_report
from lipforge.pipeline.infer.request import InferConfig, InferError, InferResult
from lipforge.pipeline.infer.source import Chosen, Source, faces_picture_path, open_source
from lipforge.pipeline.infer.timeline import Timeline
from lipforge.pipeline.infer.voice import open_voice
from lipforge.pipeline.infer.windows import MouthStream
from lipforge.pipeline.infer.work import (
    identity_of,
    is_writing,
    mark_writing,
    open_work,
    points_identity,
    remove_work,
    work_folder,
)
from lipforge.pipeline.media.container import MediaError
from lipforge.pipeline.media.output.containers import file_kind
from lipforge.pipeline.media.output.segment import SegmentWriter, is_whole
from lipforge.pipeline.media.output.sound import open_sound
from lipforge.pipeline.media.output.write import write_file
from lipforge.pipeline.media.source_file import NotThereError, StorageError

SEGMENT_S = 2.0
"""Of the result, in one file while it is made: what a run that is killed loses at most. Key frames are as far apart."""
GIVE_BACK_EVERY = 5
"""Segments."""
LOOK_S = 30.0
"""Of the video, for a preview: who speaks is not known from two seconds."""
LOOK, DRAW, FINISH = "find faces", "draw", "write the file"


def infer(
    video: str,
    audio: str,
    out: str,
    config: InferConfig,
    on_progress: OnProgress = lambda progress: None,
    stopped: Stopped = lambda: False,
    limit_s: float | None = None,
) -> InferResult:
    """Make `out`: the video with new lips and the sound. Goes on with what an earlier call for the same left.

    limit_s: make the first seconds only.
    Raises InferError for what cannot be done; MediaError, NotThereError, StorageError, ModelFileError for files that
    cannot be used; ValueError for settings; Cancelled when `stopped` said so. `out` is whole or not there.
    """
    began_s = time.monotonic()
    clock = _CpuClock()
    path = check_out(out, [video, audio], config.overwrite)
    with naming(video):
        source = open_source(video, out, config, None if limit_s is None else max(limit_s, LOOK_S))
    with naming(audio):
        sound = open_sound(audio)
    model = open_lip_model(config, stopped)
    request = {
        "config": config.model_dump(mode="json", exclude={"overwrite"}),
        "model": model.sha256,
        "video": identity_of(video),
        "audio": identity_of(audio),
        "limit_s": limit_s,
        "face_points": None if config.face_points is None else points_identity(config.face_points),
    }
    steps = Steps(on_progress, [LOOK, DRAW, FINISH])
    with open_work(path, request) as folder:
        if path.exists() and not config.overwrite and not is_writing(folder):  # of another request
            raise InferError(f"{out} exists: name another output, or replace it with --overwrite")
        with clock.part(LOOK):
            chosen = source.choose(
                folder, config, path, lambda done_s: steps.show(LOOK, done_s, source.length_s), stopped
            )
        if limit_s is not None:
            chosen = chosen.beginning(limit_s)
        audio_s = min(sound.duration_s, limit_s or sound.duration_s)
        timeline = chosen.timeline(audio_s, config)
        with clock.part(DRAW):
            voice = open_voice(sound, model.audio_encoder, timeline.length_s)
            segments = _draw(folder, source, chosen, timeline, model, voice, config, steps, stopped)
        with clock.part(FINISH):
            steps.show(FINISH, 0, timeline.length_s)
            begins = replace(source.info, origin_s=source.info.origin_s + chosen.begins_s)
            if path.exists() and not config.overwrite and not is_writing(folder):
                raise InferError(f"{out} has appeared meanwhile: move it away, and run the same command again")
            mark_writing(folder)
            lost = write_file(out, segments, source.format, video, begins, sound, timeline.length_s, folder)
        result = _result(
            path,
            chosen,
            timeline,
            model,
            [
                *_note_of_default(model, config),
                *chosen.notes,
                *chosen.length_notes(audio_s, timeline, config),
                *sound.notes,
                *lost,
            ],
            clock,
            began_s,
        )
        write_report(result, config, video, audio, Looks(folder, runs_of(chosen.drawable.stretches, timeline)).sheet())
        remove_work(folder)
    return result


def number_faces(
    video: str,
    out: str,
    config: InferConfig,
    on_progress: OnProgress = lambda progress: None,
    stopped: Stopped = lambda: False,
) -> tuple[Path, list[str]]:
    """Draw the faces of a video with their numbers: (picture beside `out`, a line about each). Raises as `infer`."""
    with naming(video):
        source = open_source(video, out, config)
    steps = Steps(on_progress, [LOOK])
    picture = faces_picture_path(Path(out))
    with open_work(picture, {"faces of": identity_of(video), "by": config.face_models}) as folder:
        lines = source.number_faces(folder, picture, lambda done_s: steps.show(LOOK, done_s, source.length_s), stopped)
        remove_work(folder)
    return picture, lines


def _result(
    path: Path,
    chosen: Chosen,
    timeline: Timeline,
    model: LipModel,
    notes: list[str],
    clock: "_CpuClock",
    began_s: float,
) -> InferResult:
    spans, num_drawn = passed_spans(chosen.drawable, runs_of(chosen.drawable.stretches, timeline), timeline)
    return InferResult(
        out=str(path),
        num_frames=timeline.num_frames,
        duration_s=timeline.length_s,
        num_drawn=num_drawn,
        passed=spans,
        model=model.name,
        model_sha256=model.sha256,
        cpu_s=clock.cpu_s,
        wall_s=time.monotonic() - began_s,
        notes=list(dict.fromkeys(notes)),
        report=str(path.with_name(f"{path.name}.report.json")),
    )


def _note_of_default(model: LipModel, config: InferConfig) -> list[str]:
    if config.model is not None or model.name != BUILTIN:
        return []
    return ["Drawn by the small model that ships (128 px): a larger one looks better, `lipforge models list` has some."]


def _draw(
    folder: Path,
    source: Source,
    chosen: Chosen,
    timeline: Timeline,
    model: LipModel,
    voice: Voice,
    config: InferConfig,
    steps: Steps,
    stopped: Stopped,
) -> list[Path]:
    """The result in segments, each a file; those that are there from before are kept."""
    drawing = Drawing(
        source.scene(chosen, timeline),
        model.resolution,
        lambda wanted, num_frames: MouthStream(model, voice, wanted, num_frames),
        Blender(model.resolution, config.sharpen),
        Looks(folder, runs_of(chosen.drawable.stretches, timeline)),
    )
    per_segment = max(1, round(SEGMENT_S * source.info.mean_fps))
    starts = range(0, timeline.num_frames, per_segment)
    paths = [folder / f"segment-{number:05d}.nut" for number in range(len(starts))]
    wanted_frames = [min(start + per_segment, timeline.num_frames) - start for start in starts]
    missing = next((number for number, path in enumerate(paths) if not is_whole(path, wanted_frames[number])), None)
    if missing is None:
        return paths
    steps.show(DRAW, float(timeline.at(starts[missing]).time_s), timeline.length_s)
    frames = drawing.frames(starts[missing])
    for number in range(missing, len(paths)):
        end = min(starts[number] + per_segment, timeline.num_frames)
        with SegmentWriter(paths[number], source.format) as writer:
            for wanted in range(starts[number], end):
                if stopped():
                    raise Cancelled
                shown, image = next(frames, (None, None))
                if shown is None or image is None:
                    raise MediaError(Reason.DECODE_ERROR, f"{source.uri} ends earlier than before: was it changed?")
                assert shown.number == wanted
                writer.write(image, shown.pts)
                steps.show(DRAW, shown.time_s, timeline.length_s)
        if number % GIVE_BACK_EVERY == 0:
            give_back()
    return paths


@contextmanager
def naming(uri: str) -> Iterator[None]:
    """Errors of a file begin with its name."""
    try:
        yield
    except MediaError as error:
        if uri in error.detail:
            raise
        raise MediaError(error.reason, f"{uri}: {error.detail}") from error
    except (NotThereError, StorageError) as error:
        if uri in str(error):
            raise
        raise type(error)(f"{uri}: {error}") from error


def check_out(out: str, inputs: list[str], overwrite: bool) -> Path:
    """The output's path, when it can be written. Raises InferError, before any work."""
    path = Path(out)
    if path.is_dir():
        raise InferError(f"{out} is a folder: name a file in it, such as {path / 'result.mp4'}")
    file_kind(out)
    for given in inputs:
        if path.exists() and os.path.exists(given) and os.path.samefile(path, given):
            raise InferError(f"{out} is an input: name another output; inputs are never changed")
    if path.exists() and not overwrite and not is_writing(work_folder(path)):
        raise InferError(f"{out} exists: name another output, or replace it with --overwrite")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = why_not_made(os.fspath(path.parent), error)
        raise InferError(f"{path.parent} cannot be made: {why}. Name an output elsewhere") from error
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InferError(f"{path.parent} cannot be written to: name an output elsewhere, or change its permissions")
    return path


class _CpuClock:
    """CPU seconds of this process, by part of the work."""

    def __init__(self) -> None:
        self.cpu_s: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        began_s = time.process_time()
        try:
            yield
        finally:
            self.cpu_s[name] = time.process_time() - began_s
