"""`lipforge prepare`: from inputs to shards and manifest, as a list of what happens."""

from dataclasses import replace
from pathlib import Path

import yaml

from lipforge.datasets_manifest.schema import Reason
from lipforge.datasets_manifest.storage.store import Store
from lipforge.model.clock import FPS
from lipforge.model.weights.load import ModelFileError
from lipforge.pipeline.clip import Source, Unit, Video
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.ledger.records import Ledger
from lipforge.pipeline.ledger.settings import (
    check_set,
    load_models,
    open_dataset,
    resolve,
    stored_where_unset,
    writing,
)
from lipforge.pipeline.publish.languages import WhisperFile, identify, open_whisper
from lipforge.pipeline.publish.pack import finish_interrupted
from lipforge.pipeline.publish.publish import finished_videos, publish
from lipforge.pipeline.running.executors import Executor, make_executor
from lipforge.pipeline.running.progress import Progress
from lipforge.pipeline.running.summary import Summary
from lipforge.pipeline.running.watch import BROKEN, Watch, failed_for, watched
from lipforge.pipeline.running.workers import Job, Undone
from lipforge.pipeline.sources.inputs import Labels, find_sources
from lipforge.pipeline.sources.ownership import claim_content, count_relabelled, record_unreadable
from lipforge.pipeline.sources.plan import plan_units
from lipforge.pipeline.sources.seams import plan_seams
from lipforge.pipeline.stages.probe import fingerprint, from_record, to_record

TRIED_AGAIN = (Reason.UNREADABLE, Reason.STORAGE_ERROR)
"""Reasons of sources and units that every run tries again."""
RETRIED = (*TRIED_AGAIN, *BROKEN, Reason.DECODE_ERROR)
"""Reasons of those that a run with retry_failed tries again."""


def prepare(
    inputs: list[str],
    out: str,
    config: PrepareConfig,
    labels: Labels,
    progress: Progress,
    retry_failed: bool = False,
) -> Summary:
    """Do the whole job, or what is left of it. Safe to repeat: recorded work is not done again.

    retry_failed: try the sources and units again that crashed their worker, timed out, met a bug or could not be
    decoded in earlier runs.
    Raises ValueError for the user's mistakes, DatasetError with what to do, AccountsError for a bug.
    """
    if not out:
        raise ValueError("--out is empty; name a folder")
    store = Store(out)
    check_set(Ledger(store), config)
    models = load_models(config)  # first: without them nothing can be done
    exclude = Path(store.root) if store.is_local else None
    sources, unreadable, notes = find_sources(inputs, labels, exclude)
    if not sources and not unreadable:
        raise ValueError("no videos found in the inputs; known endings are mp4, mkv, webm, mov, avi, mpg and similar")
    with writing(store):
        ledger = Ledger(store)
        config, hashes = resolve(stored_where_unset(ledger, config), models)
        open_dataset(ledger, config, hashes)
        again = RETRIED if retry_failed else TRIED_AGAIN
        _forget(ledger, again)
        with progress.run(store, config, hashes["config_hash"]) as summary:
            settings = yaml.safe_dump(config.model_dump(mode="json")).encode()
            store.write(f"runs/{summary.run_id}/config.yaml", settings)
            progress.unreadable(unreadable)
            progress.labels(notes)
            whisper = _open_whisper(config, progress)
            executor = make_executor(config)
            try:
                job = Job(store, config, models, hashes, summary.run_id)
                videos = _probe(job, sources, again, executor, progress)
                record_unreadable(ledger, unreadable)
                owners = claim_content(ledger, videos, config.resample.max_span_s)
                progress.relabelled(count_relabelled(owners, videos))
                undone = _run_units(job, owners, executor, progress)
                if whisper is not None:
                    finish_interrupted(store, executor.map)
                    identify(store, finished_videos(ledger, config), whisper, executor.map, progress.languages)
                progress.phase("pack")
                totals = publish(store, config, hashes, executor)
                totals.check(video for video in videos if (video.source_id, video.source.uri) not in undone)
                progress.finished(totals)
            finally:
                executor.close()
    return summary


def _probe(
    job: Job, sources: list[Source], again: tuple[Reason, ...], executor: Executor, progress: Progress
) -> list[Video]:
    """Probe each source that is new or has changed, or failed for one of the reasons in `again`.

    Returns videos in the order of the sources. A source whose storage fails keeps what is known of it.
    """
    ledger = Ledger(job.store)
    videos: dict[str, Video] = {}
    todo = []
    for source in sources:
        record = ledger.read_source(source.entry_id)
        if record is None:
            todo.append(source)
            continue
        known = videos[source.entry_id] = replace(from_record(record), source=source)  # labels may be new
        if known.reason in again or record["fingerprint"] != fingerprint(source.uri):
            todo.append(source)
    progress.sources(len(sources), len(todo))
    watch = Watch(job.config, "sources")
    for probed in executor.probe(job, todo):
        entry_id = probed.video.source.entry_id
        if probed.record is not None:
            videos[entry_id] = probed.video
        else:
            if entry_id not in videos:  # nothing is known of it yet: its row says what happened
                videos[entry_id] = probed.video
                ledger.write_source(entry_id, to_record(probed.video, None))
            progress.undone(probed.video.source.uri, probed.video.detail, 0.0)
        progress.probed(probed.cpu_s)
        watch.count(probed.record is None or probed.video.reason in BROKEN)
    found = [videos[source.entry_id] for source in sources]
    progress.videos(found)
    return found


def _open_whisper(config: PrepareConfig, progress: Progress) -> WhisperFile | None:
    """None when languages are not wanted, or cannot be identified: then the run notes it and continues."""
    if config.language.whisper is None:
        return None
    try:
        return open_whisper(config.language.whisper)
    except ModelFileError as error:
        progress.no_languages(error)
        return None


def _run_units(job: Job, owners: list[Video], executor: Executor, progress: Progress) -> set[tuple[str, str]]:
    """Process all units without a record, then the seams between them.

    Returns (source_id, uri) of the videos with units that stay undone.
    """
    ledger = Ledger(job.store)
    content = [(video, plan_units(video, job.config.resample.max_span_s)) for video in owners]
    units = [unit for _, units in content for unit in units]
    records = {unit.unit_id: ledger.read_unit(unit.unit_id) for unit in units}
    done = [record for record in records.values() if record is not None]
    progress.units(sum(unit.num_frames for unit in units) / FPS, len(units), done, executor.num_workers)
    undone: set[tuple[str, str]] = set()
    todo = [unit for unit in units if records[unit.unit_id] is None]
    for outcome in watched(executor.run_units(job, sorted(todo, key=_longest_first)), job):
        if isinstance(outcome, Undone):
            undone.add(_note_undone(outcome, progress))
        else:
            records[outcome["unit_id"]] = outcome
            progress.unit_done(outcome)
    seams = []
    for video, units in content:
        found = [record for unit in units if (record := records[unit.unit_id]) is not None]
        if len(found) == len(units):
            seams += plan_seams(video, found, job.config.cut.min_frames)
    todo = [seam for seam in seams if ledger.read_unit(seam.unit_id) is None]
    for outcome in watched(executor.run_units(job, todo), job):
        if isinstance(outcome, Undone):
            undone.add(_note_undone(outcome, progress))
        else:
            progress.seam_done(outcome)
    return undone


def _note_undone(undone: Undone, progress: Progress) -> tuple[str, str]:
    video = undone.unit.video
    progress.undone(video.source.uri, undone.detail, undone.unit.num_frames / FPS)
    return video.source_id, video.source.uri


def _longest_first(unit: Unit) -> tuple[int, str]:
    """The last unit to finish should be a short one."""
    return -unit.num_frames, unit.unit_id


def _forget(ledger: Ledger, reasons: tuple[Reason, ...]) -> None:
    """Delete the records of units that failed for these reasons, so that they are done again."""
    for record in list(ledger.units()):
        if failed_for(record, reasons):
            ledger.delete_unit(record["unit_id"])
