"""What a run would have to do: the sources that it would find, probe and plan. Nothing is written."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from lipforge.datasets_manifest.schema import Reason
from lipforge.datasets_manifest.storage.store import Store
from lipforge.model.clock import FPS
from lipforge.pipeline.clip import Source, Unit, Video
from lipforge.pipeline.estimate.measure import for_spans
from lipforge.pipeline.estimate.processes import Processes
from lipforge.pipeline.ledger.parts import done_units
from lipforge.pipeline.ledger.segments import Segments
from lipforge.pipeline.ledger.source_log import SourceLog
from lipforge.pipeline.running.workers import Job, Probed, ProbeWorker
from lipforge.pipeline.sources.known import Known
from lipforge.pipeline.sources.ownership import claims_on, split_duplicates
from lipforge.pipeline.sources.plan import plan_units
from lipforge.pipeline.unfinished import find_unfinished, with_readable

MOST_PROBED = 400
"""Sources. Of more, a random sample is probed."""
FEWEST_PROBED = 10
PROBE_BUDGET_S = 60.0
"""Probing reads each source once, so of very long ones fewer are probed."""

Show = Callable[[int, int], None]


@dataclass
class Population:
    """What there is to do, as far as it is known."""

    num_sources: int = 0
    num_known: int = 0
    """Sources that earlier runs probed."""
    before_s: float = 0.0
    """Seconds of video that the dataset holds of these sources."""
    units: list[Unit] = field(default_factory=list)
    """To be processed."""
    num_sure: int = 0
    """Units at the front of the list that are not of sources probed just now."""
    unusable: list[Video] = field(default_factory=list)
    """Of sources probed just now."""
    duplicates: list[Video] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    """Why sources could not be probed: their storage failed."""
    probed: list[Source] = field(default_factory=list)
    num_to_probe: int = 0
    probe_cpu_s: float = 0.0
    probe_wall_s: float = 0.0
    """Of the workers, added up."""
    sizes: dict[str, float] = field(default_factory=dict)
    """Of sources to probe, by entry_id: bytes; 1 for each where a size is not known without asking its storage."""

    @property
    def scale(self) -> float:
        """By how much the sources to probe are more than those probed."""
        there = sum(self.sizes[source.entry_id] for source in self.probed)
        return sum(self.sizes.values()) / there if there and self.is_sampled else 1.0

    @property
    def is_sampled(self) -> bool:
        return len(self.probed) + len(self.unread) < self.num_to_probe


def survey(
    job: Job, ledger: Store, sources: Sequence[Source], again: tuple[Reason, ...], processes: Processes, show: Show
) -> Population:
    """job: with a store of its own. ledger: of the dataset, if there is one. again: as in `Flow`."""
    log, segments = SourceLog(ledger), Segments(ledger)
    claims, parts = segments.claims(), done_units(ledger)
    known = Known(log, sources)
    to_probe = known.to_probe(again)
    probing = [sources[number] for number in to_probe]
    found = Population(num_sources=len(sources), num_known=len(sources) - len(to_probe), num_to_probe=len(to_probe))
    found.sizes = _sizes(probing)
    videos = {video.source.entry_id: video for video in _probe(job, probing, processes, found, show)}

    unfinished = find_unfinished(ledger, segments, claims, again)
    changing = {source.entry_id for source in probing}
    later = [planned for planned in unfinished if planned.todo.owner.source.entry_id in changing]
    readable, _ = with_readable([planned for planned in unfinished if planned not in later], known, claims)
    contents = [planned.todo for planned in readable]
    for planned in later:  # the file has another date, and may hold the same
        video = videos.get(planned.todo.owner.source.entry_id)
        if video is not None and video.source_id == planned.todo.owner.source_id:
            contents.append(planned.todo)
    found.units = [unit for todo in contents for unit in todo.units if unit.unit_id not in parts]
    found.before_s = known.seconds_claimed(claims) - sum(unit.num_frames for unit in found.units) / FPS

    unclaimed = known.unclaimed(claims)
    sure = [*known.videos([number for number in unclaimed if number not in set(to_probe)]).values()]
    usable = [video for video in videos.values() if video.reason is None]
    found.unusable = [video for video in videos.values() if video.reason is not None]
    candidates = [*sure, *usable]
    new, old, copies = split_duplicates(candidates, claims_on(candidates, claims))
    is_new = {video.source.entry_id for video in usable}
    doubles = [video for video, _ in (*old, *copies)]
    found.duplicates = [video for video in doubles if video.source.entry_id in is_new]
    found.units += _units([video for video in new if video.source.entry_id not in is_new], job, parts)
    found.num_sure = len(found.units)
    found.units += _units([video for video in new if video.source.entry_id in is_new], job, parts)
    return found


def _units(videos: Sequence[Video], job: Job, parts: set[str]) -> list[Unit]:
    span_s = job.config.resample.max_span_s
    return [unit for video in videos for unit in plan_units(video, span_s) if unit.unit_id not in parts]


def _probe(job: Job, sources: Sequence[Source], processes: Processes, found: Population, show: Show) -> Iterator[Video]:
    """Probe sources, or a random sample of them, and give those whose storage answered, in their order."""
    order = np.random.default_rng(0).permutation(len(sources))[:MOST_PROBED]
    make = partial(ProbeWorker, replace(job, models={}, config=for_spans(job.config)))
    begun_s = time.monotonic()

    def begun() -> Iterator[Source]:
        for count, number in enumerate(order):
            if count >= FEWEST_PROBED and time.monotonic() - begun_s > PROBE_BUDGET_S:
                return
            yield sources[number]

    videos: dict[str, Video] = {}
    for done in processes.run(make, begun()):
        if done is not None:
            probed: Probed = done.value
            found.probe_cpu_s += probed.cpu_s
            found.probe_wall_s += done.wall_s
            if probed.record is None:
                found.unread.append(probed.video.detail)
            else:
                videos[probed.video.source.entry_id] = probed.video
        show(len(videos), len(order))
    found.probed = [source for source in sources if source.entry_id in videos]
    return (videos[source.entry_id] for source in found.probed)


def _sizes(sources: Sequence[Source]) -> dict[str, float]:
    """Bytes by entry_id, where they are known of all without a request for each; else 1 for each."""
    listed = [(source.listed or "").partition(":")[0] for source in sources]
    is_known = all(text.isdigit() or "://" not in s.uri for s, text in zip(sources, listed, strict=True))
    if not is_known or any(source.start_s is not None or source.end_s is not None for source in sources):
        return {source.entry_id: 1.0 for source in sources}
    return {s.entry_id: float(text or _bytes(s.uri)) for s, text in zip(sources, listed, strict=True)}


def _bytes(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
