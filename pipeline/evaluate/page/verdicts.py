"""What the page and the terminal say about differences between two reports."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lipforge.pipeline.evaluate.metrics import Metric
from lipforge.pipeline.evaluate.page.charts import Scale, interval_svg
from lipforge.pipeline.evaluate.page.compare import Difference
from lipforge.pipeline.evaluate.page.words import (
    better_text,
    counted,
    interval_text,
    metric_named,
    shown,
    title_of,
    with_unit,
)
from lipforge.pipeline.evaluate.result import ALL

BETTER, WORSE, CHANCE, SAME, NONE = "better", "worse", "chance", "same", "none"


def verdict(difference: Difference) -> tuple[str, str]:
    """(kind, words)"""
    if difference.why_not is not None:
        return NONE, difference.why_not
    if difference.real:
        if difference.better is None:
            return SAME, "different, neither is better"
        return (BETTER, "better") if difference.better else (WORSE, "worse")
    if difference.low is not None and difference.high is not None and not difference.low <= 0 <= difference.high:
        return CHANCE, "may be chance"
    return SAME, "no difference shown"


def summary(differences: Sequence[Difference]) -> list[str]:
    """What the comparison of all clips says, in sentences."""
    whole = [one for one in differences if one.group == ALL]
    tested = [one for one in whole if one.p is not None]
    real = [one for one in tested if one.real]
    if not tested:
        return ["No number could be compared."]
    if not real:
        sentences = [f"None of {counted(len(tested), 'number')} that could be compared shows a real difference."]
    else:
        verb = "is" if len(real) == 1 else "are"
        sentences = [f"{len(real)} of {counted(len(tested), 'difference')} {verb} real."]
    for kind, word in ((True, "Better here"), (False, "Worse here")):
        titles = [metric_named(one.metric).title for one in real if one.better is kind]
        if titles:
            sentences.append(f"{word}: {'; '.join(titles)}.")
    maybe = sum(verdict(one)[0] == CHANCE for one in tested)
    if maybe:
        sentences.append(f"{maybe} more may be chance." if real else f"{maybe} may be chance.")
    return sentences


def how(differences: Sequence[Difference]) -> list[str]:
    """How it was compared, in sentences."""
    tested = [one for one in differences if one.p is not None]
    if not tested:
        return []
    pairs = max((one.n for one in tested if one.paired), default=0)
    sentences = []
    if pairs:
        sentences.append(
            f"{counted(pairs, 'clip')} of the same name {'is' if pairs == 1 else 'are'} in both reports: "
            "each is compared with itself."
        )
    else:
        sentences.append(
            "No clip is in both reports: the means of different clips are compared, which shows only large differences."
        )
    drawn = "speakers" if any(one.over_speakers for one in tested) else "clips"
    sentences.append(
        f"Intervals of 95 % come from a bootstrap over {drawn}. With many numbers, some leave zero by chance: a "
        "difference counts as real when it also holds after Holm's correction."
    )
    return sentences


@dataclass(frozen=True)
class Compared:
    """A line of the table of differences."""

    metric: Metric
    title: str
    arrow: str
    value: str
    other: str
    difference: str
    interval: str
    bar: Markup
    n: str
    kind: str
    words: str


def compared(differences: Sequence[Difference]) -> list[tuple[str, list[Compared]]]:
    """Lines by group: all clips first, then languages."""
    groups: dict[str, list[Compared]] = {}
    for one in differences:
        groups.setdefault(one.group, []).append(_line(one))
    return [(shown(group.removeprefix("language=")), lines) for group, lines in groups.items()]


def _line(one: Difference) -> Compared:
    metric = metric_named(one.metric)
    kind, words = verdict(one)
    reach = max((abs(end) for end in (one.low, one.high, one.difference) if end is not None), default=0.0)
    bar = Markup("")
    if one.p is not None:
        scale = Scale(-1.1 * (reach or 1.0), 1.1 * (reach or 1.0))
        bar = interval_svg(one.difference, one.low, one.high, scale, line=0.0, css_class=kind)
    return Compared(
        metric,
        title_of(metric),
        better_text(metric)[0],
        with_unit(one.value, metric),
        with_unit(one.other, metric),
        with_unit(one.difference, metric, signed=True),
        interval_text(one.low, one.high, metric, signed=True),
        bar,
        f"{one.n:,}" if one.n else "",
        kind,
        words,
    )
