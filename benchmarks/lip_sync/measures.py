"""Scores of windows with their own and with other audio, and statistics over them with error bars."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from benchmarks.lip_sync.clips import Track
from lipforge.model.clock import SYNC_MARGIN_FRAMES
from lipforge.model.sync.builtin import LipSyncScorer
from lipforge.model.sync.score import SyncScore

SHIFTS = range(-10, 11)
"""Planted shifts in frames; positive: the audio is delayed."""


class Scorer:
    """The scorer and its default threshold."""

    def __init__(self, model: LipSyncScorer, min_confidence: float) -> None:
        self.model = model
        self.min_confidence = min_confidence

    def embed_lips(self, window: "Window") -> np.ndarray:
        return self.model.embed_lips(window.points, window.mouths)

    def embed_audio(self, audio: np.ndarray) -> np.ndarray:
        return self.model.embed_audio(audio)

    def match(self, lips: np.ndarray, audio: np.ndarray) -> SyncScore:
        return self.model.match(lips, audio)

    def score(self, track: Track, first_frame: int = 0, num_frames: int | None = None) -> SyncScore:
        """Score a track, or a part of it, with its own audio."""
        window = Window(track, first_frame, track.num_frames if num_frames is None else num_frames)
        return self.match(self.embed_lips(window), self.embed_audio(window.audio()))


@dataclass(frozen=True, eq=False)
class Window:
    """A span of a track."""

    track: Track
    start: int
    num_frames: int

    @property
    def points(self) -> np.ndarray:
        return self.track.points[self.start : self.start + self.num_frames]

    @property
    def mouths(self) -> np.ndarray:
        return self.track.mouths[self.start : self.start + self.num_frames]

    def audio(self, late_by: int = 0) -> np.ndarray:
        return self.track.audio(self.start, self.num_frames, late_by)


def window_starts(num_frames: int, length: int) -> list[int]:
    """First frames of windows that overlap by at least half and reach both ends."""
    free = num_frames - length
    if free < 0:
        return []
    return [round(start) for start in np.linspace(0, free, 1 + int(np.ceil(free / (length / 2))))]


def windows(tracks: Sequence[Track], length: int) -> list[Window]:
    return [Window(track, start, length) for track in tracks for start in window_starts(track.num_frames, length)]


@dataclass(frozen=True)
class Pairs:
    """Lips of windows paired with the audio of other windows."""

    lips: np.ndarray
    """int [P]: window."""
    audio: np.ndarray
    """int [P]: window."""
    confidence: np.ndarray
    """float [P]."""


@dataclass(frozen=True)
class Scores:
    """All measurements at one window length."""

    length: int
    """Frames."""
    speakers: list[str]
    """Of each window."""
    own: np.ndarray
    """float [W]: confidence with its own audio."""
    errors: np.ndarray
    """int [W, len(SHIFTS)]: found minus true offset for each planted shift; OUT without a reference."""
    other: Pairs
    """Audio of other speakers."""
    same: Pairs
    """Audio of the same speaker at another time."""

    OUT = 99

    @cached_property
    def unique_speakers(self) -> list[str]:
        return sorted(set(self.speakers))

    @cached_property
    def speaker_index(self) -> np.ndarray:
        """int [W]: index into unique_speakers."""
        return np.array([self.unique_speakers.index(speaker) for speaker in self.speakers])


def measure(scorer: Scorer, parts: Sequence[Window]) -> Scores:
    """Score each window with shifts of its own audio, and with the audio of all others.

    Audio of the same speaker is taken from beyond the reach of any shift.
    """
    lips = [scorer.embed_lips(part) for part in parts]
    audio = [scorer.embed_audio(part.audio()) for part in parts]
    own = [scorer.match(*pair).confidence for pair in zip(lips, audio, strict=True)]
    errors = np.full((len(parts), len(SHIFTS)), Scores.OUT)
    for index, part in enumerate(parts):
        if part.track.reference is not None:
            for column, late in enumerate(SHIFTS):
                found = scorer.match(lips[index], scorer.embed_audio(part.audio(late))).offset_frames
                errors[index, column] = found - (part.track.reference - late)
    other, same = [], []
    for i, part in enumerate(parts):
        for j, source in enumerate(parts):
            if part.track.speaker != source.track.speaker:
                other.append((i, j, scorer.match(lips[i], audio[j]).confidence))
            elif part.track is source.track and abs(part.start - source.start) >= part.num_frames + SYNC_MARGIN_FRAMES:
                same.append((i, j, scorer.match(lips[i], audio[j]).confidence))
    speakers = [part.track.speaker for part in parts]
    return Scores(parts[0].num_frames, speakers, np.array(own), errors, _pairs(other), _pairs(same))


def _pairs(found: list[tuple[int, int, float]]) -> Pairs:
    table = np.array(found, float).reshape(-1, 3)
    return Pairs(table[:, 0].astype(int), table[:, 1].astype(int), table[:, 2])


# --- statistics, as functions of the weight of each window --------------------------------------------------------

Statistic = Callable[[Scores, np.ndarray], float]
"""Takes scores and window weights, float [W]; NaN if nothing has weight."""


def share(hits: np.ndarray, counts: np.ndarray) -> float:
    """Weighted share of hits."""
    total = float(counts.sum())
    return float((hits * counts).sum()) / total if total > 0 else float("nan")


def within(frames: int) -> Statistic:
    """Share of planted shifts found within this many frames."""

    def statistic(scores: Scores, counts: np.ndarray) -> float:
        known = (scores.errors != Scores.OUT).all(axis=1)
        return share((np.abs(scores.errors[known]) <= frames).mean(axis=1), counts[known])

    return statistic


def pair_counts(pairs: Pairs, counts: np.ndarray) -> np.ndarray:
    return counts[pairs.lips] * counts[pairs.audio]


def auc(same_speaker: bool = False) -> Statistic:
    """Probability that own audio reads higher than a mismatch (ties count half)."""

    def statistic(scores: Scores, counts: np.ndarray) -> float:
        pairs = scores.same if same_speaker else scores.other
        return weighted_auc(scores.own, counts, pairs.confidence, pair_counts(pairs, counts))

    return statistic


def weighted_auc(higher: np.ndarray, higher_counts: np.ndarray, lower: np.ndarray, lower_counts: np.ndarray) -> float:
    if higher_counts.sum() <= 0 or lower_counts.sum() <= 0:
        return float("nan")
    order = np.argsort(lower)
    below = np.concatenate([[0.0], np.cumsum(lower_counts[order])]) / lower_counts.sum()
    less = below[np.searchsorted(lower[order], higher, side="left")]
    not_more = below[np.searchsorted(lower[order], higher, side="right")]
    return share((less + not_more) / 2, higher_counts)


def weighted_quantile(values: np.ndarray, counts: np.ndarray, q: float) -> float:
    """The smallest value with at least the share q of the weight at or below it."""
    order = np.argsort(values)
    weight = np.cumsum(counts[order])
    return float(values[order][min(int(np.searchsorted(weight, q * weight[-1])), len(values) - 1)])


def rejected_where_kept(kept: float, same_speaker: bool = False) -> Statistic:
    """Share of mismatches below the threshold that keeps this share of own audio."""

    def statistic(scores: Scores, counts: np.ndarray) -> float:
        threshold = weighted_quantile(scores.own, counts, 1 - kept)
        return rejected_at(threshold, same_speaker)(scores, counts)

    return statistic


def kept_at(threshold: float) -> Statistic:
    return lambda scores, counts: share(scores.own >= threshold, counts)


def rejected_at(threshold: float, same_speaker: bool = False) -> Statistic:
    def statistic(scores: Scores, counts: np.ndarray) -> float:
        pairs = scores.same if same_speaker else scores.other
        return share(pairs.confidence < threshold, pair_counts(pairs, counts))

    return statistic


@dataclass(frozen=True)
class Estimate:
    value: float
    """Every window has the same weight."""
    low: float
    high: float
    """95 % interval over speakers."""
    per_speaker: float
    """Every speaker has the same weight."""


def estimate(statistic: Statistic, scores: Scores, rounds: int = 400, seed: int = 0) -> Estimate:
    """A statistic with its percentile bootstrap over speakers, who are the largest source of chance.

    A speaker drawn twice counts twice. Draws where the statistic is NaN are skipped.
    """
    rng = np.random.default_rng(seed)
    num_speakers = len(scores.unique_speakers)
    values = []
    for _ in range(rounds):
        drawn = np.bincount(rng.integers(num_speakers, size=num_speakers), minlength=num_speakers)
        values.append(statistic(scores, drawn[scores.speaker_index].astype(float)))
    low, high = np.nanquantile(values, [0.025, 0.975]) if not np.isnan(values).all() else (np.nan, np.nan)
    num_windows = np.bincount(scores.speaker_index, minlength=num_speakers)
    equal = np.ones(len(scores.speaker_index))
    return Estimate(
        statistic(scores, equal), float(low), float(high), statistic(scores, 1 / num_windows[scores.speaker_index])
    )
