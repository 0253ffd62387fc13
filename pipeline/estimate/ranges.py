"""Totals of a finite population from a sample of it, with ranges: pure maths.

Each quantity is taken to grow with a size that is known for the whole population, such as seconds of video, so its
total is the known size times the sample's ratio. The range is a Bayesian bootstrap of that ratio (Rubin 1981), made
wider for small samples as Student's t is, and narrower the more of the population was seen (the finite-population
correction): when all was, the total is exact.

A share, as the seconds that are kept, gets half an observation of 0 and half of 1 on top. For shares that are all or
nothing in each observation this is Jeffreys' interval, which is right also when the sample has none, or nothing else.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.8
"""Of the ranges: how often they should hold the truth."""
NUM_DRAWS = 2000
LONE_SPREAD = 0.5
"""Of costs, as a standard deviation of their logarithm, where there is one observation."""
_Z = 1.2816
"""Normal quantile at (1 + LEVEL) / 2."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Range:
    """A number that is not known exactly, in the unit of its name."""

    value: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """Width as a share of the value; infinite where the value is 0 and the width is not."""
        width = self.high - self.low
        return width / self.value if self.value else (np.inf if width else 0.0)


@dataclass(frozen=True)
class Uncertain:
    """A number that is not known exactly, with NUM_DRAWS equally likely alternatives. Sums keep what goes together."""

    value: float
    draws: Array

    @classmethod
    def exact(cls, value: float) -> "Uncertain":
        return cls(value, np.full(NUM_DRAWS, value))

    def __add__(self, other: "Uncertain | float") -> "Uncertain":
        other = other if isinstance(other, Uncertain) else Uncertain.exact(other)
        return Uncertain(self.value + other.value, self.draws + other.draws)

    def __mul__(self, factor: "Uncertain | float") -> "Uncertain":
        factor = factor if isinstance(factor, Uncertain) else Uncertain.exact(factor)
        return Uncertain(self.value * factor.value, self.draws * factor.draws)

    @property
    def range(self) -> Range:
        low, high = np.quantile(self.draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Range(self.value, min(float(low), self.value), max(float(high), self.value))


def totals(
    y: Array, x: Array, x_total: Array, is_share: NDArray[np.bool_], rng: np.random.Generator
) -> list[Uncertain]:
    """The P totals of a population of which each of n observations is an equally likely part.

    y: [n, P] quantities. x: [n, P] the size that each grows with. x_total: [P] its sum over the population.
    is_share: [P] whether y is a part of x, so that it cannot exceed it. n must be at least 1.
    """
    n = len(y)
    seen_y, seen_x = y.sum(axis=0), x.sum(axis=0)
    ratio = seen_y / np.maximum(seen_x, 1e-12)
    rest = np.maximum(x_total - seen_x, 0.0)
    weights = rng.gamma(1.0, size=(NUM_DRAWS, n))
    none, all_ = rng.gamma(0.5, size=(2, NUM_DRAWS, 1))
    more = np.where(is_share, seen_x / n, 0.0)
    drawn = (weights @ y + all_ * more) / np.maximum(weights @ x + (none + all_) * more, 1e-12)
    if n == 1:  # tells nothing of the spread of costs
        drawn = np.where(is_share, drawn, ratio * np.exp(rng.normal(0.0, LONE_SPREAD, (NUM_DRAWS, 1))))
    left = np.minimum(rest / np.maximum(x_total, 1e-12), 1.0)  # share of the population that was not seen
    deviation = (drawn - ratio) * small_sample_factor(n) * np.sqrt(left) * x_total
    value = seen_y + rest * ratio
    draws = np.maximum(value + deviation, 0.0)
    draws = np.where(is_share, np.minimum(draws, seen_y + rest), draws)
    return [Uncertain(float(value[at]), draws[:, at]) for at in range(len(value))]


def small_sample_factor(n: int) -> float:
    """By how much the Bayesian bootstrap's deviations are too small for n observations of a normal distribution.

    Its variance is (n - 1) / (n + 1) of the unbiased one, and Student's t has wider tails than the normal (Cornish and
    Fisher's expansion). One observation counts as two.
    """
    freedom = max(n, 2) - 1
    t = _Z + (_Z**3 + _Z) / (4 * freedom) + (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / (96 * freedom**2)
    return t / _Z * float(np.sqrt((freedom + 2) / freedom))


def unseen_share(n: int) -> float:
    """The largest share of the population that n equally likely observations may well have missed altogether."""
    return 1 - float(((1 - LEVEL) / 2) ** (1 / n))
