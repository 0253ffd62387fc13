"""Delete the media of clips that a threshold refused, but keep a still of each for the report."""

from typing import NamedTuple

import av.error

from lipforge.datasets_manifest.sample import read_clip
from lipforge.datasets_manifest.sample_media import poster_jpeg
from lipforge.datasets_manifest.schema import Status
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.ledger.records import DatasetError, Ledger
from lipforge.pipeline.ledger.settings import require_dataset, stored_config
from lipforge.pipeline.publish.decide import decided, is_measured
from lipforge.pipeline.publish.pack import read_part
from lipforge.pipeline.stages.commit import part_name, poster_name


class Prunable(NamedTuple):
    """Files that `prune` deletes."""

    parts: list[str]
    """Media of refused clips. Kept clips that are not in a shard yet are not among them."""
    posters: list[str]
    """Stills of kept clips, which earlier versions wrote and nothing reads."""
    size_bytes: int
    """Of all these files."""


def find_prunable(store: Store) -> Prunable:
    """Raises DatasetError when packing was interrupted, so that it is not known what shards hold."""
    ledger = Ledger(store)
    dataset = require_dataset(ledger, store.root)
    if ledger.read_pack_plan() is not None:
        raise DatasetError("packing was interrupted; run `lipforge pack` first")
    thresholds = stored_config(dataset).thresholds
    refused, kept_posters = set(), set()
    for unit in ledger.units():
        for row in filter(is_measured, unit["rows"]):
            if decided(row, thresholds)["status"] == Status.KEPT:
                kept_posters.add(poster_name(unit["unit_id"], row["key"]))
            else:
                refused.add(part_name(unit["unit_id"], row["key"]))
    names = store.list("parts")
    parts, posters = [n for n in names if n in refused], [n for n in names if n in kept_posters]
    return Prunable(parts, posters, sum(store.size(name) or 0 for name in parts + posters))


def prune_files(store: Store, prunable: Prunable) -> None:
    for name in prunable.parts:
        _write_poster(store, name)
        store.delete(name)
    for name in prunable.posters:
        store.delete(name)


def _write_poster(store: Store, part: str) -> None:
    """Write a still of a part's clip, unless there is one or the part is damaged."""
    unit_id, key = part.removesuffix(".tar").split("/")[1:]
    if store.exists(poster_name(unit_id, key)):
        return
    try:
        sample = read_part(store, unit_id, key)
        poster = poster_jpeg(read_clip(sample, len(sample), key)["mp4"])
    except (DatasetError, ValueError, av.error.FFmpegError):
        return
    store.write(poster_name(unit_id, key), poster)
