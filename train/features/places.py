"""Where the features of clips lie: an index as columns of numbers, 56 bytes for each array."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_DIGEST_BYTES = 16


class Place(NamedTuple):
    """Where one array lies, and what it is."""

    shard: str
    offset: int
    checks_offset: int | None
    """None: the checksums are in the shard's own index."""
    num_rows: int
    dtype: np.dtype
    row_shape: tuple[int, ...]
    num_frames: int
    config_hash: str | None

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * int(np.prod(self.row_shape, dtype=np.int64))


class Places:
    """The arrays of one kind by key. Forked processes share the memory."""

    def __init__(self, index: pa.Table, kind: str) -> None:
        """index: as read_index gives it. Of several arrays of a key, the last counts."""
        rows = index.filter(pc.call_function("equal", [index["kind"], kind])).combine_chunks()
        digests = _digests(rows["key"])
        order = np.argsort(digests, kind="stable")
        self._digests = digests[order]
        self._shards, self._shard = _codes(rows["shard"], order)
        self._configs, self._config = _codes(rows["config_hash"], order)
        sides = rows["shape"]
        tails = pc.call_function("list_slice", [sides], pc.ListSliceOptions(1))
        texts = pc.call_function("binary_join", [tails.cast(pa.list_(pa.string())), " "])
        layouts = pc.call_function("binary_join_element_wise", [rows["dtype"].cast(pa.string()), texts, " "])
        names, self._layout = _codes(layouts, order)
        self._layouts = [_layout(name) for name in names.to_pylist()]
        self._num_rows = pc.call_function("list_element", [sides, 0]).to_numpy()[order]
        self._offset = rows["offset"].to_numpy()[order]
        self._checks_offset = rows["checks_offset"].fill_null(-1).to_numpy()[order]
        self.num_frames = rows["num_frames"].to_numpy()[order]
        """Of the clips; a row of this, as of all columns, is what `find` returns."""

    def __len__(self) -> int:
        return len(self._digests)

    @property
    def num_rows(self) -> np.ndarray:
        return self._num_rows

    def find(self, keys: Sequence[str]) -> np.ndarray:
        """int64 [N]: the row of each key, -1 where there is none."""
        wanted = np.array([_digest(key) for key in keys], f"S{_DIGEST_BYTES}")
        rows = np.searchsorted(self._digests, wanted, side="right") - 1
        if not len(self):
            return rows
        return np.where(self._digests[rows] == wanted, rows, -1)

    def place(self, key: str) -> Place | None:
        (row,) = self.find([key])
        return None if row < 0 else self.at(int(row))

    def at(self, row: int) -> Place:
        dtype, row_shape = self._layouts[self._layout[row]]
        checks_offset = int(self._checks_offset[row])
        return Place(
            self._shards[int(self._shard[row])].as_py(),
            int(self._offset[row]),
            None if checks_offset < 0 else checks_offset,
            int(self._num_rows[row]),
            dtype,
            row_shape,
            int(self.num_frames[row]),
            self.config_hash(row),
        )

    def config_hash(self, row: int) -> str | None:
        code = int(self._config[row])
        return None if code < 0 else self._configs[code].as_py()

    def is_of(self, row: int, num_frames: int, config_hash: str | None) -> bool:
        """Whether the clip of a row has this length and was cut with these settings."""
        return int(self.num_frames[row]) == num_frames and self.config_hash(row) == config_hash

    def have_config(self, rows: np.ndarray, config_hashes: pa.ChunkedArray) -> np.ndarray:
        """bool [N]: whether the clips of these rows were cut with these settings."""
        codes = pc.call_function("index_in", [config_hashes], pc.SetLookupOptions(self._configs, skip_nulls=True))
        wanted = codes.fill_null(-2).to_numpy()
        nulls = pc.call_function("is_null", [config_hashes]).to_numpy()
        return np.where(nulls, -1, wanted) == self._config[rows]


def _digests(keys: pa.ChunkedArray) -> np.ndarray:
    """Of each key: it takes a fixed size, whatever the length of keys, and two never meet."""
    encoded = keys.combine_chunks().dictionary_encode()
    known = [_digest(key) for key in encoded.dictionary.to_pylist()]
    return np.array(known, f"S{_DIGEST_BYTES}")[encoded.indices.to_numpy()]


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=_DIGEST_BYTES).digest()


def _codes(texts: pa.ChunkedArray, order: np.ndarray) -> tuple[pa.Array, np.ndarray]:
    """(different texts, int32 [N]: which each is; -1 for null), in this order."""
    encoded = texts.cast(pa.string()).combine_chunks().dictionary_encode()
    return encoded.dictionary, encoded.indices.fill_null(-1).to_numpy()[order]


def _layout(name: str) -> tuple[np.dtype, tuple[int, ...]]:
    dtype, *sides = name.split()
    return np.dtype(dtype), tuple(map(int, sides))
