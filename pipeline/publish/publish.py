"""From the ledger to shards and manifest, at the end of a run and for new thresholds.

One pass over the ledger, one video at a time, decides every clip and makes the manifest's rows. Packing then gives the
kept clips their places in shards.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from lipforge.datasets_manifest.manifest import manifest_table, write_manifest
from lipforge.datasets_manifest.schema import Reason, Stage, Status
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.clip import Video
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.ledger.records import Ledger
from lipforge.pipeline.publish.accounts import Row, Totals, single_row, video_rows
from lipforge.pipeline.publish.languages import Votes
from lipforge.pipeline.publish.pack import pack
from lipforge.pipeline.publish.shards import Sample, sample_places, with_places
from lipforge.pipeline.running.executors import Executor
from lipforge.pipeline.sources.ownership import split_duplicates
from lipforge.pipeline.sources.seams import plan_seams
from lipforge.pipeline.stages.probe import from_record


def publish(store: Store, config: PrepareConfig, hashes: Mapping[str, str], executor: Executor) -> Totals:
    """Pack the clips that these thresholds keep, and write the manifest. Returns its sums."""
    ledger = Ledger(store)
    totals = Totals()
    part_sizes: dict[str, int] = {}
    rows = manifest_table(_rows(ledger, config, hashes, totals, part_sizes))
    columns = zip(*(rows[name].to_pylist() for name in ("key", "unit_id", "language", "status")), strict=True)
    samples, kept = [], set()
    for key, unit_id, language, status in columns:
        if key in part_sizes:
            samples.append(Sample(key, unit_id, language, part_sizes[key]))
            if status == Status.KEPT:
                kept.add(key)
    pack(store, samples, kept, int(config.pack.shard_size_mb * 1e6), executor.map)
    _write(store, rows)
    return totals


def publish_manifest(store: Store, config: PrepareConfig, hashes: Mapping[str, str]) -> None:
    """Write the manifest from the ledger, and leave the shards as they are."""
    _write(store, manifest_table(_rows(Ledger(store), config, hashes, Totals(), {})))


def finished_videos(ledger: Ledger, config: PrepareConfig) -> Iterator[tuple[Video, list[dict[str, Any]]]]:
    """Videos all of whose units, and seams between them, have a record; with those records."""
    for content in ledger.contents():
        video = from_record(content)
        records = ledger.read_units(content["units"])
        if len(records) < len(content["units"]):
            continue
        seams = [seam.unit_id for seam in plan_seams(video, records, config.cut.min_frames)]
        seam_records = ledger.read_units(seams)
        if len(seam_records) == len(seams):
            yield video, records + seam_records


def _rows(
    ledger: Ledger, config: PrepareConfig, hashes: Mapping[str, str], totals: Totals, part_sizes: dict[str, int]
) -> Iterator[Row]:
    """All rows of the manifest, without places. Counts them into totals, and notes the size of each clip's sample."""
    votes = Votes(ledger)
    for video, records in finished_videos(ledger, config):
        for record in records:
            part_sizes |= record["part_sizes"]
        spoken = votes.spoken(video, records)
        yield from totals.add(video, video_rows(video, records, config.thresholds, hashes, spoken))
    for video, row in _rows_without_units(ledger, hashes):
        yield from totals.add(video, [row])


def _rows_without_units(ledger: Ledger, hashes: Mapping[str, str]) -> Iterator[tuple[Video, Row]]:
    """Sources that cannot be used, and duplicates."""
    owners = [from_record(content) for content in ledger.contents()]
    owned = {(video.source.entry_id, video.source_id) for video in owners}
    rest = [from_record(record) for record in ledger.sources()]
    rest = [video for video in rest if (video.source.entry_id, video.source_id) not in owned]
    usable = [video for video in rest if video.reason is None]
    _, duplicates = split_duplicates(usable, owners)
    for video, owner in duplicates:
        detail = f"same content as {owner.source.uri}"
        yield video, single_row(video, Status.REJECTED, Stage.PROBE, Reason.DUPLICATE, detail, hashes)
    for video in rest:
        if video.reason is not None:
            rejected = video.reason in (Reason.NO_AUDIO, Reason.NO_VIDEO)
            status = Status.REJECTED if rejected else Status.FAILED
            yield video, single_row(video, status, Stage.PROBE, video.reason, video.detail, hashes)


def _write(store: Store, rows: pa.Table) -> None:
    """The manifest, with the places that the ledger knows for kept clips."""
    places = sample_places(Ledger(store))
    keys, statuses = rows["key"].to_pylist(), rows["status"].to_pylist()
    kept = [places.get(key) if status == Status.KEPT else None for key, status in zip(keys, statuses, strict=True)]
    write_manifest(store.root, with_places(rows, kept))
