"""Deinterlace: each field becomes a picture at its own time."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import av
import av.error
import av.filter

from lipforge.datasets_manifest.schema import Reason
from lipforge.pipeline.media.container import MediaError, error_text
from lipforge.pipeline.media.video import SourceFrame

LONGEST_FRAME_S = 0.1
"""Frames further apart are not neighbours: one field tells nothing about the other."""
LEAVE_AFTER = 25
"""Progressive frames in a row after which the filter is left. Telecined film mixes both kinds all the time."""
SMALLEST_PX = 16
_TICK = Fraction(1, 1_000_000)


def deinterlace(frames: Iterable[SourceFrame]) -> Iterator[SourceFrame]:
    """Replace each interlaced frame by two pictures, half a frame apart; pass on all others. In order.

    Frames before the first interlaced one are handed on at once, untouched. After it, the filter holds one frame back
    and leaves the progressive ones among them as they are.
    """
    fields: _Fields | None = None
    for frame in frames:
        image = frame.image
        if fields is not None and not fields.can_continue(frame):
            yield from fields.finish()
            fields = None
        if image is None or (fields is None and not _has_fields(image)):
            yield frame
        else:
            fields = fields or _Fields(image)
            yield from fields.add(frame)
    if fields is not None:
        yield from fields.finish()


class _Fields:
    """bwdif on a stretch of neighbouring frames of one size and format."""

    def __init__(self, image: av.VideoFrame) -> None:
        self.kind = _kind(image)
        self.waiting: list[SourceFrame] = []
        """Those whose pictures have not all come out of the filter, by time."""
        self.last_s = 0.0
        self.num_progressive = 0
        self.previous_s = float("-inf")
        self.graph = av.filter.Graph()
        self.graph.threads = 1
        try:
            source = self.graph.add_buffer(width=image.width, height=image.height, format=image.format, time_base=_TICK)
            # The order of the fields is each frame's own.
            bob = self.graph.add("bwdif", mode="send_field", parity="auto", deint="interlaced")
            self.graph.link_nodes(source, bob, self.graph.add("buffersink")).configure()
        except (av.error.FFmpegError, ValueError) as error:
            raise _cannot(error) from error

    def can_continue(self, frame: SourceFrame) -> bool:
        if frame.image is None or _kind(frame.image) != self.kind or frame.time_s - self.last_s > LONGEST_FRAME_S:
            return False
        return frame.image.interlaced_frame or self.num_progressive < LEAVE_AFTER

    def add(self, frame: SourceFrame) -> Iterator[SourceFrame]:
        image = frame.image
        assert image is not None
        self.num_progressive = 0 if image.interlaced_frame else self.num_progressive + 1
        self.last_s = frame.time_s
        self.waiting.append(frame)
        image.pts, image.time_base = round(frame.time_s / _TICK), _TICK
        yield from self._pictures(image)

    def finish(self) -> Iterator[SourceFrame]:
        yield from self._pictures(None)

    def _pictures(self, image: av.VideoFrame | None) -> Iterator[SourceFrame]:
        try:
            self.graph.push(image)
            while True:
                picture = self.graph.vpull()
                assert picture.pts is not None and picture.time_base is not None
                time_s = float(picture.pts * picture.time_base)
                while len(self.waiting) > 1 and self.waiting[1].time_s <= time_s + float(_TICK):
                    del self.waiting[0]
                if time_s > self.previous_s + float(_TICK):  # a lone frame's second field has no time of its own
                    self.previous_s = time_s
                    yield replace(self.waiting[0], time_s=time_s, image=picture)
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        except av.error.FFmpegError as error:
            raise _cannot(error) from error


def _has_fields(image: av.VideoFrame) -> bool:
    """The filter refuses smaller pictures, which hold no face either."""
    return image.interlaced_frame and min(image.width, image.height) >= SMALLEST_PX


def _kind(image: av.VideoFrame) -> tuple[Any, ...]:
    return image.width, image.height, image.format.name, image.colorspace, image.color_range


def _cannot(error: Exception) -> MediaError:
    return MediaError(Reason.DECODE_ERROR, f"cannot be deinterlaced: {error_text(error)}")
