"""What the page's buttons and its clock do. Each call acts for the user whose cookie came with it."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from lipforge.datasets_manifest.durations import human_time
from lipforge.model.clock import FPS
from lipforge.pipeline.app import show
from lipforge.pipeline.app.gate import user_of
from lipforge.pipeline.app.jobs import PENDING, WORDED, Job, Jobs, Kind, State
from lipforge.pipeline.app.pairs import pair_up
from lipforge.pipeline.app.settings import FACE_CHOICES, to_config
from lipforge.pipeline.app.shelf import Shelf
from lipforge.pipeline.infer.request import InferConfig
from lipforge.pipeline.media.output.containers import KINDS
from lipforge.pipeline.media.probe import probe

FIND_WORDS = "Find and number the faces"
Handler = Callable[..., list[Any]]


class Handlers:
    """Of one app. Those that answer to `ask_*` give (sentence, time of asking, chosen result)."""

    def __init__(self, jobs: Jobs, shelf: Shelf, model: str | None) -> None:
        self._jobs, self._shelf, self._model = jobs, shelf, model

    def ask_one(self, kind: Kind) -> Handler:
        def ask(request: gr.Request, video: str | None, audio: str | None, face: str, *values: Any) -> list[Any]:
            return self._asking(request, lambda user: self._one(user, kind, video, audio, face, values))

        return ask

    def ask_many(
        self, request: gr.Request, videos: list[str] | None, sounds: list[str] | None, face: str, *values: Any
    ) -> list[Any]:
        return self._asking(request, lambda user: self._many(user, videos or [], sounds or [], face, values))

    def stop_all(self, request: gr.Request) -> None:
        self._jobs.stop(self._jobs.of(user_of(request.headers)))

    def stop_one(self, clicked: gr.EventData, request: gr.Request) -> None:
        job = self._jobs.find(user_of(request.headers), job_clicked(clicked))
        self._jobs.stop([job] if job is not None else [])

    def refresh(self, seen: dict[str, str], since_s: float, choice: str, request: gr.Request) -> list[Any]:
        """What to draw anew: the rest of the page stays, so that nothing that plays begins again.

        seen: what the page shows. since_s: of what ended earlier without a result, nothing is told. choice: the result
        that the user wants to see; empty: the newest.
        """
        user = user_of(request.headers)
        mine = self._jobs.of(user)
        done = [job for job in mine if job.state is State.DONE and job.result is not None]
        made = next((job for job in done if job.id == choice), done[0] if done else None)
        looked = next((job for job in mine if job.kind is Kind.FACES and _is_new(job, since_s)), None)
        pending = [job for job in mine if job.state in PENDING]
        now = {
            "status": show.status(self._jobs, user, since_s),
            "stop": "yes" if sum(not job.stop.is_set() for job in pending) > 1 else "",
            "result": show.result(made) if made is not None else show.EMPTY,
            "history": show.history(self._jobs, user, made.id if made is not None else ""),
            "looked": looked.id + looked.state if looked is not None else "",
        }
        new = {name for name, value in now.items() if seen.get(name) != value}
        return [
            now if new else gr.skip(),
            now["status"] if "status" in new else gr.skip(),
            gr.Button(visible=bool(now["stop"])) if "stop" in new else gr.skip(),
            now["result"] if "result" in new else gr.skip(),
            now["history"] if "history" in new else gr.skip(),
            *(_faces(looked) if "looked" in new and looked is not None else [gr.skip()] * 3),
        ]

    def _asking(self, request: gr.Request, call: Callable[[str], None]) -> list[Any]:
        """A mistake becomes a sentence on the page."""
        user, now_s = user_of(request.headers), time.monotonic()
        try:
            call(user)
        except ValueError as error:
            return [show.sentence(str(error)), gr.skip(), gr.skip()]
        return ["", now_s, ""]

    def _one(
        self, user: str, kind: Kind, video: str | None, audio: str | None, face: str, values: tuple[Any, ...]
    ) -> None:
        if video is None:
            raise ValueError("Add a video first.")
        if audio is None and kind is not Kind.FACES:
            raise ValueError("Add a sound first: a file, or a recording.")
        sound = None if kind is Kind.FACES else audio
        self._submit(user, kind, [(video, sound)], to_config(self._model, face, values))

    def _many(self, user: str, videos: list[str], sounds: list[str], face: str, values: tuple[Any, ...]) -> None:
        pairs: list[tuple[str, str | None]] = [*pair_up(videos, sounds)]
        self._submit(user, Kind.VIDEO, pairs, to_config(self._model, face, values))

    def _submit(self, user: str, kind: Kind, pairs: list[tuple[str, str | None]], config: InferConfig) -> None:
        """Raises ValueError for files that this user did not send, unknown kinds of file, too many jobs."""
        made: list[Job] = []
        folder: Path | None = None
        try:
            for video, audio in pairs:
                name, folder = self._shelf.job_folder()
                kept = self._shelf.put(user, video, folder / "video")
                sound = None if audio is None else self._shelf.put(user, audio, folder / "sound")
                made.append(Job(name, user, kind, folder, kept, sound, config))
                if kept.suffix.lower() not in KINDS:
                    raise ValueError(f"{kept.name}: send a video whose name ends with one of {', '.join(KINDS)}.")
            self._jobs.submit(made)
        except (ValueError, OSError) as error:
            for left in {folder, *(job.folder for job in made)} - {None}:
                shutil.rmtree(left, ignore_errors=True)
            if isinstance(error, OSError):
                raise ValueError(f"The app's disk cannot be written to: {error.strerror}.") from error
            raise


def job_clicked(clicked: gr.EventData) -> str:
    """The name of the job whose button was clicked."""
    return str(clicked._data.get("job", ""))


def look_at(video: str | None) -> list[Any]:
    """What a video is, as soon as it is there; or why it cannot be used. Faces that were found are those of another."""
    faces = gr.Radio(choices=FACE_CHOICES, value=InferConfig().face)
    if video is None:
        return ["", faces, ""]
    try:
        info = probe(video)
    except WORDED as error:
        return [show.sentence(f"{Path(video).name}: {error}".replace(video, Path(video).name)), faces, ""]
    length = human_time(info.num_frames / FPS)
    return [show.small(f"{info.width_px} by {info.height_px}, {info.mean_fps:.5g} frames/s, {length}"), faces, ""]


def track_choices(lines: list[str]) -> list[tuple[str, str]]:
    """(label, value) of each numbered face. lines: as `number_faces` gives them."""
    tracks = [line.partition("  ") for line in lines if line.startswith("track:")]
    return [(f"Face {name.removeprefix('track:')} ({words})", name) for name, _, words in tracks]


def _is_new(job: Job, since_s: float) -> bool:
    return job.state in PENDING or job.ended_s >= since_s


def _faces(job: Job) -> list[Any]:
    """The picture of numbered faces, what can be chosen, and the button that asks for both."""
    if job.state in PENDING:
        return [gr.skip(), gr.skip(), gr.Button("Finding the faces ...", interactive=False)]
    button = gr.Button(FIND_WORDS, interactive=True)
    if job.state is not State.DONE:
        return [show.sentence(job.words) if job.words else "", gr.skip(), button]
    return [show.faces(job), gr.Radio(choices=[*FACE_CHOICES, *track_choices(job.faces)]), button]
