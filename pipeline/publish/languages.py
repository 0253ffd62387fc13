"""Identify the language of each source: Whisper gives each of its clips a vote, and most votes win.

The votes of a segment's clips are one table in ledger/languages/. Every manifest takes a source's language from there;
samples and shards never change. Sources with a label from the user are skipped.
"""

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.ledger.segments import Segments
from lipforge.pipeline.ledger.side_files import SegmentFiles
from lipforge.pipeline.publish.facts import FactFiles
from lipforge.pipeline.publish.rows import sample_places
from lipforge.pipeline.publish.seal import SealTask, rows_in_parts
from lipforge.pipeline.publish.shards import Place
from lipforge.pipeline.publish.sound import clip_sound
from lipforge.pipeline.publish.tasks import Mapper
from lipforge.pipeline.publish.votes import Vote, spoken_by_content, voters, with_votes

if TYPE_CHECKING:  # it loads torch
    from lipforge.model.audio.language import LanguageIdentifier

_CLIPS = 32
"""Clips of one task."""
_WRITE_EVERY_S = 60.0


@dataclass(frozen=True)
class WhisperFile:
    """A checkpoint that is known to open."""

    name: str
    """As `language_source` holds it: whisper:tiny."""
    sha256: str
    content: np.ndarray
    """uint8: processes on one machine share an array, but would each copy bytes."""
    num_gpus: float = 0
    """That a worker reserves for it; 0: it runs on the CPU."""

    def opened(self, device: str = "cpu") -> "LanguageIdentifier":
        """The model, opened once per process."""
        from lipforge.model.audio.language import LanguageIdentifier

        name = self.name.removeprefix("whisper:")
        if (self.sha256, device) not in _opened:
            _opened[self.sha256, device] = LanguageIdentifier(self.content.tobytes(), name, device)
        return _opened[self.sha256, device]

    def device(self) -> str:
        """cpu or cuda, of a worker: Ray shows it its own GPUs only."""
        import torch

        return "cuda" if self.num_gpus and torch.cuda.is_available() else "cpu"


_opened: dict[tuple[str, str], "LanguageIdentifier"] = {}


def open_whisper(whisper: str, num_gpus: float = 0) -> WhisperFile:
    """whisper: `tiny`, `base`, `small`, or the path of a checkpoint. Raises ModelFileError, which says what to do."""
    from lipforge.model.audio.language import read_whisper_file

    name, content = read_whisper_file(whisper)
    sha256 = hashlib.sha256(content).hexdigest()
    file = WhisperFile(f"whisper:{name}", sha256, np.frombuffer(content, dtype=np.uint8), num_gpus)
    file.opened()
    return file


@dataclass(frozen=True)
class Listen:
    """Clips of one segment that have yet to vote."""

    segment: int
    clips: Sequence[tuple[str, Place | None]]
    """Keys, and where each sample lies; None: it was pruned."""


def identify(
    store: Store,
    segments: Sequence[int],
    whisper: WhisperFile,
    run_map: Mapper,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> set[str]:
    """Let every clip of these sealed segments that has no vote of this checkpoint vote. Safe to stop and to repeat.

    progress: called with (clips done, clips to do). Returns the devices that computed. Raises DatasetError for a clip
    that cannot be read.
    """
    ledger, facts = Segments(store), FactFiles(store)
    tasks: list[Listen] = []
    for segment in segments:
        sealed = ledger.sealed(segment)
        if sealed is not None:
            places = sample_places(sealed.rows, facts.of(segment, sealed.rows))
            keys = [key for keys in voters(sealed.rows).values() for key in keys]
            voted = _voted(facts.votes.read(segment), whisper)
            todo = [(key, places.get(key)) for key in keys if key not in voted]
            tasks += [Listen(segment, todo[first : first + _CLIPS]) for first in range(0, len(todo), _CLIPS)]
    return listen(store, tasks, whisper, run_map, progress)


def identify_first(
    store: Store,
    tasks: Sequence[SealTask],
    whisper: WhisperFile,
    run_map: Mapper,
    progress: Callable[[int, int], None],
) -> list[SealTask]:
    """Segments that are about to be sealed, with the language of each content that has no label."""
    files = SegmentFiles(store, "languages")
    todo, rows = [], {}
    for task in tasks:
        table, places = rows_in_parts(store, task)
        rows[task.segment] = table
        voted = _voted(files.read(task.segment), whisper)
        keys = [key for keys in voters(table).values() for key in keys if key not in voted]
        clips = [(key, places.get(key)) for key in keys]
        todo += [Listen(task.segment, clips[first : first + _CLIPS]) for first in range(0, len(clips), _CLIPS)]
    listen(store, todo, whisper, run_map, progress)
    files = SegmentFiles(store, "languages")
    spoken = {task.segment: spoken_by_content(rows[task.segment], files.read(task.segment)) for task in tasks}
    return [
        replace(task, contents=[replace(done, spoken=spoken[task.segment].get(done.index)) for done in task.contents])
        for task in tasks
    ]


def listen(
    store: Store,
    tasks: Sequence[Listen],
    whisper: WhisperFile,
    run_map: Mapper,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> set[str]:
    """Let these clips vote, and record it at least every minute. progress: called with (clips done, clips to do).

    Returns the devices that computed.
    """
    files = SegmentFiles(store, "languages")
    waiting: defaultdict[int, dict[str, Vote]] = defaultdict(dict)
    devices = set()

    def write() -> None:
        for segment, votes in waiting.items():
            files.write(segment, with_votes(files.read(segment), votes, whisper.name, whisper.sha256))
        waiting.clear()

    done, total, since_s = 0, sum(len(task.clips) for task in tasks), time.monotonic()
    progress(0, total)
    for segment, votes, device in run_map(_Listener(store, whisper), list(tasks)):
        waiting[segment] |= votes
        devices.add(device)
        done += len(votes)
        progress(done, total)
        if time.monotonic() - since_s > _WRITE_EVERY_S:
            write()
            since_s = time.monotonic()
    write()
    return devices


def _voted(votes: pa.Table | None, whisper: WhisperFile) -> set[str]:
    if votes is None:
        return set()
    return {row["key"] for row in votes.to_pylist() if row["sha256"] == whisper.sha256}


class _Listener:
    """Takes the votes of clips, in any process."""

    def __init__(self, store: Store, whisper: WhisperFile) -> None:
        self.store = store
        self.whisper = whisper

    def __call__(self, task: Listen) -> tuple[int, dict[str, Vote], str]:
        device = self.whisper.device()
        return task.segment, {key: self._vote(key, place, device) for key, place in task.clips}, device

    def _vote(self, key: str, place: Place | None, device: str) -> Vote:
        """None for a clip whose media was pruned."""
        if place is None:
            return None
        language, probability = self.whisper.opened(device).identify(clip_sound(self.store, key, place))
        return language, round(probability, 4)  # more digits may differ between machines
