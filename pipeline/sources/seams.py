"""Seams: a face that the border between two units of a long video cuts in two.

Units are processed apart, so a run of a face ends at the border and another run begins there. Each alone may be too
short for a clip, or for a good one, while both together are long enough:

    unit 1     |---------------[=====]
    unit 2                           [=====]---------------|
    seam unit                  [===========]

So a run that touches a border and is shorter than half of the longest clip is not cut at once: its unit records it as
an open end (`border_box`, `open_ends`). Once both units are done, `plan_seams` pairs open ends that meet in the same
place and makes a unit of their joint span; an open end that has no partner gets a unit of its own. Either is processed
like any other unit, but keeps only the clip of that face (`belongs_to_its_unit`): its neighbours account for the rest
of the span. Frames of its clip also lie in the short runs; they count as the clip's (publish/accounts.py).
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from lipforge.model.faces.boxes import SAME_FACE_IOU, Box, iou
from lipforge.pipeline.clip import Clip, Unit, Video


@dataclass(frozen=True)
class SeamUnit(Unit):
    """The span of one face at the border of two units, which neither has cut."""

    seen_at: int
    """A frame at the border that shows the face."""
    box: Box
    """Where the face is in that frame."""

    @property
    def pass_number(self) -> int:
        return 2

    @property
    def unit_id(self) -> str:
        # Two faces in one shot may be cut at the same border over the same span: the box tells their units apart.
        place = hashlib.sha256(",".join(f"{edge:.3f}" for edge in self.box).encode()).hexdigest()[:8]
        return f"{super().unit_id}-seam-{place}"


@dataclass(frozen=True)
class _OpenEnd:
    """A short run that touches the border to the next or the previous unit, as the ledger holds it."""

    start_frame: int
    end_frame: int
    box: Box
    """The face at the border."""


def border_box(unit: Unit, start_frame: int, landmarks: Sequence[np.ndarray | None]) -> Box | None:
    """Where the face of a run is at the border to the neighbouring unit; None if the run touches none.

    landmarks: of each frame of the run, from start_frame on; None where the face was lost briefly.
    """
    if isinstance(unit, SeamUnit):
        return None
    at_start = start_frame == unit.start_frame > unit.video.first_frame
    at_end = start_frame + len(landmarks) == unit.end_frame < unit.video.end_frame
    there = landmarks[-1 if at_end else 0]
    return _box(there) if (at_start or at_end) and there is not None else None


def open_ends(clips: Iterable[Clip]) -> list[dict[str, Any]]:
    """What a unit's ledger record says for its seams."""
    return [asdict(_OpenEnd(c.start_frame, c.end_frame, c.border_box)) for c in clips if c.border_box is not None]


def plan_seams(video: Video, records: Sequence[Mapping[str, Any]], min_frames: int) -> list[Unit]:
    """Units for the faces at the borders between a video's units that no unit has cut.

    records: ledger records of the video's units, in order. min_frames: length of the shortest run that is cut.
    """
    seams: list[Unit] = []
    for before, after in pairwise(records):
        border = before["end_frame"]
        ends = [end for end in map(_open_end, before["open_ends"]) if end.end_frame == border]
        begins = [begin for begin in map(_open_end, after["open_ends"]) if begin.start_frame == border]
        pairs = [(end, begin) for end in ends for begin in begins if iou(end.box, begin.box) >= SAME_FACE_IOU]
        spans = [SeamUnit(video, end.start_frame, begin.end_frame, border, begin.box) for end, begin in pairs]
        paired = {run for pair in pairs for run in pair}
        spans += [SeamUnit(video, r.start_frame, border, border - 1, r.box) for r in ends if r not in paired]
        spans += [SeamUnit(video, border, r.end_frame, border, r.box) for r in begins if r not in paired]
        seams += [span for span in spans if span.num_frames >= min_frames]
    return seams


def _open_end(stored: Mapping[str, Any]) -> _OpenEnd:
    return _OpenEnd(stored["start_frame"], stored["end_frame"], tuple(stored["box"]))


def belongs_to_its_unit(clip: Clip) -> bool:
    """False for what a seam's unit sees besides its one face. clip: as cut, with the pieces of its frames."""
    unit = clip.unit
    if not isinstance(unit, SeamUnit):
        return True
    if not clip.start_frame <= unit.seen_at < clip.end_frame or len(clip.pieces) != clip.num_frames:
        return False
    landmarks = clip.pieces[unit.seen_at - clip.start_frame].landmarks
    return landmarks is not None and iou(_box(landmarks), unit.box) >= SAME_FACE_IOU


def _box(landmarks: np.ndarray) -> Box:
    (x0, y0), (x1, y1) = landmarks[:, :2].min(axis=0).tolist(), landmarks[:, :2].max(axis=0).tolist()
    return x0, y0, x1, y1
