"""Charts as SVG: geometry in, markup out. Colours are CSS classes, so that dark mode works."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from lipforge.datasets_manifest.display import counted

# Markup("...").format(x) escapes x; all text from data goes through it.


@dataclass(frozen=True)
class Loss:
    """Seconds that one stage took out for one reason."""

    label: str
    text: str
    """Printed beside the label, for example `12 min (3.1 %)`."""
    seconds: float
    css_class: str


@dataclass(frozen=True)
class FlowStep:
    """One stage of the flow, with what it took out."""

    name: str
    losses: Sequence[Loss] = field(default_factory=list)


@dataclass(frozen=True)
class FlowForm:
    """Where parts of a flow chart lie, in pixels."""

    name: str
    band_left: float
    band_width: float
    label_left: float
    width: float
    label_height: float
    two_lines: bool
    """Of a label: its name, and the text below it."""


WIDE = FlowForm("wide", 150.0, 330.0, 560.0, 860.0, 24.0, two_lines=False)
NARROW = FlowForm("narrow", 112.0, 60.0, 190.0, 360.0, 36.0, two_lines=True)


def flow_svg(
    seconds_in: float, in_text: str, kept_text: str, steps: Sequence[FlowStep], form: FlowForm = WIDE
) -> Markup:
    """A Sankey diagram, top to bottom: the band's width is the seconds left; each loss bends off to the right.

    The left part of the band is what is kept in the end, so the top already shows how much survives.
    Raises ValueError when `seconds_in` is 0: there is nothing to draw.
    """
    if seconds_in <= 0:
        raise ValueError(f"seconds_in is {seconds_in}: expected more than 0")
    band_left, label_left, label_height, bend = form.band_left, form.label_left, form.label_height, 12.0
    scale = form.band_width / seconds_in
    kept_width = max(0.0, seconds_in - sum(loss.seconds for step in steps for loss in step.losses)) * scale

    y = 34.0
    band, ribbons, texts = [], [], []
    texts.append(_text(band_left, y - 12, in_text, "strong"))
    right = band_left + form.band_width
    for step in steps:
        top = y
        y_label = top + bend
        for loss in step.losses:
            thickness = max(loss.seconds * scale, 1.5)
            left = right - loss.seconds * scale
            y_ribbon = y_label + max(0.0, (label_height - thickness) / 2)
            ribbons.append(_ribbon((left, top), (label_left, y_ribbon), thickness, bend, loss))
            texts += _label(label_left + 10, y_ribbon + thickness / 2 + 4.5, loss, form.two_lines)
            right = left
            y_label = y_ribbon + thickness + max(0.0, (label_height - thickness) / 2)
        y = max(top + 26.0, y_label + 4)
        lost_later = right - band_left - kept_width
        if lost_later > 0.05:
            band.append(_rect(band_left + kept_width, top, lost_later, y - top + 0.5, "later"))
        texts.append(_text(band_left - 14, top + 14, step.name, "stage", anchor="end"))
        texts.append(_line(band_left - 8, top, band_left, top))
    band.append(_rect(band_left, 34.0, kept_width, y - 34.0 + 6, "kept"))
    texts.append(_text(band_left, y + 26, kept_text, "strong"))
    height = y + 40
    return Markup('<svg class="flow {}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}{}{}</svg>').format(
        form.name,
        _px(form.width),
        _px(height),
        f"{in_text}; {kept_text}",
        _join(ribbons),
        _join(band),
        _join(texts),
    )


def _label(x: float, y: float, loss: Loss, two_lines: bool) -> list[Markup]:
    if two_lines:
        return [_text(x, y - 8, loss.label, "strong"), _text(x, y + 8, loss.text, "loss")]
    label = Markup('<tspan class="strong">{}</tspan> {}').format(loss.label, loss.text)
    return [_text(x, y, label, "loss")]


@dataclass(frozen=True)
class Bins:
    """Counts of a histogram; `edges` has one value more than `kept` and `rejected`."""

    edges: NDArray[np.float64]
    kept: NDArray[np.int64]
    rejected: NDArray[np.int64]


def histogram_svg(bins: Bins, thresholds: Mapping[float, str], unit: str, *, centred: bool = False) -> Markup:
    """Stacked bars, kept below rejected, and a dashed line at each of `thresholds` (value to label).

    centred: bins stand for whole numbers, for example frames, so ticks belong to their middles.
    """
    left, top, plot_width, plot_height = 12.0, 26.0, 334.0, 110.0
    low, high = float(bins.edges[0]), float(bins.edges[-1])
    tallest = max(int((bins.kept + bins.rejected).max()), 1)

    def x_of(value: float) -> float:
        return left + (value - low) / (high - low) * plot_width

    def y_of(count: float) -> float:
        return top + plot_height * (1 - count / tallest)

    marks = []
    for first, last, kept, rejected in zip(bins.edges[:-1], bins.edges[1:], bins.kept, bins.rejected, strict=True):
        if kept + rejected == 0:
            continue
        where = f"{(first + last) / 2:g}" if centred else f"{first:.4g} to {last:.4g}"
        x, bar_width = x_of(first) + 0.5, x_of(last) - x_of(first) - 1
        marks.append(
            Markup("<g><title>{} {}: {} kept, {} rejected</title>{}{}</g>").format(
                where,
                unit,
                int(kept),
                int(rejected),
                _rect(x, y_of(kept), bar_width, y_of(0) - y_of(kept), "kept"),
                _rect(x, y_of(kept + rejected), bar_width, y_of(kept) - y_of(kept + rejected), "rejected"),
            )
        )
    marks.append(_line(left, y_of(0), left + plot_width, y_of(0)))
    for tick in _ticks(low, high):
        marks.append(_line(x_of(tick), y_of(0), x_of(tick), y_of(0) + 4))
        marks.append(_text(x_of(tick), y_of(0) + 16, f"{tick:g}", "tick", anchor="middle"))
    marks.append(_text(left, top - 16, counted(tallest, "clip"), "tick"))
    for threshold, label in thresholds.items():
        if low <= threshold <= high:
            x = x_of(threshold)
            marks.append(_line(x, top - 2, x, y_of(0), "threshold"))
            marks.append(_text(x, top - 4, label, "threshold", anchor="middle"))
    return Markup('<svg class="histogram" viewBox="0 0 360 158" role="img">{}</svg>').format(_join(marks))


SELECTION_STYLE = Markup("""
svg { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
svg { background: #ffffff; color: #1b1e22; }
text { fill: #646b74; } .strong { font-weight: 600; fill: #1b1e22; } .tick, text.threshold { font-size: 10.5px; }
text.threshold { fill: #1b1e22; font-weight: 600; } rect { shape-rendering: crispEdges; }
.axis { stroke: #646b74; opacity: 0.55; } line.threshold { stroke: #1b1e22; stroke-dasharray: 4 3; stroke-width: 1.2; }
.train { fill: #16836f; } .val { fill: #5a78b5; }
@media (prefers-color-scheme: dark) {
  svg { background: #1b1f23; } text { fill: #98a0a9; } .strong, text.threshold { fill: #e7e9eb; }
  .axis { stroke: #98a0a9; } line.threshold { stroke: #e7e9eb; } .train { fill: #2fae97; } .val { fill: #7d9bd6; }
}
""")


@dataclass(frozen=True)
class Bars:
    """Bars side by side from low to high; each stacks one height per series."""

    title: str
    low: float
    high: float
    heights: Mapping[str, NDArray[np.float64]]
    """By CSS class of the series, all of one length."""
    top_text: str
    """Label of the tallest bar."""
    thresholds: Mapping[float, str] = field(default_factory=dict)
    ticks: bool = True
    """Whether low to high is a scale."""


def selection_svg(title: str, legend: Mapping[str, str], panels: Sequence[Bars]) -> Markup:
    """An SVG file: a title, a legend by CSS class, and panels from left to right."""
    panel_width, left, top = 370.0, 16.0, 74.0
    width = panel_width * len(panels)
    marks = [_text(left, 26, title, "strong")]
    for number, (css_class, text) in enumerate(legend.items()):
        x = left + 340.0 * number
        marks += [_rect(x, 38, 11, 11, css_class), _text(x + 17, 48, text, "legend")]
    for number, bars in enumerate(panels):
        marks += _bars(bars, left + panel_width * number, top, panel_width - 2 * left)
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} 268" width="{0}" height="268">'
        "<style>{1}</style>{2}</svg>\n"
    ).format(_px(width), SELECTION_STYLE, _join(marks))


def _bars(bars: Bars, left: float, top: float, plot_width: float) -> list[Markup]:
    plot_top, plot_height = top + 34, 110.0
    bottom = plot_top + plot_height
    total = np.sum(list(bars.heights.values()), axis=0)
    tallest = float(total.max()) if len(total) and total.max() > 0 else 1.0
    step = plot_width / max(len(total), 1)
    gap = 1.0 if step > 3 else 0.0
    marks = [
        _text(left, top + 6, bars.title, "strong"),
        _text(left + plot_width, top + 6, bars.top_text, "tick", anchor="end"),
    ]
    floor = np.zeros(len(total))
    for css_class, heights in bars.heights.items():
        for index in np.flatnonzero(heights):
            height = heights[index] / tallest * plot_height
            y = bottom - floor[index] / tallest * plot_height - height
            marks.append(_rect(left + index * step + gap / 2, y, step - gap, height, css_class))
        floor += heights
    marks.append(_line(left, bottom, left + plot_width, bottom))

    def x_of(value: float) -> float:
        return left + (value - bars.low) / (bars.high - bars.low) * plot_width

    for tick in _ticks(bars.low, bars.high) if bars.ticks else ():
        marks.append(_line(x_of(tick), bottom, x_of(tick), bottom + 4))
        marks.append(_text(x_of(tick), bottom + 16, f"{tick:g}", "tick", anchor="middle"))
    for threshold, label in bars.thresholds.items():
        if bars.low <= threshold <= bars.high:
            marks.append(_line(x_of(threshold), plot_top - 4, x_of(threshold), bottom, "threshold"))
            marks.append(_text(x_of(threshold), plot_top - 8, label, "threshold", anchor="middle"))
    return marks


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers from low to high."""
    rough = (high - low) / 5
    magnitude = 10.0 ** np.floor(np.log10(rough))
    step = min((m * magnitude for m in (1, 2, 2.5, 5, 10)), key=lambda candidate: abs(candidate - rough))
    return [float(round(i * step, 10)) for i in range(int(np.ceil(low / step - 1e-9)), int(high / step + 1e-9) + 1)]


def _ribbon(start: tuple[float, float], end: tuple[float, float], thickness: float, bend: float, loss: Loss) -> Markup:
    """A band of constant thickness from `start` (its left corner) down, then right to `end` (its top corner)."""
    (left, top), (stop, y) = start, end
    right = left + thickness
    path = (
        f"M{_px(right)} {_px(top)}V{_px(y - bend)}A{bend} {bend} 0 0 0 {_px(right + bend)} {_px(y)}H{_px(stop)}"
        f"V{_px(y + thickness)}H{_px(right + bend)}"
        f"A{_px(bend + thickness)} {_px(bend + thickness)} 0 0 1 {_px(left)} {_px(y - bend)}V{_px(top)}Z"
    )
    return Markup('<path class="{}" d="{}"><title>{}: {}</title></path>').format(
        loss.css_class, path, loss.label, loss.text
    )


def _rect(x: float, y: float, width: float, height: float, css_class: str) -> Markup:
    return Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>').format(
        css_class, _px(x), _px(y), _px(max(width, 0)), _px(max(height, 0))
    )


def _line(x0: float, y0: float, x1: float, y1: float, css_class: str = "axis") -> Markup:
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
        css_class, _px(x0), _px(y0), _px(x1), _px(y1)
    )


def _text(x: float, y: float, text: str | Markup, css_class: str, anchor: str = "start") -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        css_class, _px(x), _px(y), anchor, text
    )


def _join(marks: Sequence[Markup]) -> Markup:
    return Markup("").join(marks)


def _px(value: float) -> str:
    return f"{value:.1f}"
