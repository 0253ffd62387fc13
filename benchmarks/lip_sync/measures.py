"""Windows of tracks, their scores with their own and with other sound, and what follows from them with error bars."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from benchmarks.lip_sync.clips import Track
from lipforge.model.clock import SYNC_MARGIN_FRAMES
from lipforge.model.sync.builtin import LipSyncScorer
from lipforge.model.sync.score import SyncScore

SHIFTS = range(-10, 11)
"""Planted, in frames: positive = the sound is made later."""


class Judge:
    """The scorer and its default threshold."""

    def __init__(self, model: LipSyncScorer, min_confidence: float) -> None:
        self.model = model
        self.min_confidence = min_confidence

    def see(self, window: "Window") -> np.ndarray:
        return self.model.embed_lips(window.points, window.mouths)

    def hear(self, audio: np.ndarray) -> np.ndarray:
        return self.model.embed_audio(audio)

    def match(self, seen: np.ndarray, heard: np.ndarray) -> SyncScore:
        return self.model.match(seen, heard)

    def score(self, track: Track, first_frame: int = 0, num_frames: int | None = None) -> SyncScore:
        """A track, or a part of it, with its own sound."""
        window = Window(track, first_frame, track.num_frames if num_frames is None else num_frames)
        return self.match(self.see(window), self.hear(window.audio()))


@dataclass(frozen=True, eq=False)
class Window:
    """A part of a track."""

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
    """First frames of windows that overlap by half or a little more, from the first frame to the last."""
    free = num_frames - length
    if free < 0:
        return []
    return [round(start) for start in np.linspace(0, free, 1 + int(np.ceil(free / (length / 2))))]


def windows(tracks: Sequence[Track], length: int) -> list[Window]:
    return [Window(track, start, length) for track in tracks for start in window_starts(track.num_frames, length)]


@dataclass(frozen=True)
class Pairs:
    """Pictures of some windows with the sound of others."""

    picture: np.ndarray
    """int [P]: window."""
    sound: np.ndarray
    """int [P]: window."""
    confidence: np.ndarray
    """float [P]."""


@dataclass(frozen=True)
class Scores:
    """All that was measured at one length."""

    length: int
    """Frames."""
    speakers: list[str]
    """Of each window."""
    own: np.ndarray
    """float [W]: confidence with its own sound."""
    errors: np.ndarray
    """int [W, len(SHIFTS)]: offset found minus offset that was there, with a shift planted; OUT where there is no reference."""
    other: Pairs
    """Sound of other people."""
    same: Pairs
    """Sound of the same person at another time."""

    OUT = 99

    @cached_property
    def people(self) -> list[str]:
        return sorted(set(self.speakers))

    @cached_property
    def person(self) -> np.ndarray:
        """int [W]: index into people."""
        return np.array([self.people.index(speaker) for speaker in self.speakers])


def measure(judge: Judge, parts: Sequence[Window]) -> Scores:
    """Each window with planted shifts of its own sound, and with the sound of all others.

    The same person's other time begins so late that no tried shift reaches the window's own sound.
    """
    seen = [judge.see(part) for part in parts]
    heard = [judge.hear(part.audio()) for part in parts]
    own = [judge.match(picture, sound).confidence for picture, sound in zip(seen, heard, strict=True)]
    errors = np.full((len(parts), len(SHIFTS)), Scores.OUT)
    for index, part in enumerate(parts):
        if part.track.reference is not None:
            for column, late in enumerate(SHIFTS):
                found = judge.match(seen[index], judge.hear(part.audio(late))).offset_frames
                errors[index, column] = found - (part.track.reference - late)
    other, same = [], []
    for i, part in enumerate(parts):
        for j, source in enumerate(parts):
            if part.track.speaker != source.track.speaker:
                other.append((i, j, judge.match(seen[i], heard[j]).confidence))
            elif part.track is source.track and abs(part.start - source.start) >= part.num_frames + SYNC_MARGIN_FRAMES:
                same.append((i, j, judge.match(seen[i], heard[j]).confidence))
    speakers = [part.track.speaker for part in parts]
    return Scores(parts[0].num_frames, speakers, np.array(own), errors, _pairs(other), _pairs(same))


def _pairs(found: list[tuple[int, int, float]]) -> Pairs:
    table = np.array(found, float).reshape(-1, 3)
    return Pairs(table[:, 0].astype(int), table[:, 1].astype(int), table[:, 2])


# --- numbers, each as a function of how much a person counts -----------------------------------------------------------------

Statistic = Callable[[Scores, np.ndarray], float]
"""Of scores and of each window's weight, float [W]; NaN where nothing is left to count."""


def share(hits: np.ndarray, counts: np.ndarray) -> float:
    """Weighted share of hits."""
    total = float(counts.sum())
    return float((hits * counts).sum()) / total if total > 0 else float("nan")


def within(frames: int) -> Statistic:
    """Share of planted shifts that were found within so many frames."""

    def statistic(scores: Scores, counts: np.ndarray) -> float:
        known = (scores.errors != Scores.OUT).all(axis=1)
        return share((np.abs(scores.errors[known]) <= frames).mean(axis=1), counts[known])

    return statistic


def pair_counts(pairs: Pairs, counts: np.ndarray) -> np.ndarray:
    return counts[pairs.picture] * counts[pairs.sound]


def auc(same_person: bool = False) -> Statistic:
    """Probability that a window's own sound reads higher than a mismatch (ties count half)."""

    def statistic(scores: Scores, counts: np.ndarray) -> float:
        pairs = scores.same if same_person else scores.other
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


def refused_where_kept(kept: float, same_person: bool = False) -> Statistic:
    """Share of mismatches below the threshold that keeps this share of own sound."""

    def statistic(scores: Scores, counts: np.ndarray) -> float:
        threshold = weighted_quantile(scores.own, counts, 1 - kept)
        return refused_at(threshold, same_person)(scores, counts)

    return statistic


def kept_at(threshold: float) -> Statistic:
    return lambda scores, counts: share(scores.own >= threshold, counts)


def refused_at(threshold: float, same_person: bool = False) -> Statistic:
    def statistic(scores: Scores, counts: np.ndarray) -> float:
        pairs = scores.same if same_person else scores.other
        return share(pairs.confidence < threshold, pair_counts(pairs, counts))

    return statistic


@dataclass(frozen=True)
class Estimate:
    value: float
    """All windows count the same."""
    low: float
    high: float
    """95 % interval over people."""
    per_person: float
    """All people count the same."""


def estimate(statistic: Statistic, scores: Scores, rounds: int = 400, seed: int = 0) -> Estimate:
    """With the percentile bootstrap over people: which people happen to be in the test matters most.

    A person drawn twice counts twice. Draws in which nothing can be counted are left out.
    """
    rng = np.random.default_rng(seed)
    num_people = len(scores.people)
    values = []
    for _ in range(rounds):
        drawn = np.bincount(rng.integers(num_people, size=num_people), minlength=num_people)
        values.append(statistic(scores, drawn[scores.person].astype(float)))
    low, high = np.nanquantile(values, [0.025, 0.975]) if not np.isnan(values).all() else (np.nan, np.nan)
    num_windows = np.bincount(scores.person, minlength=num_people)
    everyone = np.ones(len(scores.person))
    return Estimate(
        statistic(scores, everyone), float(low), float(high), statistic(scores, 1 / num_windows[scores.person])
    )
