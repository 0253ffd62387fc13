"""Reads cached features by clip, whole or by windows of rows.

store = FeatureStore("features", {"whisper": sha256, "vae_target": sha256})
store.require(read_selection("zh20.parquet"))
target, reference = store.read_rows([FeatureRows(key, "vae_target", 40, 56), FeatureRows(key, "vae_target", 90, 106)])
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from lipforge.datasets_manifest.storage.files import is_remote
from lipforge.datasets_manifest.storage.ranges import RangeReader, Span
from lipforge.datasets_manifest.storage.store import Store
from lipforge.train.features.index import INDEX, ROWS_OF, FeatureError, check_models, models_of, read_index, row_checks
from lipforge.train.stream.decode import DamagedSampleError


class FeatureRows(NamedTuple):
    """Rows start .. stop - 1 of one feature of a clip."""

    key: str
    kind: str
    start: int
    stop: int


class FeatureStore:
    """Reads the features in a folder or at an fsspec URL.

    Send it to another process before its first read, not after.
    """

    def __init__(self, folder: str, models: Mapping[str, str]) -> None:
        """models: by kind, the model that must have made the features: sha256 of its weights; for mel, the name of the
        recipe.

        Raises FileNotFoundError when there are no features, UnreadableError when their storage fails, FeatureError when
        their index is damaged, another model made them, or a kind is missing.
        """
        self.folder = folder
        self.models = dict(models)
        try:
            index = read_index(Store(folder), INDEX)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"no {INDEX} in {folder}: `lipforge features SELECTION --out {folder}` makes it"
            ) from error
        except FeatureError as error:
            raise FeatureError(
                f"{folder}/{INDEX}: {error}. Delete it: `lipforge features` writes it again and recomputes nothing"
            ) from error
        check_models(folder, models_of(index), models)
        if missing := models.keys() - models_of(index).keys():
            raise FeatureError(f"no {' and no '.join(sorted(missing))} features in {folder}. {_make_them(folder)}")
        self._index = index.combine_chunks()
        pairs = zip(index["key"].to_pylist(), index["kind"].to_pylist(), strict=True)
        self._row_of = {pair: row for row, pair in enumerate(pairs)}

    def require(self, clips: pa.Table) -> None:
        """Check that each of these clips has all kinds. clips: columns key, num_frames, config_hash of a selection.

        Raises FeatureError when some are missing, or are of a clip that was cut with other settings or has another
        length.
        """
        about = ("num_frames", "config_hash")
        stored = list(zip(*(self._index[column].to_pylist() for column in about), strict=True))
        num_rows = [shape[0] for shape in self._index["shape"].to_pylist()]
        for kind in self.models:
            count_rows = ROWS_OF.get(kind, lambda num_frames: None)
            for key, *wanted in zip(*(clips[column].to_pylist() for column in ("key", *about)), strict=True):
                row = self._row_of.get((key, kind))
                if row is None:
                    count = sum((other, kind) not in self._row_of for other in clips["key"].to_pylist())
                    raise FeatureError(
                        f"{count} of {len(clips)} clips have no {kind} features in {self.folder} (first: {key}). "
                        f"{_make_them(self.folder)}. Leave clips that it skips as damaged out of the selection"
                    )
                if count_rows(wanted[0]) not in (None, num_rows[row]):
                    raise FeatureError(
                        f"the {kind} features of clip {key} in {self.folder} are {num_rows[row]} rows for "
                        f"{wanted[0]} frames: delete its shard and run `lipforge features` again"
                    )
                if list(stored[row]) != wanted:
                    raise FeatureError(
                        f"the {kind} features of clip {key} in {self.folder} are of a clip that was cut with other "
                        f"settings (frames and settings {stored[row]}, not {tuple(wanted)}): "
                        "make them for this selection in another folder"
                    )

    def num_rows(self, key: str, kind: str) -> int:
        return self._find(key, kind)["shape"][0]

    def read(self, key: str, kinds: Sequence[str]) -> dict[str, np.ndarray]:
        """Whole features of a clip by kind, time first. Errors as `read_rows`."""
        arrays = self.read_rows([FeatureRows(key, kind, 0, self.num_rows(key, kind)) for kind in kinds])
        return dict(zip(kinds, arrays, strict=True))

    def read_rows(self, wanted: Sequence[FeatureRows]) -> list[np.ndarray]:
        """Windows of features, each [stop - start, ...] and read-only, in few requests, concurrent where the storage
        allows.

        Raises FeatureError for a clip without features, IndexError for rows out of range, DamagedSampleError when the
        bytes are not those that were written, FileNotFoundError when a shard is missing, and the other errors of
        RangeReader.read.
        """
        arrays = []
        for array in self.try_rows(wanted):
            if isinstance(array, DamagedSampleError):
                raise array
            arrays.append(array)
        return arrays

    def try_rows(self, wanted: Sequence[FeatureRows]) -> list[np.ndarray | DamagedSampleError]:
        """As `read_rows`, but a damaged window gives its error instead of an array."""
        found = [self._find(rows.key, rows.kind) for rows in wanted]
        spans = [self._span(rows, place) for rows, place in zip(wanted, found, strict=True)]
        try:
            data = self._ranges.read(spans)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"a shard of the features in {self.folder} is missing. {_make_them(self.folder)}"
            ) from error
        if is_remote(self.folder):  # a remote read that fails its check is retried once
            reads = zip(wanted, found, spans, strict=True)
            data |= self._ranges.read([s for r, p, s in reads if isinstance(self._decode(r, p, data[s]), Exception)])
        return [self._decode(rows, place, data[span]) for rows, place, span in zip(wanted, found, spans, strict=True)]

    @cached_property
    def _ranges(self) -> RangeReader:
        return RangeReader()

    def _find(self, key: str, kind: str) -> dict[str, Any]:
        if kind not in self.models:
            raise ValueError(f"{kind} features: this store was opened for {', '.join(self.models)}")
        row = self._row_of.get((key, kind))
        if row is None:
            raise FeatureError(f"clip {key} has no {kind} features in {self.folder}. {_make_them(self.folder)}")
        return self._index.slice(row, 1).to_pylist()[0]

    def _span(self, rows: FeatureRows, place: dict[str, Any]) -> Span:
        num_rows = place["shape"][0]
        if not 0 <= rows.start < rows.stop <= num_rows:
            raise IndexError(f"rows {rows.start} to {rows.stop} of the {num_rows} of {rows.kind} of clip {rows.key}")
        row_bytes = place["size"] // num_rows
        first = place["offset"]
        return Span(self.folder, place["shard"], first + rows.start * row_bytes, first + rows.stop * row_bytes)

    def _decode(self, rows: FeatureRows, place: dict[str, Any], data: bytes) -> np.ndarray | DamagedSampleError:
        shape = (rows.stop - rows.start, *place["shape"][1:])
        dtype = np.dtype(place["dtype"])
        if len(data) != dtype.itemsize * np.prod(shape):
            return self._damaged(rows, place, f"the shard ends within its {rows.kind} features")
        array = np.frombuffer(data, dtype).reshape(shape)
        expected = np.frombuffer(place["row_crc32"], "<u4")[rows.start : rows.stop]
        if not np.array_equal(row_checks(array), expected):
            return self._damaged(rows, place, f"its {rows.kind} features are not what was written")
        return array

    def _damaged(self, rows: FeatureRows, place: dict[str, Any], detail: str) -> DamagedSampleError:
        again = f"delete {place['shard']} and run `lipforge features` again"
        return DamagedSampleError(rows.key, f"{self.folder}/{place['shard']}", f"{detail}: {again}")


def _make_them(folder: str) -> str:
    return f"`lipforge features` with the same options and --out {folder} makes what is missing"
