"""What each kind of output file can hold."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FileKind:
    """One kind of output file."""

    muxer: str
    """FFmpeg's name."""
    copied_audio: frozenset[str]
    """Codecs of a new sound that are taken over without decoding. `pcm` stands for all kinds of PCM."""
    audio_encoder: str
    """For sounds that cannot be taken over; `flac` gives way to PCM where it cannot hold the samples."""
    video: frozenset[str]
    """Encoders for its pictures."""
    keeps_rotation: bool
    attachments: bool = False
    cover_art: bool = False
    """As a picture without a time; Matroska holds it as an attachment."""
    any_rate: bool = True
    """False: frames lie on a grid of one rate."""
    headers_in_stream: bool = False
    """Decoders find their settings in the packets only."""
    options: tuple[tuple[str, str], ...] = ()


_MP4_AUDIO = frozenset({"aac", "mp3", "alac", "ac3", "eac3", "opus", "flac"})
_ALL_VIDEO = frozenset({"libx264", "libx265", "libvpx-vp9"})
_START = (("movflags", "+faststart"),)
_MP4 = FileKind("mp4", _MP4_AUDIO, "aac", _ALL_VIDEO, keeps_rotation=True, cover_art=True, options=_START)
KINDS = {
    ".mp4": _MP4,
    ".m4v": _MP4,
    ".mov": FileKind(
        "mov",
        frozenset({"aac", "mp3", "alac", "ac3", "eac3", "pcm"}),
        "aac",
        frozenset({"libx264", "libx265"}),
        keeps_rotation=True,
        options=_START,
    ),
    ".mkv": FileKind(
        "matroska",
        _MP4_AUDIO | {"pcm", "mp2", "vorbis", "dts"},
        "flac",
        _ALL_VIDEO,
        keeps_rotation=True,
        attachments=True,
        options=(("reserve_index_space", "0"),),
    ),
    ".webm": FileKind(
        "webm",
        frozenset({"opus", "vorbis"}),
        "libopus",
        frozenset({"libvpx-vp9"}),
        keeps_rotation=True,
    ),
    ".avi": FileKind(
        "avi",
        frozenset({"mp3", "ac3", "pcm"}),
        "pcm_s16le",
        frozenset({"libx264", "libvpx-vp9"}),
        keeps_rotation=False,
        any_rate=False,
        headers_in_stream=True,
    ),
    ".ts": FileKind(
        "mpegts",
        frozenset({"aac", "mp3", "mp2", "ac3", "eac3"}),
        "aac",
        frozenset({"libx264", "libx265"}),
        keeps_rotation=False,
        headers_in_stream=True,
    ),
}


def file_kind(out: str) -> FileKind:
    """The kind that the suffix names. Raises ValueError for others."""
    suffix = Path(out).suffix.lower()
    if suffix not in KINDS:
        named = f"{suffix!r}" if suffix else "no suffix"
        raise ValueError(f"{out}: the suffix says what kind of file to write; {named} fits none of {', '.join(KINDS)}")
    return KINDS[suffix]
