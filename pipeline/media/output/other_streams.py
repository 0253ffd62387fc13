"""What a video file holds besides its pictures and the sound that is replaced: carried over where the new file can."""

import io
from collections.abc import Iterator
from typing import Any

import av
import av.container
import av.error
import av.stream

from lipforge.pipeline.media.container import (
    MAX_DEMUX_ERRORS,
    audio_stream,
    open_media,
    video_stream,
)
from lipforge.pipeline.media.output.containers import FileKind

_STALE = (
    "encoder",
    "duration",
    "bps",
    "number_of_",
    "_statistics",
    "major_brand",
    "minor_version",
    "compatible_brands",
)
"""Beginnings of names of tags that say what a muxer found or was, not what the file is."""
_COVER_SUFFIXES = {"mjpeg": "jpg", "png": "png", "bmp": "bmp", "gif": "gif", "webp": "webp"}
_IN_TS = frozenset(
    {
        *("h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "aac", "mp2", "mp3float", "mp3", "ac3", "eac3", "opus"),
        *("libopus", "dca", "aac_latm", "dvbsub", "dvb_subtitle", "dvb_teletext", "klv", "scte_35"),
    }
)
_TIMECODE = ("mp4", "mov", "matroska", "webm")
"""Kinds of file that keep a timecode: as a track or as a tag."""


def kept_tags(tags: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in tags.items() if not name.lower().startswith(_STALE)}


class OtherStreams:
    """The streams of one video that come along, with their times, dispositions, languages and other tags."""

    def __init__(self, uri: str, kind: FileKind, origin_s: float, length_s: float, *, with_sound: bool) -> None:
        """origin_s: time of the video's first frame. with_sound: its own sound comes along, too."""
        self.uri, self.origin_s, self.length_s = uri, origin_s, length_s
        self.with_sound = with_sound
        self.notes: list[str] = []
        self._lost_attachments: list[str] = []
        self.lead_s = 0.0
        """How long before the first picture one of them begins: files have no times below 0, so all moves by this."""
        self._kind = kind
        self._targets: dict[int, Any] = {}
        """Number of a stream in the source -> stream of the output."""

    def has_own_tags(self) -> bool:
        """Whether the video has tags that MP4 keeps only on request, such as those of phones."""
        with open_media(self.uri) as source:
            return any("." in name for name in kept_tags(source.metadata))

    def add_to(self, container: av.container.OutputContainer, pictures: Any) -> None:
        """Add streams, chapters and tags. pictures: the output's video stream, which gets the tags of the source's."""
        with open_media(self.uri) as source:
            chosen, sound = video_stream(source), audio_stream(source)
            container.metadata.update(kept_tags(source.metadata))
            pictures.metadata.update(kept_tags(chosen.metadata))
            pictures.disposition = chosen.disposition
            chapters = source.chapters()
            streams: list[Any] = list(source.streams)
            for stream in streams:
                if stream is chosen or (stream is sound and not self.with_sound):
                    continue
                if "timecode" in stream.metadata and stream.type == "data":
                    self._keep_timecode(pictures, stream.metadata["timecode"])
                elif stream.type == "data" and chapters and _name(stream) == "bin_data":
                    pass  # the titles of the chapters
                elif stream.type == "attachment":
                    self._attach(container, stream.name or "attachment", stream.mimetype or "", stream.data)
                else:
                    self._add(container, stream)
            self._add_chapters(container, chapters)
        if self._lost_attachments:
            names = ", ".join(self._lost_attachments)
            self.notes.append(f"{self._kind.muxer} cannot hold attachments: {names} left out")

    def packets(self) -> Iterator[tuple[float, Any]]:
        """(decoding time in seconds, packet), in the order of the source. What comes after the end stays away."""
        if not self._targets:
            return
        last: dict[int, int] = {}
        for stream, packet in self._read():
            still = bool(stream.disposition & av.stream.Disposition.attached_pic)
            if still:
                packet.pts = packet.dts = round(self.origin_s / stream.time_base)
            if packet.pts is None and packet.dts is None:
                continue
            shift = round(self.origin_s / stream.time_base)
            packet.pts = (packet.dts if packet.pts is None else packet.pts) - shift
            packet.dts = packet.pts if packet.dts is None else packet.dts - shift
            if float(packet.pts * stream.time_base) >= self.length_s:
                continue
            if packet.dts <= last.get(stream.index, packet.dts - 1):  # muxers refuse times that do not grow
                packet.dts = last[stream.index] + 1
                packet.pts = max(packet.pts, packet.dts)
            last[stream.index] = packet.dts
            packet.stream = self._targets[stream.index]
            yield float(packet.dts * stream.time_base), packet

    def _read(self) -> Iterator[tuple[Any, Any]]:
        with open_media(self.uri) as source:
            wanted = [stream for stream in source.streams if stream.index in self._targets]
            for stream in source.streams:
                if stream not in wanted:
                    stream.discard = av.stream.Discard.all
            errors = 0
            while errors <= MAX_DEMUX_ERRORS:
                try:
                    for packet in source.demux(wanted):
                        errors = 0
                        if packet.size:
                            yield source.streams[packet.stream_index], packet
                    return
                except av.error.EOFError:
                    return
                except (av.error.FFmpegError, OSError):
                    errors += 1

    def _add(self, container: av.container.OutputContainer, stream: Any) -> None:
        cover = bool(stream.disposition & av.stream.Disposition.attached_pic)
        if cover and not self._kind.cover_art:
            picture = _first_packet(self.uri, stream.index)
            codec = stream.codec_context.name
            suffix = _COVER_SUFFIXES.get(codec, codec)
            mimetype = f"image/{'jpeg' if suffix == 'jpg' else suffix}"
            self._attach(container, f"cover.{suffix}", mimetype, picture)
            return
        if not can_hold(self._kind, stream):
            self.notes.append(f"{self._kind.muxer} cannot hold {_words(stream)}: left out")
            return
        target = container.add_stream_from_template(stream, opaque=True)
        target.metadata.clear()
        target.metadata.update(kept_tags(stream.metadata))
        disposition = stream.disposition
        if stream.type == "audio" and not self.with_sound:
            disposition &= ~av.stream.Disposition.default  # the new sound is
        target.disposition = disposition
        self._targets[stream.index] = target
        if stream.start_time is not None and stream.type in ("audio", "video") and not cover:
            self.lead_s = max(self.lead_s, self.origin_s - float(stream.start_time * stream.time_base))

    def _attach(self, container: av.container.OutputContainer, name: str, mimetype: str, data: bytes) -> None:
        if self._kind.attachments:
            container.add_attachment(name, mimetype or "application/octet-stream", data)
        else:
            self._lost_attachments.append(name)

    def _keep_timecode(self, pictures: Any, timecode: str) -> None:
        if self._kind.muxer in _TIMECODE:
            pictures.metadata["timecode"] = timecode
        else:
            self.notes.append(f"{self._kind.muxer} cannot hold the timecode {timecode}: left out")

    def _add_chapters(self, container: av.container.OutputContainer, chapters: list[Any]) -> None:
        kept = []
        for chapter in chapters:
            shift, last, later = (
                round(seconds / chapter["time_base"]) for seconds in (self.origin_s, self.length_s, self.lead_s)
            )
            start, end = max(chapter["start"] - shift, -later), min(chapter["end"] - shift, last)
            if start < end:
                kept.append({**chapter, "start": start + later, "end": end + later})
        if kept and self._kind.muxer in ("avi", "mpegts"):
            self.notes.append(f"{self._kind.muxer} cannot hold chapters: left out")
        elif kept:
            container.set_chapters(kept)


def can_hold(kind: FileKind, stream: Any) -> bool:
    """Whether a file with this stream alone can be begun: FFmpeg's tables of what fits do not tell all."""
    if kind.muxer == "mpegts" and _name(stream) not in _IN_TS:
        return False  # its muxer takes anything, as data that no player knows
    try:
        with av.open(io.BytesIO(), "w", format=kind.muxer) as trial:
            trial.add_stream_from_template(stream, opaque=True)
            trial.start_encoding()
    except (av.error.FFmpegError, ValueError):
        return False
    return True


def _first_packet(uri: str, index: int) -> bytes:
    with open_media(uri) as source:
        for packet in source.demux(source.streams[index]):
            if packet.size:
                return bytes(packet)
    return b""


def _words(stream: Any) -> str:
    language = f" ({stream.language})" if stream.language else ""
    kinds = {"audio": "an audio track", "subtitle": "subtitles", "video": "a further video stream"}
    return f"{kinds.get(stream.type, 'a stream of data')}{language} of kind {_name(stream)}"


def _name(stream: Any) -> str:
    context = stream.codec_context
    return context.name if context is not None else (stream.name or "unknown")
