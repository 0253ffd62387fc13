"""The format of cached features: feature shards, their index, and the checks of both.

    FOLDER/shards/NAME.tar      KEY.whisper.npy KEY.mel.npy KEY.vae_target.npy KEY.vae_masked.npy, plain arrays, and
                                KEY.row_crc32.npy, a checksum for each row of these, in this order
    FOLDER/shards/NAME.parquet  where each array of that tar lies; written after it, so a tar without it is not done
    FOLDER/index.parquet        all of these together: what readers read

The first axis of every array is time, so a window of a clip is one range of bytes, and so are its checksums.

Versions before had the checksums in the Parquet files, which made the index large. Their folders are read, too: the
checksums of their shards come from NAME.parquet.
"""

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lipforge.datasets_manifest.parquet import parse_parquet
from lipforge.datasets_manifest.storage.files import read_file
from lipforge.datasets_manifest.storage.store import Store
from lipforge.model.audio.mel import HOP
from lipforge.model.audio.windows import ROWS_PER_FRAME
from lipforge.model.clock import SAMPLES_PER_FRAME

INDEX = "index.parquet"
MEAN_ONLY = "+mean"
"""Ends the model of VAE features that have no log-variance."""
_SHARD = re.compile(r"shards/[0-9A-Za-z_-]+\.tar")
_DTYPES = ("<f2", "<f4", "<f8", "<i2", "<i4")

ROWS_OF: dict[str, Callable[[Any], Any]] = {
    "whisper": lambda num_frames: ROWS_PER_FRAME * num_frames,
    "mel": lambda num_frames: 1 + num_frames * SAMPLES_PER_FRAME // HOP,
    "vae_target": lambda num_frames: num_frames,
    "vae_masked": lambda num_frames: num_frames,
}
"""Feature rows of a clip of so many frames, a number or an array of them, by kind."""

INDEX_COLUMNS = pa.schema(
    [
        ("key", pa.string()),  # of the clip
        ("kind", pa.string()),  # whisper, mel, vae_target, vae_masked
        ("model", pa.string()),  # extract.py: sha256 of the weights that made it; for mel the name of the recipe
        ("num_frames", pa.int32()),  # of the clip, at 25 fps
        (
            "config_hash",
            pa.string(),
        ),  # of the clip, as in the manifest: the same key cut with other settings is another clip
        ("shard", pa.string()),  # path of the tar below the folder
        ("offset", pa.int64()),  # first byte of the array's numbers in the tar, after the header of its .npy
        ("size", pa.int64()),  # bytes of the numbers
        ("dtype", pa.string()),  # as numpy writes it: <f2
        ("shape", pa.list_(pa.int64())),  # time first
        ("checks_offset", pa.int64()),  # first byte of the checksums of its rows in the tar; null: in NAME.parquet
    ]
)
CHECK_BYTES = 4
"""A checksum: a little-endian uint32."""
_ROW_CRC32 = "row_crc32"
"""Column that versions before had for `checks_offset`: binary, a little-endian uint32 for each row."""
OLD_INDEX_COLUMNS = pa.schema([*list(INDEX_COLUMNS)[:-1], pa.field(_ROW_CRC32, pa.binary())])
_NULLABLE = ("config_hash", "checks_offset")
_TEXT = ("key", "kind", "model", "config_hash", "shard", "dtype")
EMPTY_INDEX = pa.schema(
    [
        column.with_type(pa.dictionary(pa.int32(), pa.string())) if column.name in _TEXT else column
        for column in INDEX_COLUMNS
    ]
).empty_table()
"""As `read_index` gives them: texts are dictionaries."""


class FeatureError(ValueError):
    """The features are damaged, missing, or of another model or clip; the message says what to do."""


class ForeignFolderError(FeatureError):
    """A folder for features holds something else."""


def row_checks(rows: np.ndarray) -> np.ndarray:
    """uint32 [len(rows)]: a CRC-32 for each row, of its bytes, type and shape."""
    kind = zlib.crc32(f"{rows.dtype.str} {rows.shape[1:]}".encode())
    return np.array([zlib.crc32(row.tobytes(), kind) for row in rows], "<u4")


def read_index(store: Store, name: str) -> pa.Table:
    """A valid index: INDEX_COLUMNS, texts as dictionaries, without checksums.

    Raises FeatureError, FileNotFoundError, UnreadableError.
    """
    table = _read(store, name, INDEX_COLUMNS.names)
    if "checks_offset" not in table.column_names:
        table = table.append_column("checks_offset", pa.nulls(len(table), pa.int64()))
    for column in INDEX_COLUMNS.names:
        if column not in _NULLABLE and table[column].null_count:
            raise FeatureError(f"null in required column {column}")
    for column, good in (("shard", _SHARD.fullmatch), ("dtype", _DTYPES.__contains__)):
        if bad := [value for value in table[column].unique().to_pylist() if not good(value)]:
            raise FeatureError(f"invalid value in column {column}: {bad[0]!r}")
    if len(table) and not _sizes_fit(table):
        raise FeatureError("offset, size, shape and checks_offset of a row do not fit together")
    return table


def read_old_checks(store: Store, shard: str) -> dict[tuple[str, str], bytes]:
    """Checksums by key and kind, of a shard that an earlier version wrote. Errors as `read_index`."""
    table = _read(store, shard.removesuffix(".tar") + ".parquet", ["key", "kind", _ROW_CRC32])
    if _ROW_CRC32 not in table.column_names:
        raise FeatureError("it has no checksums")
    pairs = zip(table["key"].to_pylist(), table["kind"].to_pylist(), strict=True)
    return dict(zip(pairs, table[_ROW_CRC32].to_pylist(), strict=True))


def _read(store: Store, name: str, columns: Sequence[str]) -> pa.Table:
    """Those of the columns that an index has."""
    content = read_file(f"{store.root}/{name}")
    try:
        schema = pq.read_schema(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as error:
        raise FeatureError(f"it is not a Parquet file, or damaged: {error}") from error
    if not any(schema.equals(known) for known in (INDEX_COLUMNS, OLD_INDEX_COLUMNS)):
        raise ForeignFolderError("its columns are not those of a feature index")
    try:
        return parse_parquet(content, columns, _TEXT)
    except ValueError as error:
        raise FeatureError(f"it is {error}") from error


def _sizes_fit(table: pa.Table) -> bool:
    """Whether each array's size is that of its shape and type, and no offset is negative."""
    shapes = table["shape"].combine_chunks()
    ends = np.cumsum(pc.call_function("list_value_length", [shapes]).to_numpy())
    starts = np.concatenate([[0], ends[:-1]])
    sides = shapes.flatten().fill_null(0).to_numpy()
    if (starts == ends).any() or sides.min() < 1:
        return False
    if any((pc.call_function("min", [table[name]]).as_py() or 0) < 0 for name in ("offset", "checks_offset")):
        return False
    dtypes = table["dtype"].combine_chunks().dictionary_encode()
    itemsizes = np.array([np.dtype(name).itemsize for name in dtypes.dictionary.to_pylist()])
    # As floats, which do not wrap around.
    num_bytes = np.multiply.reduceat(sides.astype(np.float64), starts) * itemsizes[dtypes.indices.to_numpy()]
    return bool((num_bytes == table["size"].to_numpy()).all())


def models_of(table: pa.Table) -> dict[str, str]:
    """The model that made the features of each kind. A folder holds features of one model per kind."""
    found = table.select(["kind", "model"]).group_by(["kind", "model"]).aggregate([])
    return dict(sorted(zip(found["kind"].to_pylist(), found["model"].to_pylist(), strict=True)))


def check_models(folder: str, stored: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Raises FeatureError when the folder holds features of a wanted kind that another model made."""
    for kind, model in wanted.items():
        if stored.get(kind, model) != model:
            raise FeatureError(
                f"the {kind} features in {folder} were made by model {stored[kind]}, not by the wanted {model}: "
                "use the file of the former, or make features with `lipforge features` in another folder"
            )
