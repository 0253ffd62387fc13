"""Figures of the lip-sync results page: small SVG files."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from benchmarks.lip_sync.cases import Chance, Turn
from benchmarks.lip_sync.engine import EngineRun, residuals
from benchmarks.lip_sync.measures import Scores, kept_at

mpl.rcParams.update(
    {
        "svg.fonttype": "none",  # text stays text: small files
        "svg.hashsalt": "lipforge",  # the same drawing gives the same bytes
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#dddddd",
        "legend.frameon": False,
        "legend.fontsize": 8,
    }
)
COLOURS = ("#1b6ca8", "#c4521a", "#3c8a3f", "#7b4fa3", "#8a8a8a")


def save(figure: Figure, path: Path) -> None:
    """SVG on white, readable on any page."""
    figure.savefig(path, metadata={"Date": None}, facecolor="white", bbox_inches="tight")
    plt.close(figure)


def draw_thresholds(by_length: Sequence[Scores], chances: Sequence[Chance], threshold: float) -> Figure:
    """Shares of own audio kept and of other audio rejected, by threshold."""
    figure, axes = plt.subplots(figsize=(8.5, 3.4), layout="constrained")
    grid = np.linspace(0, 6, 61)
    for scores, chance, colour in zip(by_length, chances, COLOURS, strict=False):
        equal = np.ones(len(scores.own))
        label = f"kept, {chance.length_s:g} s: {len(scores.own)} windows, {_speakers(len(scores.unique_speakers))}"
        axes.plot(grid, [100 * kept_at(t)(scores, equal) for t in grid], color=colour, label=label)
        label = f"rejected, {chance.length_s:g} s: {len(chance.confidence)} pairs, {chance.num_faces} faces"
        rejected = [100 * float(np.mean(chance.confidence < t)) for t in grid]
        axes.plot(grid, rejected, color=colour, linestyle="--", label=label)
    axes.axvline(threshold, color="black", linewidth=1)
    axes.annotate(f"default {threshold:g}", (threshold, 2), xytext=(3, 0), textcoords="offset points")
    axes.set(xlabel="confidence threshold", ylabel="share, %", xlim=(0, 6), ylim=(0, 101))
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def draw_chance(chances: Sequence[Chance], threshold: float) -> Figure:
    """Confidence of mismatches, by length of the clip."""
    figure, axes = plt.subplots(figsize=(7.2, 3), layout="constrained")
    lengths = [chance.length_s for chance in chances]
    for q, style in ((0.05, ":"), (0.5, "-"), (0.95, "--")):
        values = [np.quantile(chance.confidence, q) for chance in chances]
        axes.plot(lengths, values, style, color=COLOURS[0], marker=".", label=f"{100 * q:g} % lie below")
    axes.axhline(threshold, color="black", linewidth=1)
    axes.annotate(f"default {threshold:g}", (lengths[0], threshold), xytext=(0, 3), textcoords="offset points")
    axes.set(xlabel="length of the clip, s", ylabel="confidence of mismatches", xlim=(0, None), ylim=(0, None))
    axes.legend(loc="lower right", ncols=3)
    return figure


def draw_turns(turns: Sequence[Turn]) -> Figure:
    """When each face speaks: one row of axes per video, one line per face."""
    files = list(dict.fromkeys(turn.track.file for turn in turns))
    figure, rows = plt.subplots(len(files), 1, figsize=(9, 2 * len(files)), squeeze=False, layout="constrained")
    for axes, file in zip(rows[:, 0], files, strict=True):
        faces = [turn for turn in turns if turn.track.file == file]
        for number, (turn, colour) in enumerate(zip(faces, COLOURS, strict=False)):
            across = turn.track.points[:, :, 0].mean()
            label = f"face {number}, at x = {across:.0f} px, confidence {turn.score.confidence:.1f}"
            axes.plot(turn.times_s, turn.similarity, color=colour, label=label)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_title(f"{file}, audio offset {faces[0].offset_frames:+d} frames", loc="left", fontsize=9)
        axes.set(ylabel="similarity above\nthe median offset")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    rows[-1, 0].set_xlabel("time in the video, s (each value is the mean of 1 s)")
    return figure


def draw_planted(run: EngineRun) -> Figure:
    """Found against planted offsets; their difference; the offsets left in the stored clips."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
    for way, colour, aside in (("samples", COLOURS[0], -0.15), ("time stamps", COLOURS[1], 0.15)):
        points: dict[tuple[int, int], int] = {}
        for found in run.found:
            if found.way == way and found.offset is not None:
                place = (found.planted, found.offset - found.reference)
                points[place] = points.get(place, 0) + 1
        if points:
            x, y = zip(*points, strict=True)
            sizes = [12 * count for count in points.values()]
            left.scatter(np.array(x) + aside, y, s=sizes, color=colour, alpha=0.7, linewidths=0, label=way)
    left.plot((-12, 12), (-12, 12), color="black", linewidth=0.8)
    left.set(xlabel="planted offset, frames", ylabel="offset found minus the video's own, frames")
    left.legend(loc="upper left")
    again = np.array([found.left for found in run.found if found.left is not None])
    for axes, values, label in (
        (middle, residuals(run), "found minus planted, frames"),
        (right, again, "offset of stored clips,\nscored again, frames"),
    ):
        if len(values):
            places, counts = np.unique(values, return_counts=True)
            axes.bar(places, counts, color=COLOURS[0])
        axes.set(xlabel=label, ylabel="clips")
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))  # type: ignore[attr-defined]
    return figure


def _speakers(count: int) -> str:
    return "1 speaker" if count == 1 else f"{count} speakers"
