"""From what was seen and who was chosen to where a new mouth is drawn, and why it is not elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from lipforge.pipeline.infer.choose import Choice
from lipforge.pipeline.infer.plan import Run, Stretch
from lipforge.pipeline.infer.request import PassedSpan, PassReason
from lipforge.pipeline.infer.timeline import Timeline
from lipforge.pipeline.infer.usable import TrackMeasures, UsableConfig, usable_frames

MIN_STRETCH_S = 0.2
"""A face that can be drawn for a shorter time passes: a mouth that changes for five frames is worse than one that does
not."""
MAX_GAP_S = 0.2
"""For so long a face may be missing: its place is interpolated."""
_REASONS = list(PassReason)
_WEAKEST = (PassReason.NO_FACE, PassReason.NOT_CHOSEN)


@dataclass(frozen=True)
class Drawable:
    """Where faces can be drawn in a video."""

    stretches: list[Stretch]
    reasons: list[PassReason]
    """For each frame, why it passes where it is not drawn."""


def find_drawable(
    times_s: np.ndarray, shots: np.ndarray, tracks: Sequence[TrackMeasures], choice: Choice, config: UsableConfig
) -> Drawable:
    """times_s, shots: [N], of the video's frames."""
    stretches: list[Stretch] = []
    reasons = [PassReason.NO_FACE] * len(times_s)
    for track in tracks:
        chosen = track.number in choice.tracks.get(track.shot_index, [])
        if not chosen:
            _note(reasons, track.rows["frame"], [PassReason.NOT_CHOSEN] * len(track.rows))
            continue
        usable, why = usable_frames(track, config)
        _note(reasons, track.rows["frame"], why)
        for first, points in _placed(track.rows[usable], times_s):
            made = _stretch(track.number, first, points, times_s, shots)
            if made is None:
                _note(reasons, np.arange(first, first + len(points)), [PassReason.TOO_SHORT] * len(points))
            else:
                stretches.append(made)
    return Drawable(sorted(stretches, key=lambda stretch: (stretch.first, stretch.track)), reasons)


def passed_spans(drawable: Drawable, runs: Sequence[Run], timeline: Timeline) -> tuple[list[PassedSpan], int]:
    """(spans of the result that pass unchanged, number of its frames that are drawn)"""
    numbers = np.arange(timeline.num_frames)
    sources, pts, durations = timeline.places(numbers)
    codes = np.array([_REASONS.index(reason) for reason in drawable.reasons])[sources]
    for run in runs:
        codes[run.first : run.end] = -1
    tick_s = float(timeline.time_base)
    edges = [0, *(np.flatnonzero(np.diff(codes)) + 1), len(codes)]
    spans = [
        PassedSpan(
            float(pts[first]) * tick_s, float(pts[end - 1] + durations[end - 1]) * tick_s, _REASONS[codes[first]]
        )
        for first, end in pairwise(edges)
        if codes[first] >= 0
    ]
    return spans, int((codes < 0).sum())


def _note(reasons: list[PassReason], frames: np.ndarray, why: Sequence[PassReason | None]) -> None:
    """A reason of the chosen face counts more than one of another, or none."""
    for frame, reason in zip(frames.tolist(), why, strict=True):
        if reason is not None and (reasons[frame] in _WEAKEST):
            reasons[frame] = reason


def _placed(rows: np.ndarray, times_s: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """(first frame, alignment points float64 [n, 3, 2]) of each stretch of frames, brief gaps filled."""
    found = []
    if not len(rows):
        return found
    frames = rows["frame"]
    breaks = np.flatnonzero(np.diff(times_s[frames]) > MAX_GAP_S + 1e-6) + 1
    for part in np.split(rows, breaks):
        first, last = int(part["frame"][0]), int(part["frame"][-1])
        wanted = np.arange(first, last + 1)
        flat = part["points"].reshape(len(part), -1).astype(np.float64)
        columns = [np.interp(times_s[wanted], times_s[part["frame"]], column) for column in flat.T]
        found.append((first, np.stack(columns, axis=1).reshape(-1, 3, 2)))
    return found


def _stretch(track: int, first: int, points: np.ndarray, times_s: np.ndarray, shots: np.ndarray) -> Stretch | None:
    """None where it is too short, unless it is all that the video has."""
    end = first + len(points)
    whole = len(points) == len(times_s)
    if times_s[end - 1] - times_s[first] < MIN_STRETCH_S and not whole:
        return None
    goes_on = [0 < edge < len(shots) and shots[edge - 1] == shots[edge] for edge in (first, end)]
    return Stretch(track, first, points, goes_on[0], goes_on[1])
