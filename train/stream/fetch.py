"""Bytes of samples: from the cache of remote datasets, else from the shards."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lipforge.datasets_manifest.sample import read_clip
from lipforge.datasets_manifest.storage.cache import SampleCache
from lipforge.datasets_manifest.storage.files import is_remote
from lipforge.datasets_manifest.storage.ranges import RangeReader, Span
from lipforge.train.stream.order import StoredSamples

MAX_AHEAD_BYTES = 128 * 2**20
"""Most that one process reads ahead at once."""

Members = dict[str, bytes]
"""The files of a sample by extension."""


class Fetcher:
    """Reads samples for one process."""

    def __init__(self, stored: StoredSamples, cache_dir: Path | None, cache_bytes: int) -> None:
        self.stored = stored
        self.ranges = RangeReader()
        self.cache = None if cache_dir is None else SampleCache(cache_dir, cache_bytes)
        self.max_ahead_bytes = min(MAX_AHEAD_BYTES, cache_bytes // 4)  # more would evict itself from a small cache

    def fetch(self, samples: Sequence[int], companions: Callable[[], list[int]]) -> dict[int, Members | ValueError]:
        """The members of each of `samples`, or what is wrong with it.

        companions: called for samples that are wanted soon, the soonest first. When a remote sample is read into the
        cache, the remote ones among its companions come along, up to `max_ahead_bytes`. A remote read that fails its
        check is retried once. Only samples that pass are cached. Errors are those of RangeReader.read.
        """
        spans = {sample: self.stored.span(sample) for sample in samples}
        found: dict[int, Members | ValueError] = {}
        if self.cache is not None:
            found = self._cached(spans)
            if absent := [s for s, span in spans.items() if s not in found and is_remote(span.dataset)]:
                found |= self._fetch_remote(absent, companions)
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
        """Those that the cache holds undamaged."""
        assert self.cache is not None
        found: dict[int, Members | ValueError] = {}
        for sample, span in spans.items():
            content = self.cache.get(self._name(sample, span)) if is_remote(span.dataset) else None
            if content is not None and not isinstance(members := self._opened(sample, span, content), ValueError):
                found[sample] = members
        return found

    def _fetch_remote(
        self, wanted: Sequence[int], companions: Callable[[], list[int]]
    ) -> dict[int, Members | ValueError]:
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
        """The remote ones that fit into the budget."""
        spans: dict[int, Span] = {}
        budget = self.max_ahead_bytes
        for sample in companions:
            span = self.stored.span(sample)
            budget -= span.end - span.start
            if budget < 0:
                break
            if is_remote(span.dataset):
                spans[sample] = span
        return spans

    def _name(self, sample: int, span: Span) -> str:
        """Cache entry of a sample.

        Its key holds a hash of its content; a shard written anew at other offsets gives other names.
        """
        place = f"{span.dataset}\n{span.shard}\n{span.start}\n{span.end}\n{self.stored.key(sample)}"
        return hashlib.blake2b(place.encode(), digest_size=16).hexdigest()
