"""Change a dataset without preparing again: new thresholds, identified languages, media pruned."""

from collections.abc import Callable

import pyarrow.compute as pc

from lipforge.datasets_manifest.manifest import read_manifest
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.config import RunConfig, Thresholds
from lipforge.pipeline.ledger.records import DatasetError, Ledger
from lipforge.pipeline.ledger.settings import require_dataset, stored_config, with_thresholds, writing
from lipforge.pipeline.publish.accounts import Totals
from lipforge.pipeline.publish.languages import identify, open_whisper
from lipforge.pipeline.publish.prune import find_prunable, prune_files
from lipforge.pipeline.publish.publish import finished_videos, publish, publish_manifest
from lipforge.pipeline.running.executors import LocalExecutor, make_executor


def repack(out: str, changes: list[str], shard_size_mb: float | None) -> tuple[Thresholds, Totals]:
    """`lipforge pack`: apply new thresholds to the stored measures. Returns the thresholds in force and the sums."""
    store = Store(out)
    ledger = Ledger(store)
    require_dataset(ledger, out)  # before anything is made there
    with writing(store):
        record = require_dataset(ledger, out)
        config = stored_config(record)
        if changes or shard_size_mb is not None:
            config = with_thresholds(config, changes, shard_size_mb)
        totals = publish(store, config, record["hashes"], LocalExecutor())
        changed = record["config"] | config.model_dump(mode="json", exclude={"run"})
        ledger.write_dataset({**record, "config": changed})  # last: they hold from now on
        return config.thresholds, totals


def identify_languages(out: str, whisper: str, run: RunConfig, progress: Callable[[int, int], None]) -> dict[str, int]:
    """`lipforge identify-languages`: identify the language of unlabelled sources, and rewrite the manifest.

    Shards stay as they are. Returns how many unlabelled sources with clips speak each language.
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
        config = stored_config(record)
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
    """`lipforge prune`: delete the media of clips that thresholds refused, and stills that nothing shows."""
    store = Store(out)
    require_dataset(Ledger(store), out)  # before anything is made there
    with writing(store):
        prune_files(store, find_prunable(store))
