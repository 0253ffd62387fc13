"""One picture that shows every face with its number, so that a person can say which one is meant."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from lipforge.datasets_manifest.display import counted
from lipforge.model.faces.boxes import Box, area
from lipforge.pipeline.clip import Frame
from lipforge.pipeline.infer.choose import Choice
from lipforge.pipeline.infer.usable import TrackMeasures

MAX_PICTURES = 120
"""Frames that are kept: some 10 MB in all, and as much as one can look through."""
_KEPT_PX = 960
"""Longer side of a frame that is kept."""
_BETTER = 1.3
"""A frame replaces another if it shows more faces, or the same number this much larger."""
_WIDTH_PX = 1440
_GAP_PX = 12
_LINE_PX = 22
_CHOSEN, _OTHER, _GROUND, _INK = (60, 190, 75), (235, 235, 235), (28, 28, 30), (230, 230, 230)
"""RGB."""


@dataclass(frozen=True)
class _Picture:
    shot_index: int
    time_s: float
    jpeg: bytes
    size_px: tuple[int, int]
    """Width and height of the JPEG."""
    boxes: Mapping[int, Box]
    """By track index, in pixels of the JPEG."""


class ShotPictures:
    """Keeps small frames that show each face of each shot, as many together as possible, while the frames stream by."""

    def __init__(self) -> None:
        self._of: dict[int, _Picture] = {}
        """By track index."""
        self._looks: dict[int, tuple[int, float]] = {}
        """By track index: number of faces and size of this one in its picture."""

    def add(self, frame: Frame, time_s: float) -> None:
        """frame: from `TrackFaces`."""
        sizes = {track: (len(frame.faces), area(face.box)) for track, face in frame.faces.items()}
        better = [track for track, look in sizes.items() if self._is_better(track, look)]
        if not better:
            return
        assert frame.picture is not None
        picture = _keep(frame, time_s)
        for track in better:
            self._of[track], self._looks[track] = picture, sizes[track]

    def by_number(self) -> list[tuple[_Picture, dict[int, int]]]:
        """(picture, track index by number): every face in one of them, in order of shots. Numbers as in `FaceLog`."""
        numbers = {track: number for number, track in enumerate(sorted(self._looks), start=1)}
        pictures = {id(picture): picture for picture in self._of.values()}
        left, chosen = set(self._of), []
        while left and pictures:
            best = max(pictures.values(), key=lambda one: (len(left & set(one.boxes)), -one.time_s))
            if not left & set(best.boxes):
                break
            left -= set(best.boxes)
            chosen.append(best)
        chosen.sort(key=lambda one: (one.shot_index, one.time_s))
        return [(one, {numbers[track]: track for track in sorted(one.boxes)}) for one in chosen]

    def _is_better(self, track: int, look: tuple[int, float]) -> bool:
        old = self._looks.get(track)
        if old is None:
            if len({id(picture) for picture in self._of.values()}) < MAX_PICTURES:
                return True
            self._looks[track] = look  # it has a number, but no picture
            return False
        if track not in self._of:
            return False
        return look[0] > old[0] or (look[0] == old[0] and look[1] > _BETTER * old[1])


def _keep(frame: Frame, time_s: float) -> _Picture:
    assert frame.picture is not None
    width, height = frame.picture.size_px
    scale = min(1.0, _KEPT_PX / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    rgb = frame.picture.whole()
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA) if scale < 1 else rgb
    encoded = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
    boxes = {track: _scaled(face.box, scale) for track, face in frame.faces.items()}
    return _Picture(frame.shot_index, time_s, encoded.tobytes(), size, boxes)


def save_faces_picture(path: Path, shots: ShotPictures, tracks: Sequence[TrackMeasures], choice: Choice | None) -> None:
    """Write a JPEG: each shot's faces with their numbers and times. choice: those that get new lips are highlighted.

    Raises OSError when it cannot be written.
    """
    path.write_bytes(faces_picture(shots, tracks, choice))


def faces_picture(shots: ShotPictures, tracks: Sequence[TrackMeasures], choice: Choice | None) -> bytes:
    """The JPEG that `save_faces_picture` writes."""
    known = {track.number: track for track in tracks}
    chosen = {number for numbers in choice.tracks.values() for number in numbers} if choice else set()
    shown = shots.by_number()
    columns = 1 if len(shown) == 1 else 2 if len(shown) <= 4 else 3
    width = (_WIDTH_PX - (columns + 1) * _GAP_PX) // columns
    panels = [_panel(one, numbers, known, chosen, width) for one, numbers in shown]
    missing = len(tracks) - len({number for _, numbers in shown for number in numbers})
    rows = [_title(counted(len(tracks), "face"), choice is not None, missing)]
    for first in range(0, len(panels), columns):
        row = panels[first : first + columns]
        height = max(len(panel) for panel in row)
        sheet = _blank(height + _GAP_PX, _WIDTH_PX)
        for place, panel in enumerate(row):
            left = _GAP_PX + place * (width + _GAP_PX)
            sheet[: len(panel), left : left + width] = panel
        rows.append(sheet)
    whole = cv2.cvtColor(np.concatenate(rows), cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", whole, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()


def _panel(
    picture: _Picture, numbers: Mapping[int, int], known: Mapping[int, TrackMeasures], chosen: set[int], width: int
) -> np.ndarray:
    """One frame with its faces, and under it when each is seen."""
    bgr = cv2.imdecode(np.frombuffer(picture.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None
    scale = min(width / picture.size_px[0], 1.25 * width / picture.size_px[1])
    size = max(1, round(picture.size_px[0] * scale)), max(1, round(picture.size_px[1] * scale))
    image = cv2.resize(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), size, interpolation=cv2.INTER_AREA)
    for number, track in sorted(numbers.items(), key=lambda pair: pair[0] in chosen):
        _box(image, _scaled(picture.boxes[track], scale), str(number), number in chosen)
    lines = [(f"shot {picture.shot_index + 1}, {clock(picture.time_s)}", _INK)]
    for number in numbers:
        if number in known:
            seen = known[number].rows["time_s"]
            words = f"{number}: {clock(float(seen[0]))} to {clock(float(seen[-1]))}"
            lines.append((words + (", new lips" if number in chosen else ""), _CHOSEN if number in chosen else _INK))
    return np.concatenate([_centred(image, width), _text(lines, width)])


def _box(image: np.ndarray, box: Box, label: str, is_chosen: bool) -> None:
    x0, y0, x1, y1 = (round(edge) for edge in box)
    colour = _CHOSEN if is_chosen else _OTHER
    cv2.rectangle(image, (x0, y0), (x1, y1), (0, 0, 0), 5 if is_chosen else 3)
    cv2.rectangle(image, (x0, y0), (x1, y1), colour, 3 if is_chosen else 1)
    scale = float(np.clip((x1 - x0) / 90, 0.55, 1.1))
    (wide, high), _ = cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, scale, 2)
    left = int(np.clip(x0, 0, max(0, image.shape[1] - wide - 8)))
    top = y0 - high - 10 if y0 - high - 10 >= 0 else min(max(y1, 0), max(0, image.shape[0] - high - 10))
    cv2.rectangle(image, (left, top), (left + wide + 8, top + high + 10), colour, -1)
    cv2.putText(image, label, (left + 4, top + high + 4), cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 2, cv2.LINE_AA)


def _title(count: str, has_choice: bool, num_missing: int) -> np.ndarray:
    words = f"{count}. Choose with track:N"
    if has_choice:
        words += "; green: gets new lips"
    if num_missing:
        words += f"; {num_missing} more are not shown"
    return _text([(words, _INK)], _WIDTH_PX, left=_GAP_PX)


def _text(lines: Sequence[tuple[str, tuple[int, int, int]]], width: int, left: int = 0) -> np.ndarray:
    sheet = _blank(_LINE_PX * len(lines) + _GAP_PX, width)
    for row, (words, colour) in enumerate(lines):
        place = left, _LINE_PX * (row + 1) - 2
        cv2.putText(sheet, words, place, cv2.FONT_HERSHEY_SIMPLEX, 0.55, colour, 1, cv2.LINE_AA)
    return sheet


def _centred(image: np.ndarray, width: int) -> np.ndarray:
    sheet = _blank(len(image), width)
    left = (width - image.shape[1]) // 2
    sheet[:, left : left + image.shape[1]] = image
    return sheet


def _blank(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), _GROUND, np.uint8)


def _scaled(box: Box, scale: float) -> Box:
    x0, y0, x1, y1 = (edge * scale for edge in box)
    return x0, y0, x1, y1


def clock(time_s: float) -> str:
    """As people write times: 0:07.4, 12:05.0, 1:02:03.5."""
    tenths = round(time_s * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    start = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    return f"{start}:{rest // 10:02d}.{rest % 10}"
