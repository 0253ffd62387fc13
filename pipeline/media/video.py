"""Decode the frames of a span of a video."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av
import av.error
import cv2
import numpy as np
from av.video.reformatter import Colorspace, VideoReformatter

from lipforge.datasets_manifest.schema import Reason
from lipforge.model.clock import FPS
from lipforge.pipeline.media.container import (
    MediaError,
    in_decode_order,
    open_media,
    read_packets_from,
    timestamp_s,
    video_stream,
)
from lipforge.pipeline.media.probe import VideoInfo

# Shared, because VideoFrame.reformat sets up a scaler per frame, a fifth of the cost. Not thread-safe.
_TO_RGB, _TO_THUMBNAIL = VideoReformatter(), VideoReformatter()


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
    shot_index: int = 0


def decode_video(
    uri: str, info: VideoInfo, start_frame: int, end_frame: int, count: DecodeCount | None = None
) -> Iterator[SourceFrame]:
    """Decode, once and in presentation order, the source frames that the grid frames [start_frame, end_frame) need.

    Begins at the key frame before the span and ends a little after it. A frame that cannot be decoded has no image, and
    neither have the frames predicted from it, up to the next key frame, where decoders would return smeared images.
    """
    count = count or DecodeCount()
    start_s, end_s = start_frame / FPS, end_frame / FPS
    with open_media(uri) as container:
        stream = video_stream(container)
        context = stream.codec_context
        context.thread_count = 1
        context.options = {"err_detect": "explode"}  # an error instead of a concealed image
        key_s = max((time_s for time_s in info.key_times_s if time_s <= start_s + 1e-6), default=0.0)
        pending = _Pending(in_decode_order(container))
        previous_s = -np.inf
        damaged = False
        for packet in read_packets_from(container, stream, info.origin_s, key_s):
            if packet is not None and not packet.is_discard:
                pending.put(packet, stream.time_base, info.origin_s)
            try:
                frames = context.decode(packet)
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
                if time_s <= previous_s:
                    continue  # broken timestamps: time never runs backwards
                for lost_s in lost:
                    damaged = True
                    yield SourceFrame(lost_s, None)
                if frame.key_frame:
                    damaged = False
                previous_s = time_s
                count.wanted += start_s - 0.5 / FPS <= time_s < end_s + 0.5 / FPS
                yield SourceFrame(time_s, None if damaged or frame.is_corrupt else frame)
            if previous_s > end_s + 1 / FPS:
                return
            if packet is None:
                break
        for lost_s in sorted(p for p in pending.times_s if p > previous_s):
            previous_s = lost_s
            yield SourceFrame(lost_s, None)
        if previous_s > -np.inf and (end_s - previous_s) > 1.5 / FPS and end_s * FPS >= info.num_frames - 1:
            yield SourceFrame(_end_of_packets_s(info, previous_s), None)


class _Pending:
    """Times of packets that went into a decoder whose frames have not come out yet."""

    def __init__(self, in_decode_order: bool) -> None:
        self.in_decode_order = in_decode_order
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
        if self.in_decode_order and self.times_s:
            time_s = min(self.times_s)  # the n-th frame out is shown at the n-th time
            self.times_s.remove(time_s)
            return time_s, []
        if time_s is None:
            return None, []
        lost = sorted(p for p in self.times_s if previous_s < p < time_s - 1e-6)
        self.times_s = [p for p in self.times_s if p > time_s + 1e-6]
        if previous_s == -np.inf:
            return time_s, []
        # Field-coded video has two packets per frame. The second field is not lost; it has no time of its own.
        return time_s, lost[1:] if frame.interlaced_frame else lost


def _end_of_packets_s(info: VideoInfo, last_s: float) -> float:
    """Where promised but missing frames begin: one source frame after the last decoded one."""
    return last_s + 1 / max(info.mean_fps, 1.0)


def upright_rgb(frame: av.VideoFrame, info: VideoInfo) -> np.ndarray:
    """uint8 [H, W, 3] RGB, upright, of the size in `info`. Raises MediaError for pixel formats that cannot be read."""
    # Untagged HD video is BT.709 by convention; swscale would assume BT.601.
    unspecified = frame.colorspace == 2
    source = Colorspace.ITU709 if unspecified and frame.height >= 720 else None
    try:
        rgb = _TO_RGB.reformat(frame, format="rgb24", src_colorspace=source).to_ndarray()
    except (av.error.FFmpegError, ValueError) as error:
        raise MediaError(Reason.DECODE_ERROR, f"pictures of format {frame.format.name} cannot be read") from error
    if info.rotation_deg:
        turns = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}
        rgb = cv2.rotate(rgb, turns[info.rotation_deg])
    if rgb.shape[:2] != (info.height_px, info.width_px):  # a stream may change its size
        rgb = cv2.resize(rgb, (info.width_px, info.height_px), interpolation=cv2.INTER_AREA)
    return rgb


def thumbnail_bgr(frame: av.VideoFrame, width: int, height: int) -> np.ndarray:
    """uint8 [height, width, 3] BGR, not rotated, scaled directly from the decoder's planes."""
    small = _TO_THUMBNAIL.reformat(frame, width=width, height=height, format="bgr24", interpolation="FAST_BILINEAR")
    return small.to_ndarray()
