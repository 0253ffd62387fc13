"""Who speaks, without labels: clips whose voices sound alike get one name, and keep it when sources are added.

Pure functions on arrays. In come embeddings of model/audio/voice.py, one source at a time, so that memory never holds
more clips than one source has. Out come a name per clip, and a small table of voices: the `known` of the next run.

1. Tracks. The clips of one face track are one person: lip-sync said so. Their mean counts, weighted by seconds.
2. Sources. Within a source, tracks that sound alike become one voice.
3. Dataset. Voices of all sources and the known ones are joined by average linkage: the two that are most alike first,
   until no two are alike enough. Known voices take in new ones, but never join each other, so no name disappears.

A label of the user is a known voice, with the label as its name. Clips without a label that sound like it take its
name, too: otherwise one person had two names, one of them perhaps in training and the other in validation.
docs/models/voices.md says how often all that is right.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lipforge.pipeline.publish.linkage import average_linkage

SAME_VOICE = 0.62
"""Least average likeness of one speaker's voices; docs/models/voices.md has the errors on either side."""
_WIDTH = 256
_STEADY = 0.75
_FIRST_S, _NEXT_S = 1.6, 0.77


@dataclass(frozen=True)
class SourceClips:
    """Clips of one source that have no name yet. All sequences have one entry per clip."""

    clip_ids: Sequence[str]
    embeddings: np.ndarray
    """float16 or float32 [N, 256], as `VoiceEncoder` gives them. All zeros: no voice was heard."""
    tracks: Sequence[int]
    """Equal for clips that show the same face track of the same shot."""
    seconds: Sequence[float]
    """Of speech: how much the embedding counts; 0 counts like silence."""
    labels: Sequence[str | None]
    """The user's names of the speakers, where there are any."""


@dataclass(frozen=True)
class Voices:
    """Named voices, sorted by name: what a run hands to the next one."""

    names: tuple[str, ...]
    vectors: np.ndarray
    """float32 [V, 256], shorter than 1. The product of two is their likeness."""
    seconds: np.ndarray
    """float64 [V]: of speech that the vector stands for."""


NO_VOICES = Voices((), np.empty((0, _WIDTH), np.float32), np.empty(0))


class Assigned(NamedTuple):
    """What `assign` found."""

    of_clips: list[np.ndarray]
    """For each source, in the order given: int32 [its clips], the row of `voices` that names the speaker; -1 where no
    voice was heard, neither in this clip nor in another of its track."""
    voices: Voices
    """The known voices with what they gained, and the new ones."""


def assign(sources: Iterable[SourceClips], known: Voices = NO_VOICES, same_voice: float = SAME_VOICE) -> Assigned:
    """Names the speaker of every clip: a label of the user, a known name, or `voice-` and 16 hex digits.

    sources: each with all its clips that have no name yet. The order of sources and of clips changes no name.
    known: `voices` of the run before, which stand for the clips that were named then. These names all stay.
    same_voice: least average likeness of one speaker's voices, in -1..1; the default was measured.
    The user's label of a clip is always its name, and two labels are never one speaker.
    A new name is made of the smallest clip_id that has it. Time grows with the square of the number of voices.
    Raises ValueError for sequences of unequal length, negative seconds, or embeddings that are not finite.
    """
    sizes: list[int] = []
    heard: list[_Heard] = []
    for place, clips in enumerate(sources):
        sizes.append(len(clips.clip_ids))
        heard += _in_source(place, clips, same_voice)
    heard.sort(key=lambda voice: voice.first_clip)
    labelled = [voice for voice in heard if voice.label is not None]
    unlabelled = [voice for voice in heard if voice.label is None]

    fixed = _joined(known, [(voice.label or "", voice) for voice in labelled])
    vectors = np.concatenate([fixed.vectors, _vectors(unlabelled)])
    seconds = np.concatenate([fixed.seconds, [voice.seconds for voice in unlabelled]])
    clusters = average_linkage(vectors, seconds, len(fixed.names), same_voice)[len(fixed.names) :].tolist()
    names = dict(enumerate(fixed.names))
    named = [
        (names.setdefault(cluster, _new_name(voice.first_clip)), voice)
        for cluster, voice in zip(clusters, unlabelled, strict=True)
    ]
    voices = _joined(fixed, named)

    rows = {name: row for row, name in enumerate(voices.names)}
    of_clips = [np.full(size, -1, np.int32) for size in sizes]
    for name, voice in [*((voice.label or "", voice) for voice in labelled), *named]:
        of_clips[voice.source][voice.clips] = rows[name]
    return Assigned(of_clips, voices)


@dataclass(frozen=True)
class _Heard:
    """One voice in one source."""

    source: int
    clips: list[int]
    """Rows of the source's clips, by clip_id."""
    first_clip: str
    label: str | None
    vector: np.ndarray
    seconds: float


def _in_source(source: int, clips: SourceClips, same_voice: float) -> Iterator[_Heard]:
    """One voice for each label, and one for tracks without a label that sound alike."""
    embeddings, seconds = np.asarray(clips.embeddings, np.float32), np.asarray(clips.seconds, np.float64)
    _check(clips, embeddings, seconds)
    lengths = np.linalg.norm(embeddings, axis=1)
    units = embeddings / np.where(lengths > 0, lengths, 1)[:, None]
    by_label: defaultdict[str, list[int]] = defaultdict(list)
    by_track: defaultdict[int, list[int]] = defaultdict(list)
    for row in sorted(range(len(lengths)), key=clips.clip_ids.__getitem__):
        label = clips.labels[row]
        (by_track[clips.tracks[row]] if label is None else by_label[label]).append(row)

    def heard(rows: list[int], label: str | None) -> _Heard:
        voiced = [row for row in rows if lengths[row] > 0 and seconds[row] > 0]
        total_s = float(seconds[voiced].sum())
        vector = _scaled(seconds[voiced] @ units[voiced], total_s)
        return _Heard(source, rows, clips.clip_ids[rows[0]], label, vector, total_s)

    yield from (heard(rows, label) for label, rows in by_label.items())
    tracks = [voice for rows in by_track.values() if (voice := heard(rows, None)).seconds > 0]
    joined: defaultdict[int, list[int]] = defaultdict(list)
    found = average_linkage(_vectors(tracks), np.array([track.seconds for track in tracks]), 0, same_voice)
    for cluster, track in zip(found.tolist(), tracks, strict=True):
        joined[cluster] += track.clips
    yield from (heard(sorted(rows, key=clips.clip_ids.__getitem__), None) for rows in joined.values())


def _check(clips: SourceClips, embeddings: np.ndarray, seconds: np.ndarray) -> None:
    num_clips = len(clips.clip_ids)
    if embeddings.shape != (num_clips, _WIDTH) or not np.isfinite(embeddings).all():
        raise ValueError(f"expected finite embeddings [{num_clips}, {_WIDTH}], got shape {embeddings.shape}")
    if {len(clips.tracks), len(clips.labels), *seconds.shape} != {num_clips}:
        raise ValueError(f"expected tracks, labels and seconds of {num_clips} clips")
    if not (np.isfinite(seconds) & (seconds >= 0)).all():
        raise ValueError("expected seconds of 0 or more")


def likenesses(embeddings: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """How alike clips sound, two by two: float32 [N, N] in 0..1, as `assign` compares the voices of its sources.

    embeddings: float16 or float32 [N, 256]; seconds: [N] of speech.
    """
    vectors = [_scaled(some, length_s) for some, length_s in zip(embeddings.astype(np.float32), seconds, strict=True)]
    return np.array(vectors) @ np.array(vectors).T


def _scaled(total: np.ndarray, seconds: float) -> np.ndarray:
    """The direction of a sum of voices, as long as the mean of that much sound is on average: float32 [256].

    A mean of few partial utterances keeps their chance, and is longer than one of many: its square is 0.75 of what is
    steady, and the rest over their number. So the likeness of one speaker's voices does not grow with the length of the
    sound, and one threshold does for all.
    """
    length = float(np.linalg.norm(total))
    num_partials = max(1.0, 1 + (seconds - _FIRST_S) / _NEXT_S)
    scale = np.sqrt(_STEADY + (1 - _STEADY) / num_partials) / length if length else 0.0
    return (total * scale).astype(np.float32)


def _vectors(voices: Sequence[_Heard]) -> np.ndarray:
    return np.array([voice.vector for voice in voices], np.float32).reshape(-1, _WIDTH)


def _joined(voices: Voices, more: Iterable[tuple[str, _Heard]]) -> Voices:
    """The voices with more sound for some names, and new names."""
    vectors = {name: vector.astype(np.float64) for name, vector in zip(voices.names, voices.vectors, strict=True)}
    seconds = dict(zip(voices.names, voices.seconds.tolist(), strict=True))
    for name, voice in more:
        before_s = seconds.get(name, 0.0)
        seconds[name] = before_s + voice.seconds
        share = voice.seconds / seconds[name] if voice.seconds else 0.0
        before = vectors.get(name, np.zeros(_WIDTH))
        vectors[name] = before + share * (voice.vector - before)
    names = sorted(seconds)
    rows = np.array([vectors[name] for name in names], np.float32).reshape(-1, _WIDTH)
    return Voices(tuple(names), rows, np.array([seconds[name] for name in names], np.float64))


def _new_name(first_clip: str) -> str:
    return f"voice-{hashlib.sha256(first_clip.encode()).hexdigest()[:16]}"
