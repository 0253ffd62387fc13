"""How often a SyncNet is right on people it never saw, by language; and whether its training is stuck, in words.

Pure functions. A pair is frames and sound; its cosine lies in 0..1; its label says whether they belong together.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lipforge.datasets_manifest.display import counted
from lipforge.pipeline.evaluate.numbers import interval

UNKNOWN = "und"
"""Language or speaker of clips without a label."""
CHANCE = math.log(2)
"""Cross-entropy of a network that always says 0.5: 0.693."""
PLATEAU_BAND = 0.01
"""Untrained networks stay this close to chance, after their first steps; one that learns leaves it for good."""
PLATEAU_SAMPLES = 2_000
"""The small network for a CPU leaves the plateau after about so many; published ones need many more."""
HELP = (
    "take clips that `lipforge prepare` found in sync, after its crop, and measure av_offset_frames again on some of "
    "them; a lower learning rate (optimizer.learning_rate=1e-5); a larger batch (gradient_accumulation_steps); more "
    "hours, of more speakers; 16 frames rather than 5; then patience"
)
"""Offset after the crop, batch and frames: what LatentSync's paper says its SyncNet needs to converge. The rate was
measured on made speakers, where tiny_16_pixel with batches of 8 leaves the plateau after 150 to 300 steps at 1e-4, and
is still on it after 600 at 1e-3."""


@dataclass(frozen=True)
class Accuracy:
    """Of some pairs, as many right ones as wrong ones for the numbers to mean what they seem to."""

    at_half: float
    """Share of pairs that a threshold of 0.5 tells right."""
    at_best: float
    """The same at `best_threshold`. That one was chosen on these very pairs, so it flatters, most for few of them."""
    best_threshold: float
    num_pairs: int
    num_speakers: int
    low: float | None = None
    """95 % bootstrap interval of `at_half`, speakers drawn. None: one speaker."""
    high: float | None = None


@dataclass(frozen=True)
class Report:
    """Over all pairs, and by language."""

    whole: Accuracy
    languages: dict[str, Accuracy]

    def values(self) -> dict[str, float]:
        """Numbers by name, for metrics."""
        found = {
            "accuracy": self.whole.at_half,
            "best_accuracy": self.whole.at_best,
            "best_threshold": self.whole.best_threshold,
        }
        return found | {f"accuracy_{language}": accuracy.at_half for language, accuracy in self.languages.items()}

    def words(self) -> str:
        whole = self.whole
        parts = [
            f"{_in_words(whole)} right of {counted(whole.num_pairs, 'pair')} of "
            f"{counted(whole.num_speakers, 'speaker')} at 0.5; "
            f"{whole.at_best:.1%} at {whole.best_threshold:.2f}, the best threshold for these pairs"
        ]
        if len(self.languages) > 1:
            named = (f"{name} {_in_words(own)} of {own.num_pairs}" for name, own in self.languages.items())
            parts.append(f"by language: {', '.join(named)}")
        return "; ".join(parts)


def measure(
    cosines: Sequence[float], labels: Sequence[bool], languages: Sequence[str | None], speakers: Sequence[str | None]
) -> Report:
    """Accuracy of pairs, whose values stand at the same places of the four sequences. Raises ValueError for none."""
    if not len(cosines) == len(labels) == len(languages) == len(speakers) or not len(cosines):
        raise ValueError("expected a cosine, a label, a language and a speaker for each pair, and at least one pair")
    values, truths = np.asarray(cosines, float), np.asarray(labels, bool)
    spoken = np.array([language or UNKNOWN for language in languages])
    people = np.array([speaker or UNKNOWN for speaker in speakers])
    names, counts = np.unique(spoken, return_counts=True)
    order = sorted(zip(-counts, names.tolist(), strict=True))
    return Report(
        _accuracy(values, truths, people),
        {name: _accuracy(*(array[spoken == name] for array in (values, truths, people))) for _, name in order},
    )


def best_threshold(cosines: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """(threshold, accuracy) that tells most of the pairs right; of equally good ones, the closest to 0.5.

    Between two neighbouring cosines, in the middle. A pair is taken to belong together from the threshold on.
    """
    found = np.unique(cosines)
    between = np.concatenate([[0.5], found[:1], (found[1:] + found[:-1]) / 2, [np.nextafter(found[-1], np.inf)]])
    matches = np.sort(cosines[labels])
    others = np.sort(cosines[~labels])
    right = len(matches) - np.searchsorted(matches, between) + np.searchsorted(others, between)
    best = between[right == right.max()]
    threshold = best[np.argmin(np.abs(best - 0.5))]
    return float(threshold), float(right.max() / len(cosines))


def plateau(losses: Sequence[float], samples_each: int) -> str | None:
    """Words when the network still guesses: mean cross-entropy of the last 2,000 samples within 0.01 of ln 2.

    losses: means, each over `samples_each` samples, oldest first. None: it learns, or there are too few to tell.
    """
    needed = math.ceil(PLATEAU_SAMPLES / samples_each)
    if len(losses) < needed:
        return None
    mean = float(np.mean(losses[-needed:]))
    if abs(mean - CHANCE) > PLATEAU_BAND:
        return None
    return (
        f"the loss was {mean:.3f} over the last {needed * samples_each} samples: at 0.693 the network guesses. "
        f"What helps: {HELP}"
    )


def _accuracy(cosines: np.ndarray, labels: np.ndarray, speakers: np.ndarray) -> Accuracy:
    threshold, at_best = best_threshold(cosines, labels)
    right = ((cosines >= 0.5) == labels).astype(float)
    low, high = interval(right, speakers.tolist())
    return Accuracy(float(right.mean()), at_best, threshold, len(cosines), len(np.unique(speakers)), low, high)


def _in_words(accuracy: Accuracy) -> str:
    spread = "" if accuracy.low is None or accuracy.high is None else f" ({accuracy.low:.1%} to {accuracy.high:.1%})"
    return f"{accuracy.at_half:.1%}{spread}"
