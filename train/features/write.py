"""Writes feature shards and their index, and finds out what is written already."""

import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lipforge.datasets_manifest.parquet import parquet_bytes
from lipforge.datasets_manifest.sample import END_OF_TAR, sample_bytes
from lipforge.datasets_manifest.storage.store import Store
from lipforge.train.features.index import (
    CHECK_BYTES,
    EMPTY_INDEX,
    INDEX,
    INDEX_COLUMNS,
    FeatureError,
    ForeignFolderError,
    read_index,
    row_checks,
)

_TAR_BLOCK = 512
_OWN = re.compile(r"index\.parquet|shards/[0-9a-f]{24}\.(tar|parquet)")  # names of shards: FeatureUnit.name


@dataclass(frozen=True)
class ClipFeatures:
    """The features of one clip."""

    key: str
    num_frames: int
    config_hash: str | None
    arrays: Mapping[str, np.ndarray]
    """By kind; the first axis is time."""


def refuse_foreign_folder(store: Store) -> None:
    """Raises ForeignFolderError when a folder holds anything but features."""
    for name in (name.lstrip("/") for name in store.list("")):
        if not _OWN.fullmatch(name):
            what = f"holds something else ({name})" if name else "is a file"
            raise ForeignFolderError(f"{store.root} {what}. Nothing was changed: name a new folder.")
    some_shard = [name for name in store.list("shards") if name.endswith(".parquet")][:1]
    for name in [INDEX, *some_shard] if store.exists(INDEX) else some_shard:
        try:
            read_index(store, name)
        except ForeignFolderError as error:
            raise ForeignFolderError(
                f"{store.root}/{name}: {error}. Nothing was changed: name a new folder."
            ) from error
        except FeatureError:
            pass  # damaged: it is made again


def write_shard(store: Store, name: str, clips: Iterable[ClipFeatures], models: Mapping[str, str]) -> pa.Table:
    """Write shards/NAME.tar, then its index; returns the index.

    Without clips, nothing is written. Same clips, same bytes.
    """
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
    members, rows, checks = {}, [], []
    for kind, array in clip.arrays.items():
        numbers = np.ascontiguousarray(array)
        npy = members[f"{kind}.npy"] = _npy(numbers)
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
            }
        )
        checks.append(row_checks(numbers))
        position += _TAR_BLOCK + -(-len(npy) // _TAR_BLOCK) * _TAR_BLOCK
    npy = members["row_crc32.npy"] = _npy(np.concatenate(checks))
    position += _TAR_BLOCK + len(npy) - CHECK_BYTES * sum(map(len, checks))
    for row, some in zip(rows, checks, strict=True):
        row["checks_offset"] = position
        position += CHECK_BYTES * len(some)
    return sample_bytes(clip.key, members), rows


def _npy(numbers: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, numbers, allow_pickle=False)
    return buffer.getvalue()


def finished_shards(store: Store) -> pa.Table:
    """The index of all complete shards, as of `read_index`.

    Deletes the index of a shard when it is damaged or its tar is missing or cut off, so the shard is made again. Raises
    ForeignFolderError for an intact Parquet file that is no feature index.
    """
    tables = [EMPTY_INDEX]
    for name in store.list("shards"):
        if not name.endswith(".parquet"):
            continue
        try:
            table = read_index(store, name)
        except ForeignFolderError as error:
            raise ForeignFolderError(f"{store.root}/{name}: {error}. It was left alone: name a new folder.") from error
        except FeatureError:
            table = EMPTY_INDEX
        if len(table) and (store.size(name.removesuffix(".parquet") + ".tar") or 0) >= _end(table) + len(END_OF_TAR):
            tables.append(table)
        else:
            store.delete(name)
    return pa.concat_tables(tables).unify_dictionaries().combine_chunks()


def _end(index: pa.Table) -> int:
    """Where the last array of a shard ends, or its checksums."""
    num_rows = pc.call_function("list_element", [index["shape"], 0]).to_numpy()
    checks = index["checks_offset"].fill_null(0).to_numpy() + CHECK_BYTES * num_rows
    return int(max((index["offset"].to_numpy() + index["size"].to_numpy()).max(), checks.max()))


def write_index(store: Store, table: pa.Table) -> None:
    """Publish `table`, the index of all shards, to readers."""
    table = table.cast(INDEX_COLUMNS)
    store.write(INDEX, parquet_bytes(table.sort_by([("key", "ascending"), ("kind", "ascending")])))
