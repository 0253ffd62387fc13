"""Make video whose pictures are stored otherwise than they are shown: turned, squeezed, interlaced, HDR.

tests/test_geometry.py, test_interlaced.py and test_hdr.py check that the files have these properties.
"""

import subprocess
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import imageio_ffmpeg
import numpy as np

from lipforge.pipeline.clip import Source, Unit, Video
from lipforge.pipeline.config import ShotsConfig
from lipforge.pipeline.media.probe import probe
from lipforge.pipeline.media.video import DecodeCount
from lipforge.pipeline.stages.resample import Resample
from lipforge.pipeline.stages.shots import SplitShots

X264 = ("-c:v", "libx264", "-preset", "ultrafast", "-crf", "12", "-pix_fmt", "yuv420p", "-threads", "1")
Matrix = tuple[int, int, int, int]
"""(a, b, c, d) of a display matrix: the stored point (p, q) is shown at (a p + c q, b p + d q)."""

ONE = 1 << 16
ORIENTATIONS: dict[str, tuple[Matrix, Any]] = {
    "upright": ((ONE, 0, 0, ONE), lambda shown: shown),
    "turned_90": ((0, ONE, -ONE, 0), lambda shown: np.rot90(shown, 1)),
    "turned_180": ((-ONE, 0, 0, -ONE), lambda shown: np.rot90(shown, 2)),
    "turned_270": ((0, -ONE, ONE, 0), lambda shown: np.rot90(shown, 3)),
    "mirrored": ((-ONE, 0, 0, ONE), lambda shown: shown[:, ::-1]),
    "upside_down": ((ONE, 0, 0, -ONE), lambda shown: shown[::-1]),
    "transposed": ((0, ONE, ONE, 0), lambda shown: shown.transpose(1, 0, 2)),
    "transversed": ((0, -ONE, -ONE, 0), lambda shown: shown[::-1, ::-1].transpose(1, 0, 2)),
}
"""Display matrix, and what a picture is stored as, so that the matrix shows it as it was."""


def write_pictures(
    path: Path,
    pictures: Iterable[np.ndarray],
    *,
    rate: Fraction | int = 25,
    vcodec: str = "libx264",
    pix_fmt: str = "yuv420p",
    pixel_ratio: Fraction | None = None,
    matrix: Matrix | None = None,
    gop: int = 12,
    options: dict[str, str] | None = None,
) -> Path:
    """pictures: uint8 [H, W, 3] RGB of one size, as they are stored."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(
            vcodec, rate=rate, options={"threads": "1", "g": str(gop), **(options or {})}
        )
        if matrix is not None:
            a, b, c, d = matrix
            stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        for number, rgb in enumerate(pictures):
            if number == 0:
                stream.height, stream.width, stream.pix_fmt = *rgb.shape[:2], pix_fmt
                if pixel_ratio is not None:
                    stream.codec_context.sample_aspect_ratio = pixel_ratio
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
            frame.pts, frame.time_base = number, 1 / Fraction(rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def join(path: Path, parts: Sequence[Path]) -> Path:
    """The packets of several files in one video stream, one file after the other, with the header of the first."""
    end_s = 0.0
    with av.open(str(path), "w") as target:
        stream: Any = None
        for part in parts:
            with av.open(str(part)) as source:
                own = source.streams.video[0]
                stream = stream or target.add_stream_from_template(own)
                packets = [packet for packet in source.demux(own) if packet.size]
                first_s = float(min(packet.pts for packet in packets if packet.pts is not None) * own.time_base)
                length_s = 0.0
                for packet in packets:
                    shift = round((end_s - first_s) / own.time_base)
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    length_s = max(length_s, float((packet.pts + packet.duration) * own.time_base) - end_s)
                    packet.stream = stream
                    target.mux(packet)
                end_s += length_s
    return path


def without_first_packets(source: Path, path: Path, num_packets: int) -> Path:
    """The video begins between two key frames, as a recording of a broadcast does."""
    with av.open(str(source)) as original, av.open(str(path), "w") as target:
        own = original.streams.video[0]
        stream = target.add_stream_from_template(own)
        packets = [packet for packet in original.demux(own) if packet.size]
        first = packets[num_packets].dts
        for packet in packets[num_packets:]:
            packet.pts, packet.dts = packet.pts - first, packet.dts - first
            packet.stream = stream
            target.mux(packet)
    return path


def interlace(source: Path, path: Path, top_first: bool, codec: Sequence[str] = X264) -> Path:
    """Two pictures of the source, one per field, become one frame of half the rate."""
    order = "top" if top_first else "bottom"
    weave = f"tinterlace=mode=interleave_{order},setfield={order[0]}ff"
    return convert(source, path, "-vf", weave, *codec, "-flags", "+ildct+ilme")


def as_hdr(source: Path, path: Path, transfer: str, *encoder: str, full_range: bool = False, pix_fmt: str) -> Path:
    """An SDR clip as HDR shows it: its white at 203 nits, BT.2020. transfer: smpte2084 or arib-std-b67."""
    used = "pc" if full_range else "tv"
    to_hdr = (
        "setparams=color_primaries=bt709:color_trc=bt709:colorspace=bt709,zscale=t=linear:npl=203,format=gbrpf32le,"
        f"zscale=p=bt2020:t={transfer}:m=2020_ncl:r={used}:npl=203,format={pix_fmt}"
    )
    tags = ("-color_primaries", "bt2020", "-color_trc", transfer, "-colorspace", "bt2020nc", "-color_range", used)
    return convert(source, path, "-vf", to_hdr, *tags, *encoder)


def convert(source: Path, path: Path, *arguments: str) -> Path:
    """Run ffmpeg (imageio-ffmpeg's program) on one file."""
    quiet = ["-hide_banner", "-loglevel", "error", "-nostdin", "-y", "-filter_threads", "1"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), *quiet, "-i", str(source), *arguments, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{result.stderr}")
    return path


def scaled(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)


def unit_of(path: Path, start_frame: int = 0, end_frame: int | None = None) -> Unit:
    info = probe(str(path))
    return Unit(Video(Source(str(path)), "", info), start_frame, info.num_frames if end_frame is None else end_frame)


def frames_of(path: Path, start_frame: int = 0, end_frame: int | None = None) -> list:
    """The 25 fps frames of a file, through the first stages of the pipeline."""
    unit = unit_of(path, start_frame, end_frame)
    stage = Resample()
    return list(stage.to_grid(unit, SplitShots(ShotsConfig()).process(stage.decode(unit, DecodeCount()))))
