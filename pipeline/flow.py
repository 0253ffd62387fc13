"""A run: sources are probed, planned, processed and sealed, all at once, as workers become free.

    probe -> (in the order of the sources) plan units -> process units -> process seams -> seal the segment

Work on the first sources begins while most are not probed, shards are written while most are not processed, and the
driver holds what is in flight, whatever the number of sources.
"""

import heapq
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from lipforge.datasets_manifest.schema import Reason
from lipforge.model.clock import FPS
from lipforge.pipeline.clip import Source, Unit, Video
from lipforge.pipeline.ledger.parts import done_units, part_name, read_records
from lipforge.pipeline.ledger.quarantine import store_traces
from lipforge.pipeline.ledger.records import Record
from lipforge.pipeline.ledger.segments import Content, Segments, has_room
from lipforge.pipeline.ledger.source_log import SourceLog
from lipforge.pipeline.publish.languages import WhisperFile, identify_first
from lipforge.pipeline.publish.seal import Sealer, SealTask, delete_parts
from lipforge.pipeline.running.events import Events
from lipforge.pipeline.running.executors import Done, Executor, Task
from lipforge.pipeline.running.metrics import Metrics, NoMetrics, RayMetrics
from lipforge.pipeline.running.progress import Progress, seconds_by_outcome
from lipforge.pipeline.running.watch import BROKEN, UnitWatch, Watch, failed_for
from lipforge.pipeline.running.workers import (
    CutWorker,
    Job,
    Probed,
    ProbeWorker,
    ScoreWorker,
    Undone,
    UnitWorker,
    memory_mb,
)
from lipforge.pipeline.sources.intake import Intake
from lipforge.pipeline.sources.known import Known
from lipforge.pipeline.sources.ownership import claims_on, split_duplicates
from lipforge.pipeline.sources.plan import plan_units
from lipforge.pipeline.stages.probe import to_record
from lipforge.pipeline.unfinished import Planned, Todo, delete_leftovers, find_unfinished, with_readable
from lipforge.pipeline.work import Segment, Work, done_content, seams_of

READY_UNITS_PER_WORKER = 16
"""Sources are probed until so many units wait: enough to give workers the long ones first."""
LET_IN_AT_ONCE = 64
"""Sources, unless workers run out of work before: looking for their content among a million others costs time."""


class Flow:
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
        self.events = Events(job.store, job.run_id)
        self.metrics: Metrics = NoMetrics() if job.config.run.executor == "local" else RayMetrics()
        self.log = SourceLog(job.store)
        self.segments = Segments(job.store)
        self._claims = self.segments.claims()
        self._parts = done_units(job.store)
        self._num_segments = 0
        self._open: Segment | None = None
        """That new content goes to."""
        self._open_videos: dict[str, list[Video]] = {}
        """In it, by source_id."""
        self._ready: list[tuple[int, int, str, Unit, Work]] = []
        """Heap of units that wait for a worker."""
        self._works: dict[Task, Work] = {}
        """Of units that workers have."""
        self._source_watch, self._unit_watch = Watch(job.config, "sources"), UnitWatch(job)
        self._make_probe = partial(ProbeWorker, replace(job, models={}))
        self._make_unit = partial(UnitWorker, job)
        self._make_apart = partial(CutWorker, job), partial(ScoreWorker, job)
        self._make_sealer = partial(Sealer, job.store, job.config, job.hashes)
        self._after_death = partial(store_traces, job.store, job.run_id)

    def run(self, sources: Sequence[Source]) -> None:
        known = Known(self.log, sources)
        to_probe = known.to_probe(self.again)
        self.progress.sources(len(sources), len(to_probe))
        self.progress.relabelled(known.num_relabelled(self._claims))
        unfinished = find_unfinished(self.store, self.segments, self._claims, self.again)
        delete_leftovers(self.store, self._parts, unfinished, self._claims)
        self.progress.unusable(known.num_unusable(to_probe))
        left_s = sum(unit.num_frames for planned in unfinished for unit in planned.todo.units) / FPS
        self.progress.done_before(known.seconds_claimed(self._claims) - left_s)
        changing = {sources[number].entry_id for number in to_probe}
        later = [planned for planned in unfinished if planned.todo.owner.source.entry_id in changing]
        later += self._resume([planned for planned in unfinished if planned not in later], known)
        self._work(Intake(sources, known, to_probe, self._claims))
        if later and to_probe:
            known = Known(self.log, sources)
            self._resume(later, known)
            self._work(Intake(sources, known, [], self._claims))

    def _work(self, intake: Intake) -> None:
        """Until nothing is left to do."""
        while True:
            self._let_in(intake)
            self._hand_out(intake)
            if self.executor.in_flight:
                done = self.executor.next()
                if done is None:
                    self.progress.waiting(self.executor.missing)
                else:
                    self._take(done, intake)
            elif intake.is_over and not self._ready:
                break
        self.log.write()
        self.events.write()

    def _hand_out(self, intake: Intake) -> None:
        """Give workers something to do."""
        while self.executor.wants_more():
            few = len(self._ready) < READY_UNITS_PER_WORKER * self.executor.num_workers
            source = intake.next_to_probe() if few else None
            if source is not None:
                self.executor.submit(Task("probe", source, self._make_probe, after_death=self._after_death))
            elif self._ready:
                *_, unit, work = heapq.heappop(self._ready)
                self._submit_unit(unit, work)
            else:
                break

    def _submit_unit(self, unit: Unit, work: Work) -> None:
        memory = memory_mb(unit, self.job.config)
        task = Task("unit", unit, self._make_unit, self._make_apart, memory_mb=memory, after_death=self._after_death)
        self._works[task] = work
        self.executor.submit(task)

    def _take(self, done: Done, intake: Intake) -> None:
        self.metrics.died(done.died_on)
        if done.task.kind == "probe":
            self._probed(done.value, intake)
        elif done.task.kind == "unit":
            work = self._works.pop(done.task)
            self._measure(done, is_seam=work.seams is not None)
            self._unit_done(done.task.item, done.value, work)
        elif done.task.kind == "seal":
            self._sealed(done.task.item)

    def _measure(self, done: Done, is_seam: bool) -> None:
        """A seam's seconds are those of its units."""
        seconds: dict[str, float] = {}
        if not is_seam and not isinstance(done.value, Undone):
            seconds = seconds_by_outcome(done.value, self.job.config.thresholds)
        self.metrics.unit(done, seconds)
        self.metrics.queues(units=len(self._ready), tasks=self.executor.in_flight)
        self.events.unit(done, seconds)

    # --- what earlier runs left ---

    def _resume(self, unfinished: Sequence[Planned], known: Known) -> list[Planned]:
        """Begin with content whose owner, or a copy of it, is in this run. Returns the rest."""
        readable, rest = with_readable(unfinished, known, self._claims)
        by_segment: dict[int, Segment] = {}
        begun: list[Work] = []
        for planned in readable:
            segment = by_segment.get(planned.segment) or self._new_segment(planned.segment)
            by_segment[planned.segment] = segment
            begun.append(self._new_work(planned.todo, segment, planned.index))
        self._begin(begun)
        return rest

    # --- new sources ---

    def _probed(self, probed: Probed, intake: Intake) -> None:
        """Log a source and let it wait for its turn."""
        video = probed.video
        entry_id = video.source.entry_id
        before = intake.known_before(entry_id)
        if probed.record is not None:
            if before is None or before != video or before.fingerprint != video.fingerprint:
                self.log.add(entry_id, probed.record)
        else:
            if before is None:  # nothing is known of it yet: its row says what happened
                self.log.add(entry_id, to_record(video))
            self.progress.undone(video.source.uri, video.detail, 0.0)
            self.metrics.source_failed()
        intake.probed(entry_id, video if probed.record is not None else None)
        self.progress.probed(probed.cpu_s, is_usable=video.reason in (None, Reason.NO_AUDIO))
        self._source_watch.count(probed.record is None or video.reason in BROKEN)

    def _let_in(self, intake: Intake) -> None:
        """Plan the units of the next sources, and segments that are full."""
        if len(self._ready) < self.executor.num_workers or intake.num_waiting() >= LET_IN_AT_ONCE:
            usable = [video for video in intake.let_in() if video.reason is None]
            if usable:
                self._begin(self._planned(usable))
        if intake.is_over and self._open is not None:
            self._plan_segment(self._open)

    def _planned(self, videos: Sequence[Video]) -> list[Work]:
        """New content, in its segments."""
        same = [other for video in videos for other in self._open_videos.get(video.source_id, ())]
        known = {id(video) for video in same}
        new, _, _ = split_duplicates([*same, *videos], claims_on(videos, self._claims))
        works = []
        for video in new:
            if id(video) in known:
                continue
            content = Content(video, tuple(plan_units(video, self.job.config.resample.max_span_s)))
            if self._open is not None and not has_room(self._open.num_units, self._open.seconds, content):
                self._plan_segment(self._open)
            segment = self._open or self._new_segment(None)
            self._open = segment
            self._open_videos.setdefault(video.source_id, []).append(video)
            works.append(self._new_work(Todo(content, video), segment, len(segment.works)))
        return works

    def _plan_segment(self, segment: Segment) -> None:
        self.log.write()  # a plan's sources are known
        segment.number = self.segments.plan([work.todo.content for work in segment.works])
        self._claims = self.segments.claims()
        self._open, self._open_videos = None, {}
        self._seal_if_done(segment)

    # --- units ---

    def _new_segment(self, number: int | None) -> Segment:
        self._num_segments += 1
        return Segment(self._num_segments, number)

    def _new_work(self, todo: Todo, segment: Segment, index: int) -> Work:
        work = Work(todo, segment, index, len(todo.units))
        segment.works.append(work)
        segment.num_units += len(todo.content.units)
        segment.seconds += todo.content.seconds
        segment.num_open += 1
        return work

    def _begin(self, works: Sequence[Work]) -> None:
        """Count what is done, and let the rest wait for workers."""
        if not works:
            return
        units = [unit for work in works for unit in work.todo.units]
        records = self._done_before(units)
        self.progress.units(units, list(records.values()), self.executor.num_workers)
        for work in works:
            for unit in work.todo.units:
                record = records.get(unit.unit_id)
                if record is None:
                    self._let_wait(unit, work)
                else:
                    work.ends[unit.unit_id] = record
                    work.num_open -= 1
            self._go_on(work)

    def _let_wait(self, unit: Unit, work: Work) -> None:
        # The last unit to finish should be a short one.
        heapq.heappush(self._ready, (work.segment.order, -unit.num_frames, unit.unit_id, unit, work))

    def _done_before(self, units: Sequence[Unit]) -> dict[str, Record]:
        """Records of units that have a part. Parts of those that failed for a reason to try again are deleted."""
        have = [unit.unit_id for unit in units if unit.unit_id in self._parts]
        records = {unit: record for unit, record in zip(have, read_records(self.store, have), strict=True) if record}
        failed = [unit for unit, record in records.items() if failed_for(record, self.again)]
        self.store.delete_all([part_name(unit) for unit in failed])
        self._parts.difference_update(failed)
        return {unit: record for unit, record in records.items() if unit not in failed}

    def _unit_done(self, unit: Unit, outcome: Record | Undone, work: Work) -> None:
        """A unit or seam."""
        work.num_open -= 1
        if isinstance(outcome, Undone):
            work.is_undone = True
            self.progress.undone(unit.video.source.uri, outcome.detail, unit.num_frames / FPS)
        else:
            if self.job.config.run.score.gpus and outcome.get("device") == "cpu":
                self.progress.no_gpu()
            self._parts.add(unit.unit_id)
            if work.seams is None:
                work.ends[unit.unit_id] = {name: outcome[name] for name in ("end_frame", "open_ends")}
                self.progress.unit_done(outcome)
            else:
                work.seams_done.add(unit.unit_id)
                self.progress.seam_done(outcome)
        self._go_on(work)
        self._unit_watch.count(outcome)

    def _go_on(self, work: Work) -> None:
        """From units to seams, and from seams to the segment, once these are done."""
        if not work.num_open and work.seams is None and not work.is_undone:
            work.seams = seams_of(work, self.job.config.cut.min_frames)
            new = [seam for seam in work.seams if seam.unit_id not in work.todo.sealed_units]
            work.seams_done |= set(self._done_before(new))
            work.ends = {}
            for seam in new:
                if seam.unit_id not in work.seams_done:
                    work.num_open += 1
                    self._let_wait(seam, work)
        if not work.num_open:
            work.segment.num_open -= 1
            self._seal_if_done(work.segment)

    # --- segments ---

    def _seal_if_done(self, segment: Segment) -> None:
        """Hand in a segment whose content is done, but for what stays undone."""
        if segment.number is None or segment.num_open:
            return
        done = [done_content(work) for work in segment.works if not work.is_undone]
        segment.works.clear()
        if not done:
            return
        task = SealTask(segment.number, done)
        if self.whisper is not None:
            run_map = partial(self.executor.map, num_gpus=self.whisper.num_gpus)
            (task,) = identify_first(self.store, [task], self.whisper, run_map, self.progress.languages)
        self.executor.submit(Task("seal", task, self._make_sealer, is_safe=True))

    def _sealed(self, task: SealTask) -> None:
        delete_parts(self.store, [task])
        self._parts.difference_update(unit for done in task.contents for unit in done.units)
