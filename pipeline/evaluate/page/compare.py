"""Two reports compared: which differences are real, which may be chance, and what does not compare.

Clips that both reports hold are compared with themselves, by name: most of what makes a clip hard is then in both
numbers. Without a clip in common, the two means are compared.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lipforge.pipeline.evaluate.metrics import Better
from lipforge.pipeline.evaluate.page.words import metric_named
from lipforge.pipeline.evaluate.result import ALL, Evaluation, Number

LEVEL = 0.05
MIN_RESAMPLES = 10_000
RESAMPLES_PER_TEST = 200
"""The smallest p of a bootstrap is 1 / resamples: with many tests, Holm's first step asks for less."""
MIN_SPEAKERS = 5
"""With fewer, clips are resampled: the interval then holds for these speakers."""
_BLOCK = 250  # resamples held at once
_NO_SPREAD = 1e-6
"""Of the error of all clips: a resample of equal clips has less. It is the root of what cancels to about 1e-16."""

_Test = list[NDArray[np.float64]]
"""Samples whose means add up to a difference, as [U, 2] rows of units: sum and number of clips."""
Values = dict[str, tuple[str | None, float]]
"""By name of the clip: speaker and number."""


@dataclass(frozen=True)
class Difference:
    """One metric of one group of clips, in this report and in the other."""

    metric: str
    group: str
    n: int
    """Clips in both; unpaired: clips of the smaller side."""
    value: float | None
    other: float | None
    """Means over the clips that are compared; for metrics of a set, their numbers."""
    difference: float | None
    """value - other."""
    low: float | None
    high: float | None
    """95 % interval of the difference, by itself. None: it takes more clips."""
    p: float | None
    """After Holm's correction: over all metrics of all clips; for languages, over all metrics of all languages."""
    real: bool
    """p of at most 0.05."""
    better: bool | None
    """Whether this report's value is the better one. None: they are the same, neither is better by itself, or
    nothing was compared."""
    paired: bool
    over_speakers: bool
    """Speakers were resampled, not clips."""
    why_not: str | None = None
    """Why there is no verdict, in words."""


def compare(
    found: Evaluation,
    rows: Sequence[Mapping[str, Any]],
    other: Evaluation,
    other_rows: Sequence[Mapping[str, Any]],
    seed: int,
) -> list[Difference]:
    """Differences of all metrics that either report has, over all clips and by language.

    rows: of clips.parquet. A difference is real when zero lies outside its interval after Holm's correction (1979).
    Intervals are those of the symmetric bootstrap-t (Efron & Tibshirani 1993, chapter 12).
    """
    here, there = _index(found), _index(other)
    groups = _groups(rows, other_rows)
    drafts: list[Difference] = []
    tests: dict[int, _Test] = {}
    for name in dict.fromkeys([number.metric for number in (*found.numbers, *other.numbers)]):
        why_not = _why_not(name, found, other)
        for group in groups:
            draft, test = _draft(
                name, group, here.get((name, group)), there.get((name, group)), rows, other_rows, why_not
            )
            if test is not None:
                tests[len(drafts)] = test
            if draft is not None:
                drafts.append(draft)
    outcomes = _bootstrap(list(tests.values()), max(MIN_RESAMPLES, RESAMPLES_PER_TEST * len(tests)), seed)
    for index, outcome in zip(tests, outcomes, strict=True):
        low, high, p = outcome or (None, None, None)
        why_not = None if outcome else "too few clips to tell"
        drafts[index] = replace(drafts[index], low=low, high=high, p=p, why_not=why_not)
    whole = [index for index, draft in enumerate(drafts) if draft.group == ALL]
    return _corrected(_corrected(drafts, whole), [index for index in tests if index not in whole])


def _index(found: Evaluation) -> dict[tuple[str, str], Number]:
    return {(number.metric, number.group): number for number in found.numbers}


def _groups(rows: Sequence[Mapping[str, Any]], other_rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """All clips, and the languages of both reports if one has more than one."""
    here, there = ({str(row["language"]) for row in side if row.get("language")} for side in (rows, other_rows))
    if len(here | there) < 2:
        return [ALL]
    return [ALL, *(f"language={language}" for language in sorted(here & there))]


def _why_not(name: str, found: Evaluation, other: Evaluation) -> str | None:
    """Why this metric of the two reports cannot be compared, or None."""
    judges = [{model.name: model.sha256 for model in side.models if name in model.of} for side in (found, other)]
    if judges[0] != judges[1]:
        return f"judged by {_names(judges[0])} here and by {_names(judges[1])} there"
    return None


def _names(judges: Mapping[str, str]) -> str:
    return " and ".join(f"{name} {sha256[:12]}" for name, sha256 in sorted(judges.items())) or "no model"


def _draft(
    name: str,
    group: str,
    number: Number | None,
    other_number: Number | None,
    rows: Sequence[Mapping[str, Any]],
    other_rows: Sequence[Mapping[str, Any]],
    why_not: str | None,
) -> tuple[Difference | None, _Test | None]:
    """The difference before it is tested, and what tests it."""
    nothing = Difference(name, group, 0, None, None, None, None, None, None, False, None, False, False)
    if metric_named(name).of_set:
        if number is None and other_number is None:
            return None, None
        value, other = (side.value if side else None for side in (number, other_number))
        difference = None if value is None or other is None or why_not else value - other
        why_not = why_not or _missing(value, other) or "one number for a whole set of clips has no interval"
        return replace(nothing, value=value, other=other, difference=difference, why_not=why_not), None
    here, there = _values(name, group, rows), _values(name, group, other_rows)
    if not here and not there:
        return None, None
    if why_not is None and here and there:
        return _testable(nothing, here, there)
    value, other = _mean(here), _mean(there)
    why_not = why_not or _missing(value, other)
    return replace(nothing, n=min(len(here), len(there)), value=value, other=other, why_not=why_not), None


def _testable(draft: Difference, here: Values, there: Values) -> tuple[Difference, _Test]:
    common = here.keys() & there.keys()
    if common:
        here, there = ({file: side[file] for file in sorted(common)} for side in (here, there))
        sides = [_units([(here[file][0], here[file][1] - there[file][1]) for file in here])]
    else:
        sides = [_units(list(here.values())), _units([(speaker, -number) for speaker, number in there.values()])]
    value, other = _mean(here), _mean(there)
    assert value is not None and other is not None
    draft = replace(
        draft,
        n=min(len(here), len(there)),
        value=value,
        other=other,
        difference=value - other,
        better=_better(metric_named(draft.metric).better, value, other),
        paired=bool(common),
        over_speakers=all(over_speakers for _, over_speakers in sides),
    )
    return draft, [units for units, _ in sides]


def _better(better: Better, value: float, other: float) -> bool | None:
    if better == Better.AS_ORIGINAL:
        return None
    if better == Better.ZERO:
        value, other = -abs(value), -abs(other)
    elif better == Better.LOWER:
        value, other = -value, -other
    return None if value == other else value > other


def _missing(value: float | None, other: float | None) -> str | None:
    if value is None:
        return "not measured here"
    return "not measured there" if other is None else None


def _values(name: str, group: str, rows: Iterable[Mapping[str, Any]]) -> Values:
    found: Values = {}
    for row in rows:
        value = row.get(name)
        if value is not None and np.isfinite(value) and group in (ALL, f"language={row.get('language')}"):
            found[str(row["file"])] = (row.get("speaker"), float(value))
    return found


def _mean(values: Values) -> float | None:
    numbers = [number for _, number in values.values()]
    return float(np.mean(numbers)) if numbers else None


def _units(clips: Sequence[tuple[str | None, float]]) -> tuple[NDArray[np.float64], bool]:
    """What is resampled, as (sum, count) rows: speakers where each clip has one and there are enough, else clips."""
    sums: dict[str, list[float]] = {}
    for speaker, number in clips:
        if speaker is not None:
            total = sums.setdefault(speaker, [0.0, 0.0])
            total[0] += number
            total[1] += 1
    if len(sums) >= MIN_SPEAKERS and all(speaker is not None for speaker, _ in clips):
        return np.array(list(sums.values())), True
    return np.array([(number, 1.0) for _, number in clips]), False


def _bootstrap(tests: Sequence[_Test], resamples: int, seed: int) -> list[tuple[float, float, float] | None]:
    """Of each test: the 95 % interval of the sum of its samples' means, and the p of that sum being zero.

    None where too few units are left to tell. Resamples whose units are all alike have no spread and count as
    infinitely far off, so that with four units or fewer hardly an interval remains.
    """
    centres, errors = np.zeros(len(tests)), np.zeros(len(tests))
    for index, test in enumerate(tests):
        means, variances = zip(*(_mean_and_variance(units, np.ones((1, len(units)))) for units in test), strict=True)
        centres[index], errors[index] = np.sum(means), np.sqrt(np.sum(variances))
    far = np.empty((len(tests), resamples))
    random = np.random.default_rng(seed)
    for start in range(0, resamples, _BLOCK):
        count = min(_BLOCK, resamples - start)
        weights: dict[tuple[int, int], NDArray[np.float64]] = {}  # drawn once for all metrics of the same clips
        for index, test in enumerate(tests):
            total, variance = np.zeros(count), np.zeros(count)
            for side, units in enumerate(test):
                key = (side, len(units))
                if key not in weights:
                    weights[key] = _weights(len(units), count, random)
                mean, spread = _mean_and_variance(units, weights[key])
                total += mean
                variance += spread
            error = np.sqrt(variance)
            off = np.abs(total - centres[index])
            far[index, start : start + count] = np.divide(
                off, error, out=np.full(count, np.inf), where=error > _NO_SPREAD * errors[index]
            )
    return [
        _outcome(test, float(centre), float(error), distances)
        for test, centre, error, distances in zip(tests, centres, errors, far, strict=True)
    ]


def _outcome(
    test: _Test, centre: float, error: float, distances: NDArray[np.float64]
) -> tuple[float, float, float] | None:
    if min(len(units) for units in test) < 2:
        return None
    if error <= 1e-12 * abs(centre):  # every clip differs by the same: what is left is the chance of equal signs
        num_clips = min(units[:, 1].sum() for units in test)
        return centre, centre, 1.0 if centre == 0 else float(min(1.0, 2.0 ** (1 - num_clips)))
    reach = float(np.sort(distances)[int(np.ceil((1 - LEVEL) * (len(distances) + 1))) - 1]) * error
    if not np.isfinite(reach):
        return None
    p = (1 + np.count_nonzero(distances >= abs(centre) / error)) / (len(distances) + 1)
    return centre - reach, centre + reach, float(p)


def _weights(num_units: int, count: int, random: np.random.Generator) -> NDArray[np.float64]:
    """How often each resample holds each unit: [count, num_units]."""
    drawn = random.integers(0, num_units, (count, num_units))
    drawn += np.arange(count)[:, None] * num_units
    return np.bincount(drawn.ravel(), minlength=count * num_units).reshape(count, num_units).astype(np.float64)


def _mean_and_variance(
    units: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean of the clips in each weighted sample of units, and its variance by linearisation (a ratio of two sums)."""
    count = units[:, 1]
    shift = units[:, 0].sum() / count.sum()
    number = units[:, 0] - shift * count  # keeps the squares below from cancelling
    columns = np.stack([number, count, number**2, number * count, count**2], axis=1)
    total, num_clips, squares, products, counts = (weights @ columns).T
    mean = total / num_clips
    spread = np.maximum(squares - 2 * mean * products + mean**2 * counts, 0)
    return mean + shift, spread * len(units) / max(len(units) - 1, 1) / num_clips**2


def _corrected(differences: Sequence[Difference], family: Iterable[int]) -> list[Difference]:
    """p after Holm's step-down correction over the tested ones of a family, and what is real by it."""
    order = sorted((i for i in family if differences[i].p is not None), key=lambda i: differences[i].p or 0.0)
    corrected = list(differences)
    highest = 0.0
    for step, index in enumerate(order):
        difference = differences[index]
        assert difference.p is not None
        highest = max(highest, min(1.0, difference.p * (len(order) - step)))
        corrected[index] = replace(difference, p=highest, real=highest <= LEVEL)
    return corrected
