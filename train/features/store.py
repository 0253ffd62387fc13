"""Feature shards: what frozen models make of each clip, computed once, found by key, read by byte ranges.

    FOLDER/shards/NAME.tar      KEY.whisper.npy KEY.mel.npy KEY.vae_target.npy KEY.vae_masked.npy, plain arrays
    FOLDER/shards/NAME.parquet  where each array of that tar lies; written after it, so a tar without it is not done
    FOLDER/index.parquet        all of these together: what readers read

The first axis of every array is time, so a window of a clip is one range of bytes:

    store = FeatureStore("features", {"whisper": sha256, "vae_target": sha256})
    store.require(read_selection("zh20.parquet"))
    target, reference = store.read_rows([Rows(key, "vae_target", 40, 56), Rows(key, "vae_target", 90, 106)])
"""

import io
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lipforge.datasets_manifest.parquet import parquet_bytes, parse_parquet
from lipforge.datasets_manifest.sample import END_OF_TAR, sample_bytes
from lipforge.datasets_manifest.storage.files import is_remote, read_file
from lipforge.datasets_manifest.storage.ranges import RangeReader, Span
from lipforge.datasets_manifest.storage.store import Store
from lipforge.model.audio.mel import HOP
from lipforge.model.audio.windows import ROWS_PER_FRAME
from lipforge.model.clock import SAMPLES_PER_FRAME
from lipforge.train.stream.decode import DamagedSampleError

INDEX = "index.parquet"
_TAR_BLOCK = 512
_SHARD = re.compile(r"shards/[0-9A-Za-z_-]+\.tar")
_OWN = re.compile(r"index\.parquet|shards/[0-9a-f]{24}\.(tar|parquet)")  # names of shards: Unit.name
_DTYPES = ("<f2", "<f4", "<f8", "<i2", "<i4")

_ROWS_OF: dict[str, Callable[[int], int]] = {
    "whisper": lambda num_frames: ROWS_PER_FRAME * num_frames,
    "mel": lambda num_frames: 1 + num_frames * SAMPLES_PER_FRAME // HOP,
    "vae_target": lambda num_frames: num_frames,
    "vae_masked": lambda num_frames: num_frames,
}
"""Rows of the features of a clip of so many frames."""

INDEX_COLUMNS = pa.schema(
    [
        ("key", pa.string()),  # of the clip
        ("kind", pa.string()),  # whisper, mel, vae_target, vae_masked
        ("model", pa.string()),  # sha256 of the weights that made it; for mel the name of the recipe
        ("num_frames", pa.int32()),  # of the clip, at 25 fps
        ("config_hash", pa.string()),  # of the clip, as in the manifest: the same key cut otherwise is another clip
        ("shard", pa.string()),  # path of the tar below the folder
        ("offset", pa.int64()),  # first byte of the array's numbers in the tar, after the header of its .npy
        ("size", pa.int64()),  # bytes of the numbers
        ("dtype", pa.string()),  # as numpy writes it: <f2
        ("shape", pa.list_(pa.int64())),  # time first
        ("row_crc32", pa.binary()),  # little-endian uint32 for each row along the first axis
    ]
)


class FeatureError(ValueError):
    """The features are not those that were asked for; the message says what to do."""


class OtherModelError(FeatureError):
    """The features were made by another model."""


class MissingFeaturesError(FeatureError):
    """Some clips have no features of a kind, or those of a clip that was cut otherwise."""


class ForeignFolderError(FeatureError):
    """A folder for features holds something else."""


@dataclass(frozen=True)
class ClipFeatures:
    """The features of one clip."""

    key: str
    num_frames: int
    config_hash: str | None
    arrays: Mapping[str, np.ndarray]
    """By kind; the first axis is time."""


class Rows(NamedTuple):
    """Rows start .. stop - 1 of one feature of a clip."""

    key: str
    kind: str
    start: int
    stop: int


def refuse_foreign_folder(store: Store) -> None:
    """Raises ForeignFolderError when a folder holds anything but features."""
    for name in (name.lstrip("/") for name in store.list("")):
        if not _OWN.fullmatch(name):
            what = f"holds something else ({name})" if name else "is a file"
            raise ForeignFolderError(f"{store.root} {what}. Nothing of it was touched: name a new folder.")
    for name in _some_indexes(store):
        try:
            _read_index(store, name)
        except ForeignFolderError as error:
            raise ForeignFolderError(f"{store.root}/{name}: {error}. Nothing was touched: name a new folder") from error
        except FeatureError:
            pass  # damaged, and so made again


def _some_indexes(store: Store) -> list[str]:
    """The index of all shards and that of one, as far as they are there."""
    own = [name for name in store.list("shards") if name.endswith(".parquet")][:1]
    return [INDEX, *own] if store.exists(INDEX) else own


def write_shard(store: Store, name: str, clips: Iterable[ClipFeatures], models: Mapping[str, str]) -> pa.Table:
    """Write shards/NAME.tar and then its index; returns that. Nothing is written when there are no clips. Same clips, same bytes."""
    iterator = iter(clips)
    first = next(iterator, None)
    rows: list[dict[str, Any]] = []
    if first is not None:
        shard = f"shards/{name}.tar"
        with store.writing(shard) as file:
            position = 0
            for clip in chain([first], iterator):
                content, found = _encode(clip, position, models)
                rows += [{**row, "shard": shard} for row in found]
                position += file.write(content)
            file.write(END_OF_TAR)
        store.write(f"shards/{name}.parquet", parquet_bytes(pa.Table.from_pylist(rows, INDEX_COLUMNS)))
    return pa.Table.from_pylist(rows, INDEX_COLUMNS)


def _encode(clip: ClipFeatures, position: int, models: Mapping[str, str]) -> tuple[bytes, list[dict[str, Any]]]:
    """The tar blocks of a clip that begin at `position` of a tar, and its rows of the index."""
    members, rows = {}, []
    for kind, array in clip.arrays.items():
        numbers = np.ascontiguousarray(array)
        buffer = io.BytesIO()
        np.save(buffer, numbers, allow_pickle=False)
        npy = members[f"{kind}.npy"] = buffer.getvalue()
        rows.append(
            {
                "key": clip.key,
                "kind": kind,
                "model": models[kind],
                "num_frames": clip.num_frames,
                "config_hash": clip.config_hash,
                "offset": position + _TAR_BLOCK + len(npy) - numbers.nbytes,
                "size": numbers.nbytes,
                "dtype": numbers.dtype.str,
                "shape": list(numbers.shape),
                "row_crc32": _checks(numbers).tobytes(),
            }
        )
        position += _TAR_BLOCK + -(-len(npy) // _TAR_BLOCK) * _TAR_BLOCK
    return sample_bytes(clip.key, members), rows


def _checks(rows: np.ndarray) -> np.ndarray:
    """For each row a number that other bytes, another type or another shape would change."""
    kind = zlib.crc32(f"{rows.dtype.str} {rows.shape[1:]}".encode())
    return np.array([zlib.crc32(row.tobytes(), kind) for row in rows], "<u4")


def finished_shards(store: Store) -> pa.Table:
    """The index of all shards that are complete. Forgets those whose own index is damaged or whose tar is gone or cut off, so that they are
    made again. Raises ForeignFolderError for a whole Parquet file that is no index.
    """
    tables = [INDEX_COLUMNS.empty_table()]
    for name in store.list("shards"):
        if not name.endswith(".parquet"):
            continue
        try:
            table = _read_index(store, name)
        except ForeignFolderError as error:
            raise ForeignFolderError(f"{store.root}/{name}: {error}. It was left alone: name a new folder") from error
        except FeatureError:
            table = INDEX_COLUMNS.empty_table()
        ends = [offset + size for offset, size in zip(*(table[c].to_pylist() for c in ("offset", "size")), strict=True)]
        if ends and (store.size(name.removesuffix(".parquet") + ".tar") or 0) >= max(ends) + len(END_OF_TAR):
            tables.append(table)
        else:
            store.delete(name)
    return pa.concat_tables(tables)


def _read_index(store: Store, name: str) -> pa.Table:
    """An index whose rows say of arrays what can be. Raises FeatureError, FileNotFoundError, UnreadableError."""
    content = read_file(f"{store.root}/{name}")
    try:
        table = parse_parquet(content)
    except ValueError as error:
        raise FeatureError(f"it is {error}") from error
    if not table.schema.equals(INDEX_COLUMNS):
        raise ForeignFolderError("its columns are not those of an index of features")
    if any(table[column].null_count for column in INDEX_COLUMNS.names if column != "config_hash"):
        raise FeatureError("it has rows that say nothing")
    for column, good in (("shard", _SHARD.fullmatch), ("dtype", _DTYPES.__contains__)):
        if bad := [value for value in table[column].unique().to_pylist() if not good(value)]:
            raise FeatureError(f"it has a row that cannot be: {column} {bad[0]!r}")
    if len(table) and not _sizes_fit(table.combine_chunks()):
        raise FeatureError("it has a row that cannot be: offset, size, shape and sums do not fit")
    return table


def _sizes_fit(table: pa.Table) -> bool:
    """Whether each row's shape, in its type, takes as many bytes as it says, and each of its rows along the first axis has a sum."""
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


def write_index(store: Store, table: pa.Table) -> None:
    """Make `table`, the index of all shards, what readers see."""
    store.write(INDEX, parquet_bytes(table.sort_by([("key", "ascending"), ("kind", "ascending")])))


def models_of(table: pa.Table) -> dict[str, str]:
    """Which model made the features of each kind. A folder holds those of one model of a kind."""
    return dict(sorted({(row["kind"], row["model"]) for row in table.select(["kind", "model"]).to_pylist()}))


def check_models(folder: str, stored: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Raises OtherModelError when the folder holds features of a wanted kind that another model made."""
    for kind, model in wanted.items():
        if stored.get(kind, model) != model:
            raise OtherModelError(
                f"the {kind} features in {folder} were made by model {stored[kind]}, and those of model {model} are wanted: take that "
                "model's file, or have `lipforge features` make them in another folder"
            )


class FeatureStore:
    """Reads the features in a folder or behind an fsspec URL. Send it to another process before its first read, not after."""

    def __init__(self, folder: str, models: Mapping[str, str]) -> None:
        """models: by kind, the model whose features are wanted, as the index names it: sha256 of the weights.

        Raises FileNotFoundError when there are no features, UnreadableError when their storage fails, FeatureError when their index is
        damaged, OtherModelError when another model made them, MissingFeaturesError when there are none of a kind.
        """
        self.folder = folder
        self.models = dict(models)
        try:
            index = _read_index(Store(folder), INDEX)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"no {INDEX} in {folder}: `lipforge features SELECTION --out {folder}` makes it"
            ) from error
        except FeatureError as error:
            raise FeatureError(
                f"{folder}/{INDEX}: {error}. Delete it: `lipforge features` writes it again, and computes nothing that is there"
            ) from error
        check_models(folder, models_of(index), models)
        if missing := models.keys() - models_of(index).keys():
            raise MissingFeaturesError(
                f"no {' and no '.join(sorted(missing))} features in {folder}. {_make_them(folder)}"
            )
        self._index = index.combine_chunks()
        pairs = zip(index["key"].to_pylist(), index["kind"].to_pylist(), strict=True)
        self._row_of = {pair: row for row, pair in enumerate(pairs)}

    def require(self, clips: pa.Table) -> None:
        """Check that each of these clips has all kinds. clips: columns key, num_frames, config_hash of a selection.

        Raises MissingFeaturesError, FeatureError when they are not as long as the clip.
        """
        about = ("num_frames", "config_hash")
        stored = list(zip(*(self._index[column].to_pylist() for column in about), strict=True))
        num_rows = [shape[0] for shape in self._index["shape"].to_pylist()]
        for kind in self.models:
            count_rows = _ROWS_OF.get(kind, lambda num_frames: None)
            for key, *wanted in zip(*(clips[column].to_pylist() for column in ("key", *about)), strict=True):
                row = self._row_of.get((key, kind))
                if row is None:
                    count = sum((other, kind) not in self._row_of for other in clips["key"].to_pylist())
                    raise MissingFeaturesError(
                        f"{count} of {len(clips)} clips have no {kind} features in {self.folder} (first: {key}). {_make_them(self.folder)}. "
                        "Clips that it skips as damaged have to be left out of the selection"
                    )
                if count_rows(wanted[0]) not in (None, num_rows[row]):
                    raise FeatureError(
                        f"the {kind} features of clip {key} in {self.folder} are {num_rows[row]} rows for {wanted[0]} frames: "
                        "delete its shard and run `lipforge features` again"
                    )
                if list(stored[row]) != wanted:
                    raise MissingFeaturesError(
                        f"the {kind} features of clip {key} in {self.folder} were made of a clip that was cut with other settings "
                        f"(frames and settings {stored[row]} instead of {tuple(wanted)}): make them for this selection in another folder"
                    )

    def num_rows(self, key: str, kind: str) -> int:
        return self._find(key, kind)["shape"][0]

    def read(self, key: str, kinds: Sequence[str]) -> dict[str, np.ndarray]:
        """Whole features of a clip by kind, time first. Errors as `read_rows`."""
        arrays = self.read_rows([Rows(key, kind, 0, self.num_rows(key, kind)) for kind in kinds])
        return dict(zip(kinds, arrays, strict=True))

    def read_rows(self, wanted: Sequence[Rows]) -> list[np.ndarray]:
        """Windows of features, each [stop - start, ...] and read-only, in few requests that run at the same time where the storage can do that.

        Raises MissingFeaturesError for a clip without features, IndexError for rows beyond its end, DamagedSampleError when the bytes are
        not those that were written, FileNotFoundError when a shard is gone, and what RangeReader.read raises else.
        """
        arrays = []
        for array in self.try_rows(wanted):
            if isinstance(array, DamagedSampleError):
                raise array
            arrays.append(array)
        return arrays

    def try_rows(self, wanted: Sequence[Rows]) -> list[np.ndarray | DamagedSampleError]:
        """As `read_rows`, with the error in the place of each window that is damaged."""
        found = [self._find(rows.key, rows.kind) for rows in wanted]
        spans = [self._span(rows, place) for rows, place in zip(wanted, found, strict=True)]
        try:
            data = self._ranges.read(spans)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"a shard of the features in {self.folder} is gone. {_make_them(self.folder)}"
            ) from error
        if is_remote(self.folder):  # servers err, too: what is not whole is asked for once more
            parts = zip(wanted, found, spans, strict=True)
            data |= self._ranges.read([s for r, p, s in parts if isinstance(self._decode(r, p, data[s]), Exception)])
        return [self._decode(rows, place, data[span]) for rows, place, span in zip(wanted, found, spans, strict=True)]

    @cached_property
    def _ranges(self) -> RangeReader:
        return RangeReader()

    def _find(self, key: str, kind: str) -> dict[str, Any]:
        if kind not in self.models:
            raise ValueError(f"{kind} features: the store was opened for {', '.join(self.models)}")
        row = self._row_of.get((key, kind))
        if row is None:
            raise MissingFeaturesError(f"clip {key} has no {kind} features in {self.folder}. {_make_them(self.folder)}")
        return self._index.slice(row, 1).to_pylist()[0]

    def _span(self, rows: Rows, place: dict[str, Any]) -> Span:
        num_rows = place["shape"][0]
        if not 0 <= rows.start < rows.stop <= num_rows:
            raise IndexError(f"rows {rows.start} to {rows.stop} of the {num_rows} of {rows.kind} of clip {rows.key}")
        row_bytes = place["size"] // num_rows
        first = place["offset"]
        return Span(self.folder, place["shard"], first + rows.start * row_bytes, first + rows.stop * row_bytes)

    def _decode(self, rows: Rows, place: dict[str, Any], data: bytes) -> np.ndarray | DamagedSampleError:
        shape = (rows.stop - rows.start, *place["shape"][1:])
        dtype = np.dtype(place["dtype"])
        if len(data) != dtype.itemsize * np.prod(shape):
            return self._damaged(rows, place, f"the shard ends within its {rows.kind} features")
        array = np.frombuffer(data, dtype).reshape(shape)
        expected = np.frombuffer(place["row_crc32"], "<u4")[rows.start : rows.stop]
        if not np.array_equal(_checks(array), expected):
            return self._damaged(rows, place, f"its {rows.kind} features are not what was written")
        return array

    def _damaged(self, rows: Rows, place: dict[str, Any], detail: str) -> DamagedSampleError:
        again = f"delete {place['shard']} and run `lipforge features` again"
        return DamagedSampleError(rows.key, f"{self.folder}/{place['shard']}", f"{detail}: {again}")


def _make_them(folder: str) -> str:
    return f"`lipforge features` with the same options and --out {folder} makes what is missing"
