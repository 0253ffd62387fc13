"""Open a media file and read its packets, past whatever is damaged."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import av
import av.container
import av.error
import av.stream
import fsspec

from lipforge.datasets_manifest.schema import Reason

SEEK_BACK_S = (0.0, 2.0, 20.0)
"""How much before a wanted key frame to look for it, in turn."""
SEEK_GIVE_UP_S = 1.0
"""A key frame that has not come when others are this much later was passed over."""
MAX_DEMUX_ERRORS = 100
"""Read errors in a row after which a file is taken to have ended."""
FOREIGN_FORMATS = (
    "hls",
    "dash",
    "concat",
    "tty",
    "sdp",
    "rtsp",
    "lavfi",
    "image2",
    "ffmetadata",
    "srt",
    "webvtt",
    "ass",
)
"""Demuxers that fetch other files, or see pictures in text."""


class MediaError(Exception):
    """A file that cannot be used, with the reason for the manifest."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@contextmanager
def open_media(uri: str) -> Iterator[av.container.InputContainer]:
    """Open a local path or fsspec URL for reading; MediaError(unreadable) when it is not a media file."""
    # A path is passed as a `file:` URL, or FFmpeg would take `concat:x` or a leading dash for something else.
    # Nothing but files may be opened: a playlist named .mp4 must not reach the network.
    remote = None
    try:
        if "://" in uri:
            remote = cast(Any, fsspec.open(uri, "rb")).open()
            container = av.open(remote, mode="r", metadata_errors="replace")
        else:
            options = {"protocol_whitelist": "file"}
            container = av.open("file:" + os.path.abspath(uri), container_options=options, metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if remote is not None:
            remote.close()
        raise MediaError(Reason.UNREADABLE, f"not a media file that can be opened: {error_text(error)}") from error
    try:
        names = container.format.name.split(",")
        if any(name in FOREIGN_FORMATS or name.endswith("_pipe") for name in names):
            raise MediaError(Reason.UNREADABLE, f"not a video file (looks like {container.format.name})")
        yield cast(av.container.InputContainer, container)
    finally:
        container.close()
        if remote is not None:
            remote.close()


def error_text(error: BaseException) -> str:
    """The system's words for an error, without paths: they would differ between machines."""
    return getattr(error, "strerror", None) or type(error).__name__


def video_stream(container: av.container.InputContainer) -> Any:
    """First video stream that is not a cover picture, or None."""
    for stream in container.streams.video:
        attached = bool(stream.disposition & av.stream.Disposition.attached_pic)
        if not attached and stream.codec_context is not None:
            return stream
    return None


def audio_stream(container: av.container.InputContainer) -> Any:
    """The track a player would choose, or None. Tracks without a decoder are passed over."""
    usable = [stream for stream in container.streams.audio if stream.codec_context is not None]
    default = [stream for stream in usable if stream.disposition & av.stream.Disposition.default]
    return (default or usable or [None])[0]


def read_packets(container: av.container.InputContainer, stream: Any) -> Iterator[Any]:
    """Packets of one stream, then None for the end. Passes over damage between packets."""
    errors = 0
    while True:
        try:
            for packet in container.demux(stream):
                errors = 0
                yield packet if packet.size else None
            return
        except av.error.EOFError:
            break
        except (av.error.FFmpegError, OSError):
            errors += 1
            if errors > MAX_DEMUX_ERRORS:
                break
    yield None


def read_packets_from(
    container: av.container.InputContainer, stream: Any, origin_s: float, key_s: float
) -> Iterator[Any]:
    """Packets of one stream from the key frame at key_s (on our clock), or from the beginning when seeking cannot find it.

    Formats without an index (MPEG-TS, MPEG-PS) land behind the wanted packet, or give wrong times there: so what is found is checked.
    """
    for back_s in SEEK_BACK_S if key_s > 0 else ():
        with suppress(av.error.FFmpegError):
            container.seek(int((origin_s + key_s - back_s) / stream.time_base), stream=stream, backward=True)
            packets = read_packets(container, stream)
            for packet in packets:
                time_s = None if packet is None else timestamp_s(packet, stream.time_base)
                if packet is None or (time_s is not None and time_s - origin_s > key_s + SEEK_GIVE_UP_S):
                    break
                if packet.is_keyframe and time_s is not None and abs(time_s - origin_s - key_s) < 1e-3:
                    yield packet
                    yield from packets
                    return
    if key_s > 0:
        container.seek(0, backward=True)
    yield from read_packets(container, stream)


def in_decode_order(container: av.container.InputContainer) -> bool:
    """True for AVI, which times packets in the order of decoding: FFmpeg's presentation times are guesses there."""
    return container.format.name == "avi"


def timestamp_s(item: Any, time_base: Any) -> float | None:
    stamp = item.pts if item.pts is not None else item.dts
    return None if stamp is None else float(stamp * time_base)
