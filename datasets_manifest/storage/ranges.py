"""Reads byte ranges of shards, local or remote: many at once, neighbours in one request."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import fsspec

from lipforge.datasets_manifest.storage.files import open_place
from lipforge.datasets_manifest.storage.trouble import UnreadableError, storage_words

MAX_READ_BYTES = 32 * 2**20
"""Limit on a request for several samples."""
MAX_GAP_SHARE = 0.04
"""Limit on the bytes in gaps between neighbours, over the bytes that are wanted."""
_PAUSES_S = (1.0, 5.0)
"""Waits before a failed request is sent again."""
_RANGE_NOT_SATISFIABLE = 416


@dataclass(frozen=True, order=True)
class Span:
    """Bytes start .. end - 1 of one shard."""

    dataset: str
    """Root of the dataset: a folder or an fsspec URL."""
    shard: str
    """Path below it."""
    start: int
    end: int


def merge(spans: Sequence[Span]) -> list[list[Span]]:
    """Spans grouped by request, each group by rising start: neighbours share a small request with hardly any gaps.

    Not fsspec's merge_offset_ranges, which cannot limit gaps relative to the wanted bytes: see docs/dependencies.md.
    """
    groups: list[list[Span]] = []
    wanted_bytes, end = 0, 0  # of the last group
    for span in sorted(set(spans)):
        size = span.end - span.start
        if groups and (groups[-1][0].dataset, groups[-1][0].shard) == (span.dataset, span.shard):
            read_bytes = max(end, span.end) - groups[-1][0].start
            if read_bytes <= min(MAX_READ_BYTES, (wanted_bytes + size) * (1 + MAX_GAP_SHARE)):
                groups[-1].append(span)
                wanted_bytes, end = wanted_bytes + size, max(end, span.end)
                continue
        groups.append([span])
        wanted_bytes, end = size, span.end
    return groups


def whole(group: Sequence[Span]) -> Span:
    """The range that one request reads for a group of merge()."""
    first = group[0]
    return Span(first.dataset, first.shard, first.start, max(span.end for span in group))


@dataclass
class RangeReader:
    """Opens each dataset once. Do not share one between processes: open connections do not survive a fork."""

    num_requests: int = 0
    num_bytes: int = 0
    """Read so far, including gaps between neighbours."""
    _folders: dict[str, tuple[fsspec.AbstractFileSystem, str]] = field(default_factory=dict)

    def read(self, spans: Sequence[Span]) -> dict[Span, bytes]:
        """The bytes of each span. One that reaches beyond the end of its shard is cut there.

        Requests of one dataset run concurrently where its file system supports that. A failed one is retried twice.
        Raises FileNotFoundError when a shard is missing, UnreadableError when it cannot be read: unknown kind of URL,
        no permission, a server that does not answer or that sends whole files instead of ranges.
        """
        found: dict[Span, bytes] = {}
        by_dataset: dict[str, list[list[Span]]] = {}
        for group in merge(spans):
            by_dataset.setdefault(group[0].dataset, []).append(group)
        for dataset, groups in by_dataset.items():
            for group, data in zip(groups, self._fetch(dataset, [whole(group) for group in groups]), strict=True):
                start = group[0].start
                found |= {span: data[span.start - start : span.end - start] for span in group}
        return found

    def _fetch(self, dataset: str, wanted: Sequence[Span]) -> list[bytes]:
        """The bytes of each span, one request for each."""
        if dataset not in self._folders:
            try:
                self._folders[dataset] = open_place(dataset)
            except ValueError as error:
                raise UnreadableError(f"{dataset} cannot be read: {error}") from error
        fs, root = self._folders[dataset]
        answers: list[bytes | Exception] = [b""] * len(wanted)
        waiting = list(range(len(wanted)))
        for pause_s in (*_PAUSES_S, None):
            asked = [wanted[index] for index in waiting]
            paths = [f"{root}/{span.shard}" for span in asked]
            starts, ends = [span.start for span in asked], [span.end for span in asked]
            got = fs.cat_ranges(paths, starts, ends, on_error="return")
            for index, answer in zip(waiting, got, strict=True):
                beyond_end = getattr(answer, "status", None) == _RANGE_NOT_SATISFIABLE
                answers[index] = b"" if beyond_end else answer
            waiting = [index for index in waiting if _may_pass(answers[index])]
            if not waiting or pause_s is None:
                break
            time.sleep(pause_s)
        return [self._checked(span, answer) for span, answer in zip(wanted, answers, strict=True)]

    def _checked(self, span: Span, answer: bytes | Exception) -> bytes:
        if isinstance(answer, FileNotFoundError):
            raise FileNotFoundError(
                f"{span.dataset}/{span.shard} is missing. If the dataset was moved, make the selection "
                "again where it lies now; if the file was lost, restore it from a copy"
            ) from answer
        if isinstance(answer, Exception):
            raise UnreadableError(storage_words(answer, f"{span.dataset}/{span.shard}")) from answer
        if len(answer) > span.end - span.start:
            raise UnreadableError(
                f"{span.dataset}/{span.shard}: asked for {span.end - span.start} bytes, got {len(answer)}: "
                "the server does not support range requests. Use one that does, or copy the dataset to a local disk"
            )
        self.num_requests += 1
        self.num_bytes += len(answer)
        return answer


def _may_pass(answer: bytes | Exception) -> bool:
    return isinstance(answer, Exception) and not isinstance(answer, FileNotFoundError | PermissionError)
