"""Find out what a video file contains: size, orientation, length, key frames, codecs."""

from dataclasses import dataclass

import av
import av.error
import numpy as np

from lipforge.datasets_manifest.schema import Reason
from lipforge.model.clock import FPS
from lipforge.pipeline.media.container import (
    MAX_DEMUX_ERRORS,
    MediaError,
    audio_stream,
    decode_packet,
    in_decode_order,
    open_media,
    other_streams,
    read_packets,
    timestamp_s,
    video_stream,
)
from lipforge.pipeline.media.geometry import PictureShape, ShapeReader
from lipforge.pipeline.media.tonemap import DEFAULT_PEAK_NITS, peak_of, transfer_of

JUMP_BACK_S = 1.0
"""Decoding times never decrease. A larger step back than sloppy muxers make starts another recording."""
JUMP_AHEAD_S = 600.0
"""A frame shown for longer than this is a jump in the timestamps."""
LONGEST_S = 48 * 3600.0
"""A header that promises more than the packets hold is believed up to this length."""

_DOLBY_VISION_TAGS = ("dvh1", "dvhe", "dva1", "dvav", "dav1")
_UNSPECIFIED = 2  # ITU-T H.273, of transfer characteristics


@dataclass(frozen=True)
class VideoInfo:
    """What a file contains, from its packets rather than its header."""

    width_px: int
    """As displayed: in square pixels, upright. Of the first picture, as all that is said of pictures here."""
    height_px: int
    rotation_deg: int
    """Clockwise rotation that makes the decoded frame upright: 0, 90, 180 or 270."""
    mean_fps: float
    num_frames: int
    """On the 25 fps grid, including frames that the header promises but the file lacks."""
    origin_s: float
    """Presentation time of the first video frame in the file's own time: our time 0."""
    key_times_s: tuple[float, ...]
    """Key frames, on our clock. Long videos are split at these."""
    has_audio: bool
    video_codec: str
    audio_codec: str
    mirrored: bool = False
    """The decoded frame is mirrored from left to right before it is rotated."""
    transfer: str = "sdr"
    """How values mean light: sdr, pq or hlg."""
    peak_nits: float = DEFAULT_PEAK_NITS
    """Brightest light, where the transfer is pq."""
    note: str = ""
    """What else a person should know about the file."""


def probe(uri: str) -> VideoInfo:
    """Read every packet header of a file. Decodes one frame only.

    Raises MediaError: unreadable, no_video, decode_error.
    """
    with open_media(uri) as container:
        stream = video_stream(container)
        if stream is None:
            raise MediaError(Reason.NO_VIDEO, "no video stream")
        audio = audio_stream(container)
        times_s: list[float] = []
        key_times_s: list[float] = []
        decode_times_s: list[float] = []
        num_packets = 0
        for packet in read_packets(container, stream):
            if packet is None:
                break
            num_packets += 1
            if in_decode_order(container):
                packet.pts = packet.dts
            time_s = timestamp_s(packet, stream.time_base)
            if packet.is_discard or time_s is None:
                continue
            times_s.append(time_s)
            if packet.dts is not None:
                decode_times_s.append(float(packet.dts * stream.time_base))
            if packet.is_keyframe:
                key_times_s.append(time_s)
        if not times_s:
            raise MediaError(Reason.DECODE_ERROR, "the video stream holds no frames")
        times_s.sort()
        _check_jumps(decode_times_s, times_s)
        origin_s, last_s = times_s[0], times_s[-1]
        steps_s = np.diff(np.asarray(times_s))
        steps_s = steps_s[steps_s > 1e-4]
        guessed_s = 1 / float(stream.guessed_rate or FPS)
        step_s = float(np.median(steps_s)) if len(steps_s) else guessed_s
        seconds = last_s - origin_s + min(step_s, 1.0)
        # MP4 counts its samples, so those missing from the file are lost seconds and must be accounted for.
        # AVI counts time steps, with or without a frame.
        if in_decode_order(container):
            promised_s = stream.frames * float(stream.time_base)
        else:
            promised_s = seconds + (stream.frames - num_packets) * step_s
        if seconds < promised_s < LONGEST_S:  # beyond, the header lies
            seconds = promised_s
        picture = _first_picture(uri)
        return VideoInfo(
            width_px=picture.shape.width_px,
            height_px=picture.shape.height_px,
            rotation_deg=90 * picture.shape.orientation.quarter_turns,
            mean_fps=round(len(times_s) / max(last_s - origin_s + step_s, 1e-6), 3),
            num_frames=max(1, round(seconds * FPS)),
            origin_s=origin_s,
            key_times_s=tuple(round(time_s - origin_s, 6) for time_s in sorted(key_times_s)),
            has_audio=audio is not None,
            video_codec=stream.codec_context.name,
            audio_codec=audio.codec_context.name if audio is not None else "",
            mirrored=picture.shape.orientation.mirrored,
            transfer=picture.transfer,
            peak_nits=picture.peak_nits,
            note=other_streams(container),
        )


def _check_jumps(decode_times_s: list[float], times_s: list[float]) -> None:
    """Raise MediaError when timestamps jump back or far ahead: concatenated recordings, or damage.

    Two frames may then share a time, and the audio of one recording would be paired with frames of another.
    """
    for stamps_s, lowest_s, highest_s in ((decode_times_s, -JUMP_BACK_S, np.inf), (times_s, 0.0, JUMP_AHEAD_S)):
        steps_s = np.diff(np.asarray(stamps_s))
        jumps = np.flatnonzero((steps_s < lowest_s) | (steps_s > highest_s))
        if len(jumps):
            step_s, at_s = steps_s[jumps[0]], stamps_s[jumps[0]] - stamps_s[0]
            detail = (
                f"the time stamps jump by {step_s:+.1f} s after {at_s:.1f} s: split the file there, or write it anew"
            )
            raise MediaError(Reason.DECODE_ERROR, detail)


@dataclass(frozen=True)
class _Picture:
    shape: PictureShape
    transfer: str
    peak_nits: float


def _first_picture(uri: str) -> _Picture:
    """The first one that can be decoded. Headers are often wrong."""
    with open_media(uri) as container:
        stream = video_stream(container)
        stream.codec_context.thread_count = 1
        shapes = ShapeReader(stream)
        failures = 0
        for packet in read_packets(container, stream):
            try:
                frames = decode_packet(stream.codec_context, packet)
            except av.error.FFmpegError:
                failures += 1
                if failures > MAX_DEMUX_ERRORS:
                    break
                frames = []
            for frame in frames:
                _refuse_dolby_vision_alone(stream.codec_context.codec_tag, frame)
                return _Picture(shapes.shape_of(frame), transfer_of(frame), peak_of(frame))
            if packet is None:
                break
    raise MediaError(Reason.DECODE_ERROR, "no frame of the video stream can be decoded")


def _refuse_dolby_vision_alone(tag: str, frame: av.VideoFrame) -> None:
    """Raise MediaError for Dolby Vision's profile 5: colours of its own, which no other decoder can show.

    Its other profiles hold a picture for everyone, and say which transfer it has. Only MP4 has the tags.
    """
    if tag in _DOLBY_VISION_TAGS and frame.color_trc == _UNSPECIFIED:
        raise MediaError(Reason.DECODE_ERROR, "Dolby Vision without a picture for other players (profile 5)")
