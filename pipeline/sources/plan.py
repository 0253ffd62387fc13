"""Where a long video is cut into work units."""

from itertools import pairwise

from lipforge.model.clock import FPS
from lipforge.pipeline.clip import Box, Unit, Video

LONGEST_SPAN = 1.5
"""A video of up to this many spans is not cut."""
SAME_FACE = 0.35
"""Least intersection over union of a face's boxes in neighbouring frames."""


def plan_units(video: Video, max_span_s: float) -> list[Unit]:
    """Cut a video into units of about max_span_s, at key frames, so that none decodes frames of another.

    A video without key frames near those places gives fewer, longer units.
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


def joint_share(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, 0..1."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    joint = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / joint if joint > 0 else 0.0
