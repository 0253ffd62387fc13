"""What earlier runs left: content that was planned and not done, and parts of segments that are sealed."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from lipforge.datasets_manifest.arrow import compute as pc
from lipforge.datasets_manifest.schema import Reason
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.clip import Unit, Video
from lipforge.pipeline.ledger.parts import part_name
from lipforge.pipeline.ledger.segments import Content, Sealed, Segments
from lipforge.pipeline.publish.publish import generation_in_force, require_segments
from lipforge.pipeline.sources.known import Known
from lipforge.pipeline.sources.ownership import stand_in


@dataclass(frozen=True, eq=False)
class Todo:
    """Content that is not done."""

    content: Content
    """With the video as it is read in this run."""
    owner: Video
    """As the plan has it, or will."""
    again: frozenset[str] = frozenset()
    """Units that failed and are tried again: the others are done and sealed."""
    open_ends: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Of its sealed units."""
    sealed_units: frozenset[str] = frozenset()
    """Units and seams that were sealed before."""

    @property
    def units(self) -> tuple[Unit, ...]:
        """Those to be done."""
        return tuple(u for u in self.content.units if not self.again or u.unit_id in self.again)


@dataclass(frozen=True, eq=False)
class Planned:
    """Content of a segment."""

    segment: int
    index: int
    """Row of the plan."""
    todo: Todo


def find_unfinished(store: Store, segments: Segments, claims: pa.Table, again: tuple[Reason, ...]) -> list[Planned]:
    """Planned content that is not sealed, or failed for a reason that is tried again. Raises DatasetError."""
    planned = dict(zip(*_counts(claims["segment"]), strict=True))
    generation = generation_in_force(store)
    require_segments(store, generation, segments)
    entries = {file["segment"]: file for file in (generation.files if generation else ()) if "segment" in file}
    found: list[Planned] = []
    for number in segments.numbers():
        entry = entries.get(number, {})
        is_current = entry.get("revision") == segments.revision(number)
        if is_current and entry["contents"] == planned[number] and not set(entry["failed"]) & set(again):
            continue
        sealed = segments.sealed(number)
        done = sealed.contents() if sealed else set()
        failed = _failed_units(sealed, again)
        for index, content in enumerate(segments.contents(number)):
            todo = Todo(content, content.video)
            if index not in done:
                found.append(Planned(number, index, todo))
            elif index in failed:
                assert sealed is not None
                own = sealed.rows.filter(pc.equal(sealed.rows["content"], index))["unit_id"].unique().to_pylist()
                ends = {unit: sealed.open_ends[unit] for unit in own if unit in sealed.open_ends}
                sealed_units = frozenset(own) - failed[index]
                todo = replace(todo, again=frozenset(failed[index]), open_ends=ends, sealed_units=sealed_units)
                found.append(Planned(number, index, todo))
    return found


def with_readable(unfinished: Sequence[Planned], known: Known, claims: pa.Table) -> tuple[list[Planned], list[Planned]]:
    """(content whose owner, or a copy of it, is in this run, with the video as it is read; the rest)."""
    owners = known.owners([planned.todo.owner.source.entry_id for planned in unfinished])
    here = [
        owner is not None and owner[0] == planned.todo.owner.source_id
        for planned, owner in zip(unfinished, owners, strict=True)
    ]
    absent = [p.todo.owner.source_id for p, is_here in zip(unfinished, here, strict=True) if not is_here]
    copies = known.copies(absent, claims)
    readable, rest = [], []
    for planned, owner, is_here in zip(unfinished, owners, here, strict=True):
        todo = planned.todo
        if is_here and owner is not None:
            video = replace(todo.owner, fingerprint=owner[1])
        else:
            video = stand_in(todo.owner, copies.get(todo.owner.source_id, ()))
            if video is todo.owner:
                rest.append(planned)
                continue
        units = tuple(replace(unit, video=video) for unit in todo.content.units)
        readable.append(replace(planned, todo=replace(todo, content=Content(video, units))))
    return readable, rest


def delete_leftovers(store: Store, parts: set[str], unfinished: Sequence[Planned], claims: pa.Table) -> None:
    """Delete parts of segments that were sealed just before a run was stopped; `parts` has the rest then.

    Parts of content that was not planned yet stay: this run may plan it.
    """
    claimed = set(pc.utf8_slice_codeunits(claims["source_id"].unique(), 0, 32).to_pylist()) if parts else set()
    open_units = {unit.unit_id for planned in unfinished for unit in planned.todo.units}
    open_sources = {planned.todo.content.video.source_id[:32] for planned in unfinished}
    sealed = [
        unit
        for unit in parts
        if unit[:32] in claimed and unit not in open_units and not ("-seam-" in unit and unit[:32] in open_sources)
    ]
    store.delete_all([part_name(unit) for unit in sorted(sealed)])
    parts.difference_update(sealed)


def _failed_units(sealed: Sealed | None, reasons: tuple[Reason, ...]) -> dict[int, set[str]]:
    """Units with a row of one of these reasons, by content. Seams are done again with their neighbours."""
    if sealed is None:
        return {}
    rows = sealed.rows.filter(pc.is_in(sealed.rows["reason"], pa.array(list(reasons), pa.string())))
    found: dict[int, set[str]] = {}
    for content, unit_id in zip(rows["content"].to_pylist(), rows["unit_id"].to_pylist(), strict=True):
        found.setdefault(content, set()).add(unit_id)
    return found


def _counts(column: pa.ChunkedArray) -> tuple[list[int], list[int]]:
    counted = column.value_counts()
    return counted.field("values").to_pylist(), counted.field("counts").to_pylist()
