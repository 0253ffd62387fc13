"""Identify the language of each source: Whisper gives each of its clips a vote, and most votes win.

The votes of a unit's clips are one record in ledger/languages/. Every rewrite of the manifest takes a source's language
from there; samples and shards never change. Sources with a label from the user are skipped.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lipforge.datasets_manifest.language_tags import stored_language
from lipforge.datasets_manifest.sample import read_clip
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.clip import Video
from lipforge.pipeline.ledger.records import DatasetError, Ledger, Record
from lipforge.pipeline.media.clips import decode_flac
from lipforge.pipeline.media.container import MediaError
from lipforge.pipeline.publish.accounts import Spoken
from lipforge.pipeline.publish.decide import is_measured
from lipforge.pipeline.publish.pack import Mapper, read_part
from lipforge.pipeline.publish.shards import ShardPlace, sample_places
from lipforge.pipeline.stages.commit import part_name

if TYPE_CHECKING:  # it loads torch
    from lipforge.model.audio.language import LanguageIdentifier

MIN_SPEECH_RATIO = 0.2
"""Share of speech that a clip needs to vote. Not the dataset's threshold, because that may change."""


@dataclass(frozen=True)
class WhisperFile:
    """A checkpoint that is known to open."""

    name: str
    """As `language_source` holds it: whisper:tiny."""
    sha256: str
    content: np.ndarray
    """uint8: processes on one machine share an array, but would each copy bytes."""

    def opened(self) -> "LanguageIdentifier":
        """The model, opened once per process."""
        from lipforge.model.audio.language import LanguageIdentifier

        if self.sha256 not in _opened:
            _opened[self.sha256] = LanguageIdentifier(self.content.tobytes(), self.name.removeprefix("whisper:"))
        return _opened[self.sha256]


_opened: dict[str, "LanguageIdentifier"] = {}


def open_whisper(whisper: str) -> WhisperFile:
    """whisper: `tiny`, `base`, `small`, or the path of a checkpoint. Raises ModelFileError, which says what to do."""
    from lipforge.model.audio.language import read_whisper_file

    name, content = read_whisper_file(whisper)
    file = WhisperFile(f"whisper:{name}", hashlib.sha256(content).hexdigest(), np.frombuffer(content, dtype=np.uint8))
    file.opened()
    return file


class Votes:
    """Votes from the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._known = ledger.units_with_votes()

    def of_units(self, unit_ids: Iterable[str]) -> dict[str, Record]:
        found = self._ledger.read_votes([unit_id for unit_id in unit_ids if unit_id in self._known])
        return {record["unit_id"]: record for record in found}

    def spoken(self, video: Video, units: list[Record]) -> Spoken | None:
        """The language of a video; None when it has a label or no speech, or when not every clip has voted yet."""
        if is_labelled(video) or not self._known:
            return None
        voters = {unit["unit_id"]: keys for unit in units if (keys := voting_keys(unit))}
        records = self.of_units(voters)
        if any(not set(keys) <= set(records.get(unit_id, {"clips": {}})["clips"]) for unit_id, keys in voters.items()):
            return None
        if len({record["sha256"] for record in records.values()}) != 1:
            return None  # another checkpoint is half done: its votes and the old ones do not mix
        votes = [records[unit_id]["clips"][key] for unit_id, keys in voters.items() for key in keys]
        return majority([vote for vote in votes if vote is not None], next(iter(records.values()))["whisper"])


def is_labelled(video: Video) -> bool:
    return video.source.language_source != "none"


def voting_keys(unit: Record) -> list[str]:
    """Measured clips, kept or not, with speech."""
    return [row["key"] for row in unit["rows"] if is_measured(row) and row["speech_ratio"] >= MIN_SPEECH_RATIO]


def majority(votes: list[tuple[str, float]], whisper: str) -> Spoken | None:
    """Each clip votes for its most likely language, with that language's probability.

    The winner's probability is the sum of its votes over the number of clips: 1 only if every clip was certain.
    None without votes.
    """
    sums: defaultdict[str, float] = defaultdict(float)
    for language, probability in votes:
        sums[stored_language(language)] += probability  # not all of Whisper's codes are BCP 47: jw, Javanese
    if not sums:
        return None
    winner = min(sums, key=lambda language: (-sums[language], language))
    return Spoken(winner, sums[winner] / len(votes), whisper)


@dataclass(frozen=True)
class _Task:
    """One unit whose clips have yet to vote."""

    unit_id: str
    clips: list[tuple[str, ShardPlace | None]]
    """Keys, and the place of each in a shard; None: in parts/, or pruned."""
    votes: dict[str, Any]
    """Votes from an earlier run with the same checkpoint."""


def identify(
    store: Store,
    videos: Iterable[tuple[Video, list[Record]]],
    whisper: WhisperFile,
    run_map: Mapper,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Let every clip without a vote of this checkpoint vote, and record the votes by unit. Safe to stop and to repeat.

    videos: finished ones, with the records of their units. progress: called with (units done, units to do).
    Packing must not be running or interrupted. Raises DatasetError for a clip that cannot be read.
    """
    tasks = list(_tasks(Ledger(store), videos, whisper))
    progress(0, len(tasks))
    for done, _ in enumerate(run_map(_Listener(store, whisper), tasks), start=1):
        progress(done, len(tasks))


def _tasks(ledger: Ledger, videos: Iterable[tuple[Video, list[Record]]], whisper: WhisperFile) -> Iterator[_Task]:
    places = sample_places(ledger)
    votes = Votes(ledger)
    for video, units in videos:
        if is_labelled(video):
            continue
        voters = {unit["unit_id"]: keys for unit in units if (keys := voting_keys(unit))}
        records = votes.of_units(voters)
        for unit_id, keys in voters.items():
            record = records.get(unit_id)
            votes_before = dict(record["clips"]) if record is not None and record["sha256"] == whisper.sha256 else {}
            todo = [(key, places.get(key)) for key in keys if key not in votes_before]
            if todo:
                yield _Task(unit_id, todo, votes_before)


class _Listener:
    """Takes and records the votes of one unit's clips, in any process."""

    def __init__(self, store: Store, whisper: WhisperFile) -> None:
        self.store = store
        self.whisper = whisper

    def __call__(self, task: _Task) -> str:
        clips = {**task.votes, **{key: self._vote(task.unit_id, key, place) for key, place in task.clips}}
        record = {"unit_id": task.unit_id, "whisper": self.whisper.name, "sha256": self.whisper.sha256, "clips": clips}
        Ledger(self.store).write_votes(task.unit_id, record)
        return task.unit_id

    def _vote(self, unit_id: str, key: str, place: ShardPlace | None) -> tuple[str, float] | None:
        """None for a clip whose media was pruned."""
        name = part_name(unit_id, key) if place is None else place.shard
        if place is None and not self.store.exists(name):
            return None
        try:
            data = read_part(self.store, unit_id, key) if place is None else self.store.read(*place)
            size = len(data) if place is None else place.size
            audio = decode_flac(read_clip(data, size, key)["flac"])
        except FileNotFoundError as error:
            raise DatasetError(f"{self.store.path(name)} is missing: restore it from a copy") from error
        except (ValueError, MediaError) as error:
            raise DatasetError(
                f"{self.store.path(name)} is damaged: the audio of clip {key} cannot be read ({error}). "
                "Restore it from a copy."
            ) from error
        language, probability = self.whisper.opened().identify(audio)
        return language, round(probability, 4)  # more digits may differ between machines
