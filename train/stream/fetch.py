"""Gets the stored files of selected samples: from the cache of far-away datasets, else from the shards."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from lipforge.datasets_manifest.sample import read_clip
from lipforge.datasets_manifest.storage.cache import SampleCache
from lipforge.datasets_manifest.storage.files import is_remote
from lipforge.datasets_manifest.storage.ranges import RangeReader, Span

COLUMNS = ("dataset", "shard", "key", "sample_offset", "sample_size", "num_frames", "crop_px")
"""Columns of a selection that say where samples lie."""
MAX_AHEAD_BYTES = 128 * 2**20
"""What one process reads ahead at most, at once."""
_STORAGE_ORDER = ("dataset", "shard", "sample_offset")


class StoredSamples:
    """The rows of a selection in the order of storage. Sample n is row n."""

    def __init__(self, rows: pa.Table) -> None:
        """rows: COLUMNS of a selection. Raises ValueError when there are none, or their pictures differ in size."""
        if len(rows) == 0:
            raise ValueError("the selection holds no clip")
        rows = rows.select(COLUMNS).sort_by([(column, "ascending") for column in _STORAGE_ORDER]).combine_chunks()
        self.rows = rows
        self.num_frames = rows["num_frames"].to_numpy()
        sizes_px = sorted(rows["crop_px"].unique().to_pylist())
        if len(sizes_px) > 1:
            raise ValueError(
                f"pictures of {sizes_px} pixels in one selection: select with --where 'crop_px = {sizes_px[-1]}'"
            )
        self.crop_px: int = sizes_px[0]
        """Side of all pictures."""
        self.shards = _run_numbers(rows["dataset"], rows["shard"])
        """int64 [N]: the shard of each sample, numbered."""

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, sample: int) -> str:
        return self.rows["key"][sample].as_py()

    def span(self, sample: int) -> Span:
        row = {name: self.rows[name][sample].as_py() for name in ("dataset", "shard", "sample_offset", "sample_size")}
        end = row["sample_offset"] + row["sample_size"]
        return Span(row["dataset"], row["shard"], row["sample_offset"], end)

    def fingerprint(self) -> str:
        """Hash of what shapes the stream: which clips, how long, in which order and shards. Not of where the datasets lie."""
        digest = hashlib.blake2b(digest_size=16)
        for chunk in self.rows["key"].chunks:
            digest.update("\n".join(chunk.to_pylist()).encode())
        digest.update(self.num_frames.astype("<i8").tobytes())
        digest.update(self.shards.astype("<i8").tobytes())
        return digest.hexdigest()


def _run_numbers(*columns: pa.ChunkedArray) -> np.ndarray:
    """A number for each run of rows that are equal in all columns."""
    changed = np.zeros(len(columns[0]), bool)
    for column in columns:
        codes = column.combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
        changed[1:] |= codes[1:] != codes[:-1]
    return np.cumsum(changed)


Members = dict[str, bytes]
"""The files of a sample by extension."""


@dataclass
class Fetcher:
    """Reads samples for one process."""

    stored: StoredSamples
    cache_dir: Path | None
    cache_bytes: int

    def __post_init__(self) -> None:
        self.ranges = RangeReader()
        self.cache = None if self.cache_dir is None else SampleCache(self.cache_dir, self.cache_bytes)

    def fetch(self, samples: Sequence[int], companions: Callable[[], list[int]]) -> dict[int, Members | ValueError]:
        """The members of each of `samples`, or what is wrong with it.

        companions: asked for samples that are wanted soon, the soonest first. When something has to come from far away, those of them
        that are far away, too, are read into the cache along with it, up to `MAX_AHEAD_BYTES`. What comes from far away and is not
        that sample is asked for once more: servers err, too. Only whole samples are cached.
        Errors are those of RangeReader.read.
        """
        spans = {sample: self.stored.span(sample) for sample in samples}
        found: dict[int, Members | ValueError] = {}
        if self.cache is not None:
            found = self._cached(spans)
            if far := [sample for sample, span in spans.items() if sample not in found and is_remote(span.dataset)]:
                found |= self._fetch_far(far, companions)
        found |= self._read({sample: span for sample, span in spans.items() if sample not in found})
        doubtful = {
            sample: spans[sample]
            for sample, members in found.items()
            if isinstance(members, ValueError) and is_remote(spans[sample].dataset)
        }
        return found | self._read(doubtful)

    def _read(self, spans: Mapping[int, Span]) -> dict[int, Members | ValueError]:
        data = self.ranges.read(list(spans.values()))
        return {sample: self._opened(sample, span, data[span]) for sample, span in spans.items()}

    def _opened(self, sample: int, span: Span, content: bytes) -> Members | ValueError:
        try:
            return read_clip(content, span.end - span.start, self.stored.key(sample))
        except ValueError as error:
            return error

    def _cached(self, spans: Mapping[int, Span]) -> dict[int, Members | ValueError]:
        """Those that the cache holds whole."""
        assert self.cache is not None
        found: dict[int, Members | ValueError] = {}
        for sample, span in spans.items():
            content = self.cache.get(self._name(sample, span)) if is_remote(span.dataset) else None
            if content is not None and not isinstance(members := self._opened(sample, span, content), ValueError):
                found[sample] = members
        return found

    def _fetch_far(self, wanted: Sequence[int], companions: Callable[[], list[int]]) -> dict[int, Members | ValueError]:
        """Read what the cache lacks, and companions, into the cache."""
        assert self.cache is not None
        spans = {sample: self.stored.span(sample) for sample in wanted}
        if self.cache.is_writable:
            spans |= self._ahead(companions())
        names = {sample: self._name(sample, span) for sample, span in spans.items()}
        with self.cache.fetching(names.values()):  # or workers that share companions would read them twice
            found = self._cached({sample: spans[sample] for sample in wanted})
            absent = {
                sample: span
                for sample, span in spans.items()
                if sample not in found and (sample in wanted or names[sample] not in self.cache)
            }
            data = self.ranges.read(list(absent.values()))
            for sample, span in absent.items():
                members = self._opened(sample, span, data[span])
                if not isinstance(members, ValueError):
                    self.cache.put(names[sample], data[span])
                if sample in wanted:
                    found[sample] = members
        return found

    def _ahead(self, companions: list[int]) -> dict[int, Span]:
        """Those of them that fit into the budget."""
        spans: dict[int, Span] = {}
        budget = min(MAX_AHEAD_BYTES, self.cache_bytes // 4)  # a small cache must not lose what it is given ahead
        for sample in companions:
            span = self.stored.span(sample)
            budget -= span.end - span.start
            if budget < 0:
                break
            if is_remote(span.dataset):
                spans[sample] = span
        return spans

    def _name(self, sample: int, span: Span) -> str:
        """A sample whose shard was written anew at other offsets has another name; its key holds its content's hash."""
        place = f"{span.dataset}\n{span.shard}\n{span.start}\n{span.end}\n{self.stored.key(sample)}"
        return hashlib.blake2b(place.encode(), digest_size=16).hexdigest()
