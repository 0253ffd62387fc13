"""The report: one self-contained HTML page that shows where the seconds of a dataset's sources went, and why."""

import base64
import json
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import av.error
import fsspec
import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from fsspec.implementations.local import LocalFileSystem
from markupsafe import Markup
from numpy.typing import NDArray

from lipforge.datasets_manifest.durations import human_time
from lipforge.datasets_manifest.manifest import read_manifest
from lipforge.datasets_manifest.report.charts import Bins, FlowStep, Loss, flow_svg, histogram_svg
from lipforge.datasets_manifest.report.reasons import HELP
from lipforge.datasets_manifest.sample import END_OF_TAR, read_clip_at
from lipforge.datasets_manifest.sample_media import playable_mp4, poster_jpeg
from lipforge.datasets_manifest.schema import STAGES, Reason, Status
from lipforge.datasets_manifest.storage.files import open_place, publish

log = logging.getLogger(__name__)

NO_TRACK = -1
"""`track_index` of a span without a face, and of a source that gave no clips."""

MAX_CARDS = 12
MAX_SOURCES = 500
MAX_VIDEO_BYTES = 18_000_000
"""Of all videos on the page, before base64 adds a third: the page stays below about 25 MB."""


@dataclass(frozen=True)
class Measure:
    """A column that is shown as a histogram, and on the cards of clips."""

    column: str
    title: str
    short_title: str
    """For cards, where space is scarce."""
    unit: str
    format: str
    limits: tuple[float | None, float | None] = (None, None)
    """Ends of the axis; None: from the data, without its extremes."""
    settings: tuple[str, ...] = ()
    """Settings that reject by it, drawn as threshold lines: `section.field` of the run's config."""
    model_column: str | None = None
    """Values of different models do not compare: the most frequent one is shown."""


MEASURES = (
    Measure(
        "av_offset_frames", "AV offset", "Offset", "frames", "+.0f", (-15, 15), ("thresholds.max_av_offset_frames",)
    ),
    Measure(
        "sync_confidence",
        "Sync confidence",
        "Sync",
        "",
        ".2f",
        settings=("thresholds.min_sync_confidence",),
        model_column="sync_model",
    ),
    Measure("quality", "Picture quality", "Quality", "", ".1f", (0, 100), ("thresholds.min_quality",), "quality_model"),
    Measure("duration_s", "Duration", "Length", "s", ".2f", (0, None), ("cut.min_clip_s", "cut.max_clip_s")),
    Measure("face_size_px", "Native face height", "Face", "px", ".0f", (0, None), ("faces.min_height_px",)),
    Measure("speech_ratio", "Share of speech", "Speech", "", ".2f", (0, 1), ("thresholds.min_speech_ratio",)),
)

OVERVIEW_COLUMNS = [
    "clip_id",
    "source_id",
    "status",
    "stage",
    "reason",
    "language",
    "speaker",
    "accounted_s",
    "track_index",
    "sync_model",
    "quality_model",
]

CARD_COLUMNS = [
    "clip_id",
    "source_uri",
    "unit_id",
    "track_index",
    "start_s",
    "end_s",
    "language",
    "speaker",
    "status",
    "stage",
    "reason",
    "detail",
    "shard",
    "sample_offset",
    "sample_size",
    *(measure.column for measure in MEASURES),
]


def write_report(dataset_dir: str, out_path: str | os.PathLike[str] | None = None) -> str:
    """Write the page for the dataset in `dataset_dir` (a folder or an fsspec URL) and return where it is.

    out_path: a local path; None means `report.html` of the newest run, or of the dataset when it holds no run.
    Raises FileNotFoundError when there is no manifest.
    """
    fs, root = open_place(dataset_dir)
    runs = _runs(fs, root)
    page = _render(dataset_dir, fs, root, runs).encode("utf-8", "backslashreplace")  # the path may be any bytes
    if out_path is None:
        path = f"{root}/runs/{runs[-1]['run_id']}/report.html" if runs else f"{root}/report.html"
        publish(fs, path, page)
        return path if isinstance(fs, LocalFileSystem) else str(fs.unstrip_protocol(path))
    publish(LocalFileSystem(), os.path.abspath(out_path), page)
    return os.fspath(out_path)


def _render(dataset_dir: str, fs: fsspec.AbstractFileSystem, root: str, runs: Sequence[Mapping[str, Any]]) -> str:
    rows = read_manifest(
        dataset_dir,
        columns=[*OVERVIEW_COLUMNS, *(measure.column for measure in MEASURES)],
    )
    cube = _cube(rows)
    reasons = _by_reason(cube)
    run = _run_facts(runs[-1]) if runs else None
    settings = _settings(fs, root)
    gallery = _Gallery(dataset_dir, fs, root)
    kept_ids, lost_ids = _pick_kept(rows), _pick_not_kept(rows)
    gallery.load([*kept_ids, *(clip_id for ids in lost_ids.values() for clip_id in ids)])

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters.update(time=human_time, share=human_share, visible=visible, code=code)
    return environment.get_template("report.html").render(
        dataset_dir=dataset_dir,
        totals=_totals(cube, rows),
        flow=_flow(cube),
        reasons=reasons,
        languages=_by_language(cube, rows),
        histograms=[_histogram(rows, measure, settings) for measure in MEASURES],
        kept_cards=[gallery.kept_card(clip_id) for clip_id in kept_ids],
        lost_cards={reason: [gallery.lost_card(i, reason) for i in clip_ids] for reason, clip_ids in lost_ids.items()},
        sources=_by_source(dataset_dir),
        max_sources=MAX_SOURCES,
        run=run,
        costs=_costs(runs),
    )


# --- the numbers


def _cube(rows: pa.Table) -> list[dict[str, Any]]:
    """Clips and seconds by (status, stage, reason, language): a few hundred entries for any number of rows."""
    seconds = {name: pa.array(np.nan_to_num(_floats(rows, name))) for name in ("accounted_s", "duration_s")}
    keys = ["status", "stage", "reason", "language"]
    table = rows.select(keys)
    for name, values in seconds.items():
        table = table.append_column(name, values)
    sums = table.group_by(keys).aggregate([("accounted_s", "sum"), ("duration_s", "sum"), ([], "count_all")])
    return sums.rename_columns([*keys, "seconds", "clip_seconds", "clips"]).to_pylist()


def _totals(cube: Sequence[Mapping[str, Any]], rows: pa.Table) -> dict[str, Any]:
    seconds, clips, clip_seconds = Counter[str](), Counter[str](), Counter[str]()
    for entry in cube:
        seconds[entry["status"]] += entry["seconds"]
        clips[entry["status"]] += entry["clips"]
        clip_seconds[entry["status"]] += entry["clip_seconds"]
    kept = rows.select(["status", "speaker", "language"]).filter(pc.field("status") == Status.KEPT)
    return {
        "seconds_in": sum(seconds.values()),
        "seconds": {status.value: seconds[status] for status in Status},
        "clips": {status.value: clips[status] for status in Status},
        "kept_clip_seconds": clip_seconds[Status.KEPT],
        "sources": len(rows["source_id"].unique()),
        "speakers": len(kept["speaker"].unique().drop_null()),
        "languages": sorted(kept["language"].unique().drop_null().to_pylist()),
    }


def _by_reason(cube: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry per reason, the largest loss first."""
    entries: dict[str, dict[str, Any]] = {}
    for cell in cube:
        if cell["status"] == Status.KEPT:
            continue
        reason = cell["reason"] or "unknown"
        entry = entries.setdefault(
            reason,
            {"reason": reason, "status": cell["status"], "clips": 0, "seconds": 0.0, "stages": set(), "help": None},
        )
        entry["clips"] += cell["clips"]
        entry["seconds"] += cell["seconds"]
        entry["stages"].add(cell["stage"] or "unknown")
        if reason in set(Reason):
            entry["help"] = HELP[Reason(reason)]
    return sorted(entries.values(), key=lambda entry: (-entry["seconds"], -entry["clips"], entry["reason"]))


def _flow(cube: Sequence[Mapping[str, Any]]) -> str | None:
    """The flow picture, or None when there are no seconds to draw."""
    seconds_in = sum(cell["seconds"] for cell in cube)
    if seconds_in <= 0:
        return None
    kept = sum(cell["seconds"] for cell in cube if cell["status"] == Status.KEPT)
    lost: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    for cell in cube:
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


def _by_language(cube: Sequence[Mapping[str, Any]], rows: pa.Table) -> list[dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = {}
    for cell in cube:
        language = cell["language"] or "und"
        entry = entries.setdefault(
            language, {"language": language, "clips": 0, "speakers": 0, **{status.value: 0.0 for status in Status}}
        )
        entry[cell["status"]] += cell["seconds"]
        entry["clips"] += cell["clips"] if cell["status"] == Status.KEPT else 0
    kept = rows.select(["status", "language", "speaker"]).filter(pc.field("status") == Status.KEPT)
    for pair in kept.group_by(["language", "speaker"]).aggregate([]).to_pylist():
        if pair["speaker"] is not None:
            entries[pair["language"] or "und"]["speakers"] += 1
    return sorted(entries.values(), key=lambda entry: (-entry[Status.KEPT], entry["language"]))


def _by_source(dataset_dir: str) -> dict[str, Any]:
    """The sources that lost most seconds first; of those that lost none, the ones with failures (unreadable) first."""
    rows = read_manifest(dataset_dir, columns=["source_id", "source_uri", "status", "reason", "accounted_s"])
    rows = rows.set_column(4, "accounted_s", pa.array(np.nan_to_num(_floats(rows, "accounted_s"))))
    keys = ["source_id", "source_uri"]
    cells = rows.group_by([*keys, "status", "reason"]).aggregate([("accounted_s", "sum"), ([], "count_all")])
    cells = cells.rename_columns([*keys, "status", "reason", "seconds", "clips"])

    status = np.asarray(cells["status"].to_pylist())
    seconds, clips = _floats(cells, "seconds"), _floats(cells, "clips")
    per_source = cells.select(keys)
    for name in Status:
        per_source = per_source.append_column(name.value, pa.array(np.where(status == name, seconds, 0.0)))
    lost = np.where(status == Status.KEPT, 0.0, seconds)
    failed_clips = np.where(status == Status.FAILED, clips, 0.0)
    per_source = per_source.append_column("lost", pa.array(lost)).append_column("failures", pa.array(failed_clips))
    sums = [*(name.value for name in Status), "lost", "failures"]
    per_source = per_source.group_by(keys).aggregate([(name, "sum") for name in sums]).rename_columns([*keys, *sums])
    order = [
        ("lost", "descending"),
        ("failures", "descending"),
        ("source_uri", "ascending"),
        ("source_id", "ascending"),
    ]
    shown = per_source.sort_by(order).slice(0, MAX_SOURCES).to_pylist()

    reasons: dict[tuple[str, str], list[tuple[float, int, str]]] = defaultdict(list)
    ids = [entry["source_id"] for entry in shown]
    for cell in cells.filter(pc.field("source_id").isin(pa.array(ids, pa.string()))).to_pylist():
        if cell["status"] != Status.KEPT:
            reason = cell["reason"] or "unknown"
            reasons[cell["source_id"], cell["source_uri"]].append((cell["seconds"], cell["clips"], reason))
    for entry in shown:
        ranked = sorted(reasons[entry["source_id"], entry["source_uri"]], reverse=True)
        entry["main_reason"] = ranked[0][2] if ranked else None
        entry["seconds_in"] = sum(entry[name] for name in Status)
    return {"rows": shown, "num_sources": len(per_source)}


def _histogram(rows: pa.Table, measure: Measure, settings: Mapping[str, float]) -> dict[str, Any]:
    """Counts of candidates with a face, by one measure; `svg` is None when none has it."""
    values = _floats(rows, measure.column)
    usable = np.isfinite(values) & (_floats(rows, "track_index") != NO_TRACK)
    model, other_models = None, []
    if measure.model_column is not None:
        with_value = rows.select([measure.model_column]).filter(pa.array(usable))
        ranked = sorted(_counts(with_value, measure.model_column), key=lambda pair: (-pair[1], str(pair[0])))
        if ranked:
            model, other_models = ranked[0][0], [str(name) for name, _ in ranked[1:]]
        if other_models:
            usable &= _equals(rows, measure.model_column, model or "")
    result: dict[str, Any] = {
        "title": measure.title,
        "unit": measure.unit,
        "model": model,
        "other_models": other_models,
        "svg": None,
    }
    if not usable.any():
        return result
    kept = _equals(rows, "status", Status.KEPT)[usable]
    values = values[usable]
    centred = measure.column == "av_offset_frames"
    edges = np.arange(-15.5, 16) if centred else _edges(values, kept, measure.limits)
    inside = np.clip(values, edges[0], edges[-1])  # the first and last bin hold what lies beyond them
    bins = Bins(edges, np.histogram(inside[kept], edges)[0], np.histogram(inside[~kept], edges)[0])
    # A setting of 0 is not a line: it accepts everything, or leaves the choice to the model.
    limits = [settings[name] for name in measure.settings if settings.get(name)]
    if centred:  # between the last offset that is accepted and the first that is not
        thresholds = {sign * (limit + 0.5): f"{sign * limit:+g}" for limit in limits for sign in (-1, 1)}
    else:
        thresholds = {limit: f"{limit:g}" for limit in limits}
    result["svg"] = histogram_svg(bins, thresholds, measure.unit, centred=centred)
    result["median"] = f"{np.median(values):{measure.format}}"
    return result


def _edges(
    values: NDArray[np.float64], kept: NDArray[np.bool_], limits: tuple[float | None, float | None]
) -> NDArray[np.float64]:
    low, high = limits
    low = float(np.quantile(values, 0.002)) if low is None else low
    # The range of kept clips, a little widened: one span of 300 s without a face must not flatten all the others.
    high = 1.1 * float(np.quantile(values[kept] if kept.any() else values, 0.998)) if high is None else high
    if high <= low:  # all values are the same
        low, high = low - 0.5, low + 0.5
    return np.linspace(low, high, 31)


def _costs(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """CPU seconds by stage of the newest run that processed anything (a resumed run may have had nothing left)."""
    for run in reversed(runs):
        stages = [
            {"name": str(stage.get("name")), "cpu_s": _number(stage.get("cpu_s"))}
            for stage in run.get("stages") or []
            if isinstance(stage, dict)
        ]
        total = sum(stage["cpu_s"] for stage in stages)
        if total > 0:
            stages.sort(key=lambda stage: STAGES.index(stage["name"]) if stage["name"] in STAGES else len(STAGES))
            slowest = max(stages, key=lambda stage: stage["cpu_s"])["name"]
            seconds_in = _number(run.get("seconds_in"))
            return {
                "stages": stages,
                "total": total,
                "slowest": slowest,
                "seconds_in": seconds_in,
                "run_id": run["run_id"],
            }
    return None


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and np.isfinite(value) else 0.0


# --- runs


def _runs(fs: fsspec.AbstractFileSystem, root: str) -> list[dict[str, Any]]:
    """The summaries of all runs, the newest last. A summary that cannot be read is logged and left out."""
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
    """What the page says about a run; a fact that an older run did not record is None or 0."""
    versions = summary.get("versions")
    return {
        "run_id": summary["run_id"],
        **{name: summary.get(name) for name in ("started_at", "finished_at", "config_hash")},
        **{name: _number(summary.get(name)) for name in ("wall_s", "seconds_in", "num_units", "num_workers")},
        "versions": versions if isinstance(versions, dict) else {},
        "notes": [str(note) for note in summary.get("notes") or []],
    }


def _settings(fs: fsspec.AbstractFileSystem, root: str) -> dict[str, float]:
    """Numbers of the settings in force (`lipforge pack` may have changed them since the run) as `section.field`."""
    path = f"{root}/ledger/dataset.json"
    if not fs.exists(path):
        return {}
    tree = json.loads(fs.cat_file(path)).get("config")
    sections = tree.items() if isinstance(tree, dict) else ()
    return {
        f"{section}.{name}": float(value)
        for section, fields in sections
        if isinstance(fields, dict)
        for name, value in fields.items()
        if isinstance(value, int | float)
    }


# --- the galleries


def _pick_kept(rows: pa.Table) -> list[str]:
    """Clips for the gallery, spread over sources, and over the clips of each."""
    at = np.flatnonzero(_equals(rows, "status", Status.KEPT))
    if not len(at):
        return []
    source_ids = rows["source_id"].take(pa.array(at)).combine_chunks().dictionary_encode().indices.to_numpy()
    sources = _spread(len(np.unique(source_ids)), MAX_CARDS)
    share, extra = divmod(MAX_CARDS, len(sources))
    picked = []
    for number, source in enumerate(sources):
        of_source = at[source_ids == source]  # codes are 0, 1, 2 ... in order of first appearance
        picked += [of_source[i] for i in _spread(len(of_source), share + (number < extra))]
    return rows["clip_id"].take(pa.array(picked)).to_pylist()


def _pick_not_kept(rows: pa.Table) -> dict[str, list[str]]:
    reasons = rows["reason"].combine_chunks().fill_null("unknown").dictionary_encode()
    codes = np.where(_equals(rows, "status", Status.KEPT), -1, reasons.indices.to_numpy())
    picked = {}
    for code, reason in enumerate(reasons.dictionary.to_pylist()):
        at = np.flatnonzero(codes == code)
        if len(at):
            chosen = [at[i] for i in _spread(len(at), MAX_CARDS)]
            picked[reason] = rows["clip_id"].take(pa.array(chosen)).to_pylist()
    return picked


def _spread(length: int, count: int) -> list[int]:
    """Up to `count` positions of 0 .. length - 1, evenly apart."""
    if length <= count:
        return list(range(length))
    return [int((i + 0.5) * length / count) for i in range(count)]


class _Gallery:
    """Makes the cards of clips; keeps count of the bytes of video, so that the page stays light."""

    def __init__(self, dataset_dir: str, fs: fsspec.AbstractFileSystem, root: str) -> None:
        self.dataset_dir, self.fs, self.root = dataset_dir, fs, root
        self.video_bytes_left = MAX_VIDEO_BYTES
        self.rows: dict[tuple[str, str | None], dict[str, Any]] = {}  # by clip_id and reason

    def load(self, clip_ids: Sequence[str]) -> None:
        wanted = pc.field("clip_id").isin(pa.array(clip_ids, pa.string()))
        table = read_manifest(self.dataset_dir, columns=CARD_COLUMNS, filter=wanted)
        for row in table.to_pylist():
            reason = None if row["status"] == Status.KEPT else row["reason"] or "unknown"
            self.rows[row["clip_id"], reason] = row

    def kept_card(self, clip_id: str) -> dict[str, Any]:
        row = self.rows[clip_id, None]
        card = self._card(row)
        if row["shard"] is None or row["sample_offset"] is None or row["sample_size"] is None:
            return {**card, "note": "Not packed into a shard yet."}
        return {
            **card,
            **self._player(clip_id, f"{self.root}/{row['shard']}", row["sample_offset"], row["sample_size"]),
        }

    def lost_card(self, clip_id: str, reason: str) -> dict[str, Any]:
        """With a player where a threshold alone refused the clip: its media lies in parts/ until it is pruned."""
        row = self.rows[clip_id, reason]
        card = self._card(row)
        part, poster = (f"{self.root}/parts/{row['unit_id']}/{clip_id}.{suffix}" for suffix in ("tar", "jpg"))
        if self.fs.exists(part):
            return {**card, **self._player(clip_id, part, 0, self.fs.info(part)["size"] - len(END_OF_TAR))}
        return {
            **card,
            "picture": _data_uri("image/jpeg", cast(bytes, self.fs.cat_file(poster)))
            if self.fs.exists(poster)
            else None,
        }

    def _player(self, clip_id: str, tar: str, offset: int, size: int) -> dict[str, Any]:
        """The sample at this place of a tar as video, with a still to show before; or a note why not."""
        if size > self.video_bytes_left:
            return {"note": "Left out to keep this page small."}
        try:
            members = read_clip_at(self.fs, tar, offset, size, clip_id)
            video, poster = playable_mp4(members["mp4"], members["flac"]), poster_jpeg(members["mp4"])
        except (OSError, ValueError, av.error.FFmpegError) as error:
            log.warning("%s: cannot show clip %s: %s", tar, clip_id, error)
            return {"note": f"Its sample cannot be read: {type(error).__name__}: {error}"}
        self.video_bytes_left -= len(video)
        return {"video": _data_uri("video/mp4", video), "picture": _data_uri("image/jpeg", poster)}

    def _card(self, row: Mapping[str, Any]) -> dict[str, Any]:
        measures = []
        for measure in MEASURES:
            value = row[measure.column]
            if value is not None and np.isfinite(value) and (row["track_index"] != NO_TRACK):
                measures.append((measure.short_title, f"{value:{measure.format}} {measure.unit}".strip()))
        start_s, end_s = row["start_s"], row["end_s"]
        has_span = start_s is not None and end_s is not None and end_s > start_s
        span = f"{start_s:.2f} to {end_s:.2f} s" if has_span else None
        facts = [fact for fact in (span, row["language"], row["speaker"]) if fact]
        return {**row, "facts": facts, "measures": measures, "picture": None, "video": None, "note": None}


def _data_uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


# --- columns as numpy


def _floats(table: pa.Table, column: str) -> NDArray[np.float64]:
    """A numeric column; null becomes NaN."""
    return table[column].cast(pa.float64()).to_numpy()


def _equals(table: pa.Table, column: str, word: str) -> NDArray[np.bool_]:
    """Where a text column is `word`; null is not."""
    codes = table[column].combine_chunks().fill_null("").dictionary_encode()
    words = codes.dictionary.to_pylist()
    return codes.indices.to_numpy() == (words.index(word) if word in words else -1)


def _counts(table: pa.Table, column: str) -> list[tuple[Any, int]]:
    counted = table.group_by([column]).aggregate([([], "count_all")])
    return list(zip(counted[column].to_pylist(), counted["count_all"].to_pylist(), strict=True))


# --- words


def human_share(part: float, whole: float) -> str:
    """`12.3 %`; never `0.0 %` for something, nor `100.0 %` for less than all."""
    if whole <= 0:
        return "\N{EN DASH}"
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.1f} %"


def visible(text: str) -> str:
    """Text with newlines, control and direction-changing characters written out: a name cannot disguise itself."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def code(text: str) -> Markup:
    """Our own help texts: what stands between backticks becomes code."""
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(text.split("`"))
    )
