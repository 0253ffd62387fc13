"""The format of cached features: feature shards, their index, and the checks of both.

    FOLDER/shards/NAME.tar      KEY.whisper.npy KEY.mel.npy KEY.vae_target.npy KEY.vae_masked.npy, plain arrays
    FOLDER/shards/NAME.parquet  where each array of that tar lies; written after it, so a tar without it is not done
    FOLDER/index.parquet        all of these together: what readers read

The first axis of every array is time, so a window of a clip is one range of bytes.
"""

import re
import zlib
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lipforge.datasets_manifest.parquet import parse_parquet
from lipforge.datasets_manifest.storage.files import read_file
from lipforge.datasets_manifest.storage.store import Store
from lipforge.model.audio.mel import HOP
from lipforge.model.audio.windows import ROWS_PER_FRAME
from lipforge.model.clock import SAMPLES_PER_FRAME

INDEX = "index.parquet"
_SHARD = re.compile(r"shards/[0-9A-Za-z_-]+\.tar")
_DTYPES = ("<f2", "<f4", "<f8", "<i2", "<i4")

ROWS_OF: dict[str, Callable[[int], int]] = {
    "whisper": lambda num_frames: ROWS_PER_FRAME * num_frames,
    "mel": lambda num_frames: 1 + num_frames * SAMPLES_PER_FRAME // HOP,
    "vae_target": lambda num_frames: num_frames,
    "vae_masked": lambda num_frames: num_frames,
}
"""Feature rows of a clip of so many frames, by kind."""

INDEX_COLUMNS = pa.schema(
    [
        ("key", pa.string()),  # of the clip
        ("kind", pa.string()),  # whisper, mel, vae_target, vae_masked
        ("model", pa.string()),  # sha256 of the weights that made it; for mel the name of the recipe
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
        ("row_crc32", pa.binary()),  # little-endian uint32 for each row along the first axis
    ]
)


class FeatureError(ValueError):
    """The features are damaged, missing, or of another model or clip; the message says what to do."""


class ForeignFolderError(FeatureError):
    """A folder for features holds something else."""


def row_checks(rows: np.ndarray) -> np.ndarray:
    """uint32 [len(rows)]: a CRC-32 for each row, of its bytes, type and shape."""
    kind = zlib.crc32(f"{rows.dtype.str} {rows.shape[1:]}".encode())
    return np.array([zlib.crc32(row.tobytes(), kind) for row in rows], "<u4")


def read_index(store: Store, name: str) -> pa.Table:
    """A valid index. Raises FeatureError, FileNotFoundError, UnreadableError."""
    content = read_file(f"{store.root}/{name}")
    try:
        table = parse_parquet(content)
    except ValueError as error:
        raise FeatureError(f"it is {error}") from error
    if not table.schema.equals(INDEX_COLUMNS):
        raise ForeignFolderError("its columns are not those of a feature index")
    for column in INDEX_COLUMNS.names:
        if column != "config_hash" and table[column].null_count:
            raise FeatureError(f"null in required column {column}")
    for column, good in (("shard", _SHARD.fullmatch), ("dtype", _DTYPES.__contains__)):
        if bad := [value for value in table[column].unique().to_pylist() if not good(value)]:
            raise FeatureError(f"invalid value in column {column}: {bad[0]!r}")
    if len(table) and not _sizes_fit(table.combine_chunks()):
        raise FeatureError("offset, size, shape and row_crc32 of a row do not fit together")
    return table


def _sizes_fit(table: pa.Table) -> bool:
    """Whether each array's size is that of its shape and type, and each of its rows has a CRC-32."""
    shapes = table["shape"].combine_chunks()
    ends = np.cumsum(pc.call_function("list_value_length", [shapes]).to_numpy())
    starts = np.concatenate([[0], ends[:-1]])
    sides = shapes.flatten().fill_null(0).to_numpy()
    if (starts == ends).any() or sides.min() < 1 or table["offset"].to_numpy().min() < 0:
        return False
    itemsize = np.array([np.dtype(name).itemsize for name in table["dtype"].to_pylist()])
    # As floats, which do not wrap around.
    num_bytes = np.multiply.reduceat(sides.astype(np.float64), starts) * itemsize
    num_checks = pc.call_function("binary_length", [table["row_crc32"]]).to_numpy() / 4
    return bool((num_bytes == table["size"].to_numpy()).all() and (num_checks == sides[starts]).all())


def models_of(table: pa.Table) -> dict[str, str]:
    """The model that made the features of each kind. A folder holds features of one model per kind."""
    return dict(sorted({(row["kind"], row["model"]) for row in table.select(["kind", "model"]).to_pylist()}))


def check_models(folder: str, stored: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Raises FeatureError when the folder holds features of a wanted kind that another model made."""
    for kind, model in wanted.items():
        if stored.get(kind, model) != model:
            raise FeatureError(
                f"the {kind} features in {folder} were made by model {stored[kind]}, not by the wanted {model}: "
                "use the file of the former, or make features with `lipforge features` in another folder"
            )
