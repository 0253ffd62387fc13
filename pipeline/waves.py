"""A run in waves: probe some sources, plan their content, process it, seal its segments; then the next.

So work on the first sources begins while most are not probed yet, shards are written while most are not processed yet,
and the driver holds one wave, whatever the number of sources.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from lipforge.datasets_manifest.arrow import compute as pc
from lipforge.datasets_manifest.schema import Reason
from lipforge.model.clock import FPS
from lipforge.pipeline.clip import Source, Unit, Video
from lipforge.pipeline.ledger.parts import done_units, part_name, read_records
from lipforge.pipeline.ledger.records import Record
from lipforge.pipeline.ledger.segments import Content, Sealed, Segments, split_into_segments
from lipforge.pipeline.ledger.source_log import SourceLog
from lipforge.pipeline.publish.accounts import AccountsError
from lipforge.pipeline.publish.languages import WhisperFile, identify_first
from lipforge.pipeline.publish.publish import generation_in_force, require_segments
from lipforge.pipeline.publish.seal import DoneContent, Sealer, SealTask, delete_parts
from lipforge.pipeline.running.executors import Executor
from lipforge.pipeline.running.progress import Progress
from lipforge.pipeline.running.watch import BROKEN, Watch, failed_for, watched
from lipforge.pipeline.running.workers import Job, Undone
from lipforge.pipeline.sources.known import Known
from lipforge.pipeline.sources.ownership import claims_on, split_duplicates, stand_in
from lipforge.pipeline.sources.plan import plan_units
from lipforge.pipeline.sources.seams import plan_seams
from lipforge.pipeline.stages.probe import to_record

SOURCES_AT_ONCE = 512
"""Probed together."""
UNITS_AT_ONCE = 4096
"""A wave ends when it has planned about so many."""


@dataclass(frozen=True, eq=False)
class _Todo:
    """Content that is planned and not done."""

    segment: int
    index: int
    """Row of the plan."""
    content: Content
    """With the video as it is read in this run."""
    owner: Video
    """As the plan has it."""
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


class Waves:
    """One run's work on sources, up to sealed segments."""

    def __init__(
        self,
        job: Job,
        executor: Executor,
        progress: Progress,
        again: tuple[Reason, ...],
        whisper: WhisperFile | None,
    ) -> None:
        """again: reasons of sources and units that are tried again."""
        self.job = job
        self.store = job.store
        self.executor = executor
        self.progress = progress
        self.again = again
        self.whisper = whisper
        self.log = SourceLog(job.store)
        self.segments = Segments(job.store)
        self.undone: set[tuple[str, str]] = set()
        """(source_id, uri) of videos with units that stay undone."""
        self._parts = done_units(job.store)

    def run(self, sources: Sequence[Source]) -> None:
        known = Known(self.log, sources)
        to_probe = known.to_probe(self.again)
        self.progress.sources(len(sources), len(to_probe))
        claims = self.segments.claims()
        self.progress.relabelled(known.num_relabelled(claims))
        unfinished = self._unfinished(claims)
        self._delete_leftovers(unfinished)
        self.progress.unusable(known.num_unusable(to_probe))
        left_s = sum(unit.num_frames for todo in unfinished for unit in todo.units) / FPS
        self.progress.done_before(known.seconds_claimed(claims) - left_s)
        changing = {sources[number].entry_id for number in to_probe}
        later = [todo for todo in unfinished if todo.owner.source.entry_id in changing]
        later += self._go_on([todo for todo in unfinished if todo not in later], known, claims)
        self._start_new(sources, known, to_probe, claims)
        if later and to_probe:
            self._go_on(later, Known(self.log, sources), self.segments.claims())

    # --- what earlier runs left ---

    def _unfinished(self, claims: pa.Table) -> list[_Todo]:
        """Planned content that is not sealed, or failed for a reason that is tried again."""
        planned = dict(zip(*_counts(claims["segment"]), strict=True))
        generation = generation_in_force(self.store)
        require_segments(self.store, generation, self.segments)
        entries = {file["segment"]: file for file in (generation.files if generation else ()) if "segment" in file}
        found: list[_Todo] = []
        for number in self.segments.numbers():
            entry = entries.get(number, {})
            is_current = entry.get("revision") == self.segments.revision(number)
            if is_current and entry["contents"] == planned[number] and not set(entry["failed"]) & set(self.again):
                continue
            sealed = self.segments.sealed(number)
            done = sealed.contents() if sealed else set()
            failed = _failed_units(sealed, self.again)
            for index, content in enumerate(self.segments.contents(number)):
                todo = _Todo(number, index, content, content.video)
                if index not in done:
                    found.append(todo)
                elif index in failed:
                    assert sealed is not None
                    own = sealed.rows.filter(pc.equal(sealed.rows["content"], index))["unit_id"].unique().to_pylist()
                    ends = {unit: sealed.open_ends[unit] for unit in own if unit in sealed.open_ends}
                    found.append(
                        replace(
                            todo,
                            again=frozenset(failed[index]),
                            open_ends=ends,
                            sealed_units=frozenset(own) - failed[index],
                        )
                    )
        return found

    def _delete_leftovers(self, unfinished: Sequence[_Todo]) -> None:
        """Parts of segments that were sealed just before the run was stopped."""
        open_units = {unit.unit_id for todo in unfinished for unit in todo.units}
        leftovers = [unit for unit in self._parts if unit.partition("-seam-")[0] not in open_units]
        seams = {todo.content.video.source_id[:32] for todo in unfinished}
        leftovers = [unit for unit in leftovers if "-seam-" not in unit or unit[:32] not in seams]
        self.store.delete_all([part_name(unit) for unit in sorted(leftovers)])
        self._parts.difference_update(leftovers)

    def _go_on(self, unfinished: Sequence[_Todo], known: Known, claims: pa.Table) -> list[_Todo]:
        """Finish content whose owner, or a copy of it, is in this run. Returns the rest."""
        owners = known.owners([todo.owner.source.entry_id for todo in unfinished])
        here = [
            owner is not None and owner[0] == todo.owner.source_id
            for todo, owner in zip(unfinished, owners, strict=True)
        ]
        absent = [todo.owner.source_id for todo, is_here in zip(unfinished, here, strict=True) if not is_here]
        copies = known.copies(absent, claims)
        todos, rest = [], []
        for todo, owner, is_here in zip(unfinished, owners, here, strict=True):
            if is_here and owner is not None:
                video = replace(todo.owner, fingerprint=owner[1])
            else:
                video = stand_in(todo.owner, copies.get(todo.owner.source_id, ()))
                if video is todo.owner:
                    rest.append(todo)
                    continue
            units = tuple(replace(unit, video=video) for unit in todo.content.units)
            todos.append(replace(todo, content=Content(video, units)))
        for group in _by_units(todos):
            self._process(group)
        return rest

    # --- new sources ---

    def _start_new(self, sources: Sequence[Source], known: Known, to_probe: Sequence[int], claims: pa.Table) -> None:
        """Probe, plan and process, wave by wave. Content is planned in the order of the sources."""
        watch = Watch(self.job.config, "sources")
        waiting: list[Content] = []
        probing = set(to_probe)
        relevant = sorted(probing | set(known.unclaimed(claims)))
        for first in range(0, len(relevant), SOURCES_AT_ONCE):
            numbers = relevant[first : first + SOURCES_AT_ONCE]
            before = known.videos(numbers)
            probed = self._probe([sources[n] for n in numbers if n in probing], watch, before)
            videos = [probed.get(sources[n].entry_id) or before.get(sources[n].entry_id) for n in numbers]
            usable = [video for video in videos if video is not None and video.reason is None]
            new, _, _ = split_duplicates([*(c.video for c in waiting), *usable], claims_on(usable, claims))
            span_s = self.job.config.resample.max_span_s
            waiting += [Content(video, tuple(plan_units(video, span_s))) for video in new[len(waiting) :]]
            last = first + SOURCES_AT_ONCE >= len(relevant)
            if last or sum(len(content.units) for content in waiting) >= UNITS_AT_ONCE:
                waiting = self._plan_and_process(waiting, last)
                claims = self.segments.claims()
        self.log.write()

    def _plan_and_process(self, waiting: Sequence[Content], last: bool) -> list[Content]:
        """Plan full segments, or all at the end; returns content that waits for more of its segment."""
        groups = list(split_into_segments(waiting))
        rest = groups.pop() if groups and not last else []
        self.log.write()  # a plan's sources are known
        todos = []
        for group in groups:
            number = self.segments.plan(group)
            todos += [_Todo(number, index, content, content.video) for index, content in enumerate(group)]
        for wave in _by_units(todos):
            self._process(wave)
        return rest

    def _probe(self, sources: Sequence[Source], watch: Watch, before: Mapping[str, Video]) -> dict[str, Video]:
        """Probe and log sources; returns what is known of them now, by entry. before: what earlier runs knew."""
        found: dict[str, Video] = {}
        for probed in self.executor.probe(self.job, list(sources)):
            video = probed.video
            entry_id = video.source.entry_id
            if probed.record is not None:
                found[entry_id] = video
                known = before.get(entry_id)
                if known is None or known != video or known.fingerprint != video.fingerprint:
                    self.log.add(entry_id, probed.record)
            else:
                if entry_id not in before:  # nothing is known of it yet: its row says what happened
                    self.log.add(entry_id, to_record(video))
                self.progress.undone(video.source.uri, video.detail, 0.0)
            self.progress.probed(probed.cpu_s, is_usable=video.reason in (None, Reason.NO_AUDIO))
            watch.count(probed.record is None or video.reason in BROKEN)
        return found

    # --- units ---

    def _process(self, todos: Sequence[_Todo]) -> None:
        """Do the units of this content, the seams between them, and seal what is done."""
        if not todos:
            return
        records = self._done_before([unit for todo in todos for unit in todo.units])
        units = [unit for todo in todos for unit in todo.units]
        self.progress.units(units, list(records.values()), self.executor.num_workers)
        todo = [unit for unit in units if unit.unit_id not in records]
        for record in self._run_units(sorted(todo, key=_longest_first)):
            records[record["unit_id"]] = record
            self.progress.unit_done(record)
        seams = {todo: self._seams(todo, records) for todo in todos}
        new = [s for todo in todos for s in seams[todo] or () if s.unit_id not in todo.sealed_units]
        done = set(self._done_before(new))
        for record in self._run_units([seam for seam in new if seam.unit_id not in done]):
            done.add(record["unit_id"])
            self.progress.seam_done(record)
        self._seal(todos, seams, done)

    def _done_before(self, units: Sequence[Unit]) -> dict[str, Record]:
        """Records of units that have a part. Parts of those that failed for a reason to try again are deleted."""
        have = [unit.unit_id for unit in units if unit.unit_id in self._parts]
        records = {unit: record for unit, record in zip(have, read_records(self.store, have), strict=True) if record}
        failed = [unit for unit, record in records.items() if failed_for(record, self.again)]
        self.store.delete_all([part_name(unit) for unit in failed])
        self._parts.difference_update(failed)
        return {unit: record for unit, record in records.items() if unit not in failed}

    def _run_units(self, units: Sequence[Unit]) -> Iterator[Record]:
        """Records of units as they are done. Those that stay undone are noted."""
        for outcome in watched(self.executor.run_units(self.job, list(units)), self.job):
            if isinstance(outcome, Undone):
                video = outcome.unit.video
                self.progress.undone(video.source.uri, outcome.detail, outcome.unit.num_frames / FPS)
                self.undone.add((video.source_id, video.source.uri))
            else:
                self._parts.add(outcome["unit_id"])
                yield outcome

    def _seams(self, todo: _Todo, records: Mapping[str, Record]) -> list[Unit] | None:
        """Units across the borders of content whose units are all done, less those that stay sealed; else None."""
        if any(unit.unit_id not in records for unit in todo.units):
            return None
        known = [
            records.get(unit.unit_id)
            or {"end_frame": unit.end_frame, "open_ends": todo.open_ends.get(unit.unit_id, [])}
            for unit in todo.content.units
        ]
        return plan_seams(todo.content.video, known, self.job.config.cut.min_frames)

    def _seal(
        self, todos: Sequence[_Todo], seams_of: Mapping[_Todo, Sequence[Unit] | None], seams_done: set[str]
    ) -> None:
        """Seal the segments of content that is done, with its seams. Raises AccountsError when any is left out."""
        by_segment: dict[int, list[DoneContent]] = {}
        for todo in todos:
            seams = seams_of[todo]
            if seams is None:
                continue  # a unit stays undone
            redone = {unit.unit_id for unit in todo.units}
            carried = [u.unit_id for u in todo.content.units if u.unit_id not in redone]
            new = [seam.unit_id for seam in seams if seam.unit_id in seams_done]
            carried += [s.unit_id for s in seams if s.unit_id not in seams_done and s.unit_id in todo.sealed_units]
            if len(new) + len(carried) + len(redone) < len(seams) + len(todo.content.units):
                continue  # a seam stays undone
            done = DoneContent(
                todo.index, todo.owner, tuple(u.unit_id for u in todo.units) + tuple(new), tuple(carried)
            )
            by_segment.setdefault(todo.segment, []).append(done)
        tasks = [SealTask(segment, done) for segment, done in sorted(by_segment.items())]
        if self.whisper is not None:
            tasks = identify_first(self.store, tasks, self.whisper, self.executor.map, self.progress.languages)
        self.progress.phase("pack")
        sealer = Sealer(self.store, self.job.config, self.job.hashes)
        for _ in self.executor.map(sealer, tasks):
            pass
        sealed = {(task.segment, done.index) for task in tasks for done in task.contents}
        for todo in todos:
            key = (todo.content.video.source_id, todo.content.video.source.uri)
            if (todo.segment, todo.index) not in sealed and key not in self.undone:
                raise AccountsError(f"{key[1]}: its units are done, but not all of it was sealed")
        delete_parts(self.store, tasks)
        self._parts.difference_update(unit for task in tasks for done in task.contents for unit in done.units)
        self.segments = Segments(self.store)


def _by_units(todos: Sequence[_Todo]) -> Iterator[list[_Todo]]:
    """Whole segments, about UNITS_AT_ONCE units at a time."""
    group: list[_Todo] = []
    for todo in todos:
        starts_segment = bool(group) and todo.segment != group[-1].segment
        if starts_segment and sum(len(member.units) for member in group) >= UNITS_AT_ONCE:
            yield group
            group = []
        group.append(todo)
    if group:
        yield group


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


def _longest_first(unit: Unit) -> tuple[int, str]:
    """The last unit to finish should be a short one."""
    return -unit.num_frames, unit.unit_id
