"""Bring clips in that thresholds keep now and refused before: their samples are copied into new shards.

Shards that are there are never changed. A clip that stricter thresholds refuse stays in its shard; the manifest no
longer counts it. Which shards new clips share is a pure function of the ledger and the thresholds, and where they lie
is written as one file, last; so packing may be stopped anywhere, and the next ends with the same bytes.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa

from lipforge.datasets_manifest.arrow import compute as pc
from lipforge.datasets_manifest.display import counted
from lipforge.datasets_manifest.sample import read_clip
from lipforge.datasets_manifest.schema import Status
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.ledger.records import DatasetError
from lipforge.pipeline.ledger.segments import Segments
from lipforge.pipeline.publish.facts import MOVE_COLUMNS, FactFiles
from lipforge.pipeline.publish.rows import manifest_rows
from lipforge.pipeline.publish.seal import read_ahead
from lipforge.pipeline.publish.shards import Place, Sample, fill_shards, write_shard
from lipforge.pipeline.publish.tasks import Mapper

_COLUMNS = ("key", "language", "shard", "sample_offset", "sample_size")


def bring_in(
    store: Store,
    config: PrepareConfig,
    segments: Segments,
    facts: FactFiles,
    changed: Sequence[int],
    run_map: Mapper,
) -> int:
    """Put clips of these segments that are kept and in no shard into new shards; returns how many.

    Raises DatasetError when the media of one is gone.
    """
    coming = _Coming(store)
    for segment in changed:
        sealed = segments.sealed(segment)
        assert sealed is not None
        coming.add(segment, manifest_rows(sealed.rows, config.thresholds, facts.of(segment, sealed.rows)))
    if coming.num_gone:
        raise DatasetError(
            f"{counted(coming.num_gone, 'clip passes', 'clips pass')} these thresholds but their media is gone: it was "
            "pruned, or deleted. Use stricter thresholds, or prepare the sources again into a new folder."
        )
    if not coming.places:
        return 0
    samples = sorted(coming.samples, key=lambda sample: (sample.language, sample.key))
    tasks = [
        _ShardTask(language, [(sample.key, coming.places[sample.key]) for sample in members])
        for language, members in fill_shards(samples, int(config.pack.shard_size_mb * 1e6))
    ]
    moved: dict[str, Place] = {}
    for places in run_map(_ShardWriter(store), tasks):
        moved |= places
    rows = [
        {"segment": coming.segments[key], "key": key, "shard": tar, "sample_offset": offset, "sample_size": size}
        for key, (tar, offset, size) in sorted(moved.items())
    ]
    facts.moves.add(pa.Table.from_pylist(rows, MOVE_COLUMNS))
    return len(rows)


class _Coming:
    """Kept clips that no shard holds."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.samples: list[Sample] = []
        self.places: dict[str, Place] = {}
        self.segments: dict[str, int] = {}
        self.num_gone = 0
        self._tars: set[str] | None = None

    def add(self, segment: int, rows: pa.Table) -> None:
        """rows: of a manifest, with places in force."""
        kept = rows.filter(pc.field("status") == Status.KEPT).select(_COLUMNS)
        outside = kept.filter(pc.invert(pc.starts_with(kept["shard"].fill_null(""), "shards/")))
        if self._tars is None and len(outside):
            self._tars = set(self.store.list("refused"))
        for key, language, tar, offset, size in zip(*(outside[name].to_pylist() for name in _COLUMNS), strict=True):
            if tar is None or tar not in (self._tars or ()):
                self.num_gone += 1
                continue
            self.samples.append(Sample(key, language, size))
            self.places[key] = Place(tar, offset, size)
            self.segments[key] = segment


@dataclass(frozen=True)
class _ShardTask:
    language: str
    samples: Sequence[tuple[str, Place]]


class _ShardWriter:
    """Writes a shard, in any process."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __call__(self, task: _ShardTask) -> dict[str, Place]:
        places = dict(task.samples)
        with ThreadPoolExecutor(8) as pool:
            blocks = read_ahead(pool, list(places), lambda key: read_sample(self.store, key, places[key]))
            return write_shard(self.store, task.language, blocks)


def read_sample(store: Store, key: str, place: Place) -> bytes:
    """The tar blocks of a sample, verified. Raises DatasetError."""
    try:
        data = store.read(*place)
        read_clip(data, place.size, key)
    except FileNotFoundError as error:
        raise DatasetError(
            f"{store.path(place.tar)} is missing. If another command pruned the dataset at the same time, run this one "
            "again; else restore the file from a copy"
        ) from error
    except ValueError as error:
        raise DatasetError(
            f"{store.path(place.tar)} is damaged: clip {key} cannot be read ({error}). Restore it from a copy."
        ) from error
    return data
