"""Seams: a face that the border between two units of a long video cuts in two.

Units are processed apart, so a run of a face ends at the border and another run begins there. Each alone may be too
short for a clip, while both together are long enough:

    unit 1     |---------------[=====]
    unit 2                           [=====]---------------|
    seam unit                  [===========]

Cutting a unit records such runs as open ends (`border_box`, `open_ends`). Once both units are done, `plan_seams` pairs
open ends that meet in the same place and makes a unit of their joint span. It is processed like any other, but keeps
only the clip of that face (`belongs_to_its_unit`): its neighbours account for the rest of the span. Frames of its clip
also lie in the two short runs; they count as the clip's if it is kept (publish/accounts.py).
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
    """The span of one face that two neighbouring units each saw for too short a time, but long enough together."""

    border: int
    """First frame of the later unit."""
    box: Box
    """Where the face is in that frame."""

    @property
    def unit_id(self) -> str:
        # Two faces in one shot may be cut at the same border over the same span: the box tells their units apart.
        place = hashlib.sha256(",".join(f"{edge:.3f}" for edge in self.box).encode()).hexdigest()[:8]
        return f"{super().unit_id}-seam-{place}"


@dataclass(frozen=True)
class _OpenEnd:
    """A run too short for a clip that touches the border to the next or the previous unit, as the ledger holds it."""

    start_frame: int
    end_frame: int
    box: Box
    """The face at the border."""


def border_box(run: Clip) -> Box | None:
    """Where the face of a short run is at the border to the neighbouring unit; None if the run touches none.

    run: with the pieces of all its frames.
    """
    unit = run.unit
    at_start = run.start_frame == unit.start_frame > unit.video.first_frame
    at_end = run.end_frame == unit.end_frame < unit.video.end_frame
    landmarks = run.pieces[-1 if at_end else 0].landmarks
    return _box(landmarks) if (at_start or at_end) and landmarks is not None else None


def open_ends(clips: Iterable[Clip]) -> list[dict[str, Any]]:
    """What a unit's ledger record says for its seams."""
    return [asdict(_OpenEnd(c.start_frame, c.end_frame, c.border_box)) for c in clips if c.border_box is not None]


def plan_seams(video: Video, records: Sequence[Mapping[str, Any]], min_frames: int) -> list[Unit]:
    """Units for the faces that the borders between a video's units cut in two.

    records: ledger records of the video's units, in order. min_frames: length of the shortest clip.
    """
    seams: list[Unit] = []
    for before, after in pairwise(records):
        border = before["end_frame"]
        for end in (_OpenEnd(**end) for end in before["open_ends"]):
            for begin in (_OpenEnd(**begin) for begin in after["open_ends"]):
                together = begin.end_frame - end.start_frame
                touching = end.end_frame == border == begin.start_frame
                if touching and together >= min_frames and iou(end.box, begin.box) >= SAME_FACE_IOU:
                    seams.append(SeamUnit(video, end.start_frame, begin.end_frame, border, begin.box))
    return seams


def belongs_to_its_unit(clip: Clip) -> bool:
    """False for what a seam's unit sees besides its one face. clip: as cut, with the pieces of its frames."""
    unit = clip.unit
    if not isinstance(unit, SeamUnit):
        return True
    if not clip.start_frame < unit.border < clip.end_frame or len(clip.pieces) != clip.num_frames:
        return False
    landmarks = clip.pieces[unit.border - clip.start_frame].landmarks
    return landmarks is not None and iou(_box(landmarks), unit.box) >= SAME_FACE_IOU


def _box(landmarks: np.ndarray) -> Box:
    (x0, y0), (x1, y1) = landmarks[:, :2].min(axis=0).tolist(), landmarks[:, :2].max(axis=0).tolist()
    return x0, y0, x1, y1
