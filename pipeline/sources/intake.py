"""The sources of a run on their way in: probed in any order, let in strictly in their own.

What is in a segment depends on the order of the sources alone. So a source waits until all before it are known, while
workers probe those after it, up to a limit.
"""

from collections.abc import Sequence

import pyarrow as pa

from lipforge.pipeline.clip import Source, Video
from lipforge.pipeline.sources.known import Known

_BLOCK = 512
"""Sources that the ledger is asked about at once."""
MAX_AHEAD = 2048
"""Sources that are probed, or about to be, and not let in."""


class Intake:
    """Sources that are new, changed, or own no content yet."""

    def __init__(self, sources: Sequence[Source], known: Known, to_probe: Sequence[int], claims: pa.Table) -> None:
        self._sources = sources
        self._known = known
        self._to_probe = set(to_probe)
        self._numbers = sorted(self._to_probe | set(known.unclaimed(claims)))
        self._next = self._next_in = self._loaded = 0
        """Positions in _numbers: first that was not handed out, not let in, not loaded."""
        self._before: dict[str, Video] = {}
        self._found: dict[str, Video | None] = {}
        """By entry; None: nothing can be said of it now."""

    @property
    def is_over(self) -> bool:
        """Whether all were let in."""
        return self._next_in == len(self._numbers)

    def next_to_probe(self) -> Source | None:
        """None when there is none, or too many wait to be let in."""
        while self._next < len(self._numbers) and self._next - self._next_in < MAX_AHEAD:
            self._load()
            number = self._numbers[self._next]
            source = self._sources[number]
            self._next += 1
            if number in self._to_probe:
                return source
            self._found[source.entry_id] = self._before.pop(source.entry_id, None)
        return None

    def known_before(self, entry_id: str) -> Video | None:
        """What earlier runs knew of a source that is probed now."""
        return self._before.get(entry_id)

    def probed(self, entry_id: str, video: Video | None) -> None:
        """video: None when its storage failed; then what was known before counts."""
        before = self._before.pop(entry_id, None)
        self._found[entry_id] = video or before

    def num_waiting(self) -> int:
        """How many `let_in` gives, at most."""
        return len(self._found)

    def let_in(self) -> list[Video]:
        """Those whose turn it is, in order."""
        videos = []
        while self._next_in < self._next:
            entry_id = self._sources[self._numbers[self._next_in]].entry_id
            if entry_id not in self._found:
                break
            video = self._found.pop(entry_id)
            self._next_in += 1
            if video is not None:
                videos.append(video)
        return videos

    def _load(self) -> None:
        if self._next == self._loaded:
            block = self._numbers[self._loaded : self._loaded + _BLOCK]
            self._before |= self._known.videos(block)
            self._loaded += len(block)
