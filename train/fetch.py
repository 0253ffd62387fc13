"""Gets the stored bytes of selected samples: from the cache of far-away datasets, else from the shards."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from train.cache import SampleCache
from train.ranges import RangeReader, Span

COLUMNS = ("dataset", "shard", "key", "sample_offset", "sample_size", "num_frames", "crop_px")
"""Columns of a selection that the stream reads."""
MAX_AHEAD_BYTES = 128 * 2**20
"""What one process reads ahead at most, at once."""
_STORAGE_ORDER = ("dataset", "shard", "sample_offset")


class StoredSamples:
    """The rows of a selection in the order of storage. Sample n is row n."""

    def __init__(self, rows: pa.Table) -> None:
        """rows: COLUMNS of a selection. Raises ValueError when there are none, or some are not in shards."""
        if len(rows) == 0:
            raise ValueError("the selection holds no clip")
        homeless = rows["sample_offset"].null_count
        if homeless:
            raise ValueError(f"{homeless} clips of the selection are in no shard: only kept clips can be trained on")
        rows = rows.select(COLUMNS).sort_by([(column, "ascending") for column in _STORAGE_ORDER]).combine_chunks()
        self.rows = rows
        self.num_frames = rows["num_frames"].to_numpy()
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


@dataclass
class Fetcher:
    """Reads samples for one process."""

    stored: StoredSamples
    cache_dir: Path | None
    cache_bytes: int

    def __post_init__(self) -> None:
        self.ranges = RangeReader()
        self.cache = None if self.cache_dir is None else SampleCache(self.cache_dir, self.cache_bytes)

    def fetch(self, samples: Sequence[int], companions: Callable[[], list[int]]) -> dict[int, bytes]:
        """The bytes of `samples`; shorter than stored where a shard ends too early.

        companions: asked for samples that are wanted soon, the soonest first. When something has to come from far away, those of them
        that are far away, too, are read into the cache along with it, up to `MAX_AHEAD_BYTES`.
        Errors are those of RangeReader.read.
        """
        spans = {sample: self.stored.span(sample) for sample in samples}
        far = {} if self.cache is None else {sample: span for sample, span in spans.items() if is_far(span.dataset)}
        near = [span for sample, span in spans.items() if sample not in far]
        data = self.ranges.read(near)
        if far:
            data |= self._fetch_far(far, companions)
        return {sample: data[span] for sample, span in spans.items()}

    def _fetch_far(self, wanted: dict[int, Span], companions: Callable[[], list[int]]) -> dict[Span, bytes]:
        assert self.cache is not None
        names = {span: self._name(sample, span) for sample, span in wanted.items()}
        found = {span: self.cache.get(name) for span, name in names.items()}
        missing = {span for span, content in found.items() if content is None}
        if missing:
            names |= self._ahead(companions())
            with self.cache.fetching(names.values()):  # or workers that share companions would read them twice
                absent = [span for span, name in names.items() if name not in self.cache]
                for span, content in self.ranges.read(absent).items():
                    if len(content) == span.end - span.start:
                        self.cache.put(names[span], content)
                    found[span] = content
            found |= {span: self.cache.get(names[span]) for span in missing if found[span] is None}
        gone = [span for span in wanted.values() if found[span] is None]  # evicted in between: the cache is too small
        found |= self.ranges.read(gone)
        return {span: content for span in wanted.values() if (content := found[span]) is not None}

    def _ahead(self, companions: list[int]) -> dict[Span, str]:
        """Names in the cache of those that fit into the budget."""
        names: dict[Span, str] = {}
        budget = min(MAX_AHEAD_BYTES, self.cache_bytes // 4)  # a small cache must not lose what it is given ahead
        for sample in companions:
            span = self.stored.span(sample)
            budget -= span.end - span.start
            if budget < 0:
                break
            if is_far(span.dataset):
                names[span] = self._name(sample, span)
        return names

    def _name(self, sample: int, span: Span) -> str:
        """A sample whose shard was written anew at other offsets has another name; its key holds its content's hash."""
        place = f"{span.dataset}\n{span.shard}\n{span.start}\n{span.end}\n{self.stored.key(sample)}"
        return hashlib.blake2b(place.encode(), digest_size=16).hexdigest()


def is_far(dataset: str) -> bool:
    return "://" in dataset and not dataset.startswith(("file://", "local://"))
