"""The clips that a request chooses from: the few columns that decide, as arrays."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lipforge.datasets_manifest.display import counted
from lipforge.datasets_manifest.manifest import DICTIONARIES, ManifestError, open_manifest, plain_arrow_errors
from lipforge.datasets_manifest.query import connect
from lipforge.datasets_manifest.schema import Reason, Status
from lipforge.datasets_manifest.select.request import NotEnoughDataError
from lipforge.datasets_manifest.select.where import Condition

THRESHOLDS = {
    Reason.TOO_SHORT: "min_clip_s",
    Reason.FACE_CUT_OFF: "max_outside_ratio",
    Reason.NO_SPEECH: "min_speech_ratio",
    Reason.AV_DRIFT: "max_av_drift_frames",
    Reason.LOW_SYNC_CONFIDENCE: "min_sync_confidence",
    Reason.AV_OFFSET_TOO_LARGE: "max_av_offset_frames",
    Reason.LOW_QUALITY: "min_quality",
}
"""Reasons of a dataset's own thresholds, which keep clips out of shards, and their names for `lipforge pack --set`."""
IN_SHARD = (pc.field("status") == Status.KEPT) & pc.field("shard").is_valid()
_COLUMNS = (
    *DICTIONARIES,
    "key",
    "duration_s",
    "num_frames",
    "sync_confidence",
    "quality",
    "face_size_px",
    "outside_ratio",
)

Mask = NDArray[np.bool_]
"""For each candidate: yes or no."""
RowNumbers = NDArray[np.int64]
"""Candidates by their numbers."""


@dataclass(frozen=True)
class TextColumn:
    """For each row an index into `values`, -1 for null."""

    codes: NDArray[np.int32]
    values: list[str]

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> "TextColumn":
        """column: a dictionary column with one dictionary for all chunks."""
        values = column.chunk(0).dictionary.to_pylist() if column.num_chunks else []
        codes = [chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False) for chunk in column.chunks]
        return cls(np.concatenate(codes) if codes else np.zeros(0, np.int32), values)

    def where(self, passing: Sequence[bool], null: bool) -> Mask:
        """For each row whether its value passes. passing: for each of `values`; null: for rows without a value."""
        return np.array([*passing, null], dtype=bool)[self.codes]  # -1 is the last

    def equals(self, word: str) -> Mask:
        return self.where([value == word for value in self.values], null=False)


@dataclass(frozen=True)
class Candidates:
    """All clips that a request could take, row by row, of all datasets."""

    keys: pa.ChunkedArray
    dataset: NDArray[np.int32]
    """Index into the roots."""
    in_shard: Mask
    """The others were refused by a threshold of their dataset: only their measures can be read."""
    where: Mask
    """The condition's answer."""
    seconds: NDArray[np.float64]
    frames: NDArray[np.float32]
    """At 25 fps."""
    sync: NDArray[np.float32]
    quality: NDArray[np.float32]
    face_px: NDArray[np.float32]
    outside: NDArray[np.float32]
    language: TextColumn
    reason: TextColumn
    sync_model: TextColumn
    quality_model: TextColumn
    speaker: NDArray[np.int32]
    """Index into speaker_names."""
    speaker_names: list[str]
    """`speaker:NAME`, or `source:SOURCE_ID` for clips without a speaker."""
    same_clip: NDArray[np.int64] | None
    """A number for each key where several datasets are read; None where no key occurs twice."""

    @classmethod
    def load(cls, roots: Sequence[str], where: Condition | None) -> "Candidates":
        """Raises FileNotFoundError, ManifestError, NotEnoughDataError when there is no clip at all."""
        extra = () if where is None else tuple(name for name in where.columns if name not in _COLUMNS)
        tables, origins = [], []
        with connect() as connection:
            for index, root in enumerate(roots):
                batches = [
                    _with_answer(connection, batch, where) for batch in _batches(root, _COLUMNS + extra) if len(batch)
                ]
                tables += batches
                origins.append(np.full(sum(len(batch) for batch in batches), index, np.int32))
        if not tables:
            raise NotEnoughDataError(f"no clips in {', '.join(roots)}: its manifest has no kept clip in a shard")
        table = pa.concat_tables(tables).unify_dictionaries()
        speakers, sources = TextColumn.of(table["speaker"]), TextColumn.of(table["source_id"])
        names = [f"speaker:{name}" for name in speakers.values] + [f"source:{name}" for name in sources.values]
        if ((speakers.codes < 0) & (sources.codes < 0)).any():
            raise ManifestError("clips without source_id. The manifest is damaged: `lipforge pack` writes it again")
        codes = np.where(speakers.codes >= 0, speakers.codes, len(speakers.values) + sources.codes)
        clips = cls(
            keys=table["key"],
            dataset=np.concatenate(origins),
            in_shard=TextColumn.of(table["status"]).equals(Status.KEPT),
            where=table["where"].to_numpy(),
            seconds=_numbers(table, "duration_s", np.float64),
            frames=_numbers(table, "num_frames", np.float32),
            sync=_numbers(table, "sync_confidence", np.float32),
            quality=_numbers(table, "quality", np.float32),
            face_px=_numbers(table, "face_size_px", np.float32),
            outside=_numbers(table, "outside_ratio", np.float32),
            language=TextColumn.of(table["language"]),
            reason=TextColumn.of(table["reason"]),
            sync_model=TextColumn.of(table["sync_model"]),
            quality_model=TextColumn.of(table["quality_model"]),
            speaker=codes.astype(np.int32),
            speaker_names=names,
            same_clip=_same_clip(table["key"]) if len(roots) > 1 else None,
        )
        clips._check()
        return clips

    def _check(self) -> None:
        """Raises ManifestError for rows that no pipeline wrote."""
        bad = np.flatnonzero(~((self.seconds > 0) & np.isfinite(self.seconds)))
        if len(bad):
            raise ManifestError(
                f"{counted(len(bad), 'clip has', 'clips have')} no length: for example {self.keys[int(bad[0])]} has "
                f"duration_s {self.seconds[bad[0]]}. The manifest is damaged: `lipforge pack` writes it again"
            )
        if self.keys.null_count:
            raise ManifestError(
                f"{counted(self.keys.null_count, 'clip has', 'clips have')} no key. The manifest is damaged: "
                "`lipforge pack` writes it again"
            )

    def __len__(self) -> int:
        return len(self.seconds)

    def distinct(self, mask: Mask) -> RowNumbers:
        """The rows of a mask, each clip once."""
        rows = np.flatnonzero(mask)
        if self.same_clip is None:
            return rows
        return rows[np.sort(np.unique(self.same_clip[rows], return_index=True)[1])]


def _batches(root: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Rows in shards and rows that a threshold refused, batch by batch."""
    dataset = open_manifest(root, DICTIONARIES)
    # Of those that are too short, some were never cut: their quality is not measured.
    refused = pc.field("reason").isin([str(reason) for reason in THRESHOLDS]) & pc.field("quality").is_valid()
    batches = dataset.to_batches(
        columns=list(columns), filter=IN_SHARD | refused, batch_size=131_072, batch_readahead=4, fragment_readahead=1
    )
    with plain_arrow_errors(root):
        for batch in batches:
            yield pa.Table.from_batches([batch])


def _with_answer(connection: duckdb.DuckDBPyConnection, rows: pa.Table, where: Condition | None) -> pa.Table:
    """_COLUMNS and the condition's answer as column `where`: the condition's own columns need not stay in memory."""
    answer = np.ones(len(rows), dtype=bool) if where is None else where.passing(connection, rows)
    return rows.select(_COLUMNS).append_column("where", pa.array(answer))


def _numbers(table: pa.Table, column: str, dtype: type) -> NDArray[Any]:
    """Null becomes NaN, which passes no threshold."""
    return table[column].to_numpy().astype(dtype, copy=False)


def _same_clip(keys: pa.ChunkedArray) -> NDArray[np.int64] | None:
    codes = TextColumn.of(keys.dictionary_encode().unify_dictionaries())
    return codes.codes.astype(np.int64) if len(codes.values) < len(keys) else None


def positions(values: pa.Array | pa.ChunkedArray, among: pa.ChunkedArray) -> NDArray[np.int32]:
    """For each value its place in `among`; -1 when it is not there."""
    options = pc.SetLookupOptions(value_set=among.combine_chunks())
    return pc.call_function("index_in", [values], options).fill_null(-1).to_numpy()
