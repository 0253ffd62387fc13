"""Join segments, the new sound and all else of the source into the output."""

import heapq
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.container
import av.stream

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


def write_file(
    out: str,
    segments: Sequence[Path],
    picture_format: PictureFormat,
    video_uri: str,
    info: VideoInfo,
    sound: SoundTrack | None,
    length_s: float,
    folder: Path | None = None,
) -> list[str]:
    """Write `out`, whole or not at all: pictures, then `sound` as the default, then all else that the video holds.

    segments: files of SegmentWriter, in order. Their times are kept exactly where the kind of file can (MP4, MOV; TS in
    steps of 1/90000 s, Matroska and WebM in milliseconds, AVI in frames of one rate). The last picture is shown until
    length_s. sound None: the video's own stays. The other streams keep their distance to the first picture; what comes
    after length_s is left out. An existing file is replaced. Memory is that of a few seconds of packets, and what MP4
    and MOV hold of each packet until their index is written: some 70 bytes.

    folder: for the unfinished file, on the same file system; None: that of out.
    Returns what could not be kept, in words. Raises ValueError for a suffix that names no kind of file and for segments
    of different encoders; MediaError for damaged ones; StorageError when a disk fails. Never leaves half a file.
    """
    kind = file_kind(out)
    others = OtherStreams(video_uri, kind, info.origin_s, length_s, with_sound=sound is None)
    heard = None if sound is None else SoundPackets(sound, kind, length_s, float(1 / picture_format.rate))
    file = WholeFile(Path(out), folder)
    try:
        with file.errors(), av.open(file.url, "w", format=kind.muxer, options=_options(kind, others)) as container:
            pictures = _add_pictures(container, kind, picture_format, segments)
            shown = _Pictures(segments, picture_format, kind, pictures, length_s)
            sources = [shown.packets()]
            if heard is not None:
                stream = heard.add_to(container)
                stream.disposition = av.stream.Disposition.default
                sources.append(heard.packets())
            others.add_to(container, pictures)
            sources.append(_in_order(others.packets()))
            container.start_encoding()
            for _, packet in heapq.merge(*sources, key=lambda timed: timed[0]):
                later = round(Fraction(others.lead_s) / packet.time_base)
                packet.pts, packet.dts = packet.pts + later, packet.dts + later
                container.mux_one(packet)
        file.keep()
    except BaseException:
        file.discard()
        raise
    return [*picture_format.notes, *(heard.notes if heard is not None else ()), *others.notes, *shown.note()]


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
        stream.time_base = _grid(picture_format)
    headers = {segment_headers(path) for path in segments}
    if len(headers) != 1:
        raise ValueError("the segments were encoded by different versions of the encoder: delete them and begin anew")
    stream.codec_context.open()
    stream.codec_context.extradata = headers.pop() or None
    return stream


class _Pictures:
    """The packets of all segments."""

    def __init__(
        self, segments: Sequence[Path], picture_format: PictureFormat, kind: FileKind, stream: Any, length_s: float
    ) -> None:
        self.segments, self.kind, self.stream, self.length_s = segments, kind, stream, length_s
        self.time_base = picture_format.time_base if kind.any_rate else _grid(picture_format)
        self.num_rounded = 0
        """Packets whose time is not exactly that of the frame."""
        steps = {"matroska": Fraction(1, 1000), "webm": Fraction(1, 1000), "mpegts": Fraction(1, 90_000)}
        self._step = steps.get(kind.muxer, self.time_base)

    def packets(self) -> Iterator[tuple[float, Any]]:
        """(time, packet). Each is shown until the next; the last until length_s."""
        waiting: Any = None
        for path in self.segments:
            headers = segment_headers(path) if self.kind.headers_in_stream else b""
            for packet in read_segment(path):
                time_s = packet.pts * packet.time_base
                pts = round(time_s / self.time_base)
                if waiting is not None:
                    pts = max(pts, waiting.pts + 1)  # on a grid of one rate, two may fall together
                    yield self._shown_until(waiting, pts)
                self.num_rounded += pts * self.time_base != time_s or (time_s / self._step).denominator != 1
                waiting = _with_headers(packet, headers)
                waiting.stream = self.stream
                waiting.time_base = self.time_base
                waiting.pts = waiting.dts = pts
        if waiting is None:
            raise MediaError(Reason.DECODE_ERROR, "the segments hold no pictures")
        yield self._shown_until(waiting, round(Fraction(self.length_s) / self.time_base))

    def _shown_until(self, packet: Any, pts: int) -> tuple[float, Any]:
        packet.duration = max(1, pts - packet.pts)
        return float(packet.pts * self.time_base), packet

    def note(self) -> list[str]:
        if not self.num_rounded:
            return []
        grid = f"steps of {self._step} s"
        return [f"{self.kind.muxer} holds times in {grid}: those of {self.num_rounded} pictures are rounded to them"]


def _grid(picture_format: PictureFormat) -> Fraction:
    return 1 / picture_format.grid_rate.limit_denominator(1001)


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
