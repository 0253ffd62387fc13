"""Open a media file and read its packets, skipping damage."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import av
import av.container
import av.error
import av.stream

from lipforge.datasets_manifest.schema import Reason
from lipforge.pipeline.media.source_file import SourceFile

SEEK_BACK_S = (0.0, 2.0, 20.0)
"""Seek this far before a wanted key frame; the next value is tried when that fails."""
SEEK_GIVE_UP_S = 1.0
"""A packet this much later than the wanted key frame means that the seek missed it."""
MAX_DEMUX_ERRORS = 100
"""A file is considered ended after this many read errors in a row."""
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
"""Demuxers that open other files, or turn text into images."""


class MediaError(Exception):
    """The media cannot be used. `reason` and `detail` go into the manifest."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@contextmanager
def open_media(uri: str) -> Iterator[av.container.InputContainer]:
    """Open a local path or fsspec URL for reading.

    Raises MediaError (unreadable) when it is not a media file, NotThereError when it is not there, and StorageError
    when its storage failed: at the end of the block, too, whatever was made of the rest.
    """
    with SourceFile(uri) as file:
        try:
            # Nothing but this file: a playlist named .mp4 must not reach other files or the network.
            options = {"protocol_whitelist": "none"}
            with _opened(file, options) as container:
                names = container.format.name.split(",")
                if any(name in FOREIGN_FORMATS or name.endswith("_pipe") for name in names):
                    raise MediaError(Reason.UNREADABLE, f"not a video file (looks like {container.format.name})")
                yield container
        except GeneratorExit:
            raise
        except BaseException:
            file.check()  # first: what went wrong then may be a consequence
            raise
        file.check()


def _opened(file: SourceFile, options: dict[str, str]) -> av.container.InputContainer:
    try:
        container = av.open(cast(Any, file), container_options=options, metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise MediaError(Reason.UNREADABLE, f"not a media file that can be opened: {error_text(error)}") from error
    return cast(av.container.InputContainer, container)


def error_text(error: BaseException) -> str:
    """The system's message for an error, without paths, which differ between machines."""
    return getattr(error, "strerror", None) or type(error).__name__


def video_stream(container: av.container.InputContainer) -> Any:
    """The video a player would choose, or None. Cover art, thumbnails and streams without a decoder are skipped."""
    return _chosen(_moving(container))


def audio_stream(container: av.container.InputContainer) -> Any:
    """The track a player would choose, or None. Tracks without a decoder are skipped."""
    return _chosen(list(container.streams.audio))


def other_streams(container: av.container.InputContainer) -> str:
    """Says which of several video or audio streams is used; empty when there is one of each."""
    notes = []
    for kind, streams in (("video streams", _moving(container)), ("audio tracks", list(container.streams.audio))):
        chosen = _chosen(streams)
        if len(streams) > 1 and chosen is not None:
            number = f"number {streams.index(chosen) + 1}"
            which = f"the default, {number}," if _is_default(chosen) else number
            notes.append(f"{len(streams)} {kind}; {which} was used")
    return "; ".join(notes)


def _moving(container: av.container.InputContainer) -> list[Any]:
    stills = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    return [stream for stream in container.streams.video if not stream.disposition & stills]


def _chosen(streams: list[Any]) -> Any:
    """The first default one that can be decoded, or else the first that can be, or None."""
    usable = [stream for stream in streams if stream.codec_context is not None]
    return next(filter(_is_default, usable), usable[0] if usable else None)


def _is_default(stream: Any) -> bool:
    return bool(stream.disposition & av.stream.Disposition.default)


def read_packets(container: av.container.InputContainer, stream: Any) -> Iterator[Any]:
    """Packets of one stream, then None for the end. Skips damage between packets."""
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
    """Packets of one stream from the key frame at key_s (on our clock), or from the start when seeking misses it.

    The result of a seek is checked: formats without an index (MPEG-TS, MPEG-PS) land after the wanted packet, or report
    wrong times there.
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
        try:
            container.seek(0, backward=True)
        except av.error.FFmpegError:  # no key frame is there: the stream begins between two
            container.seek(0, backward=True, any_frame=True)
    yield from read_packets(container, stream)


def decode_packet(context: Any, packet: Any) -> list[Any]:
    """Frames that come out of a decoder. Raises FFmpegError, as the decoder does, but leaves it ready for the next one.

    FFmpeg splits VP9's packets of two frames. When the first is refused, the second waits in the decoder, the next
    packet behind it, and every later one gets "resource temporarily unavailable", to the end of the file.
    """
    try:
        return context.decode(packet)
    except av.error.EOFError:
        raise
    except av.error.FFmpegError:
        if context.name == "vp9":
            context.flush_buffers()  # VP9 reorders nothing, and what is predicted from here on is lost anyway
        raise


def in_decode_order(container: av.container.InputContainer) -> bool:
    """True for AVI, which stores decoding times only, so FFmpeg guesses the presentation times."""
    return container.format.name == "avi"


def timestamp_s(item: Any, time_base: Any) -> float | None:
    stamp = item.pts if item.pts is not None else item.dts
    return None if stamp is None else float(stamp * time_base)
