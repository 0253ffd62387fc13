"""The clips that the page lists, and the few thousand numbers about them that its script filters and sorts by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lipforge.datasets_manifest.display import visible
from lipforge.datasets_manifest.language_tags import with_canonical_languages
from lipforge.datasets_manifest.manifest import read_manifest
from lipforge.datasets_manifest.report.numbers import MEASURES, NO_TRACK, equals, floats
from lipforge.datasets_manifest.schema import Status

MAX_CLIPS = 20_000
"""Listed on a page: about 3 MB of it."""
MAX_KEPT_PLAYED = 200
MAX_EXTREMES = 12
"""Kept clips at each end of each measure, which are played, too: who sorts wants to see them."""
MAX_EXAMPLES = 12
"""Clips of each reason that are shown with a picture, or played."""
MAX_DETAIL = 500
"""Characters."""
CLIP_COLUMNS = [
    "key",
    "source_uri",
    "track_index",
    "start_s",
    "end_s",
    "language",
    "speaker",
    "status",
    "reason",
    "detail",
    "shard",
    "sample_offset",
    "sample_size",
    *(measure.column for measure in MEASURES),
]

ClipName = tuple[str, str | None]
"""Key and reason; None for kept ones. A key alone may have rows of several reasons."""


@dataclass(frozen=True)
class Chosen:
    """Clips of a page, by name. The first are shown with pictures."""

    shown: list[ClipName]
    listed_only: list[ClipName]


def choose(rows: pa.Table) -> Chosen:
    """rows: OVERVIEW_COLUMNS and measures. Kept clips come first; any beginning of them is spread over sources."""
    is_kept = equals(rows, "status", Status.KEPT)
    kept, lost = np.flatnonzero(is_kept), np.flatnonzero(~is_kept)
    spread = spread_over_sources(rows, kept, MAX_KEPT_PLAYED)
    played = list(dict.fromkeys([*spread, *_extremes(rows, kept)]))
    examples = _examples(rows, lost)
    kept, lost = np.setdiff1d(kept, played), np.setdiff1d(lost, examples)
    room = max(MAX_CLIPS - len(played) - len(examples), 0)
    num_kept = min(len(kept), max(room * 3 // 4, room - len(lost)))
    kept, lost = _spread(kept, num_kept), _spread(lost, room - num_kept)
    return Chosen(_names(rows, [*played, *examples]), _names(rows, [*kept, *lost]))


def spread_over_sources(rows: pa.Table, at: NDArray[np.int64], count: int) -> list[int]:
    """Up to `count` of the positions, as evenly as sources have them: the first of each source, the second, ..."""
    if not len(at):
        return []
    codes = rows["source_id"].take(pa.array(at)).combine_chunks().dictionary_encode().indices.to_numpy()
    order = np.argsort(codes, kind="stable")
    _, starts = np.unique(codes[order], return_index=True)
    groups = np.split(at[order], starts[1:])
    if len(groups) > count:
        groups = [groups[i] for i in _spread(np.arange(len(groups)), count)]
    taken: dict[int, list[int]] = {}
    left = count
    for done, number in enumerate(sorted(range(len(groups)), key=lambda number: len(groups[number]))):
        taken[number] = _spread(groups[number], min(len(groups[number]), left // (len(groups) - done)))
        left -= len(taken[number])
    ranked = [(rank, number, at) for number, found in taken.items() for rank, at in enumerate(found)]
    return [at for _, _, at in sorted(ranked)]


def _extremes(rows: pa.Table, at: NDArray[np.int64]) -> list[int]:
    """Positions of the lowest and the highest values of each measure."""
    found: list[int] = []
    for measure in MEASURES:
        values = floats(rows, measure.column)[at]
        order = at[np.argsort(values, kind="stable")][: np.count_nonzero(~np.isnan(values))]  # NaN is sorted last
        found += [*order[:MAX_EXTREMES].tolist(), *order[::-1][:MAX_EXTREMES].tolist()]
    return found


def _examples(rows: pa.Table, lost: NDArray[np.int64]) -> list[int]:
    reasons = rows["reason"].combine_chunks().fill_null("unknown").dictionary_encode().indices.to_numpy()[lost]
    return [at for code in np.unique(reasons) for at in _spread(lost[reasons == code], MAX_EXAMPLES)]


def _spread(positions: NDArray[np.int64], count: int) -> list[int]:
    """Up to `count` of them, evenly spaced."""
    if len(positions) <= count:
        return positions.tolist()
    return positions[((np.arange(count) + 0.5) * len(positions) / count).astype(np.int64)].tolist()


def _names(rows: pa.Table, at: Sequence[int]) -> list[ClipName]:
    found = rows.select(["key", "status", "reason"]).take(pa.array(at, pa.int64())).to_pylist()
    return [_name_of(row) for row in found]


def _name_of(row: Mapping[str, Any]) -> ClipName:
    return row["key"], None if row["status"] == Status.KEPT else row["reason"] or "unknown"


def read_clips(dataset_dir: str, names: Sequence[ClipName]) -> list[dict[str, Any]]:
    """Rows of CLIP_COLUMNS, in the order of the names."""
    wanted = pc.field("key").isin(pa.array([key for key, _ in names], pa.string()))
    table = with_canonical_languages(read_manifest(dataset_dir, columns=CLIP_COLUMNS, filter=wanted))
    by_name = {_name_of(row): row for row in table.to_pylist()}
    return [by_name[name] for name in names if name in by_name]


def clip_table(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Plain values for the page's script, whose names say what is at which place. All text is visible().

    rows: CLIP_COLUMNS; the script pairs the first ones with their media.
    """
    words: dict[str, dict[str, int]] = {name: {} for name in ("status", "reason", "language", "speaker", "source")}

    def number(kind: str, text: str | None) -> int:
        return -1 if not text else words[kind].setdefault(visible(text), len(words[kind]))

    clips = []
    for row in rows:
        _, reason = _name_of(row)
        coded = [number(kind, row[kind]) for kind in ("language", "speaker")]
        measures = [_rounded(row[m.column]) if row["track_index"] != NO_TRACK else None for m in MEASURES]
        span = [_rounded(row["start_s"]), _rounded(row["end_s"])]
        names = [number("source", row["source_uri"]), *span, visible((row["detail"] or "")[:MAX_DETAIL])]
        clips.append([number("status", row["status"]), number("reason", reason), *coded, *names, visible(row["key"])])
        clips[-1] += measures
    return {
        "words": {kind: list(numbers) for kind, numbers in words.items()},
        "measures": [{"title": m.short_title, "unit": m.unit, "format": m.format} for m in MEASURES],
        "clips": clips,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(value, 3)
