"""The page: files and settings on one side, what becomes of them on the other."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from lipforge.datasets_manifest.durations import human_time
from lipforge.pipeline.app import show
from lipforge.pipeline.app.gate import user_of
from lipforge.pipeline.app.jobs import PENDING, WORDED, Job, Jobs, Kind, State
from lipforge.pipeline.app.pairs import pair_up
from lipforge.pipeline.app.settings import FACE_CHOICES, face_choice, setting_inputs, to_config
from lipforge.pipeline.app.shelf import MOST_UPLOAD_BYTES, Shelf
from lipforge.pipeline.infer.batch import SOUND_SUFFIXES, VIDEO_SUFFIXES
from lipforge.pipeline.infer.request import IDENTITY, InferConfig
from lipforge.pipeline.media.output.containers import KINDS
from lipforge.pipeline.media.probe import probe

TICK_S = 0.5
_EMPTY = (
    "<div class='lf-empty'><b>The new video appears here</b><span>beside the original, with a line to drag between "
    "them</span></div>"
)
_CLICKED = """element.addEventListener("click", event => {
  const button = event.target.closest("[data-job]");
  if (button) trigger("click", { job: button.dataset.job });
});"""
"""A click on a button of a job tells which job it is."""
_SOUNDS = [*SOUND_SUFFIXES, *VIDEO_SUFFIXES]


class _Asked:
    """What users ask of the queue. Each call acts for the user whose cookie came with it."""

    def __init__(self, jobs: Jobs, shelf: Shelf, model: str | None) -> None:
        self._jobs, self._shelf, self._model = jobs, shelf, model

    def one(
        self, user: str, kind: Kind, video: str | None, audio: str | None, face: str, values: tuple[Any, ...]
    ) -> None:
        """Raises ValueError for what is missing or does not fit."""
        if video is None:
            raise ValueError("Add a video first.")
        if audio is None and kind is not Kind.FACES:
            raise ValueError("Add a sound first: a file, or a recording.")
        sound = None if kind is Kind.FACES else audio
        self._jobs.submit(self._jobs_of(user, kind, [(video, sound)], to_config(self._model, face, values)))

    def many(self, user: str, videos: list[str], sounds: list[str], face: str, values: tuple[Any, ...]) -> None:
        config = to_config(self._model, face, values)
        self._jobs.submit(self._jobs_of(user, Kind.VIDEO, pair_up(videos, sounds), config))

    def _jobs_of(
        self, user: str, kind: Kind, pairs: list[tuple[str, str]] | list[tuple[str, str | None]], config: InferConfig
    ) -> list[Job]:
        made: list[Job] = []
        try:
            for video, audio in pairs:
                name, folder = self._shelf.job_folder()
                kept = self._shelf.put(user, video, folder / "video")
                sound = None if audio is None else self._shelf.put(user, audio, folder / "sound")
                made.append(Job(name, user, kind, folder, kept, sound, config))
                if kept.suffix.lower() not in KINDS:
                    raise ValueError(f"{kept.name}: send a video whose name ends with one of {', '.join(KINDS)}.")
        except ValueError:
            for job in made:
                shutil.rmtree(job.folder)
            raise
        return made


def build_page(jobs: Jobs, shelf: Shelf, model: str | None) -> gr.Blocks:
    """The whole page, for one model."""
    asked = _Asked(jobs, shelf, model)
    with gr.Blocks(title="Lipforge", analytics_enabled=False) as page:
        gr.HTML(show.header(_model_words(model)), elem_id="header")
        with gr.Row(elem_id="columns", equal_height=False):
            with gr.Column(scale=5, min_width=320, elem_id="asked"):
                with gr.Tabs():
                    with gr.Tab("One video"):
                        video = gr.Video(label="Video", sources=["upload"], elem_id="video", height=240, buttons=[])
                        video_words = gr.HTML("", elem_id="video-words")
                        audio = gr.Audio(
                            label="Sound that it shall speak",
                            editable=False,
                            buttons=[],
                            sources=["upload", "microphone"],
                            type="filepath",
                            elem_id="audio",
                        )
                        with gr.Group(elem_id="faces"):
                            face = face_choice("Find the faces to choose one by its number.")
                            find = gr.Button("Find and number the faces", size="sm", elem_id="find")
                            picture = gr.HTML("", elem_id="picture", visible=False)
                        with gr.Row(elem_id="go"):
                            make = gr.Button("Make video", variant="primary", elem_id="make", min_width=120)
                            preview = gr.Button("Preview 2 s", elem_id="preview", min_width=120)
                    with gr.Tab("Several"):
                        gr.HTML(show.several_words())
                        videos = gr.File(
                            label="Videos",
                            file_count="multiple",
                            file_types=list(VIDEO_SUFFIXES),
                            elem_id="videos",
                            height=160,
                        )
                        sounds = gr.File(
                            label="Sounds", file_count="multiple", file_types=_SOUNDS, elem_id="sounds", height=160
                        )
                        face_of_all = face_choice()
                        make_all = gr.Button("Make all", variant="primary", elem_id="make-all")
                values = setting_inputs()
                gr.HTML(show.limits_words(MOST_UPLOAD_BYTES))
            with gr.Column(scale=7, min_width=320, elem_id="made"):
                notice = gr.HTML("", elem_id="notice")
                status = gr.HTML("", elem_id="status", js_on_load=_CLICKED)
                stop = gr.Button("Stop all", size="sm", elem_id="stop", visible=False)
                result = gr.HTML(_EMPTY, elem_id="result")
                gr.HTML('<h2 class="lf-section">This session</h2>')
                history = gr.HTML("", elem_id="history", js_on_load=_CLICKED)

        since_s = gr.State(0.0)
        chosen = gr.State("")
        shown = gr.State({})
        timer = gr.Timer(TICK_S)
        outputs = [shown, status, stop, result, history, picture, face, timer]

        def user_from(request: gr.Request) -> str:
            return user_of(request.headers)

        def refresh(seen: dict[str, str], since: float, choice: str, request: gr.Request) -> list[Any]:
            return _changes(jobs, user_from(request), seen, since, choice)

        def stop_mine(request: gr.Request) -> None:
            jobs.stop(jobs.of(user_from(request)))

        def stop_one(clicked: gr.EventData, request: gr.Request) -> None:
            job = jobs.find(user_from(request), str(clicked._data.get("job")))
            jobs.stop([job] if job is not None else [])

        def choose(clicked: gr.EventData) -> str:
            return str(clicked._data.get("job"))

        def asking(call: Callable[..., None]) -> Callable[..., list[Any]]:
            """A mistake becomes a sentence on the page; what went well starts the clock."""

            def ask(request: gr.Request, *given: Any) -> list[Any]:
                user = user_from(request)
                try:
                    if not user:
                        raise ValueError(
                            "Your browser sends no cookie: allow cookies for this page, and load it again."
                        )
                    call(user, *given)
                except ValueError as error:
                    return [show.sentence(str(error)), gr.skip(), gr.skip(), gr.skip()]
                return ["", time.monotonic(), "", gr.Timer(TICK_S, active=True)]

            return ask

        def one_of(kind: Kind) -> Callable[..., list[Any]]:
            return asking(lambda user, video, audio, face, *values: asked.one(user, kind, video, audio, face, values))

        started = [notice, since_s, chosen, timer]
        inputs = [video, audio, face, *values]
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}
        for button, kind in ((make, Kind.VIDEO), (preview, Kind.PREVIEW), (find, Kind.FACES)):
            button.click(one_of(kind), inputs, started, **quiet).then(None, js=show.SCROLL_TO_STATUS)
        many = asking(
            lambda user, videos, sounds, face, *values: asked.many(user, videos or [], sounds or [], face, values)
        )
        make_all.click(many, [videos, sounds, face_of_all, *values], started, **quiet).then(
            None, js=show.SCROLL_TO_STATUS
        )
        stop.click(stop_mine, None, None, **quiet)
        status.click(stop_one, None, None, **quiet)
        history.click(choose, None, chosen, **quiet).then(refresh, [shown, since_s, chosen], outputs, **quiet)
        video.change(look_at, video, [video_words, face, picture], **quiet)
        timer.tick(refresh, [shown, since_s, chosen], outputs, **quiet)
        page.load(refresh, [shown, since_s, chosen], outputs, **quiet)
    return page


def look_at(video: str | None) -> list[Any]:
    """What a video is, as soon as it is there; or why it cannot be used."""
    faces = gr.Radio(choices=FACE_CHOICES, value=InferConfig().face)
    hidden = gr.HTML("", visible=False)
    if video is None:
        return ["", faces, hidden]
    try:
        info = probe(video)
    except WORDED as error:
        return [show.sentence(str(error).replace(video, Path(video).name)), faces, hidden]
    words = f"{info.width_px} × {info.height_px}, {info.mean_fps:.5g} frames/s, {human_time(info.num_frames / 25)}"
    return [show.small(words), faces, hidden]


def _changes(jobs: Jobs, user: str, seen: dict[str, str], since_s: float, choice: str) -> list[Any]:
    """What to draw anew: the rest of the page stays, so that nothing that plays begins again."""
    mine = jobs.of(user)
    done = [job for job in mine if job.state is State.DONE and job.result is not None]
    made = next((job for job in done if job.id == choice), done[0] if done else None)
    found = next((job for job in mine if job.kind is Kind.FACES and job.ended_s >= since_s and job.picture), None)
    pending = [job for job in mine if job.state in PENDING]
    now = {
        "status": show.status(jobs, user, since_s),
        "stop": "yes" if sum(not job.stop.is_set() for job in pending) > 1 else "",
        "result": show.result(made) if made is not None else _EMPTY,
        "history": show.history(jobs, user, made.id if made is not None else ""),
        "faces": found.id if found is not None else "",
        "ticks": "yes" if pending else "",
    }
    new = {name for name, value in now.items() if seen.get(name) != value}
    picture, face = gr.skip(), gr.skip()
    if "faces" in new and found is not None:
        picture = gr.HTML(show.faces(found), visible=True)
        face = gr.Radio(choices=[*FACE_CHOICES, *track_choices(found.faces)])
    return [
        now if new else gr.skip(),
        now["status"] if "status" in new else gr.skip(),
        gr.Button(visible=bool(now["stop"])) if "stop" in new else gr.skip(),
        now["result"] if "result" in new else gr.skip(),
        now["history"] if "history" in new else gr.skip(),
        picture,
        face,
        gr.Timer(TICK_S, active=bool(pending)) if "ticks" in new else gr.skip(),
    ]


def track_choices(lines: list[str]) -> list[tuple[str, str]]:
    """(label, value) of each numbered face. lines: as `number_faces` gives them."""
    tracks = [line.partition("  ") for line in lines if line.startswith("track:")]
    return [(f"Face {name.removeprefix('track:')} ({words})", name) for name, _, words in tracks]


def _model_words(model: str | None) -> str:
    if model == IDENTITY:
        return "no network: the original mouth is drawn again"
    return Path(model).name if model else "the published model at hand"
