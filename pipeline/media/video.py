"""Decode the frames of a span of a video."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import av
import av.error
import numpy as np
from av.video.reformatter import VideoReformatter

from lipforge.model.clock import FPS
from lipforge.pipeline.media.container import (
    decode_packet,
    in_decode_order,
    open_media,
    read_packets_from,
    timestamp_s,
    video_stream,
)
from lipforge.pipeline.media.geometry import PictureShape, ShapeReader
from lipforge.pipeline.media.probe import VideoInfo

_TO_THUMBNAIL = VideoReformatter()  # shared, because setting up a scaler is a fifth of the cost; not thread-safe


@dataclass
class DecodeCount:
    """Counts decoded frames, to show that a source is decoded about once."""

    decoded: int = 0
    """Frames that came out of the decoder, needed or not."""
    wanted: int = 0
    """Distinct source frames of the span."""

    @property
    def passes(self) -> float:
        return round(self.decoded / self.wanted, 3) if self.wanted else 0.0


@dataclass
class SourceFrame:
    """A frame at its time in the source, before resampling to the grid."""

    time_s: float
    """On our clock."""
    image: av.VideoFrame | None
    """None where the source cannot be decoded."""
    shape: PictureShape | None = None
    """How the image is shown; None where there is none."""
    shape_index: int = 0
    """Counts the changes of proportions within a unit. A change of size alone is none."""
    scale: float = 1.0
    """Displayed pixels per pixel of the first frame with this `shape_index`."""
    shot_index: int = 0


def decode_video(
    uri: str, info: VideoInfo, start_frame: int, end_frame: int, count: DecodeCount | None = None
) -> Iterator[SourceFrame]:
    """Decode, once and in presentation order, the source frames that the grid frames [start_frame, end_frame) need.

    Begins at the key frame before the span and ends a little after it. A frame that cannot be decoded has no image, and
    neither have the frames predicted from it, up to the next key frame, where decoders would return smeared images. So
    a stream that begins between two key frames has no images up to the second.
    """
    count = count or DecodeCount()
    start_s, end_s = start_frame / FPS, end_frame / FPS
    keys_s = [0.0, *sorted(time_s for time_s in info.key_times_s if 0 < time_s <= start_s + 1e-6)]
    first, rest = _up_to_an_image(_decode(uri, info, keys_s[-1], start_s, end_s, count))
    if len(keys_s) > 1 and first and first[-1].time_s > start_s + 0.5 / FPS:
        # Where pictures are renewed piece by piece, one that is whole comes only a while after the place to begin.
        first, rest = _up_to_an_image(_decode(uri, info, keys_s[-2], start_s, end_s, count))
    yield from first
    yield from rest


def _up_to_an_image(frames: Iterator[SourceFrame]) -> tuple[list[SourceFrame], Iterator[SourceFrame]]:
    """(the frames up to the first with an image, those after it)"""
    first = []
    for frame in frames:
        first.append(frame)
        if frame.image is not None:
            break
    return first, frames


def _decode(
    uri: str, info: VideoInfo, key_s: float, start_s: float, end_s: float, count: DecodeCount
) -> Iterator[SourceFrame]:
    """From the key frame at key_s on."""
    with open_media(uri) as container:
        stream = video_stream(container)
        context = stream.codec_context
        context.thread_count = 1
        context.options = {"err_detect": "explode"}  # an error instead of a concealed image
        pending = _Pending(in_decode_order(container), key_s)
        shapes = _Shapes(ShapeReader(stream), info)
        previous_s = -np.inf
        damaged: bool | None = None
        for packet in read_packets_from(container, stream, info.origin_s, key_s):
            if packet is not None and not packet.is_discard:
                pending.put(packet, stream.time_base, info.origin_s)
            if damaged is None and packet is not None:
                # H.264 may have no key frames at all, only pictures renewed piece by piece. Its decoder waits for one.
                damaged = not packet.is_keyframe and context.name != "h264"
            try:
                frames = decode_packet(context, packet)
            except av.error.EOFError:
                break
            except av.error.FFmpegError:
                frames = []
                damaged = True
                pending.refused()
            for frame in frames:
                count.decoded += 1
                time_s = timestamp_s(frame, stream.time_base)
                time_s, lost = pending.take(None if time_s is None else time_s - info.origin_s, previous_s, frame)
                time_s = previous_s + 1 / FPS if time_s is None else time_s
                if time_s <= previous_s:  # broken timestamps: time never runs backwards
                    shapes.reader.shape_of(frame)  # it may be the key frame that brings another shape
                    continue
                for lost_s in lost:
                    damaged = damaged or previous_s > -np.inf  # nothing is predicted from those before the first
                    yield SourceFrame(lost_s, None, shape_index=shapes.index)
                if frame.key_frame:
                    damaged = False
                previous_s = time_s
                count.wanted += start_s - 0.5 / FPS <= time_s < end_s + 0.5 / FPS
                if damaged or frame.is_corrupt:
                    yield SourceFrame(time_s, None, shape_index=shapes.index)
                else:
                    yield shapes.describe(SourceFrame(time_s, frame))
            if previous_s > end_s + 1 / FPS:
                return
            if packet is None:
                break
        for lost_s in sorted(p for p in pending.times_s if p > previous_s):
            previous_s = lost_s
            yield SourceFrame(lost_s, None, shape_index=shapes.index)
        if previous_s > -np.inf and (end_s - previous_s) > 1.5 / FPS and end_s * FPS >= info.num_frames - 1:
            yield SourceFrame(_end_of_packets_s(info, previous_s), None, shape_index=shapes.index)


class _Shapes:
    """Finds where the pictures of a stream change their proportions."""

    def __init__(self, reader: ShapeReader, info: VideoInfo) -> None:
        self.reader = reader
        self.index = 0
        # Units of one video measure places in the pixels of the same size, so that faces can be followed across them.
        self.reference_px = info.width_px, info.height_px
        self.is_first = True

    def describe(self, frame: SourceFrame) -> SourceFrame:
        assert frame.image is not None
        shape = self.reader.shape_of(frame.image)
        if not shape.is_like(*self.reference_px):
            self.index += not self.is_first
            self.reference_px = shape.width_px, shape.height_px
        self.is_first = False
        width_px, height_px = self.reference_px
        scale = (shape.width_px * shape.height_px / (width_px * height_px)) ** 0.5
        return replace(frame, shape=shape, shape_index=self.index, scale=scale)


class _Pending:
    """Times of packets that went into a decoder whose frames have not come out yet."""

    def __init__(self, in_decode_order: bool, key_s: float) -> None:
        """key_s: where reading begins. Pictures before it belong to the span before, though some are stored after."""
        self.in_decode_order = in_decode_order
        self.from_s = key_s - 1e-6 if key_s > 0 else -np.inf
        self.times_s: list[float] = []

    def put(self, packet: Any, time_base: Any, origin_s: float) -> None:
        if self.in_decode_order:
            packet.pts = packet.dts
        time_s = timestamp_s(packet, time_base)
        if time_s is not None:
            self.times_s.append(time_s - origin_s)

    def refused(self) -> None:
        """Forget the last packet: its frame will not come out, and no other may get its time."""
        if self.in_decode_order and self.times_s:
            self.times_s.pop()

    def take(self, time_s: float | None, previous_s: float, frame: Any) -> tuple[float | None, list[float]]:
        """(time of this frame, times of frames lost since the previous one). time_s: the decoder's own timestamp."""
        if time_s is None and not self.in_decode_order:
            return None, []
        is_first = previous_s == -np.inf
        lost: list[float] = []
        if time_s is not None and (is_first or not self.in_decode_order):
            lost = sorted(p for p in self.times_s if max(previous_s, self.from_s) < p < time_s - 1e-6)
            self.times_s = [p for p in self.times_s if p >= time_s - 1e-6]
        if self.in_decode_order and self.times_s:
            time_s = min(self.times_s)  # the n-th frame out is shown at the n-th time
        if time_s is not None:
            self.times_s = [p for p in self.times_s if p > time_s + 1e-6]
        if self.in_decode_order or is_first:
            return time_s, lost
        # Field-coded video has two packets per frame. The second field is not lost; it has no time of its own.
        return time_s, lost[1:] if frame.interlaced_frame else lost


def _end_of_packets_s(info: VideoInfo, last_s: float) -> float:
    """Where promised but missing frames begin: one source frame after the last decoded one."""
    return last_s + 1 / max(info.mean_fps, 1.0)


def thumbnail_bgr(frame: av.VideoFrame, width: int, height: int) -> np.ndarray:
    """uint8 [height, width, 3] BGR, not turned, not tone-mapped, scaled directly from the decoder's planes."""
    small = _TO_THUMBNAIL.reformat(frame, width=width, height=height, format="bgr24", interpolation="FAST_BILINEAR")
    return small.to_ndarray()
