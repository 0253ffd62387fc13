"""Everything an encoder and a container must say, so that pictures look as those of the source do."""

import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import av.error
import av.filter

from lipforge.datasets_manifest.schema import Reason
from lipforge.pipeline.media.container import (
    MAX_DEMUX_ERRORS,
    MediaError,
    decode_packet,
    open_media,
    read_packets,
    video_stream,
)
from lipforge.pipeline.media.output.containers import FileKind, file_kind
from lipforge.pipeline.media.probe import VideoInfo
from lipforge.pipeline.media.side_data import side_data

_BT601, _LIMITED_RANGE = 6, 1
"""What RGB becomes where a kind of file has no place for it."""
_HDR_TRANSFERS = (16, 18)
"""PQ and HLG (ITU-T H.273)."""
_LOST = {
    "SPHERICAL": "that the picture surrounds the viewer (360 degrees)",
    "STEREO3D": "that the picture is for two eyes (3D)",
    "DYNAMIC_HDR_PLUS": "HDR10+, which says for each scene how bright it is",
    "DOVI_METADATA": "Dolby Vision; the picture for other players stays",
    "ICC_PROFILE": "an ICC profile of colours",
}
"""What encoders are not told, by FFmpeg's name of what decoded frames carry."""
_DEFAULT_RATE = Fraction(25)
HIGHEST_GRID_RATE = 240


@dataclass(frozen=True)
class PictureFormat:
    """How pictures are stored and what is said of them. Numbers of colours are those of ITU-T H.273."""

    width_px: int
    """As stored: before a container's matrix turns them and a pixel ratio stretches them."""
    height_px: int
    source_pix_fmt: str
    pix_fmt: str
    """What frames are blended and encoded in."""
    encoder: str
    lossless: bool
    """Pictures come back equal to the bit."""
    color_range: int
    """0 unspecified, 1 limited, 2 full."""
    matrix: int
    primaries: int
    transfer: int
    pixel_ratio: Fraction | None
    """Width over height of a pixel; None where the source does not say."""
    display_matrix: tuple[int, ...] | None
    """Nine numbers, as in `geometry.orientation_of`."""
    interlaced: bool
    top_field_first: bool
    mastering: str | None
    """Display that HDR was mastered on, as x265 writes it."""
    light_level: tuple[int, int] | None
    """Brightest pixel and brightest mean of a frame, in nits."""
    time_base: Fraction
    first_pts: int
    """Of the source's first frame, in time_base. Here and in the output it is shown at 0."""
    rate: Fraction
    """Frames per second, on average."""
    grid_rate: Fraction
    """The lowest at which all frames lie on a grid, as far as FFmpeg can tell; else the average."""
    notes: tuple[str, ...] = ()
    """What could not be kept, in words."""

    @property
    def bits(self) -> int:
        return av.VideoFormat(self.pix_fmt).components[0].bits

    def pts_at(self, time_s: float) -> int:
        """The time stamp of a moment on our clock, in time_base. Exact for times of the source's own frames."""
        return round(Fraction(time_s) / self.time_base)


def read_picture_format(uri: str, info: VideoInfo, out: str, *, lossless: bool = False) -> PictureFormat:
    """Of the first picture of a video, as a file named `out` can hold it.

    Raises ValueError for a suffix of `out` that names no kind of file and where that cannot be lossless; MediaError
    when no frame can be decoded.
    """
    kind = file_kind(out)
    with open_media(uri) as container:
        stream = video_stream(container)
        if stream is None:
            raise MediaError(Reason.NO_VIDEO, "no video stream")
        frame = _first_frame(container, stream)
        ratio = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
        time_base = Fraction(stream.time_base)
        rate = Fraction(stream.average_rate or stream.guessed_rate or _DEFAULT_RATE)
        grid_rate = Fraction(stream.base_rate or rate)
    interlaced = bool(frame.interlaced_frame)
    hdr = frame.color_trc in _HDR_TRANSFERS
    size_px = frame.width, frame.height
    encoder, pix_fmt, notes = choose_encoder(kind, frame.format.name, size_px, interlaced=interlaced, hdr=hdr)
    changes_model = is_rgb(frame.format) and not pix_fmt.startswith("gbr")
    if lossless and changes_model:
        raise ValueError(f"{out}: {kind.muxer} cannot hold {frame.format.name} without loss: write .mkv or .mp4")
    mastering, light_level = _mastering(frame), _light_level(frame)
    if encoder == "libvpx-vp9" and (interlaced or mastering or light_level):
        notes.append("VP9 cannot say how HDR was mastered, nor that frames are interlaced; nor does the new file")
    notes += [f"left out: {words}" for name, words in _LOST.items() if side_data(frame, name) is not None]
    matrix = side_data(frame, "DISPLAYMATRIX")
    turned = None if matrix is None else struct.unpack("=9i", bytes(matrix)[:36])
    if turned is not None and not kind.keeps_rotation:
        notes.append(f"{kind.muxer} cannot say that pictures are turned: players will show them as they are stored")
    return PictureFormat(
        width_px=frame.width,
        height_px=frame.height,
        source_pix_fmt=frame.format.name,
        pix_fmt=pix_fmt,
        encoder=encoder,
        lossless=lossless,
        color_range=_LIMITED_RANGE if changes_model else int(frame.color_range),
        matrix=_BT601 if changes_model else int(frame.colorspace),
        primaries=int(frame.color_primaries),
        transfer=int(frame.color_trc),
        pixel_ratio=ratio or None,
        display_matrix=turned,
        interlaced=interlaced,
        top_field_first=interlaced and _is_top_first(frame),
        mastering=mastering,
        light_level=light_level,
        time_base=time_base,
        first_pts=round(Fraction(info.origin_s) / time_base),
        rate=rate,
        grid_rate=grid_rate if rate <= grid_rate <= HIGHEST_GRID_RATE else rate,
        notes=tuple(notes),
    )


def choose_encoder(
    kind: FileKind, pix_fmt: str, size_px: tuple[int, int], *, interlaced: bool, hdr: bool
) -> tuple[str, str, list[str]]:
    """(encoder, pixel format it gets, what is lost, in words) for pictures of a pixel format and size.

    H.264 for 8 bit, HEVC for more and for RGB; in WebM, VP9. What an encoder cannot take becomes the nearest
    that it can: with more chroma or bits rather than fewer. Raises ValueError for more than a kind of file holds.
    """
    source = av.VideoFormat(pix_fmt, 16, 16)
    bits = 8 if source.has_palette else max(component.bits for component in source.components)
    rgb = is_rgb(source)
    notes = []
    if any(component.is_alpha for component in source.components):
        notes.append("pictures are stored without their transparency")
    depth = next((depth for depth in (8, 10, 12) if bits <= depth), 12)
    if bits > depth:
        notes.append(f"pictures of {bits} bits are stored with {depth}")
    chroma = "rgb" if rgb else _chroma(source)
    if chroma not in ("rgb", "444") and "libvpx-vp9" not in kind.video and _is_odd(chroma, size_px):
        notes.append(f"an odd size needs 4:4:4 instead of 4:{chroma[1]}:{chroma[2]} in {kind.muxer}")
        chroma = "444"
    wide = depth > 8 or hdr
    if "libx264" not in kind.video:
        if wide:  # SVT-AV1 could, but started by root it takes the machine: its threads are SCHED_FIFO, priority 99
            raise ValueError(f"{kind.muxer} holds pictures of 8 bit without HDR here: write .mkv or .mp4 instead")
        return "libvpx-vp9", _name(chroma, 8), notes
    if chroma == "rgb" and "libx265" in kind.video:
        notes.append("pictures are stored as HEVC in RGB, which few players show")
        return "libx265", _name(chroma, depth), notes
    if chroma == "rgb":
        notes.append(f"pictures of format {pix_fmt} are stored as yuv444p10le: {kind.muxer} has nothing nearer")
        return "libx264", "yuv444p10le", notes
    if _is_odd(chroma, size_px):
        if not wide:
            notes.append("an odd size is stored as VP9, which some players lack")
            return "libvpx-vp9", _name(chroma, 8), notes
        chroma = "444"
        notes.append("an odd size needs 4:4:4 with more than 8 bits")
    if "libx265" not in kind.video or (interlaced and depth <= 10):
        if depth > 10:
            notes.append(f"pictures of {depth} bits are stored with 10: {kind.muxer} has nothing nearer")
        return "libx264", _name(chroma, min(depth, 10)), notes
    if interlaced and wide:
        notes.append("frames are stored as whole pictures: HEVC is not interlaced")
    if not wide:
        return "libx264", pix_fmt if pix_fmt.startswith("yuvj4") and source.is_planar else _name(chroma, 8), notes
    return "libx265", _name(chroma, depth), notes


def is_rgb(pix_fmt: av.VideoFormat) -> bool:
    return pix_fmt.is_rgb or pix_fmt.has_palette or pix_fmt.name.startswith("xyz")


def _chroma(source: av.VideoFormat) -> str:
    """420, 422 or 444: the least that holds all chroma of a format."""
    if sum(not component.is_alpha for component in source.components) == 1:
        return "420"  # grey, which every player shows with neutral chroma
    across, down = 16 // source.chroma_width(16), 16 // source.chroma_height(16)
    if down == 1:
        return "444" if across == 1 else "422"
    return "444" if across == 1 else "420"


def _is_odd(chroma: str, size_px: tuple[int, int]) -> bool:
    width, height = size_px
    return (chroma in ("420", "422") and width % 2 == 1) or (chroma == "420" and height % 2 == 1)


def _name(chroma: str, depth: int) -> str:
    base = "gbrp" if chroma == "rgb" else f"yuv{chroma}p"
    return base if depth == 8 else f"{base}{depth}le"


def _first_frame(container: Any, stream: Any) -> av.VideoFrame:
    stream.codec_context.thread_count = 1
    failures = 0
    for packet in read_packets(container, stream):
        try:
            frames = decode_packet(stream.codec_context, packet)
        except av.error.FFmpegError:
            failures += 1
            if failures > MAX_DEMUX_ERRORS:
                break
            frames = []
        if frames:
            return frames[0]
        if packet is None:
            break
    raise MediaError(Reason.DECODE_ERROR, "no frame of the video stream can be decoded")


def _is_top_first(frame: av.VideoFrame) -> bool:
    """Whether the upper field of a frame is the earlier one. Only filters are told."""
    graph = av.filter.Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(frame.time_base or 1)
    )
    select = graph.add("select", "eq(interlace_type,TOPFIRST)")
    graph.link_nodes(source, select, graph.add("buffersink")).configure()
    graph.push(frame)
    try:
        graph.vpull()
    except av.error.BlockingIOError:
        return False
    return True


def _mastering(frame: av.VideoFrame) -> str | None:
    """FFmpeg's AVMasteringDisplayMetadata: rationals of red, green, blue and white x, y; darkest, brightest; flags."""
    data = side_data(frame, "MASTERING_DISPLAY_METADATA")
    if data is None:
        return None
    values = struct.unpack("=22i", bytes(data)[:88])
    if not (values[20] and values[21]) or any(bottom == 0 for bottom in values[1:20:2]):
        return None
    numbers = [Fraction(top, bottom) for top, bottom in zip(values[0:20:2], values[1:20:2], strict=True)]
    red, green, blue, white = (
        f"({round(x * 50_000)},{round(y * 50_000)})" for x, y in zip(numbers[0:8:2], numbers[1:8:2], strict=True)
    )
    darkest, brightest = (round(nits * 10_000) for nits in numbers[8:10])
    return f"G{green}B{blue}R{red}WP{white}L({brightest},{darkest})"


def _light_level(frame: av.VideoFrame) -> tuple[int, int] | None:
    """FFmpeg's AVContentLightMetadata."""
    data = side_data(frame, "CONTENT_LIGHT_LEVEL")
    if data is None:
        return None
    brightest, mean = struct.unpack("=2I", bytes(data)[:8])
    return brightest, mean
