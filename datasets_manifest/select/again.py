"""What a selection needs and no longer finds, in words, with the command that makes it anew."""

import shlex
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from lipforge.datasets_manifest.arrow import compute as pc
from lipforge.datasets_manifest.selection import SelectionError, selection_request
from lipforge.datasets_manifest.storage.store import READS_AT_ONCE, Store

_OPTIONS = {
    "hours": "--hours",
    "val_hours": "--val-hours",
    "min_sync": "--min-sync",
    "min_quality": "--min-quality",
    "min_face_px": "--min-face-px",
    "max_hours_per_speaker": "--max-hours-per-speaker",
    "where": "--where",
    "order": "--order",
    "seed": "--seed",
}
"""Fields of a request and the options of `lipforge select` that set them."""
_DEFAULTS = {"val_hours": 0.0, "order": "random", "seed": 0}


def require_shards(rows: pa.Table, path: str, whole: bool = False) -> None:
    """Check that every shard of a selection is there. Reads no sample.

    whole: and long enough. Raises FileNotFoundError, which says what is gone and how to select anew.
    """
    needed, bad = _not_as_said(rows, whole)
    if bad:
        count = f"{len(bad)} of the {needed} shards of {path} are not as it says: "
        raise FileNotFoundError(
            f"{count if needed > 1 else ''}{bad[0]}. If it was lost, restore it from a copy. If the dataset was "
            f"moved or prepared anew, make the selection anew: {command_for(rows)}"
        )


def note_on_shards(rows: pa.Table) -> list[str]:
    """What to say of a new selection whose shards are not all there: another one of the same dataset does not help."""
    needed, bad = _not_as_said(rows, whole=False)
    if not bad:
        return []
    what = f"{len(bad)} of the {needed} shards of this selection cannot be trained on: {bad[0]}"
    return [f"{what}. Restore it from a copy, or prepare the sources again into a new folder"]


def _not_as_said(rows: pa.Table, whole: bool) -> tuple[int, list[str]]:
    """(number of shards, what is wrong with which)."""
    ends = rows.select(["dataset", "shard"]).append_column("end", pc.add(rows["sample_offset"], rows["sample_size"]))
    needed = ends.group_by(["dataset", "shard"]).aggregate([("end", "max")]).sort_by("shard").to_pylist()
    stores = {dataset: Store(dataset) for dataset in rows["dataset"].unique().to_pylist()}
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        sizes = list(pool.map(lambda row: stores[row["dataset"]].size(row["shard"]), needed))
    bad = [
        f"{stores[row['dataset']].path(row['shard'])} "
        + ("is gone" if size is None else f"ends at byte {size} of {row['end_max']}")
        for row, size in zip(needed, sizes, strict=True)
        if size is None or (whole and size < row["end_max"])
    ]
    return len(needed), bad


def command_for(rows: pa.Table) -> str:
    """The `lipforge select` that made a selection, as a line for a shell."""
    try:
        request: Mapping[str, Any] = selection_request(rows)["request"]
    except SelectionError:
        request = {}
    datasets = request.get("datasets") or sorted(rows["dataset"].unique().to_pylist())
    words = ["lipforge", "select", *datasets]
    for language in request.get("languages") or ():
        words += ["--language", language]
    for name, option in _OPTIONS.items():
        value = request.get(name)
        if value is not None and value != _DEFAULTS.get(name):
            words += [option, f"{value:g}" if isinstance(value, float) else str(value)]
    if request.get("val_hours"):
        words += ["--val-share", f"{request.get('val_share', 0.1):g}"]
    for other in request.get("exclude") or ():
        words += ["--exclude", other]
    words += ["--allow-less"] if request.get("allow_less") else []
    return shlex.join([*words, "--out", "NAME.parquet"])
