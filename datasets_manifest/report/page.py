"""The report: one self-contained HTML page that shows where the seconds of a dataset's sources went, and why."""

import json
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec
import jinja2
from fsspec.implementations.local import LocalFileSystem
from markupsafe import Markup

from lipforge.datasets_manifest.display import human_share, visible
from lipforge.datasets_manifest.durations import human_time
from lipforge.datasets_manifest.generations import last_generation
from lipforge.datasets_manifest.language_tags import with_canonical_languages
from lipforge.datasets_manifest.lost import lost_shards
from lipforge.datasets_manifest.manifest import open_manifest, read_manifest
from lipforge.datasets_manifest.report.charts import FlowStep, Loss, flow_svg
from lipforge.datasets_manifest.report.gallery import Gallery, pick_kept, pick_not_kept
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
from lipforge.datasets_manifest.storage.store import Store

log = logging.getLogger(__name__)

MAX_ROWS = 2_000_000
"""Of a manifest whose report is written without being asked for: making one takes BYTES_PER_ROW."""
BYTES_PER_ROW = 420


def write_report(dataset_dir: str, out_path: str | os.PathLike[str] | None = None) -> str:
    """Write the report of a dataset (a folder or an fsspec URL) and return its path.

    out_path: a local path; None means `report.html` in the newest run, or in the dataset when it has no run.
    Raises FileNotFoundError when there is no manifest.
    """
    fs, root = open_place(dataset_dir)
    with remote_errors(dataset_dir):
        runs, settings = _runs(fs, root), _settings(fs, root, dataset_dir)
    page = _render(dataset_dir, fs, root, runs, settings).encode(
        "utf-8", "backslashreplace"
    )  # the path may be any bytes
    if out_path is None:
        path = f"{root}/runs/{runs[-1]['run_id']}/report.html" if runs else f"{root}/report.html"
        publish(fs, path, page)
        return path if isinstance(fs, LocalFileSystem) else str(fs.unstrip_protocol(path))
    path = os.path.abspath(out_path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    publish(LocalFileSystem(), path, page)
    return os.fspath(out_path)


def report_after(dataset_dir: str) -> str:
    """What a command that changed a dataset says of its report: where it was written, or why not."""
    rows = open_manifest(dataset_dir).count_rows()
    if rows <= MAX_ROWS:
        return write_report(dataset_dir)
    return f"not written for {rows:,} rows, which takes about {rows * BYTES_PER_ROW / 1e9:.0f} GB: `lipforge report`"


def _render(
    dataset_dir: str,
    fs: fsspec.AbstractFileSystem,
    root: str,
    runs: Sequence[Mapping[str, Any]],
    settings: Mapping[str, float],
) -> str:
    columns = [*OVERVIEW_COLUMNS, *(measure.column for measure in MEASURES)]
    rows = with_canonical_languages(read_manifest(dataset_dir, columns))
    cells = sums(rows)
    reasons = by_reason(cells)
    run = _run_facts(runs[-1]) if runs else None
    gallery = Gallery(dataset_dir, fs, root)
    kept_ids, lost_ids = pick_kept(rows), pick_not_kept(rows)
    gallery.load([*kept_ids, *(key for ids in lost_ids.values() for key in ids)])

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters.update(time=human_time, share=human_share, visible=visible, code=code)
    return environment.get_template("report.html").render(
        dataset_dir=dataset_dir,
        totals=totals(cells, rows),
        flow=_flow(cells),
        reasons=reasons,
        languages=by_language(cells, rows),
        histograms=[histogram(rows, measure, settings) for measure in MEASURES],
        kept_cards=[gallery.kept_card(key) for key in kept_ids],
        lost_cards={reason: [gallery.lost_card(i, reason) for i in ids] for reason, ids in lost_ids.items()},
        sources=by_source(read_manifest(dataset_dir, columns=SOURCE_COLUMNS)),
        max_sources=MAX_SOURCES,
        run=run,
        lost=lost_shards(dataset_dir),
        costs=costs(runs),
    )


def _flow(cells: Sequence[Mapping[str, Any]]) -> str | None:
    """The flow chart, or None when there are no seconds to draw."""
    seconds_in = sum(cell["seconds"] for cell in cells)
    if seconds_in <= 0:
        return None
    kept = sum(cell["seconds"] for cell in cells if cell["status"] == Status.KEPT)
    lost: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    for cell in cells:
        if cell["status"] != Status.KEPT and cell["seconds"] > 0:
            lost[cell["stage"] or "unknown"][cell["reason"] or "unknown", cell["status"]] += cell["seconds"]
    order = [*STAGES[:-1], *sorted(set(lost) - set(STAGES)), STAGES[-1]]
    steps = [
        FlowStep(
            stage,
            [
                Loss(reason, f"{human_time(seconds)} · {human_share(seconds, seconds_in)}", seconds, status)
                for (reason, status), seconds in lost[stage].most_common()
            ],
        )
        for stage in order
    ]
    return flow_svg(
        seconds_in,
        f"{human_time(seconds_in)} in",
        f"{human_time(kept)} kept · {human_share(kept, seconds_in)}",
        steps,
    )


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
        **{name: finite(summary.get(name)) for name in ("wall_s", "seconds_in", "num_units", "num_workers")},
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


def code(text: str) -> Markup:
    """Our own help texts: text between backticks becomes code."""
    return Markup("").join(
        Markup("<code>{}</code>").format(piece) if i % 2 else piece for i, piece in enumerate(text.split("`"))
    )
