"""From the ledger to shards and manifest, at the end of a run and for other thresholds.

Goes through the ledger twice, one video at a time: once to know which clips to pack, once for the manifest's rows. What is held at once
is a few numbers for each clip.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from lipforge.datasets_manifest.manifest import write_manifest
from lipforge.datasets_manifest.schema import Reason, Status
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.clip import Video
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.ledger.records import Ledger
from lipforge.pipeline.publish.accounts import Row, Totals, single_row, video_rows
from lipforge.pipeline.publish.languages import Votes
from lipforge.pipeline.publish.pack import pack
from lipforge.pipeline.publish.shards import Sample, ShardPlace, sample_places
from lipforge.pipeline.running.executors import Executor
from lipforge.pipeline.sources.plan import plan_seams, split_duplicates
from lipforge.pipeline.stages.probe import from_record


def finish(store: Store, config: PrepareConfig, hashes: Mapping[str, str], executor: Executor) -> Totals:
    """Pack what these thresholds keep, and write the manifest. Returns its sums."""
    ledger = Ledger(store)
    votes = Votes(ledger)
    samples: list[Sample] = []
    kept: set[str] = set()
    for video, records in finished_videos(ledger, config):
        sizes = {key: size for record in records for key, size in record["part_sizes"].items()}
        for row in video_rows(video, records, config.thresholds, {}, hashes, votes.spoken(video, records)):
            if row["key"] in sizes:
                samples.append(Sample(row["key"], row["unit_id"], row["language"], sizes[row["key"]]))
                if row["status"] == Status.KEPT:
                    kept.add(row["key"])
    pack(store, samples, kept, int(config.pack.shard_size_mb * 1e6), executor.map)
    return write_rows(store, config, hashes)


def write_rows(store: Store, config: PrepareConfig, hashes: Mapping[str, str]) -> Totals:
    """Write the manifest anew from the ledger, and nothing else. Returns its sums."""
    ledger = Ledger(store)
    totals = Totals()
    places = sample_places(ledger)
    write_manifest(store.root, _rows(ledger, config, places, hashes, totals))
    return totals


def _rows(
    ledger: Ledger, config: PrepareConfig, places: Mapping[str, ShardPlace], hashes: Mapping[str, str], totals: Totals
) -> Iterator[Row]:
    """All rows of the manifest, counted into totals."""
    votes = Votes(ledger)
    for video, records in finished_videos(ledger, config):
        spoken = votes.spoken(video, records)
        yield from totals.add(video, video_rows(video, records, config.thresholds, places, hashes, spoken))
    for video, row in _rows_without_units(ledger, hashes):
        yield from totals.add(video, [row])


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


def _rows_without_units(ledger: Ledger, hashes: Mapping[str, str]) -> Iterator[tuple[Video, Row]]:
    """Sources that cannot be used, and repetitions of content."""
    owners = [from_record(content) for content in ledger.contents()]
    owned = {(video.source.entry_id, video.source_id) for video in owners}
    rest = [from_record(record) for record in ledger.sources()]
    rest = [video for video in rest if (video.source.entry_id, video.source_id) not in owned]
    usable = [video for video in rest if video.reason is None]
    _, duplicates = split_duplicates(usable, owners)
    for video, owner in duplicates:
        detail = f"same content as {owner.source.uri}"
        yield video, single_row(video, Status.REJECTED, "probe", Reason.DUPLICATE, detail, hashes)
    for video in rest:
        if video.reason is not None:
            rejected = video.reason in (Reason.NO_AUDIO, Reason.NO_VIDEO)
            status = Status.REJECTED if rejected else Status.FAILED
            yield video, single_row(video, status, "probe", video.reason, video.detail, hashes)
