"""A selection: the clips to train on, as one Parquet file with the bytes to read and the request that chose them."""

import json
import os
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from fsspec.implementations.local import LocalFileSystem
from numpy.typing import NDArray

from lipforge.datasets_manifest.parquet import parquet_bytes, parse_parquet
from lipforge.datasets_manifest.schema import ADDED_COLUMNS, COLUMNS
from lipforge.datasets_manifest.storage.files import open_place, publish, read_file, remote_errors

SELECTION_VERSION = 1
METADATA_KEY = b"lipforge.selection"
SPLITS = ("train", "val")
_KEY = re.compile(r"[0-9A-Za-z_-]+")
_SHARD = re.compile(r"shards/[^/]+/[^/]+\.tar")

SELECTION_COLUMNS = pa.schema(
    [
        *COLUMNS,
        pa.field(
            "dataset", pa.string(), metadata={"meaning": "root of the clip's dataset: absolute path or fsspec URL"}
        ),
        pa.field("split", pa.string(), metadata={"meaning": "train or val; a speaker is in one of them only"}),
    ]
)


class SelectionError(ValueError):
    """Not a selection, or one of a version that this lipforge does not know."""


def describe(table: pa.Table) -> dict[str, dict[str, float]]:
    """Hours, clips and speakers of each split. A clip without a speaker counts its source as one."""
    gave = {}
    narrow = table.select(["split", "duration_s", "speaker", "source_id"])
    for split in SPLITS:
        rows = narrow.filter(pc.field("split") == split)
        gave[split] = {
            "hours": float(rows["duration_s"].to_numpy().sum()) / 3600,
            "clips": rows.num_rows,
            "speakers": len(hours_by_speaker(rows)),
        }
    return gave


def hours_by_speaker(rows: pa.Table) -> NDArray[np.float64]:
    """Hours of each speaker, most first. A clip without a speaker counts its source as one."""
    seconds = []
    for column, known in (("speaker", True), ("source_id", False)):
        here = rows.filter(pc.field("speaker").is_valid() if known else pc.field("speaker").is_null())
        seconds.append(here.group_by(column).aggregate([("duration_s", "sum")])["duration_s_sum"].to_numpy())
    return np.sort(np.concatenate(seconds))[::-1] / 3600


def with_request(table: pa.Table, request: Mapping[str, Any]) -> pa.Table:
    """The rows with the request and its result (hours, clips, speakers) in the schema's metadata.

    Raises SelectionError when the columns are not SELECTION_COLUMNS.
    """
    if not table.schema.equals(SELECTION_COLUMNS):
        raise SelectionError("a selection has the columns SELECTION_COLUMNS of datasets_manifest/selection.py")
    about = {
        "version": SELECTION_VERSION,
        "lipforge": _lipforge_version(),
        "request": dict(request),
        "gave": describe(table),
    }
    return table.replace_schema_metadata({METADATA_KEY: json.dumps(about, sort_keys=True).encode()})


def _lipforge_version() -> str:
    try:
        return version("lipforge")
    except PackageNotFoundError:  # a checkout
        return "not installed"


def selection_bytes(table: pa.Table, request: Mapping[str, Any]) -> bytes:
    """The bytes of a selection's file, equal for equal rows and request. request: JSON values.

    Raises SelectionError for wrong columns.
    """
    return parquet_bytes(with_request(table, request))


def write_selection(path: str, table: pa.Table, request: Mapping[str, Any], overwrite: bool = False) -> None:
    """Write a selection to a path or an fsspec URL. An existing file with the same bytes is left alone.

    overwrite: replace another selection. Raises SelectionError for wrong columns, FileExistsError when the file holds
    another selection, or anything else, OSError when writing fails.
    """
    fs, place = open_place(path)
    encoded = selection_bytes(table, request)
    with remote_errors(path):
        is_there = fs.exists(place)
        found = cast(bytes, fs.cat_file(place)) if is_there and fs.isfile(place) else None
    if found == encoded:
        return
    if is_there:
        if found is None or not _is_selection(found):
            raise FileExistsError(f"{path} exists and is no selection, so it is not replaced: give another name")
        if not overwrite:
            raise FileExistsError(
                f"{path} exists and holds another selection: give another name, or replace it with --overwrite"
            )
    if isinstance(fs, LocalFileSystem):
        os.makedirs(os.path.dirname(place), exist_ok=True)
    publish(fs, place, encoded)


def _is_selection(data: bytes) -> bool:
    """Whether a file is a selection, of any version."""
    try:
        selection_request(parse_parquet(data))
    except ValueError:
        return False
    return True


def read_selection(path: str, split: str | None = None) -> pa.Table:
    """The rows of a selection, in its order, with its metadata; of one split or of both.

    Raises FileNotFoundError without the file, UnreadableError when its storage fails, SelectionError when it is damaged
    or not a selection, ValueError for an unknown split.
    """
    if split is not None and split not in SPLITS:
        raise ValueError(f"split is {split!r}, expected one of {', '.join(SPLITS)}")
    try:
        table = parse_parquet(read_file(path))
    except IsADirectoryError as error:
        raise FileNotFoundError(
            f"{path} is a folder, not a selection's Parquet file. For a dataset, `lipforge select {path} "
            "--out NAME.parquet` makes one"
        ) from error
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no selection {path}: `lipforge select DATASET --out {path}` makes one") from error
    except ValueError as error:
        raise SelectionError(f"{path} is {error}") from error
    about = selection_request(table, path)
    if about["version"] != SELECTION_VERSION:
        raise SelectionError(
            f"{path} is a selection of version {about['version']}, this lipforge reads {SELECTION_VERSION}"
        )
    table = _with_added_columns(table)
    if not table.schema.equals(SELECTION_COLUMNS):
        raise SelectionError(f"{path} does not have the columns of a selection: select again")
    _check_rows(table, path)
    return table if split is None else table.filter(pc.field("split") == split)


def _with_added_columns(table: pa.Table) -> pa.Table:
    """Selections of earlier versions lack columns that were added since: they are null."""
    for index, field in enumerate(SELECTION_COLUMNS):
        if field.name in ADDED_COLUMNS and field.name not in table.schema.names and index <= table.num_columns:
            table = table.add_column(index, field, pa.nulls(len(table), field.type))
    return table


def _check_rows(rows: pa.Table, path: str) -> None:
    """Anyone may have written the file: each row must name a possible place in its dataset, and no clip twice."""
    for column, good, problem in (
        ("shard", lambda name: _SHARD.fullmatch(name) and ".." not in name, "is in no shard"),
        ("dataset", bool, "is in no dataset"),
        ("split", SPLITS.__contains__, "is in no split"),
        ("key", _KEY.fullmatch, "has a key that lipforge does not write"),
    ):
        bad = [value for value in rows[column].unique().to_pylist() if value is None or not good(value)]
        if bad:
            first = rows.filter(pc.field(column).is_null() if bad[0] is None else pc.field(column) == bad[0])
            raise SelectionError(f"{path}: clip {first['key'][0].as_py()!r} {problem}: {column} is {bad[0]!r}")
    for column, least, most in (
        ("sample_offset", 0, 2**50),
        ("sample_size", 1, 2**31),
        ("num_frames", 1, 2**20),
        ("crop_px", 1, 2**13),
    ):
        values = rows[column].fill_null(-1).to_numpy()
        bad = np.flatnonzero((values < least) | (values > most))
        if len(bad):
            row = int(bad[0])
            raise SelectionError(
                f"{path}: clip {rows['key'][row].as_py()!r}: {column} is {rows[column][row].as_py()!r}"
            )
    if len(rows["key"].unique()) < len(rows):
        raise SelectionError(
            f"{path}: a clip is in it twice; select again, which takes a clip of several datasets once"
        )


def selection_request(table: pa.Table, path: str = "this table") -> dict[str, Any]:
    """A selection's metadata: version, lipforge, request, gave. Raises SelectionError when there is none."""
    try:
        about = json.loads((table.schema.metadata or {})[METADATA_KEY])
        return {"version": about["version"], **about}
    except (KeyError, TypeError, ValueError) as error:
        raise SelectionError(f"{path} is not a selection: `lipforge select` writes them") from error
