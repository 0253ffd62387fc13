"""Points of a face from outside, for drawn faces that no detector finds: `--face-points FILE`.

A CSV with the columns below: a moment, then the middle of the eye on the picture's left, of the eye on its right, and
of the mouth, in pixels of the video as it is shown. Between rows the points move evenly; one row is a face that keeps
still. A row with a time alone: from then on there is no face, until the next row. Each shot has rows of its own.
"""

import csv
import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from lipforge.model.faces.alignment import TEMPLATE_POINTS, crop_corners, outside_ratio
from lipforge.model.faces.covered import FACE_PX, small_face_matrix
from lipforge.pipeline.infer.usable import MEASURES, TrackMeasures

COLUMNS = ("time_s", "left_eye_x", "left_eye_y", "right_eye_x", "right_eye_y", "mouth_x", "mouth_y")
FREE_MOUTH = -10.0
"""Logit of `covered`: who clicks on a mouth sees it."""
MAX_ROWS = 1_000_000
_CLICKED = np.array([[21.9, 29.25], [53.0, 29.25], [37.35, 62.45]])
"""Where the two eyes and the mouth lie in the template of alignment: medians of 36 people who look at the camera."""
_EXTENT = np.array([[3.0, 3.3], [71.7, 84.0]])
"""Corners of the face in the template, from forehead to chin, likewise."""

NO_FACE_HINT = (
    "no face was found in any frame; if there is one that is drawn, or hidden from the detector, say where it is with "
    "--face-points FILE: a CSV with the columns " + ",".join(COLUMNS) + ", in pixels of the video"
)
"""For the message when the detector finds none."""


class FacePoints:
    """The face of a points file at any moment."""

    def __init__(self, times_s: Sequence[float], clicked: Sequence[np.ndarray | None]) -> None:
        """clicked: by time, float [3, 2] left eye, right eye, mouth; None: no face from there on."""
        self.times_s = list(times_s)
        self.clicked = list(clicked)

    def at(self, time_s: float, shot_s: tuple[float, float] = (-math.inf, math.inf)) -> np.ndarray | None:
        """float64 [3, 2]: the eyes and the mouth; None: no face there.

        shot_s: start and end of the shot. Only its own rows count, so a face does not glide across a cut, and a shot
        without rows has no face.
        """
        after = bisect_right(self.times_s, time_s + 1e-6)
        before = after - 1
        has_before = before >= 0 and self.times_s[before] >= shot_s[0] - 1e-3
        has_after = after < len(self.times_s) and self.times_s[after] < shot_s[1] - 1e-3
        first = self.clicked[before] if has_before else None
        second = self.clicked[after] if has_after else None
        if not has_before:
            return second  # it was there before the first row
        if first is None or second is None:
            return first
        share = (time_s - self.times_s[before]) / (self.times_s[after] - self.times_s[before])
        return first + max(share, 0.0) * (second - first)

    def tracks(
        self, frames: Iterable[tuple[int, float, int]], size_px: tuple[int, int], path: Path
    ) -> list[TrackMeasures]:
        """What a detector would have measured: one track for each shot in which the file has a face.

        frames: (number of the source frame, its time, its shot), ascending. size_px: width and height of the frames.
        path: of the file, for the message. Raises ValueError when the face is never within the picture.
        """
        width, height = size_px
        tracks: list[TrackMeasures] = []
        for shot_index, group in groupby(frames, key=lambda frame: frame[2]):
            shot = np.array([(number, time_s) for number, time_s, _ in group])
            last_s = float(shot[-1, 1]) + 1 / 240  # a row at the last frame's own time is still of its shot
            rows = []
            for number, time_s in shot:
                clicked = self.at(time_s, (float(shot[0, 1]), last_s + 1e-3))
                if clicked is not None:
                    rows.append(_row(int(number), float(time_s), clicked, width, height))
            if rows:
                tracks.append(TrackMeasures(len(tracks) + 1, shot_index, np.stack(rows)))
        if not any((track.rows["outside"] < 1).any() for track in tracks):
            raise ValueError(
                f"--face-points {path}: its points are never within the picture, which is {width} x {height} px"
            )
        return tracks


def _row(number: int, time_s: float, clicked: np.ndarray, width: int, height: int) -> np.ndarray:
    """MEASURES []."""
    to_frame = _similarity(_CLICKED, clicked)
    row = np.zeros((), MEASURES)
    row["frame"], row["time_s"], row["score"], row["covered"] = number, time_s, 1.0, FREE_MOUTH
    row["points"] = TEMPLATE_POINTS @ to_frame[:, :2].T + to_frame[:, 2]
    corners = _EXTENT[[0, 0, 1, 1], 0], _EXTENT[[0, 1, 0, 1], 1]
    extent = np.stack(corners, axis=1) @ to_frame[:, :2].T + to_frame[:, 2]
    row["box"] = *extent.min(axis=0), *extent.max(axis=0)
    row["outside"] = outside_ratio(crop_corners(small_face_matrix(row["points"]), 2 * FACE_PX), width, height)
    return row


def _similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """float64 [2, 3]: the turn, scale and shift that bring three points nearest to three others (least squares)."""
    a, b = source[:, 0] + 1j * source[:, 1], target[:, 0] + 1j * target[:, 1]
    turn = np.vdot(a - a.mean(), b - b.mean()) / np.vdot(a - a.mean(), a - a.mean()).real
    shift = b.mean() - turn * a.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def read_face_points(path: Path) -> FacePoints:
    """Raises ValueError: one sentence, with the line's number."""
    times_s: list[float] = []
    clicked: list[np.ndarray | None] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream)
            header = [name.strip() for name in next(reader, [])]
            if header != list(COLUMNS):
                raise _wrong(path, 1, f"the columns are {_shown(','.join(header))}; expected {','.join(COLUMNS)}")
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                time_s, points = _parse(path, reader.line_num, cells)
                if times_s and time_s <= times_s[-1]:
                    problem = f"time_s {time_s:g} does not come after {times_s[-1]:g}; sort the rows by time"
                    raise _wrong(path, reader.line_num, problem)
                if len(times_s) == MAX_ROWS:
                    raise _wrong(path, reader.line_num, f"more than {MAX_ROWS:,} rows")
                times_s.append(time_s)
                clicked.append(points)
    except OSError as error:
        raise ValueError(f"--face-points {path}: cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"--face-points {path}: not a CSV file in UTF-8: {error}") from error
    if all(points is None for points in clicked):
        raise ValueError(f"--face-points {path}: no row has a face; expected {','.join(COLUMNS)} in each")
    return FacePoints(times_s, clicked)


def _parse(path: Path, line: int, cells: list[str]) -> tuple[float, np.ndarray | None]:
    if len(cells) > len(COLUMNS):
        raise _wrong(path, line, f"{len(cells)} values; expected {len(COLUMNS)}: {','.join(COLUMNS)}")
    values = [cell.strip() for cell in cells] + [""] * (len(COLUMNS) - len(cells))
    time_s = _number(path, line, COLUMNS[0], values[0])
    if time_s < 0:
        raise _wrong(path, line, f"time_s is {time_s:g}; expected seconds from the start, 0 or more")
    if not any(values[1:]):
        return time_s, None
    numbers = [_number(path, line, name, value) for name, value in zip(COLUMNS[1:], values[1:], strict=True)]
    left, right, mouth = points = np.array(numbers).reshape(3, 2)
    eyes = right - left
    if np.hypot(*eyes) < 2:
        raise _wrong(path, line, "the two eyes are less than 2 px apart")
    if eyes[0] * (mouth - left)[1] - eyes[1] * (mouth - left)[0] <= 0.1 * (eyes @ eyes):
        problem = "the mouth is not below the line of the eyes; left_eye is the eye on the picture's left"
        raise _wrong(path, line, problem)
    return time_s, points


def _number(path: Path, line: int, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) < 1e6:
        raise _wrong(path, line, f"{name} is {_shown(text) if text else 'empty'}; expected a number")
    return value


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}...")


def _wrong(path: Path, line: int, problem: str) -> ValueError:
    return ValueError(f"--face-points {path}, line {line}: {problem}")
