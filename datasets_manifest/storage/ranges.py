"""Reads byte ranges of shards: many at once, neighbours in one request, from a local disk or an fsspec URL."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import fsspec

from lipforge.datasets_manifest.storage.files import UnreadableError, open_place

MAX_READ_BYTES = 32 * 2**20
"""A request for several samples is no larger than this."""
MAX_GAP_SHARE = 0.04
"""Bytes between neighbours that may be read for nothing, over the bytes that are wanted."""
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


@dataclass
class Request:
    """One range that holds several spans of a shard."""

    spans: list[Span]
    """By rising start."""
    wanted_bytes: int

    @property
    def whole(self) -> Span:
        first = self.spans[0]
        return Span(first.dataset, first.shard, first.start, max(span.end for span in self.spans))


def merge(spans: Sequence[Span]) -> list[Request]:
    """The requests that get these spans: neighbours in one, as long as it stays small and hardly holds anything else."""
    requests: list[Request] = []
    for span in sorted(set(spans)):
        last = requests[-1] if requests else None
        if last is not None and (last.whole.dataset, last.whole.shard) == (span.dataset, span.shard):
            wanted = last.wanted_bytes + span.end - span.start
            size = span.end - last.whole.start
            if size <= min(MAX_READ_BYTES, wanted * (1 + MAX_GAP_SHARE)):
                last.spans.append(span)
                last.wanted_bytes = wanted
                continue
        requests.append(Request([span], span.end - span.start))
    return requests


@dataclass
class RangeReader:
    """Opens each dataset once. Not to be shared between processes: open connections do not survive a fork."""

    num_requests: int = 0
    num_bytes: int = 0
    """Read so far, the gaps between neighbours included."""
    _folders: dict[str, tuple[fsspec.AbstractFileSystem, str]] = field(default_factory=dict)

    def read(self, spans: Sequence[Span]) -> dict[Span, bytes]:
        """The bytes of each span. One that reaches beyond the end of its shard comes out shorter.

        Requests of one dataset run at the same time where its file system can do that. A failed one is sent again twice.
        Raises FileNotFoundError when a shard is not there, UnreadableError when it cannot be read: no such kind of URL, no permission, a
        server that does not answer or that sends whole files instead of ranges.
        """
        found: dict[Span, bytes] = {}
        by_dataset: dict[str, list[Request]] = {}
        for request in merge(spans):
            by_dataset.setdefault(request.whole.dataset, []).append(request)
        for dataset, requests in by_dataset.items():
            for request, data in zip(requests, self._fetch(dataset, requests), strict=True):
                start = request.whole.start
                found |= {span: data[span.start - start : span.end - start] for span in request.spans}
        return found

    def _fetch(self, dataset: str, requests: Sequence[Request]) -> list[bytes]:
        if dataset not in self._folders:
            try:
                self._folders[dataset] = open_place(dataset)
            except ValueError as error:
                raise UnreadableError(f"{dataset} cannot be read: {error}") from error
        fs, root = self._folders[dataset]
        answers: list[bytes | Exception] = [b""] * len(requests)
        open_requests = list(range(len(requests)))
        for pause_s in (*_PAUSES_S, None):
            wholes = [requests[index].whole for index in open_requests]
            paths = [f"{root}/{whole.shard}" for whole in wholes]
            got = fs.cat_ranges(paths, [w.start for w in wholes], [w.end for w in wholes], on_error="return")
            for index, answer in zip(open_requests, got, strict=True):
                beyond_end = getattr(answer, "status", None) == _RANGE_NOT_SATISFIABLE
                answers[index] = b"" if beyond_end else answer
            open_requests = [index for index in open_requests if _may_pass(answers[index])]
            if not open_requests or pause_s is None:
                break
            time.sleep(pause_s)
        return [self._checked(request.whole, answer) for request, answer in zip(requests, answers, strict=True)]

    def _checked(self, whole: Span, answer: bytes | Exception) -> bytes:
        if isinstance(answer, FileNotFoundError):
            raise FileNotFoundError(
                f"{whole.dataset}/{whole.shard} is missing. If the dataset was moved or packed again, make the selection anew where it lies now; "
                "if the file was lost, put it back from a copy"
            ) from answer
        if isinstance(answer, Exception):
            raise UnreadableError(f"{whole.dataset}/{whole.shard} cannot be read: {answer or repr(answer)}") from answer
        if len(answer) > whole.end - whole.start:
            raise UnreadableError(
                f"{whole.dataset}/{whole.shard}: asked for {whole.end - whole.start} bytes, got {len(answer)}: "
                "the server does not know range requests. Use one that does, or copy the dataset to a local disk"
            )
        self.num_requests += 1
        self.num_bytes += len(answer)
        return answer


def _may_pass(answer: bytes | Exception) -> bool:
    return isinstance(answer, Exception) and not isinstance(answer, FileNotFoundError | PermissionError)
