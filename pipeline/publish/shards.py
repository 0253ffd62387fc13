"""Shards: which samples share one, how it is written, and where each sample lies.

A shard is a tar of samples one after another, so packing and exporting copy bytes and never encode. Its name is made of
its content: once it has that name, it never changes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from lipforge.datasets_manifest.sample import END_OF_TAR
from lipforge.datasets_manifest.storage.store import Store


@dataclass(frozen=True)
class Sample:
    """A clip that has media."""

    key: str
    language: str
    size: int
    """Bytes of the sample in a tar."""


class Place(NamedTuple):
    """Where the tar blocks of a sample, or of a still, lie."""

    tar: str
    offset: int
    size: int


def fill_shards(samples: Iterable[Sample], shard_size_bytes: int) -> Iterator[tuple[str, list[Sample]]]:
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


def write_shard(store: Store, language: str, blocks: Iterable[tuple[str, bytes]]) -> dict[str, Place]:
    """Write a shard; returns where each sample lies. blocks: keys and tar blocks, in order; read one at a time."""
    return write_tar(store, f"shards/{language}/{language}", blocks)


def write_tar(store: Store, stem: str, blocks: Iterable[tuple[str, bytes]]) -> dict[str, Place]:
    """Write a tar named STEM-<hash>.tar."""
    spans: dict[str, tuple[int, int]] = {}
    name = ""

    def named(digest: str) -> str:
        nonlocal name
        name = f"{stem}-{digest[:16]}.tar"
        return name

    offset = 0
    with store.writing_hashed(named) as file:
        for key, data in blocks:
            file.write(data)
            spans[key] = (offset, len(data))
            offset += len(data)
        file.write(END_OF_TAR)
    return {key: Place(name, *span) for key, span in spans.items()}
