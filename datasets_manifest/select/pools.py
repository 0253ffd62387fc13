"""Pools: the clips that training and validation may take, in the order of taking."""

import hashlib

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lipforge.datasets_manifest.query import connect
from lipforge.datasets_manifest.select.candidates import Candidates, Mask, RowNumbers
from lipforge.datasets_manifest.select.request import Request


def is_val_speaker(name: str, share: float) -> bool:
    """Whether a speaker is reserved for validation. Depends on the name alone, so new data never moves anyone.

    name: one of Candidates.speaker_names. share: of all speakers, 0..1; a larger share includes those of a smaller one.
    """
    return hash_place(name) < share


def hash_place(name: str) -> float:
    """A number from 0 to 1 from a name: the first 8 bytes of its SHA-256, most significant first, over 2^64."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def pools_by_split(clips: Candidates, mask: Mask, request: Request) -> dict[str, RowNumbers]:
    """Rows that each split may take, in the order of taking."""
    rows = _in_order(clips, clips.distinct(mask), request)
    if request.max_hours_per_speaker is not None:
        rows = rows[_within_cap(clips.speaker[rows], clips.seconds[rows], request.max_hours_per_speaker * 3600)]
    if not request.val_hours:
        return {"train": rows}
    for_val = np.zeros(len(clips.speaker_names), dtype=bool)
    for code in np.unique(clips.speaker[rows]):
        for_val[code] = is_val_speaker(clips.speaker_names[code], request.val_share)
    in_val = for_val[clips.speaker[rows]]
    return {"train": rows[~in_val], "val": rows[in_val]}


def _in_order(clips: Candidates, rows: RowNumbers, request: Request) -> RowNumbers:
    """Best first, or shuffled; equals are shuffled. By MD5 of `SEED:KEY`: other clips never swap the order of two."""
    if request.order == "random":
        measured = np.zeros(len(rows), dtype=np.float32)
    else:
        measured = np.nan_to_num((clips.sync if request.order == "sync" else clips.quality)[rows], nan=-np.inf)
    table = pa.table({"number": rows, "key": clips.keys.take(pa.array(rows)), "measured": measured})
    with connect() as connection:
        connection.register("chosen", table)
        sql = "SELECT number FROM chosen ORDER BY measured DESC, md5_number(? || ':' || key)"
        return connection.sql(sql, params=[str(request.seed)]).to_arrow_table()["number"].to_numpy()


def _within_cap(speakers: NDArray[np.int32], seconds: NDArray[np.float64], cap_s: float) -> Mask:
    """Of each speaker the first clips that together are no longer than the cap."""
    by_speaker = np.argsort(speakers, kind="stable")
    total = np.cumsum(seconds[by_speaker])
    first = np.flatnonzero(np.diff(speakers[by_speaker], prepend=-1))
    before = (total - seconds[by_speaker])[first]
    spent = total - np.repeat(before, np.diff(first, append=len(total)))
    within = np.zeros(len(speakers), dtype=bool)
    within[by_speaker] = spent <= cap_s + 1e-6  # sums of 0.04 s are not exact
    return within


def first_hours(clips: Candidates, rows: RowNumbers, hours: float | None) -> RowNumbers:
    """As many rows as come closest to the hours; at least one."""
    if hours is None or not len(rows):
        return rows
    total = np.cumsum(clips.seconds[rows])
    count = int(np.searchsorted(total, hours * 3600))
    if count == len(rows):
        return rows
    if count and hours * 3600 - total[count - 1] <= total[count] - hours * 3600:
        return rows[:count]
    return rows[: count + 1]
