"""Change a dataset without preparing again: thresholds, languages, media pruned; or copy its clips."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import pyarrow.compute as pc

from lipforge.datasets_manifest.manifest import read_manifest
from lipforge.datasets_manifest.storage.store import Store
from lipforge.datasets_manifest.storage.trouble import UnreadableError
from lipforge.pipeline.config import PrepareConfig, RunConfig, Thresholds
from lipforge.pipeline.ledger.records import DatasetError
from lipforge.pipeline.ledger.segments import Segments
from lipforge.pipeline.ledger.settings import require_dataset, stored_config, with_thresholds, writing
from lipforge.pipeline.publish.accounts import Totals
from lipforge.pipeline.publish.export import Exported, export
from lipforge.pipeline.publish.export_files import ExportedFiles, export_files
from lipforge.pipeline.publish.gc import delete_garbage, find_garbage, left_over_shards
from lipforge.pipeline.publish.languages import identify, open_whisper
from lipforge.pipeline.publish.prune import delete_tars, find_prunable, prune_files
from lipforge.pipeline.publish.publish import publish
from lipforge.pipeline.publish.relabel import Relabelled, labels_of_list, labels_of_paths
from lipforge.pipeline.publish.relabel import relabel as set_labels
from lipforge.pipeline.publish.speakers import Found, identify_speakers, open_voice_weights
from lipforge.pipeline.publish.tasks import delete_files
from lipforge.pipeline.running.executors import Executor, make_executor, require_gpu_here
from lipforge.pipeline.running.status import last_run
from lipforge.pipeline.sources.inputs import read_list

Progress = Callable[[int, int], None]


@contextmanager
def _workers(config: PrepareConfig) -> Iterator[Executor]:
    """Ray where a cluster is at hand (RAY_ADDRESS), else this process: starting a Ray costs more than most packing."""
    kind = "ray" if os.environ.get("RAY_ADDRESS") else "local"
    executor = make_executor(config.model_copy(update={"run": config.run.model_copy(update={"executor": kind})}))
    try:
        yield executor
    finally:
        executor.close()


class Packed(NamedTuple):
    """What `lipforge pack` did."""

    thresholds: Thresholds
    """In force."""
    totals: Totals
    left_over: list[str]
    """Shards that stopped commands left. In a folder they are deleted now; in an object store `gc` deletes old ones."""
    is_unfinished: bool
    """Whether the last run of `prepare` was stopped."""


def repack(
    out: str, changes: list[str], shard_size_mb: float | None, progress: Progress = lambda done, total: None
) -> Packed:
    """`lipforge pack`: apply new thresholds to the stored measures."""
    store = Store(out)
    require_dataset(store)  # before anything is made there
    with writing(store):
        record = require_dataset(store)
        config = stored_config(store, record)
        if changes or shard_size_mb is not None:
            config = with_thresholds(config, changes, shard_size_mb)
        with _workers(config) as executor:
            totals = publish(store, config, record["hashes"], executor, progress)
            left_over = sorted(left_over_shards(store))
            if store.is_local:  # and locked, so no other command is about to use them
                delete_files(store, left_over, executor.map)
    run = last_run(store)
    is_unfinished = run is not None and run["finished_at"] is None
    return Packed(config.thresholds, totals, left_over, is_unfinished)


class Heard(NamedTuple):
    """What `lipforge identify-languages` found."""

    sources: dict[str, int]
    """Unlabelled ones with clips, by language."""
    missed_gpu: bool
    """Whether a worker computed on the CPU, though it had a GPU, because torch cannot use that."""


def identify_languages(out: str, whisper: str, run: RunConfig, progress: Progress, gpus_per_worker: float = 0) -> Heard:
    """`lipforge identify-languages`: identify the language of unlabelled sources; the manifest gets it.

    Raises ModelFileError when Whisper cannot be used, ValueError when a GPU is wanted and this machine has none.
    """
    store = Store(out)
    require_dataset(store)  # before anything is made there
    require_gpu_here(gpus_per_worker)
    file = open_whisper(whisper, gpus_per_worker)
    with writing(store):
        record = require_dataset(store)
        config = stored_config(store, record)
        executor = make_executor(config.model_copy(update={"run": run}))
        try:
            run_map = partial(executor.map, num_gpus=gpus_per_worker)
            devices = identify(store, Segments(store).numbers(), file, run_map, progress)
            publish(store, config, record["hashes"], executor)
        finally:
            executor.close()
    unlabelled = ~pc.field("language_source").isin(["list", "path", "flag", "relabel"])
    sources = read_manifest(out, ["source_id", "language"], unlabelled & pc.field("quality").is_valid())
    counts = sources.group_by(["source_id", "language"]).aggregate([])["language"].value_counts().to_pylist()
    languages = {count["values"]: count["counts"] for count in counts}
    return Heard(languages, gpus_per_worker > 0 and "cpu" in devices)


def name_speakers(out: str, run: RunConfig, progress: Progress) -> Found:
    """`lipforge identify-speakers`: name the speakers of unlabelled sources by voice; the manifest gets it.

    Raises ModelFileError when the voice encoder's file is not at hand.
    """
    store = Store(out)
    require_dataset(store)  # before anything is made there
    weights = open_voice_weights()
    with writing(store):
        record = require_dataset(store)
        config = stored_config(store, record)
        executor = make_executor(config.model_copy(update={"run": run}))
        try:
            found = identify_speakers(store, weights, executor.map, progress)
            publish(store, config, record["hashes"], executor)
        finally:
            executor.close()
    return found


def relabel(out: str, list_file: str | None, path_template: str | None, progress: Progress) -> Relabelled:
    """`lipforge relabel`: other labels for sources that are in the dataset; the manifest gets them.

    Raises ValueError unless exactly one of list and template is given, or when nothing gets a label.
    """
    if (list_file is None) == (path_template is None):
        raise ValueError("give a list, or --path-template: one of the two")
    store = Store(out)
    require_dataset(store)  # before anything is made there
    listed = [] if list_file is None else [source.uri for source in read_list(list_file)]
    find = labels_of_list(list_file) if list_file is not None else labels_of_paths(path_template or "")
    with writing(store):
        record = require_dataset(store)
        config = stored_config(store, record)
        done = set_labels(store, find, listed)
        with _labels_recorded(), _workers(config) as executor:
            publish(store, config, record["hashes"], executor, progress)
    return done


@contextmanager
def _labels_recorded() -> Iterator[None]:
    """Say with any error that the labels are not lost."""
    words = "The new labels are recorded: after that, the same command or `lipforge pack` puts them in force."
    try:
        yield
    except DatasetError as error:
        raise DatasetError(f"{str(error).rstrip('.')}. {words}") from error
    except UnreadableError as error:
        raise UnreadableError(f"{str(error).rstrip('.')}. {words}") from error


def prune(out: str) -> None:
    """`lipforge prune`: delete the media of clips that thresholds refused; a still of each stays."""
    store = Store(out)
    require_dataset(store)  # before anything is made there
    with writing(store):
        record = require_dataset(store)
        config = stored_config(store, record)
        with _workers(config) as executor:
            publish(store, config, record["hashes"], executor)  # what is kept gets its place in a shard
            prunable = find_prunable(store)
            prune_files(store, prunable)
            publish(store, config, record["hashes"], executor)
            delete_tars(store, prunable, executor.map)


def collect_garbage(out: str) -> None:
    """`lipforge gc`: delete what nothing in force refers to."""
    store = Store(out)
    require_dataset(store)
    with writing(store), _workers(PrepareConfig()) as executor:
        delete_garbage(store, find_garbage(store), executor.map)


def export_dataset(selection: str, out: str, shard_size_mb: float, progress: Progress) -> Exported:
    """`lipforge export`: see `export`."""
    with _workers(PrepareConfig()) as executor:
        return export(selection, out, shard_size_mb, progress, executor.map)


def export_as_files(selection: str, out: str, progress: Progress) -> ExportedFiles:
    """`lipforge export --as files`: see `export_files`."""
    with _workers(PrepareConfig()) as executor:
        return export_files(selection, out, progress, executor.map)
