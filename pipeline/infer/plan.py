"""Where the result gets a new mouth: the runs of frames to draw, and the 25 fps grid in each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from lipforge.model.clock import FPS
from lipforge.model.faces.alignment import align, steady, to_square
from lipforge.pipeline.infer.timeline import Timeline

FADE_S = 0.12
"""Where a face becomes unusable in the middle of a shot, the new mouth fades in or out for this long."""
_HALF_GRID_S = 0.5 / FPS
_TOLERANCE_S = 1e-4


@dataclass(frozen=True)
class Stretch:
    """Consecutive frames of the video in which one face can be drawn."""

    track: int
    first: int
    """Frame of the video."""
    points: np.ndarray
    """float64 [N, 3, 2]: alignment points, in pixels of the picture as shown."""
    fades_in: bool
    """The shot shows the face before it, too."""
    fades_out: bool

    @property
    def end(self) -> int:
        return self.first + len(self.points)

    def before(self, end: int) -> "Stretch":
        """Its frames before `end`."""
        return replace(self, points=self.points[: end - self.first]) if end < self.end else self


class Matrices:
    """Where the face of a stretch is, frame by frame."""

    def __init__(self, stretch: Stretch, resolution: int, fps: float, smoothing_frames: float) -> None:
        """fps: of the video; smoothing_frames: of AlignConfig, at 25 fps."""
        points = steady(stretch.points, smoothing_frames * max(fps, 1.0) / FPS)
        self.first = stretch.first
        self.to_crop = to_square(align(points, resolution), resolution)
        """float64 [N, 2, 3]: pixels of the picture as shown to pixels of the crop."""

    def at(self, source: int) -> np.ndarray:
        return self.to_crop[source - self.first]


@dataclass(frozen=True)
class Run:
    """Consecutive frames of the result with one drawn face. Goes on across the turns of a loop."""

    stretch: int
    """Index of the stretch it shows."""
    first: int
    """Frame of the result."""
    end: int
    fades_in: bool
    fades_out: bool


def runs_of(stretches: Sequence[Stretch], timeline: Timeline) -> list[Run]:
    """All runs of a result, by their first frame."""
    count = len(timeline.pts)
    found: list[Run] = []
    for index, stretch in enumerate(stretches):
        spans: list[tuple[int, int, bool, bool]] = []
        for lap_begin in range(0, timeline.num_frames, count):
            if timeline.hold and lap_begin:
                if stretch.end == count:
                    spans.append((lap_begin, timeline.num_frames, False, False))
                break
            forward = (lap_begin // count) % 2 == 0
            if forward:
                span = lap_begin + stretch.first, lap_begin + stretch.end, stretch.fades_in, stretch.fades_out
            else:
                last = lap_begin + count
                span = last - stretch.end, last - stretch.first, stretch.fades_out, stretch.fades_in
            spans.append(span)
        joined: list[tuple[int, int, bool, bool]] = []
        for span in spans:
            if joined and joined[-1][1] == span[0]:
                joined[-1] = joined[-1][0], span[1], joined[-1][2], span[3]
            else:
                joined.append(span)
        for first, end, fades_in, fades_out in joined:
            if first < timeline.num_frames:
                ends_here = end <= timeline.num_frames
                found.append(
                    Run(index, first, min(end, timeline.num_frames), fades_in, fades_out if ends_here else False)
                )
    return sorted(found, key=lambda run: (run.first, run.stretch))


class Grid:
    """The frames of one run at 25 fps: which frame of the result each shows, and when it is heard.

    The model draws the pictures that the grid shows, chosen as in training (media/grid.py). A picture is drawn for its
    own moment, not for that of the grid, so it goes where it came from and is exactly in time. Frames between two of
    them get a face between the drawn ones.
    """

    def __init__(self, run: Run, timeline: Timeline) -> None:
        self.first = run.first
        _, pts, durations = timeline.places(np.arange(run.first, run.end))
        tick_s = float(timeline.time_base)
        self.times_s = pts * tick_s
        end_s = float(pts[-1] + durations[-1]) * tick_s
        first_grid = round(self.times_s[0] * FPS)
        numbers = np.arange(first_grid, max(first_grid + 1, round(end_s * FPS)))
        grid_s = numbers / FPS
        before = np.clip(np.searchsorted(self.times_s, grid_s + _TOLERANCE_S, side="right") - 1, 0, None)
        after = np.minimum(before + 1, len(self.times_s) - 1)
        later_s = self.times_s[after] - grid_s
        is_nearer = (later_s < _HALF_GRID_S - _TOLERANCE_S) & (later_s <= grid_s - self.times_s[before])
        shown = np.where(is_nearer & (later_s > 0), after, before)
        self.shown: np.ndarray = shown
        """int64 [G]: index in the run of the frame that each grid frame shows."""
        self.heard_s: np.ndarray = grid_s.copy()
        """float64 [G]: the moment of the sound that each grid frame is drawn for."""
        self.home: np.ndarray = np.full(len(self.times_s), -1)
        """int64 [frames of the run]: the grid frame that draws it; -1: none does."""
        errors = np.abs(grid_s - self.times_s[shown])
        for index in np.lexsort((errors, shown))[::-1]:
            self.home[shown[index]] = index
        drawn = np.flatnonzero(self.home >= 0)
        self.heard_s[self.home[drawn]] = self.times_s[drawn]
        self.heard_s = np.maximum.accumulate(self.heard_s)
        self._drawn = drawn

    @property
    def num_frames(self) -> int:
        return len(self.shown)

    def neighbours(self, index: int) -> tuple[int, int, float]:
        """(grid frame before, grid frame after, share of the way) for a frame of the run; equal ones where it is drawn.

        index: in the run.
        """
        at = int(np.searchsorted(self._drawn, index))
        if at < len(self._drawn) and self._drawn[at] == index:
            return int(self.home[index]), int(self.home[index]), 0.0
        if at == 0 or at == len(self._drawn):
            nearest = int(self.home[self._drawn[min(at, len(self._drawn) - 1)]])
            return nearest, nearest, 0.0
        low, high = int(self._drawn[at - 1]), int(self._drawn[at])
        share = (self.times_s[index] - self.times_s[low]) / (self.times_s[high] - self.times_s[low])
        return int(self.home[low]), int(self.home[high]), float(share)


def opacity(run: Run, grid: Grid, index: int) -> float:
    """0..1: how much of the drawn mouth is shown in a frame of a run (index in the run)."""
    time_s = grid.times_s[index]
    found = 1.0
    if run.fades_in:
        found = min(found, (time_s - grid.times_s[0] + 1 / FPS) / (FADE_S + 1 / FPS))
    if run.fades_out:
        found = min(found, (grid.times_s[-1] - time_s + 1 / FPS) / (FADE_S + 1 / FPS))
    return found


def spans_of(flags: np.ndarray) -> list[tuple[int, int]]:
    """[first, end) of each stretch of True in a bool array."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(first), int(end)) for first, end in list(pairwise(edges))[::2]]
