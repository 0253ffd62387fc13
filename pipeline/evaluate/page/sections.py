"""What the sections of the page show: numbers of the report, as text and charts for the template."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from lipforge.datasets_manifest.display import human_share
from lipforge.pipeline.evaluate.metrics import METRICS, Better, Metric
from lipforge.pipeline.evaluate.page.charts import (
    Clip,
    Scale,
    distribution_svg,
    interval_svg,
    offsets_svg,
    scale_over,
)
from lipforge.pipeline.evaluate.page.words import (
    GROUPS,
    MAIN,
    NATURAL_SYNC,
    better_text,
    counted,
    counted_of,
    interval_text,
    metric_named,
    number_text,
    of_all,
    shown,
    title_of,
    why_not_judged,
    with_unit,
)
from lipforge.pipeline.evaluate.result import ALL, Evaluation, Number

Rows = Sequence[dict[str, Any]]
_KEY = ("sync_confidence", "sync_offset_frames", "shift_error_frames", "lpips_mouth", "st_lpips_mouth", "ssim_mouth")
_MAX_KEY = 4
_MAX_CHARTS = 9
_MAX_PANELS = {"language": 6, "speaker": 3}
MAX_GROUPS = 12
"""Groups in one panel; of more, the ends are shown."""
_FURTHEST_OFFSET = 15


@dataclass(frozen=True)
class Line:
    """One number, as a line of a table or a tile."""

    metric: Metric
    title: str
    value: str
    interval: str
    bar: Markup
    n: str
    arrow: str
    better: str


def values_of(rows: Rows, name: str) -> list[Clip]:
    """Clips that have this number."""
    return [
        Clip(shown(str(row["file"])), float(row[name]))
        for row in rows
        if row.get(name) is not None and np.isfinite(row[name])
    ]


def key_lines(found: Evaluation, rows: Rows) -> list[Line]:
    """The few numbers that matter most."""
    numbers = of_all(found)
    names = [name for name in _KEY if name in numbers][:_MAX_KEY]
    return [_line(numbers[name], rows) for name in names]


def table(found: Evaluation, rows: Rows) -> list[tuple[str, list[Line]]]:
    """All numbers over all clips, under headings."""
    numbers = of_all(found)
    order = [*(name for name in METRICS if name in numbers), *(name for name in numbers if name not in METRICS)]
    groups: dict[str, list[Line]] = {}
    for name in order:
        groups.setdefault(metric_named(name).group, []).append(_line(numbers[name], rows))
    return [(GROUPS.get(group, group), lines) for group, lines in groups.items()]


def _line(number: Number, rows: Rows) -> Line:
    metric = metric_named(number.metric)
    values = [clip.value for clip in values_of(rows, number.metric)]
    spread = (float(np.percentile(values, 5)), float(np.percentile(values, 95))) if len(values) > 1 else None
    scale = scale_over([*(spread or ()), number.low, number.high, number.value])
    bar = interval_svg(number.value, number.low, number.high, scale, spread=spread) if spread else Markup("")
    return Line(
        metric,
        title_of(metric),
        with_unit(number.value, metric),
        interval_text(number.low, number.high, metric),
        bar,
        counted_of(number),
        *better_text(metric),
    )


@dataclass(frozen=True)
class Trial:
    """One of the tests of what a single sync number hides."""

    title: str
    question: str
    good: str
    bad: str
    lines: list[Line]
    why_not: str
    how: str


def trials(found: Evaluation) -> list[Trial]:
    """Moved sound, silence, and foreign sound."""
    numbers = of_all(found)
    return [
        Trial(
            "Are the measured offsets more than guesses?",
            "The sound of each video is moved by known numbers of frames, and the scorer must find each move. Where it "
            "does not, nothing in the picture says when the sound belongs.",
            "near 0: each move is found",
            "3 frames and more: offsets are guesses",
            _trial_lines(numbers, ["shift_error_frames"], Scale(-0.1, 4)),
            *_absent(found, "shift_error_frames", "no clip had sound and lips that could be scored", ""),
        ),
        Trial(
            "Does the mouth rest in silence?",
            "The same videos are made with a silent sound. A mouth that goes on moving was copied from the original, "
            "or moves by itself. Both numbers are shares of the original's; without a reference, of the same video "
            "with its own sound.",
            "near 0: still and closed",
            "1: as with speech",
            _trial_lines(numbers, ["silent_movement", "silent_opening"], Scale(-0.05, 1.3)),
            *_absent(
                found,
                "silent_movement",
                "it takes the same videos made with silence",
                "--silent FOLDER, or --model MODEL, which draws them",
            ),
        ),
        Trial(
            "Is the old mouth gone?",
            "The same videos are made with another clip's sound. What the new mouth still has in common with the "
            "original's has leaked through the mask or the reference.",
            "0: nothing is left",
            "1: the old mouth was copied",
            _trial_lines(numbers, ["leak"], Scale(-0.25, 1.25)),
            *_absent(
                found,
                "leak",
                "it takes originals, and the same videos made with another's sound",
                "--reference FOLDER --foreign FOLDER, or --model MODEL, which draws them",
            ),
        ),
        Trial(
            "Is a foreign sound followed as well as the own?",
            "Sync confidence of videos with their own sound, and of those made with another clip's sound. The mark is "
            "the line between chance and natural speech.",
            "both alike, right of the mark",
            "foreign left of the mark: the mouth only repeats what it saw",
            _trial_lines(numbers, ["sync_confidence", "foreign_sync_confidence"], None, NATURAL_SYNC)
            if "foreign_sync_confidence" in numbers
            else [],
            *_absent(
                found,
                "foreign_sync_confidence",
                "it takes the same videos made with another's sound",
                "--foreign FOLDER, or --model MODEL, which draws them",
            ),
        ),
    ]


def _trial_lines(
    numbers: dict[str, Number], names: Sequence[str], scale: Scale | None, mark: float | None = None
) -> list[Line]:
    lines = []
    present = [numbers[name] for name in names if name in numbers]
    shared = scale or scale_over([0.0, mark, *(end for one in present for end in (one.value, one.low, one.high))])
    for number in present:
        metric = metric_named(number.metric)
        css_class = "trial rising" if metric.better == Better.HIGHER else "trial"
        bar = interval_svg(number.value, number.low, number.high, shared, line=mark, css_class=css_class)
        interval = interval_text(number.low, number.high, metric)
        lines.append(
            Line(metric, title_of(metric), with_unit(number.value, metric), interval, bar, f"{number.n:,}", "", "")
        )
    return lines


def _absent(found: Evaluation, name: str, why: str, how: str) -> tuple[str, str]:
    """(why a trial has no number, what changes that); why and how: where nobody tried."""
    for one in found.missing:
        if name in one.metrics:
            return one.why, one.how
    tried = next((one.unmeasured for one in found.numbers if (one.metric, one.group) == (name, ALL)), None)
    if tried:
        return "; ".join(f"{counted(count, 'clip')}: {shown(reason)}" for reason, count in tried.items()), ""
    return why, how


@dataclass(frozen=True)
class Chart:
    """A figure with a caption."""

    metric: Metric
    title: str
    caption: str
    svg: Markup


def offsets(rows: Rows) -> list[Chart]:
    """Histograms of offsets in whole frames."""
    charts = []
    for name in ("sync_offset_frames", "syncnet_v2_offset_frames"):
        values = [clip.value for clip in values_of(rows, name)]
        if len(values) > 1:
            within = sum(abs(value) <= 1.5 for value in values)
            caption = f"{human_share(within, len(values))} within 1 frame of 0"
            metric = metric_named(name)
            svg = offsets_svg(values, _FURTHEST_OFFSET, f"{title_of(metric)}: {caption}")
            charts.append(Chart(metric, title_of(metric), caption, svg))
    return charts


def distributions(found: Evaluation, rows: Rows) -> list[Chart]:
    """Where the clips lie, of each main metric."""
    numbers = of_all(found)
    charts = []
    for name in MAIN:
        clips = values_of(rows, name)
        metric = metric_named(name)
        if len(clips) < 2 or (name.endswith("offset_frames")):
            continue
        mean = numbers[name].value if name in numbers else None
        median = float(np.median([clip.value for clip in clips]))
        caption = f"median {with_unit(median, metric)}"
        line = NATURAL_SYNC if name == "sync_confidence" else None
        label = f"{title_of(metric)} of {counted(len(clips), 'clip')}: {caption}"
        svg = distribution_svg(clips, lambda value, of=metric: number_text(value, of), mean, line, label)
        charts.append(Chart(metric, title_of(metric), caption, svg))
    return charts[:_MAX_CHARTS]


@dataclass(frozen=True)
class Panel:
    """One metric by group."""

    metric: Metric
    title: str
    arrow: str
    lines: list[tuple[str, Line]]
    """Names of groups, with their numbers."""


@dataclass(frozen=True)
class Breakdown:
    """Small charts side by side, all with the same groups in the same order."""

    kind: str
    panels: list[Panel]
    left_out: int
    by: str
    """Title of the metric that orders the groups."""


def breakdowns(found: Evaluation) -> list[Breakdown]:
    """By language and by speaker, where there are at least two."""
    everything = of_all(found)
    made = []
    for kind, max_panels in _MAX_PANELS.items():
        by_metric: dict[str, dict[str, Number]] = {}
        for number in found.numbers:
            if number.group.startswith(f"{kind}=") and number.value is not None:
                by_metric.setdefault(number.metric, {})[number.group.removeprefix(f"{kind}=")] = number
        names = [name for name in MAIN if len(by_metric.get(name, {})) > 1][:max_panels]
        if not names:
            continue
        leading = by_metric[names[0]]
        groups = sorted(leading, key=lambda group: -(leading[group].value or 0.0))
        groups += sorted({group for name in names for group in by_metric[name]} - set(groups))
        left_out = max(0, len(groups) - MAX_GROUPS)
        if left_out:
            groups = [*groups[: MAX_GROUPS // 2], *groups[-MAX_GROUPS // 2 :]]
        panels = [_panel(name, by_metric[name], groups, everything.get(name)) for name in names]
        made.append(Breakdown(kind, panels, left_out, metric_named(names[0]).title))
    return made


def _panel(name: str, of_groups: dict[str, Number], groups: Sequence[str], whole: Number | None) -> Panel:
    metric = metric_named(name)
    here = [of_groups[group] for group in groups if group in of_groups]
    mean = whole.value if whole else None
    scale = scale_over([mean, *(end for one in here for end in (one.value, one.low, one.high))])
    lines = []
    for group in groups:
        number = of_groups.get(group, Number(name, group, 0, None))
        bar = interval_svg(number.value, number.low, number.high, scale, line=mean)
        line = Line(
            metric,
            title_of(metric),
            number_text(number.value, metric),
            interval_text(number.low, number.high, metric),
            bar,
            f"{number.n:,}",
            "",
            "",
        )
        lines.append((shown(group), line))
    return Panel(metric, title_of(metric), better_text(metric)[0], lines)


MAX_NAMES = 30


@dataclass(frozen=True)
class Unmeasured:
    """Clips that could not be judged, for one reason."""

    reason: str
    count: int
    names: list[str]
    more: int


def unmeasured(rows: Rows) -> list[Unmeasured]:
    """Most frequent reason first."""
    names: dict[str, list[str]] = {}
    for row in rows:
        reason = why_not_judged(row)
        if reason is not None:
            names.setdefault(reason, []).append(shown(str(row["file"])))
    return [
        Unmeasured(shown(reason), len(of), sorted(of)[:MAX_NAMES], max(0, len(of) - MAX_NAMES))
        for reason, of in sorted(names.items(), key=lambda item: (-len(item[1]), item[0]))
    ]
