"""`lipforge prepare`: from inputs to shards, manifest and report. Reads like the list of what happens."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import yaml

from lipforge.datasets_manifest.manifest import read_manifest
from lipforge.datasets_manifest.schema import Reason
from lipforge.datasets_manifest.storage.store import Store
from lipforge.model.clock import FPS
from lipforge.model.weights.sources import ModelFileError
from lipforge.pipeline.clip import Source, Unit, Video
from lipforge.pipeline.config import PrepareConfig, RunConfig, Thresholds
from lipforge.pipeline.ledger.records import DatasetError, Ledger
from lipforge.pipeline.ledger.settings import (
    check_set,
    load_models,
    open_dataset,
    require_dataset,
    resolve,
    stored_where_unset,
    with_thresholds,
    writing,
)
from lipforge.pipeline.publish.accounts import Totals
from lipforge.pipeline.publish.languages import WhisperFile, identify, open_whisper
from lipforge.pipeline.publish.pack import finish_interrupted, parts_to_prune
from lipforge.pipeline.publish.publish import finished_videos, publish, publish_manifest
from lipforge.pipeline.running.executors import Executor, FatalError, Job, LocalExecutor, make_executor
from lipforge.pipeline.running.progress import Progress
from lipforge.pipeline.running.summary import Summary, new_run_id, now, versions
from lipforge.pipeline.sources.inputs import Labels, Unreadable, find_sources
from lipforge.pipeline.sources.plan import plan_units, split_duplicates
from lipforge.pipeline.sources.seams import plan_seams
from lipforge.pipeline.stages.probe import Probe, fingerprint, from_record, to_record

BROKEN = (Reason.WORKER_CRASHED, Reason.TIMEOUT)
"""Reasons of units that took their worker down."""
UNLISTED = "0" * 64
"""Stands for the content of a folder that cannot be listed."""


def prepare(
    inputs: list[str],
    out: str,
    config: PrepareConfig,
    labels: Labels,
    progress: Progress,
    retry_failed: bool = False,
) -> Summary:
    """Do the whole job, or what is left of it. Safe to repeat: what is recorded is not done again.

    retry_failed: forget the units that crashed their worker or ran out of time in earlier runs, and try them again.
    Raises ValueError for the user's mistakes, DatasetError and FatalError with what to do, AccountsError for a bug of ours.
    """
    if not out:
        raise ValueError("--out is empty; name a folder")
    store = Store(out)
    check_set(Ledger(store), config)
    models = load_models(config)  # first: without them nothing can be done
    exclude = Path(store.root) if store.is_local else None
    sources, unreadable = find_sources(inputs, labels, exclude)
    if not sources and not unreadable:
        raise ValueError(
            "no videos found in the inputs; known endings are mp4, mkv, webm, mov, avi, mpg and their like"
        )
    with writing(store):
        ledger = Ledger(store)
        config, hashes = resolve(stored_where_unset(ledger, config), models)
        open_dataset(ledger, config, hashes)
        summary = Summary(run_id=new_run_id(), started_at=now(), config_hash=hashes["config_hash"])
        summary.versions = versions()
        summary.notes = [f"could not be read: {folder.uri}: {folder.detail}" for folder in unreadable]
        store.write(f"runs/{summary.run_id}/config.yaml", yaml.safe_dump(config.model_dump(mode="json")).encode())
        # Units exist only for sources that could be read: where one could not be a moment later, a disk was away.
        _forget(ledger, (*BROKEN, Reason.UNREADABLE) if retry_failed else (Reason.UNREADABLE,))
        with progress.run(summary, store, config.thresholds):
            whisper = _open_whisper(config, progress)
            executor = make_executor(config)
            try:
                summary.num_workers = executor.num_workers
                videos = _probe(ledger, sources, executor, progress, summary)
                _note_unreadable(ledger, unreadable)
                content = _claim_content(ledger, videos, summary)
                job = Job(store, config, models, hashes, summary.run_id)
                _run_units(job, content, executor, progress)
                if whisper is not None:
                    finish_interrupted(store, executor.map)
                    identify(store, finished_videos(ledger, config), whisper, executor.map, partial(_heard, progress))
                progress.phase("pack")
                totals = publish(store, config, hashes, executor)
                totals.check(videos)
                progress.finished(totals)
            finally:
                executor.close()
    return summary


def repack(out: str, changes: list[str], shard_size_mb: float | None) -> tuple[Thresholds, Totals]:
    """`lipforge pack`: apply other thresholds to what was measured. Returns the thresholds in force and what they give."""
    store = Store(out)
    ledger = Ledger(store)
    require_dataset(ledger, out)  # before anything is made there
    with writing(store):
        record = require_dataset(ledger, out)
        config = PrepareConfig.model_validate(record["config"])
        if changes or shard_size_mb is not None:
            config = with_thresholds(config, changes, shard_size_mb)
        totals = publish(store, config, record["hashes"], LocalExecutor())
        ledger.write_dataset({**record, "config": config.model_dump(mode="json")})  # last: they hold from now on
        return config.thresholds, totals


def identify_languages(out: str, whisper: str, run: RunConfig, progress: Callable[[int, int], None]) -> dict[str, int]:
    """`lipforge identify-languages`: hear the clips of sources without a label, and write the manifest anew.

    Shards stay as they are. Returns how many of these sources, as far as they gave clips, speak each language.
    Raises ModelFileError when Whisper cannot be used.
    """
    store = Store(out)
    ledger = Ledger(store)
    require_dataset(ledger, out)  # before anything is made there
    file = open_whisper(whisper)
    with writing(store):
        if ledger.read_pack_plan() is not None:
            raise DatasetError("packing was interrupted; run `lipforge pack` first")
        record = require_dataset(ledger, out)
        config = PrepareConfig.model_validate(record["config"])
        executor = make_executor(config.model_copy(update={"run": run}))
        try:
            identify(store, finished_videos(ledger, config), file, executor.map, progress)
        finally:
            executor.close()
        publish_manifest(store, config, record["hashes"])
    unlabelled = ~pc.field("language_source").isin(["list", "path", "flag"])
    sources = read_manifest(out, ["source_id", "language"], unlabelled & pc.field("quality").is_valid())
    counts = sources.group_by(["source_id", "language"]).aggregate([])["language"].value_counts().to_pylist()
    return {count["values"]: count["counts"] for count in counts}


def prune(out: str) -> None:
    """`lipforge prune`: delete the media of clips that no shard holds."""
    store = Store(out)
    require_dataset(Ledger(store), out)  # before anything is made there
    with writing(store):
        names, _ = parts_to_prune(store)
        for name in names:
            store.delete(name)


# --- steps of a run -------------------------------------------------------------------------------------------------------


def _probe(
    ledger: Ledger, sources: list[Source], executor: Executor, progress: Progress, summary: Summary
) -> list[Video]:
    """Look at each source that is not in the ledger, or changed since. Returns videos in the order of the sources."""
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
    unusable = [video for video in found if video.reason not in (None, Reason.NO_AUDIO)]
    if unusable:
        summary.notes.append(
            f"{len(unusable)} of {len(found)} sources cannot be used: the report says why, and so does `lipforge explain`"
        )
    return found


def _note_unreadable(ledger: Ledger, folders: list[Unreadable]) -> None:
    """Folders that cannot be listed get a row each, as sources do; those that can be by now lose theirs."""
    for record in list(ledger.sources()):
        if record["source_id"] == UNLISTED:
            ledger.delete_source(from_record(record).source.entry_id)
    for folder in folders:
        video = Video(Source(folder.uri), UNLISTED, None, Reason.UNREADABLE, f"folder: {folder.detail}")
        ledger.write_source(video.source.entry_id, to_record(video, None))


def _probe_one(ledger: Ledger, source: Source) -> tuple[str, dict[str, Any], float]:
    """(entry, its record, CPU seconds)."""
    start_s = time.process_time()
    mark = fingerprint(source.uri)
    record = to_record(Probe().process(source), mark)
    ledger.write_source(source.entry_id, record)
    return source.entry_id, record, time.process_time() - start_s


def _claim_content(ledger: Ledger, videos: list[Video], summary: Summary) -> list[tuple[Video, list[Unit]]]:
    """Record which entries own new content and how it is cut into units. Returns all content of these videos.

    Content keeps the labels that it came with: they are inside its samples.
    """
    record = ledger.read_dataset()
    assert record is not None
    max_span_s = record["config"]["resample"]["max_span_s"]
    known = [from_record(content) for content in ledger.contents()]
    usable = [video for video in videos if video.reason is None]
    new, duplicates = split_duplicates(usable, known)
    known = _pass_on(ledger, known, duplicates, {video.source.entry_id for video in usable})
    for video in new:
        units = [unit.unit_id for unit in plan_units(video, max_span_s)]
        ledger.write_content(_content_name(video), to_record(video, None) | {"units": units})
    # A file may have been replaced by another since: its earlier content stays as far as it is done.
    wanted = {(video.source.entry_id, video.source_id) for video in usable}
    owned = [video for video in known if (video.source.entry_id, video.source_id) in wanted]
    given = {video.source.entry_id: video.source for video in usable}
    changed = sum(given[video.source.entry_id] != video.source for video in owned)
    if changed:
        summary.notes.append(f"{changed} sources have other labels than when they came in; their first labels stay")
    return [(video, plan_units(video, max_span_s)) for video in [*owned, *new]]


def _pass_on(
    ledger: Ledger, known: list[Video], duplicates: list[tuple[Video, Video]], present: set[str]
) -> list[Video]:
    """Unfinished content whose owner is not among this run's sources goes to a copy that is, with its labels.

    Else a run that was stopped before its folder was moved could never end. present: entries of this run's sources.
    Returns the owners as they are now.
    """
    heirs: dict[Video, Video] = {}
    for record in ledger.contents():
        owner = from_record(record)
        copies = [
            video
            for video, its_owner in duplicates
            if its_owner == owner
            and (video.source.start_s, video.source.end_s) == (owner.source.start_s, owner.source.end_s)
        ]
        if not copies or owner.source.entry_id in present or all(map(ledger.read_unit, record["units"])):
            continue
        heir = replace(owner, source=replace(owner.source, uri=copies[0].source.uri))
        ledger.write_content(_content_name(heir), to_record(heir, None) | {"units": record["units"]})
        heirs[owner] = heir
    return [heirs.get(video, video) for video in known]


def _content_name(video: Video) -> str:
    return f"{video.source_id[:32]}-{video.first_frame:08d}-{video.end_frame:08d}"


def _run_units(job: Job, content: list[tuple[Video, list[Unit]]], executor: Executor, progress: Progress) -> None:
    """All units that have no record; then those for faces that the borders between units cut in two."""
    ledger = Ledger(job.store)
    units = [unit for _, units in content for unit in units]
    records = {unit.unit_id: ledger.read_unit(unit.unit_id) for unit in units}
    done = [record for record in records.values() if record is not None]
    progress.units(sum(unit.num_frames for unit in units) / FPS, len(units), done)
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


def _open_whisper(config: PrepareConfig, progress: Progress) -> WhisperFile | None:
    """None when nobody asked for languages, or when they cannot be identified: that is said, and the run goes on without."""
    if config.language.whisper is None:
        return None
    try:
        return open_whisper(config.language.whisper)
    except ModelFileError as error:
        note = f"languages are not identified and stay `und`: {error} Once this is put right: `lipforge identify-languages`"
        progress.console.print(note, style="yellow", markup=False, highlight=False, soft_wrap=True)
        progress.summary.notes.append(note)
        return None


def _heard(progress: Progress, done: int, total: int) -> None:
    progress.phase(f"languages: {done} of {total} units heard")


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
    """Pass records through; FatalError when so many units break their worker that the data cannot be to blame."""
    broken = 0
    for number, record in enumerate(records, start=1):
        yield record
        broken += _failed_for(record, BROKEN)
        if broken >= 5 and broken > config.run.max_failed_ratio * number:
            raise FatalError(
                f"{broken} of {number} units crashed their worker or ran out of time: this is not the data's fault. "
                "`lipforge explain` shows where; what is finished is safe."
            )
