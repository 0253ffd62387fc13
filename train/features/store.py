"""Reads cached features by clip, whole or by windows of rows.

store = FeatureStore("features", {"whisper": sha256, "vae_target": sha256})
store.require(read_selection("zh20.parquet"))
target, reference = store.read_rows([FeatureRows(key, "vae_target", 40, 56), FeatureRows(key, "vae_target", 90, 106)])
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from lipforge.datasets_manifest.storage.files import is_remote
from lipforge.datasets_manifest.storage.ranges import RangeReader, Span
from lipforge.datasets_manifest.storage.store import Store
from lipforge.train.features.index import (
    CHECK_BYTES,
    INDEX,
    ROWS_OF,
    FeatureError,
    check_models,
    models_of,
    read_index,
    read_old_checks,
    row_checks,
)
from lipforge.train.features.places import Place, Places
from lipforge.train.stream.decode import DamagedSampleError

_OLD_SHARDS = 64
"""Whose checksums are kept, 120 KB each."""


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
        self._old_checks: dict[str, dict[tuple[str, str], bytes]] = {}
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
        self._places = {kind: Places(index, kind) for kind in self.models}
        del index
        pa.default_memory_pool().release_unused()

    def require(self, clips: pa.Table) -> None:
        """Check that each of these clips has all kinds. clips: columns key, num_frames, config_hash of a selection.

        Raises FeatureError when some are missing, or are of a clip that was cut with other settings or has another
        length.
        """
        keys, frames = clips["key"].to_pylist(), clips["num_frames"].to_numpy()
        for kind, places in self._places.items():
            rows = places.find(keys)
            if (rows < 0).any():
                raise FeatureError(
                    f"{(rows < 0).sum()} of {len(clips)} clips have no {kind} features in {self.folder} "
                    f"(first: {keys[int((rows < 0).argmax())]}). "
                    f"{_make_them(self.folder)}. Leave clips that it skips as damaged out of the selection"
                )
            if kind in ROWS_OF and (wrong := places.num_rows[rows] != ROWS_OF[kind](frames)).any():
                first = int(wrong.argmax())
                raise FeatureError(
                    f"the {kind} features of clip {keys[first]} in {self.folder} are {places.num_rows[rows[first]]} "
                    f"rows for {frames[first]} frames: delete its shard and run `lipforge features` again"
                )
            fits = (places.num_frames[rows] == frames) & places.have_config(rows, clips["config_hash"])
            if not fits.all():
                first = int(fits.argmin())
                stored = int(places.num_frames[rows[first]]), places.config_hash(rows[first])
                wanted = int(frames[first]), clips["config_hash"][first].as_py()
                raise FeatureError(
                    f"the {kind} features of clip {keys[first]} in {self.folder} are of a clip that was cut with other "
                    f"settings (frames and settings {stored}, not {wanted}): "
                    "make them for this selection in another folder"
                )

    def num_rows(self, key: str, kind: str) -> int:
        return self._find(key, kind).num_rows

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
        checks = self._check_spans(wanted, found)
        reads = list(zip(wanted, found, spans, strict=True))
        try:
            data = self._ranges.read([*spans, *checks.values()])
            self._read_old_checks({place.shard for place in found if place.checks_offset is None})
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"a shard of the features in {self.folder} is missing. {_make_them(self.folder)}"
            ) from error
        if is_remote(self.folder):  # a remote read that fails its check is retried once
            bad = [read for read in reads if isinstance(self._decode(*read, checks, data), Exception)]
            again = [span for rows, place, span in bad for span in (span, checks.get((rows.key, place.shard))) if span]
            data |= self._ranges.read(again)
        return [self._decode(*read, checks, data) for read in reads]

    @cached_property
    def _ranges(self) -> RangeReader:
        return RangeReader()

    def _find(self, key: str, kind: str) -> Place:
        if kind not in self.models:
            raise ValueError(f"{kind} features: this store was opened for {', '.join(self.models)}")
        place = self._places[kind].place(key)
        if place is None:
            raise FeatureError(f"clip {key} has no {kind} features in {self.folder}. {_make_them(self.folder)}")
        return place

    def _span(self, rows: FeatureRows, place: Place) -> Span:
        if not 0 <= rows.start < rows.stop <= place.num_rows:
            raise IndexError(
                f"rows {rows.start} to {rows.stop} of the {place.num_rows} of {rows.kind} of clip {rows.key}"
            )
        starts = place.offset + rows.start * place.row_bytes, place.offset + rows.stop * place.row_bytes
        return Span(self.folder, place.shard, *starts)

    def _check_spans(self, wanted: Sequence[FeatureRows], found: Sequence[Place]) -> dict[tuple[str, str], Span]:
        """Where the checksums of rows lie, by key and shard: those of a clip are neighbours, so one read gets all."""
        spans: dict[tuple[str, str], Span] = {}
        for rows, place in zip(wanted, found, strict=True):
            if place.checks_offset is not None:
                start = place.checks_offset + CHECK_BYTES * rows.start
                span = Span(self.folder, place.shard, start, place.checks_offset + CHECK_BYTES * rows.stop)
                other = spans.get((rows.key, place.shard), span)
                spans[rows.key, place.shard] = replace(
                    span, start=min(span.start, other.start), end=max(span.end, other.end)
                )
        return spans

    def _read_old_checks(self, shards: Collection[str]) -> None:
        """Of shards of earlier versions, which have them in their own index. Those of the last shards are kept."""
        store = Store(self.folder)
        for shard in shards - self._old_checks.keys():
            try:
                self._old_checks[shard] = read_old_checks(store, shard)
            except FeatureError as error:
                raise FeatureError(
                    f"the index of {self.folder}/{shard}: {error}. Delete the shard and run `lipforge features` again"
                ) from error
        for shard in list(self._old_checks)[: max(0, len(self._old_checks) - max(_OLD_SHARDS, len(shards)))]:
            if shard not in shards:
                del self._old_checks[shard]

    def _expected(
        self, rows: FeatureRows, place: Place, checks: Mapping[tuple[str, str], Span], data: Mapping[Span, bytes]
    ) -> bytes:
        """The stored checksums of these rows; fewer bytes where some are lost."""
        if place.checks_offset is None:
            stored = self._old_checks[place.shard].get((rows.key, rows.kind)) or b""
            return stored[CHECK_BYTES * rows.start : CHECK_BYTES * rows.stop]
        span = checks[rows.key, place.shard]
        first = place.checks_offset - span.start
        return data[span][first + CHECK_BYTES * rows.start : first + CHECK_BYTES * rows.stop]

    def _decode(
        self,
        rows: FeatureRows,
        place: Place,
        span: Span,
        checks: Mapping[tuple[str, str], Span],
        data: Mapping[Span, bytes],
    ) -> np.ndarray | DamagedSampleError:
        content = data[span]
        if len(content) != span.end - span.start:
            return self._damaged(rows, place, f"the shard ends within its {rows.kind} features")
        array = np.frombuffer(content, place.dtype).reshape(rows.stop - rows.start, *place.row_shape)
        if row_checks(array).tobytes() != self._expected(rows, place, checks, data):
            return self._damaged(rows, place, f"its {rows.kind} features are not what was written")
        return array

    def _damaged(self, rows: FeatureRows, place: Place, detail: str) -> DamagedSampleError:
        again = f"delete {place.shard} and run `lipforge features` again"
        return DamagedSampleError(rows.key, f"{self.folder}/{place.shard}", f"{detail}: {again}")


def _make_them(folder: str) -> str:
    return f"`lipforge features` with the same options and --out {folder} makes what is missing"
