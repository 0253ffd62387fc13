"""Pieces of the page that are HTML: what runs and waits, the result, the history."""

import time
from importlib.resources import files

from gradio.themes import Base
from jinja2 import Environment, select_autoescape

from lipforge.datasets_manifest.display import counted
from lipforge.datasets_manifest.durations import human_time
from lipforge.pipeline.app.jobs import MOST_KEPT, MOST_KEPT_BYTES, PENDING, Job, Jobs, Kind, State
from lipforge.pipeline.infer.request import PASSED_WORDS

_MAKING = {Kind.VIDEO: "Making", Kind.PREVIEW: "Making 2 s of", Kind.FACES: "Finding faces in"}
_WHAT = {Kind.VIDEO: "", Kind.PREVIEW: "Preview, "}
_MOST_SPANS = 6
EMPTY = (
    '<div class="lf-empty"><b>The new video appears here</b><span>beside the original, with a line to drag between '
    "them</span></div>"
)


def _template(name: str) -> str:
    return files("lipforge.pipeline.app").joinpath(name).read_text()


_PAGES = Environment(autoescape=select_autoescape(default_for_string=True, default=True), trim_blocks=True)
_COMPARE = _PAGES.from_string(_template("compare.html"))
_STATUS = _PAGES.from_string(_template("status.html"))
_HISTORY = _PAGES.from_string(_template("history.html"))
_RESULT = _PAGES.from_string(_template("result.html"))
STYLE = _template("style.css")


def status(jobs: Jobs, user: str, since_s: float) -> str:
    """What of this user runs and waits, and what ended without a result since then."""
    rows = []
    for job in reversed(jobs.of(user)):
        if job.state in PENDING:
            rows.append(_pending(jobs, job))
        elif job.kind is not Kind.FACES and job.ended_s >= since_s and job.state in (State.FAILED, State.STOPPED):
            rows.append(_row(job.state, job.words or "Stopped.", job.title))
    return _STATUS.render(rows=rows)


def sentence(words: str) -> str:
    """What is wrong with what was asked."""
    return _STATUS.render(rows=[_row(State.FAILED, words)])


def _row(state: str, words: str, head: str = "", percent: int | None = None, job_id: str = "") -> dict[str, object]:
    return {"state": state, "words": words, "head": head, "percent": percent, "job": job_id}


def _pending(jobs: Jobs, job: Job) -> dict[str, object]:
    head = f"{_MAKING[job.kind]} {job.title}"
    if job.stop.is_set():
        return _row("stopping", "Stopping ...", head)
    if job.state is State.WAITING:
        ahead = jobs.ahead_of(job)
        words = f"Waiting: {ahead} job{'s' if ahead > 1 else ''} before it" if ahead else "Starts next"
        return _row(State.WAITING, words, head, job_id=job.id)
    seen = job.progress
    if seen is None:
        return _row(State.RUNNING, "Opening the files and the model", head, 0, job.id)
    left = f", about {human_time(seen.left_s)} left in this step" if seen.left_s is not None else ""
    percent = round(100 * min(1.0, seen.done_s / seen.total_s)) if seen.total_s else 0
    return _row(State.RUNNING, f"Step {seen.step}{left}", head, percent, job.id)


def result(job: Job) -> str:
    """The result beside the original, and what a person should know of it."""
    made = job.result
    assert made is not None
    spans = [f"{span.start_s:.2f} to {span.end_s:.2f} s: {PASSED_WORDS[span.reason]}" for span in made.passed]
    return _RESULT.render(
        job=job,
        title=f"Preview of {job.title}" if job.kind is Kind.PREVIEW else job.title,
        width=job.size_px[0],
        height=job.size_px[1],
        facts=f"{human_time(made.duration_s)}, {counted(made.num_frames, 'frame')}, "
        f"{made.num_drawn / made.num_frames:.0%} with a new mouth, made in {human_time(made.wall_s)}",
        spans=spans[:_MOST_SPANS],
        more=max(0, len(spans) - _MOST_SPANS),
        notes=[job.without_folders(note) for note in made.notes],
    )


def compare(job: Job) -> str:
    """A page of its own: both videos in step, one over the other, with a line to drag."""
    return _COMPARE.render(job=job, extend=job.config.extend)


def faces(job: Job) -> str:
    return _PAGES.from_string(
        '<a href="/mine/{{ id }}/faces" target="_blank"><img class="faces" src="/mine/{{ id }}/faces" '
        'alt="The faces of the video, with their numbers"></a>'
    ).render(id=job.id)


def history(jobs: Jobs, user: str, shown: str) -> str:
    done = [job for job in jobs.of(user) if job.state is State.DONE and job.kind is not Kind.FACES]
    return _HISTORY.render(
        jobs=done, shown=shown, what=_WHAT, time=human_time, most=MOST_KEPT, most_gb=MOST_KEPT_BYTES >> 30
    )


SCROLL_TO_STATUS = """() => {
  const made = document.getElementById("made");
  if (made && innerWidth < 800) made.scrollIntoView({ behavior: "smooth" });
}"""


def header(model: str) -> str:
    return _PAGES.from_string(
        '<header class="lf-top"><h1>Lipforge</h1><p>A video, a sound, a video that speaks it.</p>'
        '<span class="lf-model">Model: {{ model }}</span></header>'
    ).render(model=model)


def small(words: str) -> str:
    return _PAGES.from_string('<p class="lf-small">{{ words }}</p>').render(words=words)


def several_words() -> str:
    return small(
        "Each sound goes with the video of the same name (talk.mp4, talk.wav); one sound with all videos; "
        "one video with all sounds."
    )


def now_s() -> float:
    """On the clock of jobs."""
    return time.monotonic()


def limits_words(most_bytes: int) -> str:
    return small(
        f"Files of up to {most_bytes / (1 << 30):.3g} GB each. They stay on the machine that this page comes from."
    )


def theme() -> Base:
    """Fonts of the user's own system: nothing is fetched."""
    return Base(
        primary_hue="blue",
        neutral_hue="slate",
        radius_size="md",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
