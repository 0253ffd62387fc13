"""The chart beside a selection: hours by speaker, and histograms of scores."""

from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup
from numpy.typing import NDArray

from lipforge.datasets_manifest.display import counted
from lipforge.datasets_manifest.durations import human_time
from lipforge.datasets_manifest.report.charts import Bars, selection_svg
from lipforge.datasets_manifest.selection import SPLITS, describe, hours_by_speaker
from lipforge.datasets_manifest.storage.files import open_place, publish, remote_errors

MAX_BARS = 112
NUM_BINS = 40
_TITLE = "Selection of "
_HEAD_BYTES = 65536  # of a chart, with its title


def refuse_foreign_chart(selection_path: str, overwrite: bool = False) -> None:
    """Raises FileExistsError when the chart's file exists and may be somebody else's.

    That is, when it is no chart of a selection; or, without `overwrite`, when its selection is not beside it.
    """
    path = _chart_path(selection_path)
    fs, place = open_place(path)
    with remote_errors(path):
        if not fs.exists(place):
            return
        is_chart = fs.isfile(place) and _is_chart(cast(bytes, fs.cat_file(place, start=0, end=_HEAD_BYTES)))
        is_alone = not fs.exists(open_place(selection_path)[1])
    if not is_chart:
        raise FileExistsError(
            f"{path} exists, where the chart would go, and is no chart of a selection: give another name"
        )
    if is_alone and not overwrite:
        raise FileExistsError(
            f"{path} exists, the chart of a selection that is not beside it: give another name, or replace it with "
            "--overwrite"
        )


def _is_chart(head: bytes) -> bool:
    return head.startswith(b"<svg ") and f">{_TITLE}".encode() in head


def _chart_path(selection_path: str) -> str:
    return f"{selection_path.removesuffix('.parquet')}.svg"


def write_chart(selection_path: str, rows: pa.Table, min_sync: float | None, min_quality: float | None) -> str:
    """Draw a selection beside its file, with the suffix .svg; returns the path. Raises OSError when writing fails."""
    path = _chart_path(selection_path)
    fs, place = open_place(path)
    publish(fs, place, draw_selection(rows, min_sync, min_quality).encode())
    return path


def draw_selection(rows: pa.Table, min_sync: float | None = None, min_quality: float | None = None) -> Markup:
    """An SVG file. rows: SELECTION_COLUMNS. Thresholds are drawn as lines when given."""
    rows = rows.select(
        ["split", "duration_s", "speaker", "source_id", "sync_confidence", "sync_model", "quality", "quality_model"]
    )
    gave = describe(rows)
    shown = [split for split in SPLITS if gave[split]["clips"]]
    legend = {
        split: f"{split}: {human_time(3600 * gave[split]['hours'])}, {counted(int(gave[split]['clips']), 'clip')}, "
        f"{counted(int(gave[split]['speakers']), 'speaker')}"
        for split in shown
    }
    hours = sum(gave[split]["hours"] for split in shown)
    panels = [_speakers(rows, shown)]
    for column, title, least in (("sync_confidence", "Sync", min_sync), ("quality", "Quality", min_quality)):
        models = [name for name in rows[column.replace("_confidence", "") + "_model"].unique().to_pylist() if name]
        panels.append(
            _histogram(rows, shown, column, f"{title} ({', '.join(sorted(models)) or 'not measured'})", least)
        )
    return selection_svg(f"{_TITLE}{human_time(3600 * hours)}", legend, panels)


def _speakers(rows: pa.Table, splits: list[str]) -> Bars:
    """One bar per speaker, most hours first, train before val; of many speakers, a bar is the mean of neighbours."""
    totals = {split: hours_by_speaker(rows.filter(pc.field("split") == split)) for split in splits}
    count = sum(len(hours) for hours in totals.values())
    group = -(-count // MAX_BARS)
    heights = {split: _means(hours, group) for split, hours in totals.items()}
    width = sum(len(means) for means in heights.values())
    padded, start = {}, 0
    for split, means in heights.items():
        padded[split] = np.pad(means, (start, width - start - len(means)))
        start += len(means)
    tallest = max(float(means.max()) for means in heights.values())
    speakers = counted(count, "speaker")
    each = "" if group == 1 else f" by {group}s"
    return Bars("Hours by speaker", 0, 1, padded, f"{speakers}{each}, most {human_time(3600 * tallest)}", ticks=False)


def _means(values: NDArray[np.float64], group: int) -> NDArray[np.float64]:
    return np.array([values[first : first + group].mean() for first in range(0, len(values), group)])


def _histogram(rows: pa.Table, splits: list[str], column: str, title: str, least: float | None) -> Bars:
    values = {split: rows.filter(pc.field("split") == split)[column].to_numpy().astype(np.float64) for split in splits}
    values = {split: found[np.isfinite(found)] for split, found in values.items()}
    everything = np.concatenate(list(values.values()))
    if not len(everything):
        return Bars(title, 0, 1, {split: np.zeros(1) for split in splits}, "no values", ticks=False)
    low, high = float(everything.min()), float(everything.max())
    low = low if least is None else min(low, least)
    if high - low < 1e-6:
        low, high = low - 0.5, high + 0.5
    heights = {
        split: np.histogram(found, NUM_BINS, (low, high))[0].astype(np.float64) for split, found in values.items()
    }
    tallest = int(np.sum(list(heights.values()), axis=0).max())
    return Bars(title, low, high, heights, counted(tallest, "clip"), {} if least is None else {least: f"{least:g}"})
