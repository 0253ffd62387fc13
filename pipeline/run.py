"""`lipforge prepare`: from inputs to shards and manifest, as a list of what happens."""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from lipforge.datasets_manifest.schema import Reason
from lipforge.datasets_manifest.storage.store import Store
from lipforge.model.clock import FPS
from lipforge.model.weights.load import ModelFileError
from lipforge.pipeline.clip import Source, Unit, Video
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.ledger.records import DatasetError, Ledger
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
from lipforge.pipeline.running.executors import Executor, Job, make_executor
from lipforge.pipeline.running.progress import Progress
from lipforge.pipeline.running.summary import Summary
from lipforge.pipeline.sources.inputs import Labels, find_sources
from lipforge.pipeline.sources.ownership import claim_content, count_relabelled, record_unreadable
from lipforge.pipeline.sources.plan import plan_units
from lipforge.pipeline.sources.seams import plan_seams
from lipforge.pipeline.stages.probe import Probe, fingerprint, from_record, to_record

BROKEN = (Reason.WORKER_CRASHED, Reason.TIMEOUT)
"""Reasons of units that took their worker down."""


def prepare(
    inputs: list[str],
    out: str,
    config: PrepareConfig,
    labels: Labels,
    progress: Progress,
    retry_failed: bool = False,
) -> Summary:
    """Do the whole job, or what is left of it. Safe to repeat: recorded work is not done again.

    retry_failed: try the units again that crashed their worker or timed out in earlier runs.
    Raises ValueError for the user's mistakes, DatasetError with what to do, AccountsError for a bug.
    """
    if not out:
        raise ValueError("--out is empty; name a folder")
    store = Store(out)
    check_set(Ledger(store), config)
    models = load_models(config)  # first: without them nothing can be done
    exclude = Path(store.root) if store.is_local else None
    sources, unreadable = find_sources(inputs, labels, exclude)
    if not sources and not unreadable:
        raise ValueError("no videos found in the inputs; known endings are mp4, mkv, webm, mov, avi, mpg and similar")
    with writing(store):
        ledger = Ledger(store)
        config, hashes = resolve(stored_where_unset(ledger, config), models)
        open_dataset(ledger, config, hashes)
        # Units exist only for sources that were readable once: if a unit failed as unreadable, a disk was away.
        _forget(ledger, (*BROKEN, Reason.UNREADABLE) if retry_failed else (Reason.UNREADABLE,))
        with progress.run(store, config, hashes["config_hash"]) as summary:
            settings = yaml.safe_dump(config.model_dump(mode="json")).encode()
            store.write(f"runs/{summary.run_id}/config.yaml", settings)
            progress.unreadable(unreadable)
            whisper = _open_whisper(config, progress)
            executor = make_executor(config)
            try:
                videos = _probe(ledger, sources, executor, progress)
                record_unreadable(ledger, unreadable)
                owners = claim_content(ledger, videos, config.resample.max_span_s)
                progress.relabelled(count_relabelled(owners, videos))
                _run_units(Job(store, config, models, hashes, summary.run_id), owners, executor, progress)
                if whisper is not None:
                    finish_interrupted(store, executor.map)
                    identify(store, finished_videos(ledger, config), whisper, executor.map, progress.languages)
                progress.phase("pack")
                totals = publish(store, config, hashes, executor)
                totals.check(videos)
                progress.finished(totals)
            finally:
                executor.close()
    return summary


def _probe(ledger: Ledger, sources: list[Source], executor: Executor, progress: Progress) -> list[Video]:
    """Probe each source that is new or has changed. Returns videos in the order of the sources."""
    videos: dict[str, Video] = {}
    todo = []
    for source in sources:
        record = ledger.read_source(source.entry_id)
        if record is None or record["reason"] == Reason.UNREADABLE or record["fingerprint"] != fingerprint(source.uri):
            todo.append(source)
        else:
            videos[source.entry_id] = replace(from_record(record), source=source)  # labels may be new
    progress.sources(len(sources), len(todo))
    for entry_id, record, cpu_s in executor.map(partial(_probe_one, ledger), todo):
        videos[entry_id] = from_record(record)
        progress.probed(cpu_s)
    found = [videos[source.entry_id] for source in sources]
    progress.videos(found)
    return found


def _probe_one(ledger: Ledger, source: Source) -> tuple[str, dict[str, Any], float]:
    """(entry, its record, CPU seconds)."""
    start_s = time.process_time()
    mark = fingerprint(source.uri)
    record = to_record(Probe().process(source), mark)
    ledger.write_source(source.entry_id, record)
    return source.entry_id, record, time.process_time() - start_s


def _open_whisper(config: PrepareConfig, progress: Progress) -> WhisperFile | None:
    """None when languages are not wanted, or cannot be identified: then the run notes it and continues."""
    if config.language.whisper is None:
        return None
    try:
        return open_whisper(config.language.whisper)
    except ModelFileError as error:
        progress.no_languages(error)
        return None


def _run_units(job: Job, owners: list[Video], executor: Executor, progress: Progress) -> None:
    """Process all units without a record, then the seams between them."""
    ledger = Ledger(job.store)
    content = [(video, plan_units(video, job.config.resample.max_span_s)) for video in owners]
    units = [unit for _, units in content for unit in units]
    records = {unit.unit_id: ledger.read_unit(unit.unit_id) for unit in units}
    done = [record for record in records.values() if record is not None]
    progress.units(sum(unit.num_frames for unit in units) / FPS, len(units), done, executor.num_workers)
    todo = [unit for unit in units if records[unit.unit_id] is None]
    for record in _watch(executor.run_units(job, sorted(todo, key=_longest_first)), job.config):
        records[record["unit_id"]] = record
        progress.unit_done(record)
    seams = []
    for video, units in content:
        found = [record for unit in units if (record := records[unit.unit_id]) is not None]
        seams += plan_seams(video, found, job.config.cut.min_frames)
    todo = [seam for seam in seams if ledger.read_unit(seam.unit_id) is None]
    for record in _watch(executor.run_units(job, todo), job.config):
        progress.seam_done(record)


def _longest_first(unit: Unit) -> tuple[int, str]:
    """The last unit to finish should be a short one."""
    return -unit.num_frames, unit.unit_id


def _failed_for(record: Mapping[str, Any], reasons: tuple[Reason, ...]) -> bool:
    return any(row.get("reason") in reasons for row in record["rows"])


def _forget(ledger: Ledger, reasons: tuple[Reason, ...]) -> None:
    """Delete the records of units that failed for these reasons, so that they are done again."""
    for record in list(ledger.units()):
        if _failed_for(record, reasons):
            ledger.delete_unit(record["unit_id"])


def _watch(records: Iterable[dict[str, Any]], config: PrepareConfig) -> Iterator[dict[str, Any]]:
    """Pass records through. Raises DatasetError when so many units break their worker that the data is not to blame."""
    broken = 0
    for number, record in enumerate(records, start=1):
        yield record
        broken += _failed_for(record, BROKEN)
        if broken >= 5 and broken > config.run.max_failed_ratio * number:
            raise DatasetError(
                f"{broken} of {number} units crashed their worker or ran out of time: this is not the data's fault. "
                "`lipforge explain` shows where; finished work is safe."
            )
