"""Where a long video is cut into work units."""

from bisect import bisect_left, bisect_right
from itertools import pairwise

from lipforge.model.clock import FPS
from lipforge.pipeline.clip import Unit, Video

LONGEST_SPAN = 1.5
"""A video of up to this many spans is not cut."""


def plan_units(video: Video, max_span_s: float) -> list[Unit]:
    """Cut a video into units of about max_span_s, at key frames, so that none decodes frames of another.

    A video without key frames near those places gives fewer, longer units.
    """
    return cut_at_keys(video, video.first_frame, video.end_frame, max_span_s)


def cut_at_keys(video: Video, first: int, end: int, max_span_s: float) -> list[Unit]:
    """As `plan_units`, for the frames [first, end) of a video."""
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
            at = max(bisect_left(keys, wanted), bisect_right(keys, edges[-1]))
            near = [key for key in keys[max(at - 1, 0) : at + 1] if key > edges[-1]]
            key = min(near, key=lambda k: abs(k - wanted), default=None)
            if key is not None and abs(key - wanted) <= span // 2 and key < end:
                edges.append(key)
            wanted += span
    edges.append(end)
    return [Unit(video, start, stop) for start, stop in pairwise(edges)]
