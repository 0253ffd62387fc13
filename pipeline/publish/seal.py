"""Seal a segment: from parts to shards, tars of refused media and stills, and one table of all its candidates.

A task is a pure function of the plan, the parts and the thresholds, so whoever does it, however often, gets the same
bytes. The table comes last; only then are parts deleted.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from lipforge.datasets_manifest.arrow import compute as pc
from lipforge.datasets_manifest.display import valid_unicode
from lipforge.datasets_manifest.language_tags import stored_language
from lipforge.datasets_manifest.schema import Status
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.clip import Video
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.ledger.parts import part_name, read_media, read_records
from lipforge.pipeline.ledger.records import DatasetError, Record
from lipforge.pipeline.ledger.segments import SEALED_COLUMNS, Sealed, Segments
from lipforge.pipeline.publish.accounts import accounted_frames
from lipforge.pipeline.publish.decide import decide_all
from lipforge.pipeline.publish.rows import Spoken, is_shard
from lipforge.pipeline.publish.shards import Place, Sample, fill_shards, write_shard, write_tar

READ_AHEAD = 16
"""Samples read at once: about 1 MB each, and an object store answers slowly."""


@dataclass(frozen=True)
class DoneContent:
    """Content all of whose units, and seams between them, are done."""

    index: int
    """Row of the plan."""
    video: Video
    units: tuple[str, ...]
    """Units and seams with a part."""
    carried: tuple[str, ...] = ()
    """Units and seams whose rows are taken from the segment as it was sealed before."""
    spoken: Spoken | None = None


@dataclass(frozen=True)
class SealTask:
    segment: int
    contents: Sequence[DoneContent]
    """What is done since it was sealed last. The rest stays as it is."""


class Sealer:
    """Seals segments, in any process."""

    def __init__(self, store: Store, config: PrepareConfig, hashes: Mapping[str, str]) -> None:
        self.store = store
        self.config = config
        self.hashes = dict(hashes)

    def __call__(self, task: SealTask) -> int:
        """The segment's number. Raises DatasetError, AccountsError."""
        segments = Segments(self.store)
        before = segments.sealed(task.segment)
        new = _NewRows(self, task, before)
        rows = pa.concat_tables([new.table(), *_carried(before, task.contents)])
        rows = rows.sort_by([(name, "ascending") for name in ("content", "start_frame", "track_index", "key")])
        accounted_frames(decide_all(rows, self.config.thresholds))  # before anything depends on it
        open_ends = {**(before.open_ends if before else {}), **new.open_ends}
        sealed = Sealed(task.segment, segments.revision(task.segment) + 1, rows, open_ends)
        segments.seal(sealed)
        return task.segment


def rows_in_parts(store: Store, task: SealTask) -> tuple[pa.Table, dict[str, Place]]:
    """The rows of a task's parts, without places in tars of the dataset, and where media lies in the parts."""
    rows: list[Record] = []
    places: dict[str, Place] = {}
    for done in task.contents:
        for unit_id, record in zip(done.units, read_records(store, done.units), strict=True):
            if record is None:
                raise _gone(store, unit_id)
            rows += [sealed_row(row, done, record, {}) for row in record["rows"]]
            for key, (offset, size) in record["media"].items():
                places[key] = Place(part_name(unit_id), record["media_start"] + offset, size)
    return pa.Table.from_pylist(rows, SEALED_COLUMNS), places


def delete_parts(store: Store, tasks: Iterable[SealTask]) -> None:
    """Delete what sealed segments hold."""
    store.delete_all([part_name(unit_id) for task in tasks for done in task.contents for unit_id in done.units])


def _gone(store: Store, unit_id: str) -> DatasetError:
    return DatasetError(
        f"{store.path(part_name(unit_id))} is gone: another command may be writing this dataset. If none is, run "
        "`lipforge prepare` again: its unit is redone."
    )


def _carried(before: Sealed | None, contents: Sequence[DoneContent]) -> list[pa.Table]:
    """Rows that stay: of other content, and of units that were not done again."""
    if before is None:
        return []
    again = {done.index: set(done.carried) for done in contents}
    content, unit_ids = before.rows["content"].to_pylist(), before.rows["unit_id"].to_pylist()
    stays = [number not in again or unit in again[number] for number, unit in zip(content, unit_ids, strict=True)]
    return [before.rows.filter(pa.array(stays, pa.bool_()))]


@dataclass
class _NewRows:
    """Rows of the units that have parts, and their media on its way into tars."""

    sealer: Sealer
    task: SealTask
    before: Sealed | None
    open_ends: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def table(self) -> pa.Table:
        """SEALED_COLUMNS, with places. Writes shards and tars of refused media."""
        rows: list[Record] = []
        media: dict[str, Record] = {}
        """By key: the record of the part that holds it."""
        for done in self.task.contents:
            for unit_id, record in zip(done.units, read_records(self.sealer.store, done.units), strict=True):
                if record is None:
                    raise _gone(self.sealer.store, unit_id)
                rows += [sealed_row(row, done, record, self.sealer.hashes) for row in record["rows"]]
                media |= dict.fromkeys(record["media"], record)
                if record["open_ends"]:
                    self.open_ends[unit_id] = record["open_ends"]
        table = pa.Table.from_pylist(rows, SEALED_COLUMNS)
        places = self._places_before() | self._write(table, media)
        return _with_places(table, places)

    def _places_before(self) -> dict[str, Place]:
        """Samples in shards, of units that are done again and where the clip came out the same."""
        if self.before is None:
            return {}
        again = pc.is_in(self.before.rows["content"], pa.array([done.index for done in self.task.contents]))
        rows = self.before.rows.filter(again)
        columns = (rows[name].to_pylist() for name in ("key", "shard", "sample_offset", "sample_size"))
        return {key: Place(*place) for key, *place in zip(*columns, strict=True) if is_shard(place[0])}

    def _write(self, table: pa.Table, media: Mapping[str, Record]) -> dict[str, Place]:
        config, store, known = self.sealer.config, self.sealer.store, self._places_before()
        spoken = {done.index: done.spoken for done in self.task.contents if done.spoken}
        verdicts = decide_all(table, config.thresholds)
        names = ("key", "status", "content", "language", "language_source", "quality")
        kept, refused, stills = [], [], []
        for key, status, content, label, source, quality in zip(
            *(verdicts[name].to_pylist() for name in names), strict=True
        ):
            if key not in media or key in known:
                continue
            size = media[key]["media"][key][1]
            if status != Status.KEPT:
                (stills if quality is None else refused).append(Sample(key, "", size))
                continue
            said = spoken[content].language if source == "none" and content in spoken else label
            kept.append(Sample(key, stored_language(said), size))
        places: dict[str, Place] = {}
        limit = int(config.pack.shard_size_mb * 1e6)
        with ThreadPoolExecutor(READ_AHEAD) as pool:

            def blocks(members: Sequence[Sample]) -> Iterator[tuple[str, bytes]]:
                keys = [sample.key for sample in members]
                return read_ahead(pool, keys, lambda key: read_media(store, media[key], key))

            for language, members in fill_shards(sorted(kept, key=lambda s: (s.language, s.key)), limit):
                places |= write_shard(store, language, blocks(members))
            for folder, rest in (("refused", refused), ("stills", stills)):
                for _, members in fill_shards(sorted(rest, key=lambda s: s.key), limit):
                    places |= write_tar(store, f"{folder}/{self.task.segment:06d}", blocks(members))
        return places


def read_ahead(
    pool: ThreadPoolExecutor, keys: Sequence[str], read: Callable[[str], bytes]
) -> Iterator[tuple[str, bytes]]:
    """(key, read(key)) in order, a few at once."""
    for first in range(0, len(keys), READ_AHEAD):
        group = keys[first : first + READ_AHEAD]
        yield from zip(group, pool.map(read, group), strict=True)


def sealed_row(row: Record, done: DoneContent, record: Record, hashes: Mapping[str, str]) -> Record:
    """A row of a unit's record with what is known of its source. Text that is not valid Unicode is escaped."""
    video = done.video
    info, source = video.info, video.source
    plain = {
        **row,
        "content": done.index,
        "entry_id": source.entry_id,
        "video_first_frame": video.first_frame,
        "video_end_frame": video.end_frame,
        "source_detail": video.detail or None,
        "unit_id": record["unit_id"],
        "source_id": video.source_id,
        "source_uri": source.uri,
        "source_width_px": info.width_px if info else None,
        "source_height_px": info.height_px if info else None,
        "source_fps": info.mean_fps if info else None,
        "source_transfer": info.transfer if info else None,
        "language": source.language,
        "language_source": source.language_source,
        "speaker": source.speaker,
        "speaker_source": source.speaker_source,
        **hashes,
    }
    return {name: valid_unicode(value) for name, value in plain.items() if name in _SEALED}


_SEALED = frozenset(SEALED_COLUMNS.names)


def _with_places(table: pa.Table, places: Mapping[str, Place]) -> pa.Table:
    found = [places.get(key) or (None, None, None) for key in table["key"].to_pylist()]
    columns = zip(*found, strict=True) if found else ((), (), ())
    for name, column in zip(("shard", "sample_offset", "sample_size"), columns, strict=True):
        at = table.schema.get_field_index(name)
        table = table.set_column(at, SEALED_COLUMNS.field(name), pa.array(column, SEALED_COLUMNS.field(name).type))
    return table
