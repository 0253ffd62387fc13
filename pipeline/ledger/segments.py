"""Segments: fixed groups of content, planned before it is processed, and sealed once it is.

    ledger/segments/000042.plan.parquet     content of segment 42: which spans of which sources, cut into which units
    ledger/segments/000042.000.parquet      sealed: all that is known of its candidates, and where their media lies
    ledger/segments/000042.001.parquet      sealed again, after units that had failed were done again; the last counts

Both are made once (`Store.create`) and never changed. A plan claims its content: whoever wants to plan number 43 has
read the plans up to 42, so no content is in two segments. What is in a segment, and so what its shards hold, depends
on the order of the sources alone, not on when which unit was done.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from lipforge.datasets_manifest import schema
from lipforge.datasets_manifest.display import valid_unicode
from lipforge.datasets_manifest.parquet import parquet_bytes, parse_parquet
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.clip import Unit, Video
from lipforge.pipeline.ledger.records import DatasetError, create
from lipforge.pipeline.stages.probe import from_record, to_record

FOLDER = "ledger/segments"
MAX_SECONDS = 50 * 3600.0
MAX_UNITS = 10_000
"""A segment is closed when it has this many units or seconds: one Parquet file, and a few shards."""
_NAME = re.compile(rf"{FOLDER}/([0-9]{{6}})\.(plan|[0-9]{{3}})\.parquet")

PLAN_COLUMNS = pa.schema(
    [
        ("entry_id", pa.string()),
        ("source_id", pa.string()),
        ("source_uri", pa.string()),
        ("first_frame", pa.int64()),
        ("end_frame", pa.int64()),
        ("language", pa.string()),  # labels that it came with
        ("speaker", pa.string()),
        ("units", pa.list_(pa.string())),
        ("video", pa.string()),  # as JSON: see stages/probe.py
    ]
)
CLAIM_COLUMNS = ("entry_id", "source_id", "first_frame", "end_frame", "language", "speaker")

_NOT_SEALED = frozenset(
    ("start_s", "end_s", "duration_s", "accounted_s", "num_frames", "language_prob", "schema_version")
)
SEALED_COLUMNS = pa.schema(
    [
        pa.field("content", pa.int32()),  # row of the plan
        pa.field("entry_id", pa.string()),
        pa.field("video_first_frame", pa.int64()),
        pa.field("video_end_frame", pa.int64()),
        pa.field("start_frame", pa.int64()),
        pa.field("end_frame", pa.int64()),
        pa.field("source_detail", pa.string()),
        *(field.remove_metadata() for field in schema.COLUMNS if field.name not in _NOT_SEALED),
    ]
)
"""Rows of the manifest before thresholds decide: status, stage, reason and detail are null for measured clips. Language
and speaker are the user's labels at the time. `shard` and the two after it say where media lies when it is sealed."""


@dataclass(frozen=True)
class Content:
    """A span of a source, and the units that it is cut into."""

    video: Video
    units: tuple[Unit, ...]

    @property
    def seconds(self) -> float:
        return self.video.seconds_in


@dataclass(frozen=True)
class Sealed:
    """A sealed segment."""

    segment: int
    revision: int
    rows: pa.Table
    """SEALED_COLUMNS."""
    open_ends: Mapping[str, list[dict[str, Any]]]
    """By unit: what its neighbours need to find faces that the border cuts in two (sources/seams.py)."""

    def contents(self) -> set[int]:
        """Rows of the plan that are done."""
        return set(self.rows["content"].unique().to_pylist())


class Segments:
    """The segments of a dataset. One writer at a time."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._revisions: dict[int, int] = {}
        for name in store.list(FOLDER):
            if match := _NAME.fullmatch(name):
                revision = -1 if match[2] == "plan" else int(match[2])
                self._revisions[int(match[1])] = max(revision, self._revisions.get(int(match[1]), -1))

    def numbers(self) -> list[int]:
        """Of all that were planned."""
        return sorted(self._revisions)

    def revision(self, segment: int) -> int:
        """Of the last time that it was sealed; -1: never."""
        return self._revisions[segment]

    # --- plans ---

    def plan(self, contents: Sequence[Content]) -> int:
        """Claim content for a new segment; returns its number. Raises TakenOverError."""
        number = max(self._revisions, default=0) + 1
        rows = [
            {
                "entry_id": content.video.source.entry_id,
                "source_id": content.video.source_id,
                "source_uri": valid_unicode(content.video.source.uri),
                "first_frame": content.video.first_frame,
                "end_frame": content.video.end_frame,
                "language": content.video.source.language,
                "speaker": content.video.source.speaker,
                "units": [unit.unit_id for unit in content.units],
                "video": json.dumps(to_record(content.video), sort_keys=True),
            }
            for content in contents
        ]
        create(self.store, _plan_name(number), parquet_bytes(pa.Table.from_pylist(rows, PLAN_COLUMNS)))
        self._revisions[number] = -1
        return number

    def contents(self, segment: int) -> list[Content]:
        """The content of a segment, in its order."""
        rows = self._read(_plan_name(segment), PLAN_COLUMNS.names)
        contents = []
        for text, unit_ids in zip(rows["video"].to_pylist(), rows["units"].to_pylist(), strict=True):
            video = from_record(json.loads(text))
            spans = [unit_id.split("-")[1:] for unit_id in unit_ids]
            contents.append(Content(video, tuple(Unit(video, int(first), int(end)) for first, end in spans)))
        return contents

    def claims(self, columns: Sequence[str] = CLAIM_COLUMNS) -> pa.Table:
        """These of PLAN_COLUMNS for all content, and its `segment` and `content` (its row in the plan)."""
        numbers = self.numbers()
        tables = []
        for number, rows in zip(numbers, self._read_many([_plan_name(n) for n in numbers], columns), strict=True):
            table = rows.append_column("segment", pa.array([number] * len(rows), pa.int32()))
            tables.append(table.append_column("content", pa.array(range(len(rows)), pa.int32())))
        if not tables:
            fields = [PLAN_COLUMNS.field(name) for name in columns]
            return pa.schema([*fields, ("segment", pa.int32()), ("content", pa.int32())]).empty_table()
        return pa.concat_tables(tables)

    # --- sealed ---

    def sealed(self, segment: int) -> Sealed | None:
        """As it was sealed last."""
        revision = self.revision(segment)
        if revision < 0:
            return None
        rows = self._read(segment_file(segment, revision), SEALED_COLUMNS.names, schema.ADDED_COLUMNS)
        for field in SEALED_COLUMNS:
            if field.name not in rows.column_names:
                rows = rows.append_column(field, pa.nulls(len(rows), field.type))
        return Sealed(segment, revision, rows, json.loads((rows.schema.metadata or {}).get(b"open_ends", b"{}")))

    def seal(self, sealed: Sealed) -> None:
        """Raises TakenOverError."""
        metadata = {"open_ends": json.dumps(sealed.open_ends, sort_keys=True)}
        rows = sealed.rows.select(SEALED_COLUMNS.names).cast(SEALED_COLUMNS).replace_schema_metadata(metadata)
        create(self.store, segment_file(sealed.segment, sealed.revision), parquet_bytes(rows))
        self._revisions[sealed.segment] = sealed.revision

    def sealed_name(self, segment: int) -> str | None:
        """The file that `sealed` reads."""
        revision = self.revision(segment)
        return None if revision < 0 else segment_file(segment, revision)

    # --- files ---

    def _read(self, name: str, columns: Sequence[str], may_lack: Collection[str] = ()) -> pa.Table:
        (table,) = self._read_many([name], columns, may_lack)
        return table

    def _read_many(
        self, names: Sequence[str], columns: Sequence[str], may_lack: Collection[str] = ()
    ) -> Iterator[pa.Table]:
        for name, data in zip(names, self.store.read_all(names), strict=True):
            if data is None:
                raise DatasetError(f"{self.store.path(name)} is gone. {_RESTORE}")
            try:
                table = parse_parquet(data, columns)
                if set(columns) - set(table.column_names) - set(may_lack):
                    raise ValueError("another version of Lipforge wrote it")
            except ValueError as error:
                raise DatasetError(f"{self.store.path(name)} is damaged: {error}. {_RESTORE}") from error
            yield table


_RESTORE = (
    "It says which clips lie where: restore it from a copy. The shards are whole and can still be trained on, with the "
    "manifest and selections that there are"
)


def _plan_name(segment: int) -> str:
    return f"{FOLDER}/{segment:06d}.plan.parquet"


def segment_file(segment: int, revision: int) -> str:
    """Of a sealed segment."""
    return f"{FOLDER}/{segment:06d}.{revision:03d}.parquet"


def has_room(units: int, seconds: float, content: Content) -> bool:
    """Whether a segment that has so many units and seconds takes this, too. An empty one takes any."""
    return not units or (units + len(content.units) <= MAX_UNITS and seconds + content.seconds <= MAX_SECONDS)
