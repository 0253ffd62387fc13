"""The page: files and settings on one side, what becomes of them on the other."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from lipforge.pipeline.app import show
from lipforge.pipeline.app.handlers import FIND_WORDS, Handlers, job_clicked, look_at
from lipforge.pipeline.app.jobs import Jobs, Kind
from lipforge.pipeline.app.settings import face_choice, setting_inputs
from lipforge.pipeline.app.shelf import Shelf
from lipforge.pipeline.infer.batch import SOUND_SUFFIXES, VIDEO_SUFFIXES
from lipforge.pipeline.infer.lips import best_at_hand
from lipforge.pipeline.infer.request import IDENTITY

_CLICKED = """element.addEventListener("click", event => {
  const button = event.target.closest("[data-job]");
  if (button) trigger("click", { job: button.dataset.job });
});"""
"""A click on a button of a job tells which job it is."""
_TICK_S = 1.0
_QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}


@dataclass
class _One:
    """Files of one video."""

    video: gr.Video
    about: gr.HTML
    audio: gr.Audio
    face: gr.Radio
    find: gr.Button
    picture: gr.HTML
    make: gr.Button
    preview: gr.Button


@dataclass
class _Several:
    """Files of many videos."""

    videos: gr.File
    sounds: gr.File
    face: gr.Radio
    make: gr.Button


@dataclass
class _Made:
    """What becomes of them."""

    notice: gr.HTML
    status: gr.HTML
    stop: gr.Button
    result: gr.HTML
    history: gr.HTML


def build_page(jobs: Jobs, shelf: Shelf, model: str | None, most_upload_bytes: int) -> gr.Blocks:
    """The whole page, for one model."""
    with gr.Blocks(title="Lipforge", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(show.header(_model_words(model)), elem_id="header")
        with gr.Row(elem_id="columns", equal_height=False):
            with gr.Column(scale=5, min_width=320, elem_id="asked"):
                with gr.Tabs():
                    with gr.Tab("One video"):
                        one = _draw_one()
                    with gr.Tab("Several"):
                        several = _draw_several()
                values = setting_inputs()
                gr.HTML(show.limits_words(most_upload_bytes))
            with gr.Column(scale=7, min_width=320, elem_id="made"):
                made = _draw_made()
        _connect(page, Handlers(jobs, shelf, model), one, several, made, values)
    return page


def _draw_one() -> _One:
    video = gr.Video(label="Video", sources=["upload"], elem_id="video", height=240, buttons=[])
    about = gr.HTML("", elem_id="about")
    audio = gr.Audio(
        label="Sound that it shall speak",
        sources=["upload", "microphone"],
        type="filepath",
        editable=False,
        buttons=[],
        elem_id="audio",
    )
    with gr.Group(elem_id="faces"):
        face = face_choice("Find the faces to choose one by its number.")
        find = gr.Button(FIND_WORDS, size="sm", elem_id="find")
        picture = gr.HTML("", elem_id="picture")
    with gr.Row(elem_id="go"):
        make = gr.Button("Make video", variant="primary", elem_id="make", min_width=120)
        preview = gr.Button("Preview 2 s", elem_id="preview", min_width=120)
    return _One(video, about, audio, face, find, picture, make, preview)


def _draw_several() -> _Several:
    gr.HTML(show.several_words())
    kinds = {"Videos": list(VIDEO_SUFFIXES), "Sounds": [*SOUND_SUFFIXES, *VIDEO_SUFFIXES]}
    videos, sounds = (
        gr.File(label=label, file_count="multiple", file_types=types, elem_id=label.lower(), height=160)
        for label, types in kinds.items()
    )
    face = face_choice()
    return _Several(videos, sounds, face, gr.Button("Make all", variant="primary", elem_id="make-all"))


def _draw_made() -> _Made:
    notice = gr.HTML("", elem_id="notice")
    status = gr.HTML("", elem_id="status", js_on_load=_CLICKED)
    stop = gr.Button("Stop all", size="sm", elem_id="stop", visible=False)
    result = gr.HTML(show.EMPTY, elem_id="result")
    gr.HTML('<h2 class="lf-section">Made so far</h2>')
    history = gr.HTML("", elem_id="history", js_on_load=_CLICKED)
    return _Made(notice, status, stop, result, history)


def _connect(page: gr.Blocks, does: Handlers, one: _One, several: _Several, made: _Made, values: list[Any]) -> None:
    seen, since_s, chosen = gr.State({}), gr.State(0.0), gr.State("")
    shown = [made.status, made.stop, made.result, made.history, one.picture, one.face, one.find]
    refresh: dict[str, Any] = {
        "fn": does.refresh,
        "inputs": [seen, since_s, chosen],
        "outputs": [seen, *shown],
        **_QUIET,
    }
    started = [since_s, chosen]
    inputs = [one.video, one.audio, one.face, *values]

    one.find.click(does.ask_one(Kind.FACES), inputs, [one.picture, *started], **_QUIET).then(**refresh)
    for button, kind in ((one.make, Kind.VIDEO), (one.preview, Kind.PREVIEW)):
        asked = button.click(does.ask_one(kind), inputs, [made.notice, *started], **_QUIET)
        asked.then(**refresh).then(None, js=show.SCROLL_TO_STATUS)
    inputs = [several.videos, several.sounds, several.face, *values]
    asked = several.make.click(does.ask_many, inputs, [made.notice, *started], **_QUIET)
    asked.then(**refresh).then(None, js=show.SCROLL_TO_STATUS)

    made.stop.click(does.stop_all, None, None, **_QUIET).then(**refresh)
    made.status.click(does.stop_one, None, None, **_QUIET).then(**refresh)
    made.history.click(job_clicked, None, chosen, **_QUIET).then(**refresh)
    one.video.change(look_at, one.video, [one.about, one.face, one.picture], **_QUIET)
    gr.Timer(_TICK_S).tick(**refresh)
    page.load(show.now_s, None, since_s, **_QUIET).then(**refresh)


def _model_words(model: str | None) -> str:
    if model == IDENTITY:
        return "identity (no network)"
    return Path(model).name if model else best_at_hand()
