"""Charts as SVG markup. Colours are CSS classes, so that dark mode works; names appear as tips (`data-tip`)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from lipforge.datasets_manifest.display import counted

# Markup("...").format(x) escapes x; all text from data goes through it.

MAX_DOTS = 150
"""With more clips, dots would hide each other: a histogram is drawn, with its outermost clips as dots."""
_OUTERMOST = 4
_LEFT, _RIGHT, _TOP, _BOTTOM = 10.0, 350.0, 18.0, 118.0
_DOT, _LARGE_DOT, _FEW = 3.4, 5.0, 40
"""Radius of a dot; that of a dot among few, and what few are."""


@dataclass(frozen=True)
class Scale:
    """A stretch of values; places on it are in % of its width."""

    low: float
    high: float

    def at(self, value: float) -> float:
        return 100 * min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


def scale_over(values: Sequence[float | None], *, zero: bool = False) -> Scale:
    """A scale that holds all of `values`, with room at both ends; with zero: and 0."""
    known = [value for value in values if value is not None and np.isfinite(value)]
    if zero:
        known.append(0.0)
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-3):
        room = max(abs(low), abs(high)) * 0.1 or 1.0
    else:
        room = 0.06 * (high - low)
    return Scale(low - room, high + room)


def interval_svg(
    value: float | None,
    low: float | None,
    high: float | None,
    scale: Scale,
    *,
    spread: tuple[float, float] | None = None,
    line: float | None = None,
    css_class: str = "",
) -> Markup:
    """A dot with its interval as a bar, as wide as its place. spread: a thin line behind; line: an upright mark."""
    marks = []
    if spread is not None:
        marks.append(_across(spread[0], spread[1], scale, "spread"))
    if line is not None and scale.low <= line <= scale.high:
        at = _percent(scale.at(line))
        marks.append(Markup('<line class="mark" x1="{0}" x2="{0}" y1="0" y2="18"/>').format(at))
    if low is not None and high is not None:
        marks.append(_across(low, high, scale, "interval"))
    if value is not None:
        marks.append(Markup('<circle class="dot" cx="{}" cy="9" r="4.5"/>').format(_percent(scale.at(value))))
    return Markup('<svg class="range {}" height="18" aria-hidden="true">{}</svg>').format(css_class, _join(marks))


def _across(low: float, high: float, scale: Scale, css_class: str) -> Markup:
    return Markup('<line class="{}" x1="{}" x2="{}" y1="9" y2="9"/>').format(
        css_class, _percent(scale.at(low)), _percent(scale.at(high))
    )


@dataclass(frozen=True)
class Clip:
    """One clip in a chart."""

    name: str
    value: float


def distribution_svg(
    clips: Sequence[Clip], text_of: Callable[[float], str], mean: float | None, line: float | None, label: str
) -> Markup:
    """Where the clips lie: each as a dot, or a histogram when they are many. line: a value of note.

    text_of: a value as people read it. label: what a screen reader says.
    """
    values = np.array([clip.value for clip in clips])
    scale = scale_over([*values.tolist(), *([] if line is None else [line])])

    def x_of(value: float) -> float:
        return _LEFT + scale.at(value) / 100 * (_RIGHT - _LEFT)

    marks = [_line(_LEFT, _BOTTOM, _RIGHT, _BOTTOM, "axis"), *_axis(scale.low, scale.high, x_of)]
    if len(clips) <= MAX_DOTS:
        marks += _swarm(clips, x_of, text_of)
    else:
        marks += _bins(values, scale, x_of, text_of)
        order = np.argsort(values, kind="stable")
        outermost = [clips[i] for i in (*order[:_OUTERMOST], *order[-_OUTERMOST:])]
        marks += [_dot(x_of(clip.value), _BOTTOM - _DOT - 1, _DOT, clip, text_of) for clip in outermost]
    if line is not None:
        marks.append(_line(x_of(line), _TOP - 4, x_of(line), _BOTTOM, "threshold"))
        marks.append(_text(x_of(line), _TOP - 7, text_of(line), "tick", _anchor(x_of(line))))
    if mean is not None:
        marks.append(_line(x_of(mean), _TOP - 4, x_of(mean), _BOTTOM, "mean"))
        if line is None or abs(x_of(line) - x_of(mean)) > 70:
            marks.append(_text(x_of(mean), _TOP - 7, f"mean {text_of(mean)}", "tick strong", _anchor(x_of(mean))))
    return _chart(marks, label)


def offsets_svg(offsets: Sequence[float], furthest: int, label: str) -> Markup:
    """Clips by whole frames of offset, from -furthest to furthest; the outermost bars hold all beyond."""
    frames = np.clip(np.rint(np.array(offsets)), -furthest, furthest).astype(int)
    counts = np.bincount(frames + furthest, minlength=2 * furthest + 1)
    step = (_RIGHT - _LEFT) / len(counts)
    tallest = max(int(counts.max()), 1)
    marks = []
    for offset, count in zip(range(-furthest, furthest + 1), counts, strict=True):
        x = _LEFT + (offset + furthest) * step
        if count:
            height = (_BOTTOM - _TOP) * count / tallest
            beyond = " and beyond" if abs(offset) == furthest else ""
            tip = f"{_signed(offset)} {'frame' if abs(offset) == 1 else 'frames'}{beyond}: {counted(count, 'clip')}"
            kind = "bar zero" if offset == 0 else "bar"
            marks.append(_rect(x + 0.5, _BOTTOM - height, step - 1, height, kind, tip))
        if offset % 5 == 0:
            marks.append(_text(x + step / 2, _BOTTOM + 15, _signed(offset), "tick", "middle"))
    marks.append(_line(_LEFT, _BOTTOM, _RIGHT, _BOTTOM, "axis"))
    marks.append(_text(_LEFT, _TOP - 6, f"{tallest:,} {'clip' if tallest == 1 else 'clips'}", "tick", "start"))
    return _chart(marks, label)


def _swarm(clips: Sequence[Clip], x_of: Callable[[float], float], text_of: Callable[[float], str]) -> list[Markup]:
    """Dots stacked upwards where they would overlap."""
    columns: dict[int, int] = {}
    radius = _LARGE_DOT if len(clips) <= _FEW else _DOT
    width = 2 * radius + 0.6
    stacked = []
    for clip in sorted(clips, key=lambda one: one.value):
        column = int(x_of(clip.value) / width)
        columns[column] = columns.get(column, 0) + 1
        stacked.append((clip, columns[column] - 1))
    step = min(width, (_BOTTOM - _TOP - width) / max(1, max(columns.values(), default=1)))
    return [
        _dot(x_of(clip.value), _BOTTOM - radius - 1.5 - level * step, radius, clip, text_of) for clip, level in stacked
    ]


def _bins(
    values: NDArray[np.float64], scale: Scale, x_of: Callable[[float], float], text_of: Callable[[float], str]
) -> list[Markup]:
    counts, edges = np.histogram(values, bins=34, range=(scale.low, scale.high))
    tallest = int(counts.max())
    marks = [_text(_RIGHT, _TOP - 6, f"tallest bar: {counted(tallest, 'clip')}", "tick", "end")] if tallest else []
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        if count:
            height = (_BOTTOM - _TOP) * count / tallest
            tip = f"{text_of(low)} to {text_of(high)}: {int(count):,} {'clip' if count == 1 else 'clips'}"
            marks.append(_rect(x_of(low) + 0.4, _BOTTOM - height, x_of(high) - x_of(low) - 0.8, height, "bar", tip))
    return marks


def _axis(low: float, high: float, x_of: Callable[[float], float]) -> list[Markup]:
    marks = []
    for tick in _ticks(low, high):
        marks.append(_line(x_of(tick), _BOTTOM, x_of(tick), _BOTTOM + 4, "axis"))
        marks.append(_text(x_of(tick), _BOTTOM + 16, _signed(tick, plus=False), "tick", _anchor(x_of(tick))))
    return marks


def _ticks(low: float, high: float) -> list[float]:
    """About four round numbers from low to high."""
    rough = (high - low) / 4
    magnitude = 10.0 ** np.floor(np.log10(rough))
    step = min((m * magnitude for m in (1, 2, 2.5, 5, 10)), key=lambda candidate: abs(candidate - rough))
    return [float(round(i * step, 10)) for i in range(int(np.ceil(low / step - 1e-9)), int(high / step + 1e-9) + 1)]


def _signed(value: float, *, plus: bool = True) -> str:
    text = f"{abs(value):g}"
    return f"\N{MINUS SIGN}{text}" if value < 0 else f"+{text}" if value > 0 and plus else text


def _anchor(x: float) -> str:
    """Labels at the ends stay inside the picture."""
    return "start" if x < _LEFT + 30 else "end" if x > _RIGHT - 30 else "middle"


def _chart(marks: Sequence[Markup], label: str) -> Markup:
    return Markup('<svg class="chart" viewBox="0 0 360 140" role="img" aria-label="{}">{}</svg>').format(
        label, _join(marks)
    )


def _dot(x: float, y: float, radius: float, clip: Clip, text_of: Callable[[float], str]) -> Markup:
    return Markup('<circle class="dot" cx="{}" cy="{}" r="{}" data-tip="{}"/>').format(
        _px(x), _px(y), radius, f"{clip.name}: {text_of(clip.value)}"
    )


def _rect(x: float, y: float, width: float, height: float, css_class: str, tip: str) -> Markup:
    return Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}" data-tip="{}"/>').format(
        css_class, _px(x), _px(y), _px(max(width, 0)), _px(max(height, 0)), tip
    )


def _line(x0: float, y0: float, x1: float, y1: float, css_class: str) -> Markup:
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
        css_class, _px(x0), _px(y0), _px(x1), _px(y1)
    )


def _text(x: float, y: float, text: str, css_class: str, anchor: str) -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        css_class, _px(x), _px(y), anchor, text
    )


def _join(marks: Sequence[Markup]) -> Markup:
    return Markup("").join(marks)


def _percent(value: float) -> str:
    return f"{value:.2f}%"


def _px(value: float) -> str:
    return f"{value:.1f}"
