"""Shards: which samples share one, how it is written, and where each sample lies.

A shard is a tar of samples one after another, so packing and exporting copy bytes and never encode. A shard appears
whole or not at all, and its ledger record follows it.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from lipforge.datasets_manifest.sample import END_OF_TAR
from lipforge.datasets_manifest.schema import COLUMNS
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.ledger.records import Ledger


@dataclass(frozen=True)
class Sample:
    """A clip that has media."""

    key: str
    unit_id: str
    """Names its folder in parts/; empty for a sample that is copied from another dataset."""
    language: str
    size: int
    """Bytes of the sample in a tar."""


class ShardPlace(NamedTuple):
    """Where a sample lies."""

    shard: str
    offset: int
    size: int


def shard_path(name: str, language: str) -> str:
    return f"shards/{language}/{name}.tar"


def fill_shards(samples: list[Sample], shard_size_bytes: int) -> Iterator[tuple[str, list[Sample]]]:
    """Group sorted samples by language into shards below this size, each with at least one sample."""
    group: list[Sample] = []
    size = len(END_OF_TAR)
    for sample in samples:
        if group and (sample.language != group[0].language or size + sample.size > shard_size_bytes):
            yield group[0].language, group
            group, size = [], len(END_OF_TAR)
        group.append(sample)
        size += sample.size
    if group:
        yield group[0].language, group


def write_shard(store: Store, name: str, language: str, samples: Iterable[tuple[str, bytes]]) -> None:
    """Write a shard, then its record. samples: keys and bytes, in order; read one at a time."""
    path = shard_path(name, language)
    digest = hashlib.sha256()
    places: dict[str, tuple[int, int]] = {}
    offset = 0
    with store.writing(path) as file:
        for key, data in samples:
            file.write(data)
            digest.update(data)
            places[key] = (offset, len(data))
            offset += len(data)
        file.write(END_OF_TAR)
        digest.update(END_OF_TAR)
    record = {"name": name, "language": language, "path": path, "size": offset + len(END_OF_TAR)}
    Ledger(store).write_shard(name, {**record, "sha256": digest.hexdigest(), "samples": places})


def sample_places(ledger: Ledger) -> dict[str, ShardPlace]:
    """The place of every sample that is in a shard, by key."""
    return {
        key: ShardPlace(shard["path"], offset, size)
        for shard in ledger.shards()
        for key, (offset, size) in shard["samples"].items()
    }


def with_places(rows: pa.Table, places: Sequence[ShardPlace | None]) -> pa.Table:
    """Manifest rows with the place of each sample, null for None."""
    values = zip(*(place or (None, None, None) for place in places), strict=True)
    for name, column in zip(("shard", "sample_offset", "sample_size"), values, strict=False):  # no values: no rows
        field = COLUMNS.field(name)
        rows = rows.set_column(rows.schema.get_field_index(name), field, pa.array(column, field.type))
    return rows
