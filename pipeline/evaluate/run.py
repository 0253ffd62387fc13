"""`lipforge evaluate`, from videos to a report. This file is the order of the work."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

import lipforge
from lipforge.datasets_manifest.display import counted
from lipforge.pipeline.evaluate.best import MEDIA, Best
from lipforge.pipeline.evaluate.inputs import Item, find_items
from lipforge.pipeline.evaluate.judge import Judge
from lipforge.pipeline.evaluate.made import VIDEOS, Maker
from lipforge.pipeline.evaluate.metrics import METRICS, Sound
from lipforge.pipeline.evaluate.numbers import RESAMPLES, SEED, Row, numbers_of, resampled_by_speaker
from lipforge.pipeline.evaluate.one import Judged, judge_video, judged_seconds
from lipforge.pipeline.evaluate.result import (
    CLIPS_PARQUET,
    FAILED,
    MEASURED,
    PAGE,
    REPORT_JSON,
    EvaluateError,
    Evaluation,
    Number,
    read_evaluation,
    write_evaluation,
)
from lipforge.pipeline.evaluate.sets import keep_features, set_numbers
from lipforge.pipeline.infer.request import InferConfig
from lipforge.pipeline.infer.work import identity_of, open_work, remove_work, work_folder, write_whole

DEFAULT_SECONDS, MOST_SECONDS = 10.0, 300.0
VERSION = 2
"""Raise it when numbers change: what an unfinished evaluation has measured is then measured again."""
_BEGUN = "begun"
_TEXTS = ("file", "video", "reference", "language", "speaker", "status", "detail", "unmeasured")
_NUMBERS = ("seconds", *(name for name, metric in METRICS.items() if not metric.of_set))
_SCHEMA = pa.schema([*((name, pa.string()) for name in _TEXTS), *((name, pa.float64()) for name in _NUMBERS)])


@dataclass(frozen=True)
class Request:
    """What is evaluated, and how."""

    videos: tuple[str, ...]
    out: str
    reference: str | None = None
    silent: str | None = None
    foreign: str | None = None
    model: str | None = None
    """Draws the videos that are judged; `videos` are then the originals."""
    by: tuple[str, ...] = ()
    labels: str | None = None
    path_template: str | None = None
    against: str | None = None
    seconds: float = DEFAULT_SECONDS
    device: str = "cpu"
    overwrite: bool = False
    command: str = ""


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    what: str
    done: float
    """Videos."""
    total: int
    left_s: float | None


OnProgress = Callable[[Progress], None]


def evaluate(request: Request, on_progress: OnProgress = lambda progress: None) -> tuple[Evaluation, list[Row]]:
    """Judge all videos and write REPORT: report.json, clips.parquet, report.html, media. Returns (report, rows).

    Goes on with what an earlier call for the same left. Raises EvaluateError and ValueError for what cannot be done,
    ModelFileError for damaged models, StorageError when storage fails; a video that cannot be used gets a row.
    """
    out = Path(request.out)
    _check(request, out)
    against = None if request.against is None else read_against(request.against)
    items, notes = find_items(
        request.videos,
        out,
        reference=request.reference,
        silent=request.silent,
        foreign=request.foreign,
        labels=request.labels,
        path_template=request.path_template,
    )
    _check_outside(out, items)
    _check_by(request, items)
    judge = Judge(request.device)
    model = _model_words(request)
    settings = {
        "version": VERSION,
        "seconds": request.seconds,
        "model": model,
        "judges": sorted((used.name, used.sha256) for used in judge.models),
        # Each clip may get the sound of any other, so what was drawn counts for these originals alone.
        "originals": None if model is None else [_identity(item) for item in items],
    }
    with open_work(out / REPORT_JSON, settings) as work:
        if not (work / _BEGUN).exists():
            for name in (MEDIA, VIDEOS):
                shutil.rmtree(out / name, ignore_errors=True)
            for name in (REPORT_JSON, CLIPS_PARQUET, PAGE):
                (out / name).unlink(missing_ok=True)
            write_whole(work / _BEGUN, b"")
        rows = _measure_all(request, items, judge, out, work, on_progress)
        sets = set_numbers(_cache(work, row["file"]).with_suffix(".npz") for row in rows)
        found = _evaluation(request, rows, judge, notes, model, sets)
        _write(out, found, rows, against)
        remove_work(work)
    return found, rows


def _check(request: Request, out: Path) -> None:
    """Raises EvaluateError, before any work."""
    if not 1 <= request.seconds <= MOST_SECONDS:
        raise EvaluateError(
            f"--seconds {request.seconds:g}: lip-sync needs at least 1, and memory holds {MOST_SECONDS:g} at most"
        )
    if request.device == "cuda" and not torch.cuda.is_available():
        raise EvaluateError("--device cuda: this machine has none that PyTorch can use; take --device cpu")
    if request.model is not None and (request.reference or request.silent or request.foreign):
        raise EvaluateError(
            "with --model, VIDEOS are the originals, and all others are made of them: leave out --reference, --silent "
            "and --foreign"
        )
    if out.is_symlink() and not out.exists():
        raise EvaluateError(f"{out} is a link that leads nowhere: name another --out")
    if out.is_file():
        raise EvaluateError(f"{out} is a file: name a folder for the report")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if request.against is not None and Path(request.against).exists() and Path(request.against).samefile(out):
        raise EvaluateError(f"--against {request.against} is the report that --out replaces: name another --out")
    folders = (*request.videos, request.reference, request.silent, request.foreign)
    if any(Path(given).is_dir() and Path(given).samefile(out) for given in folders if given is not None):
        raise EvaluateError(f"{out} is a folder of videos: name another --out")
    if work_folder(out / REPORT_JSON).exists():
        return
    if not (out / REPORT_JSON).is_file():
        raise EvaluateError(f"{out} holds something else than a report: name another --out")
    if not request.overwrite:
        raise EvaluateError(f"{out} holds a report: name another --out, or replace it with --overwrite")


def _check_outside(out: Path, items: list[Item]) -> None:
    """What lies in the folder of the report would be removed with an old report."""
    whole = os.path.realpath(out) + os.sep
    for item in items:
        for path in (item.video, item.reference, *item.made.values()):
            if path is not None and os.path.realpath(path).startswith(whole):
                raise EvaluateError(f"{path} lies in {out}, which becomes the report: name another --out")


def _check_by(request: Request, items: list[Item]) -> None:
    for column in request.by:
        if column not in ("language", "speaker"):
            raise EvaluateError(f"--by {column}: expected language or speaker")
        if all(getattr(item, column) in (None, "und") for item in items):
            raise EvaluateError(
                f"--by {column}: no video has a {column}: give them with --labels, or with --path-template such as "
                "'{language}/{speaker}/'"
            )


def read_against(place: str) -> tuple[Evaluation, list[Row]]:
    found = read_evaluation(Path(place))
    folder = Path(place) if Path(place).is_dir() else Path(place).parent
    path = folder / CLIPS_PARQUET
    try:
        table = pq.read_table(path)
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        raise EvaluateError(f"{path} is missing or damaged: evaluate those videos again") from error
    types = {field.name: field.type for field in table.schema}
    if not {"file", "status"} <= set(types) or any(types.get(one.name, one.type) != one.type for one in _SCHEMA):
        raise EvaluateError(f"{path} is not the table of a report: evaluate those videos again")
    return found, table.to_pylist()


def _model_words(request: Request) -> str | None:
    """Name and hash of the model that draws. Raises InferError, ModelFileError."""
    if request.model is None:
        return None
    from lipforge.pipeline.infer.lips import open_lip_model

    opened = open_lip_model(_infer_config(request), lambda: False)
    return opened.name if opened.name == opened.sha256 else f"{opened.name}, sha256 {opened.sha256}"


def _infer_config(request: Request) -> InferConfig:
    return InferConfig.model_validate({"model": request.model, "device": request.device})


def _measure_all(
    request: Request, items: list[Item], judge: Judge, out: Path, work: Path, on_progress: OnProgress
) -> list[Row]:
    maker = None if request.model is None else Maker(out, items, _infer_config(request), request.seconds)
    known = {item.name: row for item in items if (row := _known(work, item)) is not None}
    best = Best(out, known.values())
    rows: list[Row] = []
    began_s, new = time.monotonic(), 0
    for number, original in enumerate(items):
        if original.name in known:
            rows.append(known[original.name])
            continue

        def show(what: str, part: float = 0.0, number: int = number, new: int = new) -> None:
            spent_s, done = time.monotonic() - began_s, new + part
            left_s = spent_s / done * (len(items) - len(known) - done) if done > 0 else None
            on_progress(Progress(what, number + part, len(items), left_s))

        item, reasons = original, {}
        if maker is not None:
            item, reasons = maker.make(number, _drawing(original.name, show))
        show(f"judge {original.name}", 0.9 if maker is not None else 0.0)
        row = _judged_row(item, original, reasons, judge, request, best, work)
        write_whole(_cache(work, original.name), json.dumps([_identity(original), row]).encode())
        rows.append(row)
        new += 1
    on_progress(Progress("write the report", len(items), len(items), None))
    return rows


def _drawing(name: str, show: Callable[[str, float], None]) -> Any:
    """Tells how far drawing is: three videos, which take most of the time."""
    begun: list[str] = []

    def told(progress: Any) -> None:
        if progress.step.startswith("1 of") and (not begun or begun[-1] != "look"):
            begun.append("look")
        elif not progress.step.startswith("1 of"):
            begun.append("draw")
        videos = max(sum(one == "look" for one in begun) - 1, 0)
        share = min(progress.done_s / progress.total_s, 1.0) if progress.total_s else 0.0
        show(f"draw {name}: {list(Sound)[min(videos, 2)]} sound, {progress.step}", 0.3 * (videos + share))

    return told


def _judged_row(
    item: Item, original: Item, reasons: dict[Sound, str], judge: Judge, request: Request, best: Best, work: Path
) -> Row:
    if Sound.OWN in reasons:
        judged = Judged(FAILED, f"not drawn: {reasons[Sound.OWN]}")
    else:
        judged = judge_video(item, judge, request.seconds, limited=request.model is not None)
    for sound, words in reasons.items():
        names = [name for name, metric in METRICS.items() if metric.sound is sound and sound is not Sound.OWN]
        judged.measured.reasons.update(dict.fromkeys(names, f"not drawn: {words}"))
    row: Row = {
        "file": original.name,
        "video": item.video,
        "reference": item.reference,
        "language": item.language,
        "speaker": item.speaker,
        "status": judged.status,
        "detail": judged.detail,
        "seconds": judged_seconds(judged.clip),
        "reasons": judged.measured.reasons,
        "lost": judged.lost,
        **judged.measured.values,
    }
    best.add(row, judged)
    keep_features(_cache(work, original.name).with_suffix(".npz"), judge, judged)
    return row


def _identity(item: Item) -> list[Any]:
    """Of the files as they are now."""
    found: list[Any] = [item.language, item.speaker]
    for path in (item.video, item.reference, *sorted(item.made.values())):
        try:
            # What is no file, such as a pipe, would wait for its writer.
            found.append([path, identity_of(path)] if path is not None and os.path.isfile(path) else path)
        except OSError as error:
            found.append([path, str(error.strerror)])
    return found


def _cache(work: Path, name: str) -> Path:
    return work / f"clip-{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.json"


def _known(work: Path, item: Item) -> Row | None:
    try:
        identity, row = json.loads(_cache(work, item.name).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return row if identity == json.loads(json.dumps(_identity(item))) else None


def _evaluation(
    request: Request, rows: list[Row], judge: Judge, notes: list[str], model: str | None, sets: list[Number]
) -> Evaluation:
    compared = bool(request.reference or request.model)
    absent = {name for missing in judge.missing for name in missing.metrics}
    tried = [
        name
        for name, metric in METRICS.items()
        if name not in absent
        and not metric.of_set
        and any(row.get(name) is not None or name in row["reasons"] for row in rows)
        and (metric.sound is Sound.OWN or any(row.get(name) is not None or _wanted(row, name) for row in rows))
        and (not metric.needs_reference or compared)
    ]
    for row in rows:
        if row["status"] != MEASURED:
            row["reasons"] = dict.fromkeys(tried, row["detail"])
    found = Evaluation(
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        command=request.command,
        lipforge=lipforge.__version__,
        videos=" ".join(request.videos),
        reference=" ".join(request.videos) if request.model is not None else request.reference,
        model=model,
        seed=SEED,
        resamples=RESAMPLES,
        num_videos=len(rows),
        numbers=[*numbers_of(rows, request.by, tried), *sets],
        models=judge.models,
        missing=[
            one for one in judge.missing if compared or not all(METRICS[name].needs_reference for name in one.metrics)
        ],
        notes=[*_notes(request, rows), *notes],
    )
    return found


def _wanted(row: Row, name: str) -> bool:
    return name in row["reasons"]


def _notes(request: Request, rows: list[Row]) -> list[str]:
    notes = [
        f"The first {request.seconds:g} s of each video are judged, and of them the face that is seen longest without "
        "a cut."
    ]
    measured = sum(row["status"] == MEASURED for row in rows)
    if measured == 1:
        notes.append("One clip was measured: there is no interval, and its numbers say nothing of others.")
    elif resampled_by_speaker(rows):
        speakers = len({row["speaker"] for row in rows})
        notes.append(
            f"Intervals are over speakers: {speakers} of them are drawn again and again, with all their clips."
        )
    else:
        notes.append("Intervals are over clips: where several show one speaker, they are too narrow.")
    for row in rows:
        if row["status"] == FAILED:
            notes.append(f"{row['video']} cannot be used: {row['detail']}")
        notes.extend(f"{path} cannot be used: {why}" for path, why in row["lost"].items())
    longer = sum(abs(row.get("length_error_s") or 0.0) > 0.06 for row in rows)
    if longer:
        notes.append(
            f"{counted(longer, 'video has', 'videos have')} another length than the reference, of {len(rows)}: "
            "the frames that both have are compared."
        )
    return notes


def _write(out: Path, found: Evaluation, rows: list[Row], against: tuple[Evaluation, list[Row]] | None) -> None:
    """report.json comes last: it says that all is there."""
    from lipforge.pipeline.evaluate.page.page import write_page

    columns = [_column_row(row) for row in rows]
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(columns, _SCHEMA), buffer)
    write_whole(out / CLIPS_PARQUET, buffer.getvalue().to_pybytes())
    write_page(out, found, columns, against)
    write_evaluation(out, found)


def _column_row(row: Row) -> Row:
    words = "; ".join(f"{name}: {reason}" for name, reason in row["reasons"].items())
    columns = {key: value for key, value in row.items() if key not in ("reasons", "lost")} | {"unmeasured": words}
    return {
        key: value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
        for key, value in columns.items()
    }
