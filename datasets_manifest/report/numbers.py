"""Numbers of the report: sums by reason, language and source, histograms, costs. Pure: tables in, plain values out."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lipforge.datasets_manifest.report.charts import Bins, histogram_svg
from lipforge.datasets_manifest.report.reasons import HELP
from lipforge.datasets_manifest.schema import STAGES, Reason, Status

NO_TRACK = -1
"""`track_index` of a span without a face, and of a source without clips."""
MAX_SOURCES = 500


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
    """Ends of the axis; None: from the data, without extremes."""
    settings: tuple[str, ...] = ()
    """Settings that reject by it, drawn as threshold lines: `section.field` of the run's config."""
    model_column: str | None = None
    """Values of different models do not compare, so the most frequent model is shown."""


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
    Measure("quality", "Image quality", "Quality", "", ".1f", (0, 100), ("thresholds.min_quality",), "quality_model"),
    Measure("duration_s", "Duration", "Length", "s", ".2f", (0, None), ("thresholds.min_clip_s", "cut.max_clip_s")),
    Measure("face_size_px", "Native face height", "Face", "px", ".0f", (0, None), ("faces.min_height_px",)),
    Measure("speech_ratio", "Share of speech", "Speech", "", ".2f", (0, 1), ("thresholds.min_speech_ratio",)),
)

OVERVIEW_COLUMNS = [
    "key",
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

SOURCE_COLUMNS = ["source_id", "source_uri", "status", "reason", "accounted_s"]


def sums(rows: pa.Table) -> list[dict[str, Any]]:
    """Clips and seconds by (status, stage, reason, language): a few hundred cells for any number of rows."""
    seconds = {name: pa.array(np.nan_to_num(floats(rows, name))) for name in ("accounted_s", "duration_s")}
    keys = ["status", "stage", "reason", "language"]
    table = rows.select(keys)
    for name, values in seconds.items():
        table = table.append_column(name, values)
    cells = table.group_by(keys).aggregate([("accounted_s", "sum"), ("duration_s", "sum"), ([], "count_all")])
    return cells.rename_columns([*keys, "seconds", "clip_seconds", "clips"]).to_pylist()


def totals(cells: Sequence[Mapping[str, Any]], rows: pa.Table) -> dict[str, Any]:
    """Seconds and clips by status, and counts of sources, speakers and languages."""
    seconds, clips, clip_seconds = Counter[str](), Counter[str](), Counter[str]()
    for entry in cells:
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


def by_reason(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry per reason, the largest loss first."""
    entries: dict[str, dict[str, Any]] = {}
    for cell in cells:
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


def by_language(cells: Sequence[Mapping[str, Any]], rows: pa.Table) -> list[dict[str, Any]]:
    """One entry per language, most kept seconds first."""
    entries: dict[str, dict[str, Any]] = {}
    for cell in cells:
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


def by_source(rows: pa.Table) -> dict[str, Any]:
    """Sources that lost most seconds first; then those with failures (unreadable ones have no seconds).

    rows: SOURCE_COLUMNS.
    """
    rows = rows.set_column(4, "accounted_s", pa.array(np.nan_to_num(floats(rows, "accounted_s"))))
    keys = ["source_id", "source_uri"]
    cells = rows.group_by([*keys, "status", "reason"]).aggregate([("accounted_s", "sum"), ([], "count_all")])
    cells = cells.rename_columns([*keys, "status", "reason", "seconds", "clips"])

    status = np.asarray(cells["status"].to_pylist())
    seconds, clips = floats(cells, "seconds"), floats(cells, "clips")
    per_source = cells.select(keys)
    for name in Status:
        per_source = per_source.append_column(name.value, pa.array(np.where(status == name, seconds, 0.0)))
    lost = np.where(status == Status.KEPT, 0.0, seconds)
    failed_clips = np.where(status == Status.FAILED, clips, 0.0)
    per_source = per_source.append_column("lost", pa.array(lost)).append_column("failures", pa.array(failed_clips))
    summed = [*(name.value for name in Status), "lost", "failures"]
    per_source = per_source.group_by(keys).aggregate([(name, "sum") for name in summed])
    per_source = per_source.rename_columns([*keys, *summed])
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


def histogram(rows: pa.Table, measure: Measure, settings: Mapping[str, float]) -> dict[str, Any]:
    """Counts of candidates with a face, by one measure; `svg` is None when none has it."""
    values = floats(rows, measure.column)
    usable = np.isfinite(values) & (floats(rows, "track_index") != NO_TRACK)
    model, other_models = None, []
    if measure.model_column is not None:
        with_value = rows.select([measure.model_column]).filter(pa.array(usable))
        ranked = sorted(_counts(with_value, measure.model_column), key=lambda pair: (-pair[1], str(pair[0])))
        if ranked:
            model, other_models = ranked[0][0], [str(name) for name, _ in ranked[1:]]
        if other_models:
            usable &= equals(rows, measure.model_column, model or "")
    result: dict[str, Any] = {
        "title": measure.title,
        "unit": measure.unit,
        "model": model,
        "other_models": other_models,
        "svg": None,
    }
    if not usable.any():
        return result
    kept = equals(rows, "status", Status.KEPT)[usable]
    values = values[usable]
    centred = measure.column == "av_offset_frames"
    edges = np.arange(-15.5, 16) if centred else _edges(values, kept, measure.limits)
    inside = np.clip(values, edges[0], edges[-1])  # the first and last bin hold all values beyond
    bins = Bins(edges, np.histogram(inside[kept], edges)[0], np.histogram(inside[~kept], edges)[0])
    # A setting of 0 is no line: it accepts everything, or leaves the choice to the model.
    limits = [settings[name] for name in measure.settings if settings.get(name)]
    if centred:  # between the last accepted offset and the first refused one
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
    # The range of kept clips, slightly widened: one span of 300 s without a face must not flatten the others.
    high = 1.1 * float(np.quantile(values[kept] if kept.any() else values, 0.998)) if high is None else high
    if high <= low:  # all values are the same
        low, high = low - 0.5, low + 0.5
    return np.linspace(low, high, 31)


def costs(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """CPU seconds by stage of the newest run that processed anything (a resumed run may have nothing left to do)."""
    for run in reversed(runs):
        stages = [
            {"name": str(stage.get("name")), "cpu_s": finite(stage.get("cpu_s"))}
            for stage in run.get("stages") or []
            if isinstance(stage, dict)
        ]
        total = sum(stage["cpu_s"] for stage in stages)
        if total > 0:
            stages.sort(key=lambda stage: STAGES.index(stage["name"]) if stage["name"] in STAGES else len(STAGES))
            slowest = max(stages, key=lambda stage: stage["cpu_s"])["name"]
            seconds_done = finite(run.get("seconds_done"))
            return {
                "stages": stages,
                "total": total,
                "slowest": slowest,
                "seconds_done": seconds_done,
                "run_id": run["run_id"],
            }
    return None


def finite(value: Any) -> float:
    """A number, or 0 for anything else."""
    return float(value) if isinstance(value, int | float) and np.isfinite(value) else 0.0


def floats(table: pa.Table, column: str) -> NDArray[np.float64]:
    """A numeric column; null becomes NaN."""
    return table[column].cast(pa.float64()).to_numpy()


def equals(table: pa.Table, column: str, word: str) -> NDArray[np.bool_]:
    """Where a text column is `word`; null is not."""
    codes = table[column].combine_chunks().fill_null("").dictionary_encode()
    words = codes.dictionary.to_pylist()
    return codes.indices.to_numpy() == (words.index(word) if word in words else -1)


def _counts(table: pa.Table, column: str) -> list[tuple[Any, int]]:
    counted = table.group_by([column]).aggregate([([], "count_all")])
    return list(zip(counted[column].to_pylist(), counted["count_all"].to_pylist(), strict=True))
