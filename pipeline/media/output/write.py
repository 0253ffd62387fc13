"""Join segments, the new sound and all else of the source into the output."""

import heapq
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from lipforge.datasets_manifest.schema import Reason
from lipforge.pipeline.media.container import MediaError
from lipforge.pipeline.media.output.containers import FileKind, file_kind
from lipforge.pipeline.media.output.encoder import add_encoder
from lipforge.pipeline.media.output.other_streams import OtherStreams
from lipforge.pipeline.media.output.picture_format import PictureFormat
from lipforge.pipeline.media.output.segment import read_segment, segment_headers
from lipforge.pipeline.media.output.sound import SoundTrack
from lipforge.pipeline.media.output.sound_packets import SoundPackets
from lipforge.pipeline.media.output.whole_file import WholeFile
from lipforge.pipeline.media.probe import VideoInfo

INTERLEAVE_US = 2_000_000
"""FFmpeg keeps packets back at most this long for a stream that says nothing."""
_MILLISECOND = Fraction(1, 1000)


def write_file(
    out: str,
    segments: Sequence[Path],
    picture_format: PictureFormat,
    video_uri: str,
    info: VideoInfo,
    sound: SoundTrack | None,
    length_s: float,
) -> list[str]:
    """Write `out`, whole or not at all: pictures, then `sound` as the default, then all else that the video holds.

    segments: files of SegmentWriter, in order. Their times are kept exactly where the kind of file can (MP4, MOV; TS in
    steps of 1/90000 s, Matroska and WebM in milliseconds, AVI in frames of one rate). The last picture is shown until
    length_s. sound None: the video's own stays. The other streams keep their distance to the first picture; what comes
    after length_s is left out. An existing file is replaced. Memory is that of a few seconds of packets, and what MP4
    and MOV hold of each packet until their index is written: some 70 bytes.

    Returns what could not be kept, in words. Raises ValueError for a suffix that names no kind of file and for segments
    of different encoders; MediaError for damaged ones; StorageError when a disk fails. Never leaves half a file.
    """
    kind = file_kind(out)
    others = OtherStreams(video_uri, kind, info.origin_s, length_s, with_sound=sound is None)
    heard = None if sound is None else SoundPackets(sound, kind, length_s, float(1 / picture_format.rate))
    file = WholeFile(Path(out))
    try:
        with file.errors(), av.open(file.url, "w", format=kind.muxer, options=_options(kind, others)) as container:
            pictures = _add_pictures(container, kind, picture_format, segments)
            sources = [_pictures(segments, picture_format, kind, pictures, length_s)]
            if heard is not None:
                stream = heard.add_to(container)
                stream.disposition = av.stream.Disposition.default
                sources.append(heard.packets())
            others.add_to(container, pictures)
            sources.append(_in_order(others.packets()))
            container.start_encoding()
            for _, packet in heapq.merge(*sources, key=lambda timed: timed[0]):
                container.mux_one(packet)
        file.keep()
    except BaseException:
        file.discard()
        raise
    notes = list(picture_format.notes) + (heard.notes if heard is not None else []) + others.notes
    if kind.muxer in ("matroska", "webm") and (picture_format.time_base / _MILLISECOND).denominator != 1:
        notes.append(f"{kind.muxer} holds times in milliseconds: those of pictures are rounded to them")
    return notes


def _options(kind: FileKind, others: OtherStreams) -> dict[str, str]:
    options = dict(kind.options) | {"fflags": "+bitexact", "max_interleave_delta": str(INTERLEAVE_US)}
    if "movflags" in options and others.has_own_tags():
        options["movflags"] += "+use_metadata_tags"
    return options


def _add_pictures(
    container: av.container.OutputContainer, kind: FileKind, picture_format: PictureFormat, segments: Sequence[Path]
) -> Any:
    stream = add_encoder(container, picture_format)
    if picture_format.encoder == "libx265" and kind.muxer in ("mp4", "mov"):
        stream.codec_context.codec_tag = "hvc1"  # Apple's players know no other
    if picture_format.display_matrix is not None and kind.keeps_rotation:
        stream.set_display_matrix(picture_format.display_matrix)
    if not kind.any_rate:
        stream.time_base = 1 / _steady(picture_format)
    headers = {segment_headers(path) for path in segments}
    if len(headers) != 1:
        raise ValueError("the segments were encoded by different versions of the encoder: delete them and begin anew")
    stream.codec_context.open()
    stream.codec_context.extradata = headers.pop() or None
    return stream


def _steady(picture_format: PictureFormat) -> Fraction:
    return picture_format.rate.limit_denominator(1001)


def _pictures(
    segments: Sequence[Path], picture_format: PictureFormat, kind: FileKind, stream: Any, length_s: float
) -> Iterator[tuple[float, Any]]:
    """(time, packet) of all segments. Each packet is shown until the next; the last until length_s."""
    time_base = picture_format.time_base if kind.any_rate else 1 / _steady(picture_format)
    waiting: Any = None
    for path in segments:
        headers = segment_headers(path) if kind.headers_in_stream else b""
        for packet in read_segment(path):
            pts = round(packet.pts * packet.time_base / time_base)
            if waiting is not None:
                pts = max(pts, waiting.pts + 1)  # on a grid of one rate, two may fall together
                waiting.duration = pts - waiting.pts
                yield float(waiting.pts * time_base), waiting
            waiting = _with_headers(packet, headers)
            waiting.stream = stream
            waiting.time_base = time_base
            waiting.pts = waiting.dts = pts
    if waiting is None:
        raise MediaError(Reason.DECODE_ERROR, "the segments hold no pictures")
    waiting.duration = max(1, round(Fraction(length_s) / time_base) - waiting.pts)
    yield float(waiting.pts * time_base), waiting


def _with_headers(packet: Any, headers: bytes) -> Any:
    if not (headers and packet.is_keyframe):
        return packet
    longer = av.Packet(headers + bytes(packet))
    longer.is_keyframe = True
    return longer


def _in_order(packets: Iterator[tuple[float, Any]]) -> Iterator[tuple[float, Any]]:
    """Streams that are stored apart from each other do not go back in time: a merge needs times that grow."""
    latest_s = float("-inf")
    for time_s, packet in packets:
        latest_s = max(latest_s, time_s)
        yield latest_s, packet
