"""The report: one HTML page that shows the clips of a dataset, where the seconds of its sources went, and why."""

import base64
import hashlib
import json
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import fsspec
import jinja2
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from lipforge.datasets_manifest.display import human_share, visible
from lipforge.datasets_manifest.durations import human_time
from lipforge.datasets_manifest.generations import last_generation
from lipforge.datasets_manifest.language_tags import with_canonical_languages
from lipforge.datasets_manifest.lost import lost_shards
from lipforge.datasets_manifest.manifest import open_manifest, read_manifest
from lipforge.datasets_manifest.report.charts import NARROW, WIDE, FlowStep, Loss, flow_svg
from lipforge.datasets_manifest.report.clips import choose, clip_table, read_clips
from lipforge.datasets_manifest.report.media import Folder, InPage, MediaMaker, is_small
from lipforge.datasets_manifest.report.numbers import (
    MAX_SOURCES,
    MEASURES,
    OVERVIEW_COLUMNS,
    SOURCE_COLUMNS,
    by_language,
    by_reason,
    by_source,
    costs,
    finite,
    histogram,
    sums,
    totals,
)
from lipforge.datasets_manifest.schema import STAGES, Status
from lipforge.datasets_manifest.storage.files import open_place, publish, remote_errors
from lipforge.datasets_manifest.storage.store import REPORT_MEDIA, REPORT_PAGE, Store

log = logging.getLogger(__name__)

MAX_FACES = 12
"""In the strip at the top."""
MAX_LABEL = 22
"""Characters of a stage or reason in the flow chart."""
_HERE = Path(__file__).parent

MAX_ROWS = 2_000_000
"""Of a manifest whose report is written without being asked for: making one takes BYTES_PER_ROW."""
BYTES_PER_ROW = 420


def write_report(dataset_dir: str, out_path: str | os.PathLike[str] | None = None) -> str:
    """Write the report of a dataset (a folder or an fsspec URL) and return its path.

    out_path: a local path; None means `report.html` in the dataset, and a copy in the newest run. Media that are not
    small lie beside the page, in `report_media`; beside another out_path in NAME_media.
    Raises FileNotFoundError when there is no manifest.
    """
    fs, root = open_place(dataset_dir)
    with remote_errors(dataset_dir):
        runs, settings = _runs(fs, root), _settings(fs, root, dataset_dir)
    path = f"{root}/{REPORT_PAGE}" if out_path is None else os.fspath(os.path.abspath(out_path))
    if out_path is None:
        media_path, page_fs = f"{root}/{REPORT_MEDIA}", fs
    else:
        media_path, page_fs = f"{os.path.splitext(path)[0]}_media", LocalFileSystem()
    facts = _facts(dataset_dir, fs, root, runs, settings)
    folder = Folder(page_fs, media_path)
    facts |= _clips(dataset_dir, fs, root, facts["rows"], folder)
    if out_path is not None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        publish(page_fs, path, _render(facts, f"./{quote(os.fsencode(os.path.basename(media_path)))}/"))
        return os.fspath(out_path)
    publish(fs, path, _render(facts, f"{REPORT_MEDIA}/"))
    if runs:
        publish(fs, f"{root}/runs/{runs[-1]['run_id']}/{REPORT_PAGE}", _render(facts, f"../../{REPORT_MEDIA}/"))
    folder.tidy()
    return path if isinstance(fs, LocalFileSystem) else str(fs.unstrip_protocol(path))


def report_after(dataset_dir: str) -> str:
    """What a command that changed a dataset says of its report: where it was written, or why not."""
    rows = open_manifest(dataset_dir).count_rows()
    if rows <= MAX_ROWS:
        return write_report(dataset_dir)
    return f"not written for {rows:,} rows, which takes about {rows * BYTES_PER_ROW / 1e9:.0f} GB: `lipforge report`"


def _facts(
    dataset_dir: str,
    fs: fsspec.AbstractFileSystem,
    root: str,
    runs: Sequence[Mapping[str, Any]],
    settings: Mapping[str, float],
) -> dict[str, Any]:
    """What the template shows, but for clips and media; and the manifest's `rows`."""
    columns = [*OVERVIEW_COLUMNS, *(measure.column for measure in MEASURES)]
    rows = with_canonical_languages(read_manifest(dataset_dir, columns))
    cells = sums(rows)
    return {
        "rows": rows,
        "dataset_dir": dataset_dir,
        "totals": totals(cells, rows),
        "flows": _flows(cells),
        "reasons": by_reason(cells),
        "languages": by_language(cells, rows),
        "histograms": [histogram(rows, measure, settings) for measure in MEASURES],
        "sources": by_source(read_manifest(dataset_dir, columns=SOURCE_COLUMNS)),
        "max_sources": MAX_SOURCES,
        "run": _run_facts(runs[-1]) if runs else None,
        "lost": lost_shards(dataset_dir),
        "costs": costs(runs),
    }


def _clips(
    dataset_dir: str, fs: fsspec.AbstractFileSystem, root: str, rows: pa.Table, folder: Folder
) -> dict[str, Any]:
    """The clips of the page and their media; these go into the folder when they are not small."""
    chosen = choose(rows)
    clips = read_clips(dataset_dir, [*chosen.shown, *chosen.listed_only])
    shown = clips[: len(chosen.shown)]
    inside = is_small(shown)
    media = MediaMaker(dataset_dir, fs, root, InPage() if inside else folder).make(shown)
    faces = [
        {"clip": number, "poster": medium["poster"], "name": clip["key"]}
        for number, (clip, medium) in enumerate(zip(shown, media, strict=True))
        if clip["status"] == Status.KEPT and medium["video"]
    ]
    return {
        "table": {**clip_table(clips), "media": media},
        "media_inside": inside,
        "num_clips": len(rows),
        "faces": faces[:MAX_FACES],
    }


def _render(facts: Mapping[str, Any], media_base: str) -> bytes:
    """media_base: relative address of the media's folder, with a slash at its end."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters.update(time=human_time, moment=moment, share=human_share, visible=visible, code=code)
    script = (_HERE / "report.js").read_text(encoding="utf-8")
    base = "" if facts["media_inside"] else media_base
    page = environment.get_template("report.html").render(
        **facts,
        base=base,
        data=htmlsafe_json_dumps({**facts["table"], "base": base}, dumps=_compact),
        script=Markup(script),  # noqa: S704 - a file of ours
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    return page.encode("utf-8", "backslashreplace")  # the dataset's path may be any bytes


def _compact(plain: Any, **options: Any) -> str:
    return json.dumps(plain, separators=(",", ":"), allow_nan=False, **options)


def _flows(cells: Sequence[Mapping[str, Any]]) -> list[Markup]:
    """The flow chart for wide and for narrow windows; none when there are no seconds to draw."""
    seconds_in = sum(cell["seconds"] for cell in cells)
    if seconds_in <= 0:
        return []
    kept = sum(cell["seconds"] for cell in cells if cell["status"] == Status.KEPT)
    lost: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    for cell in cells:
        if cell["status"] != Status.KEPT and cell["seconds"] > 0:
            lost[cell["stage"] or "unknown"][cell["reason"] or "unknown", cell["status"]] += cell["seconds"]
    order = [*STAGES[:-1], *sorted(set(lost) - set(STAGES)), STAGES[-1]]
    steps = [
        FlowStep(
            shorten(stage),
            [
                Loss(shorten(reason), f"{human_time(seconds)} · {human_share(seconds, seconds_in)}", seconds, status)
                for (reason, status), seconds in lost[stage].most_common()
            ],
        )
        for stage in order
    ]
    in_text, kept_text = f"{human_time(seconds_in)} in", f"{human_time(kept)} kept · {human_share(kept, seconds_in)}"
    return [flow_svg(seconds_in, in_text, kept_text, steps, form) for form in (WIDE, NARROW)]


def shorten(name: str) -> str:
    """A name of a stage or reason that fits its label."""
    return visible(name if len(name) <= MAX_LABEL else f"{name[: MAX_LABEL - 1]}\N{HORIZONTAL ELLIPSIS}")


def _runs(fs: fsspec.AbstractFileSystem, root: str) -> list[dict[str, Any]]:
    """The summaries of all runs, newest last. An unreadable summary is logged and left out."""
    runs = []
    for folder in fs.ls(f"{root}/runs", detail=False) if fs.isdir(f"{root}/runs") else []:
        path = f"{folder}/summary.json"
        if not fs.exists(path):
            continue
        try:
            summary = json.loads(fs.cat_file(path))
        except ValueError as error:
            log.warning("%s is not JSON and is left out of the report: %s", path, error)
            continue
        if isinstance(summary, dict):
            runs.append({**summary, "run_id": folder.rstrip("/").rsplit("/", 1)[-1]})
    return sorted(runs, key=lambda run: (str(run.get("started_at") or ""), run["run_id"]))


def _run_facts(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Facts about a run; None or 0 where an older run did not record one."""
    versions = summary.get("versions")
    return {
        "run_id": summary["run_id"],
        **{name: summary.get(name) for name in ("started_at", "finished_at", "config_hash")},
        **{name: finite(summary.get(name)) for name in ("wall_s", "seconds_done", "num_units", "num_workers")},
        "versions": versions if isinstance(versions, dict) else {},
        "notes": [str(note) for note in summary.get("notes") or []],
    }


def _settings(fs: fsspec.AbstractFileSystem, root: str, dataset_dir: str) -> dict[str, float]:
    """Numeric settings in force (`lipforge pack` may have changed them since the run), as `section.field`."""
    path = f"{root}/ledger/dataset.json"
    tree = json.loads(fs.cat_file(path)).get("config") if fs.exists(path) else None
    generation = last_generation(Store(dataset_dir))
    in_force = generation.about if generation else {}
    sections = {**(tree if isinstance(tree, dict) else {}), **in_force}.items()
    return {
        f"{section}.{name}": float(value)
        for section, fields in sections
        if isinstance(fields, dict)
        for name, value in fields.items()
        if isinstance(value, int | float)
    }


def moment(text: str) -> str:
    """For example `26 Nov 2026, 18:00 UTC`; text that is no time as it is."""
    try:
        at = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return visible(text)
    return f"{at.day} {at:%b %Y, %H:%M} UTC"


def code(text: str) -> Markup:
    """Our own help texts: text between backticks becomes code."""
    return Markup("").join(
        Markup("<code>{}</code>").format(piece) if i % 2 else piece for i, piece in enumerate(text.split("`"))
    )
