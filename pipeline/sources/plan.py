"""From videos to work units: which content is new, and where a long video may be cut. Pure decisions on values."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from lipforge.model.clock import FPS
from lipforge.model.faces.boxes import SAME_FACE_IOU, iou
from lipforge.pipeline.clip import OpenEnd, Seam, Unit, Video

LONGEST_SPAN = 1.5
"""A video up to this many spans long is not cut."""


def plan_units(video: Video, max_span_s: float) -> list[Unit]:
    """Cut a video into units of about max_span_s, at key frames, so that none decodes what belongs to another.

    A video without key frames near the wanted places gives fewer, longer units.
    """
    first, end = video.first_frame, video.end_frame
    if end <= first:
        return []
    assert video.info is not None
    span = round(max_span_s * FPS)
    edges = [first]
    if end - first > LONGEST_SPAN * span:
        # A grid frame shows the key frame or a later one from here on.
        keys = sorted({int(-(-(time_s * FPS - 1e-3) // 1)) for time_s in video.info.key_times_s})
        wanted = first + span
        while wanted < end - span // 2:
            key = min((key for key in keys if key > edges[-1]), key=lambda k: abs(k - wanted), default=None)
            if key is not None and abs(key - wanted) <= span // 2 and key < end:
                edges.append(key)
            wanted += span
    edges.append(end)
    return [Unit(video, start, stop) for start, stop in pairwise(edges)]


def plan_seams(video: Video, records: Sequence[Mapping[str, Any]], min_frames: int) -> list[Unit]:
    """Units for the faces that the borders between a video's units cut in two.

    records: ledger records of the video's units, in order. A run below min_frames gives no clip; where such a run ends at a border and
    another begins there at the same place, and both together are long enough, their span is looked at once more.
    """
    seams = []
    for before, after in pairwise(records):
        border = before["end_frame"]
        ends = [OpenEnd(**end) for end in before["open_ends"]]
        begins = [OpenEnd(**begin) for begin in after["open_ends"]]
        for end in ends:
            for begin in begins:
                together = begin.end_frame - end.start_frame
                touching = end.end_frame == border == begin.start_frame
                if touching and together >= min_frames and iou(end.box, begin.box) >= SAME_FACE_IOU:
                    seams.append(Unit(video, end.start_frame, begin.end_frame, Seam(border, begin.box)))
    return seams


def split_duplicates(videos: Iterable[Video], known: Iterable[Video]) -> tuple[list[Video], list[tuple[Video, Video]]]:
    """(new content, [(video that repeats some, its owner)]).

    known: the owners that earlier runs decided on; they stay owners, so adding sources changes nothing old. Spans of one
    file that do not overlap are different content; an entry that overlaps an owner is a duplicate as a whole. A known
    owner itself comes back in neither list.
    """
    owners: dict[str, list[Video]] = {}
    for video in known:
        owners.setdefault(video.source_id, []).append(video)
    new: list[Video] = []
    duplicates: list[tuple[Video, Video]] = []
    for video in videos:
        same = owners.setdefault(video.source_id, [])
        owner = next((o for o in same if o.first_frame < video.end_frame and video.first_frame < o.end_frame), None)
        if owner is None:
            same.append(video)
            new.append(video)
        elif owner.source.entry_id != video.source.entry_id:
            duplicates.append((video, owner))
    return new, duplicates
