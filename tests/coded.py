"""Video whose frames encode their number and whose audio is noise, so that every frame and sample is unique."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from lipforge.pipeline.clip import Source, Unit, Video
from lipforge.pipeline.media.audio import read_audio
from lipforge.pipeline.media.probe import probe
from lipforge.pipeline.media.video import DecodeCount
from lipforge.pipeline.stages.resample import Resample

SIZE = (96, 128)
"""Height and width, pixels."""
_BLOCK = 32
_NUM_BITS = 12
_TICK = Fraction(1, 90_000)


def coded_image(code: int) -> np.ndarray:
    """uint8 [96, 128, 3]: 12 black or white blocks, the bits of `code`."""
    bits = np.array([code >> bit & 1 for bit in range(_NUM_BITS)], np.uint8).reshape(3, 4)
    return np.repeat(np.kron(bits * 200 + 20, np.ones((_BLOCK, _BLOCK), np.uint8))[:, :, None], 3, axis=2)


def code_of(rgb: np.ndarray) -> int:
    """The number that a frame shows, even after lossy coding."""
    blocks = rgb.mean(axis=2).reshape(3, _BLOCK, 4, _BLOCK).mean(axis=(1, 3)).ravel()
    return sum(1 << bit for bit in range(_NUM_BITS) if blocks[bit] > 120)


def noise(num_samples: int, seed: int = 0) -> np.ndarray:
    """int16 [N] white noise."""
    return np.random.default_rng(seed).integers(-20_000, 20_000, num_samples).astype(np.int16)


def write_coded(
    path: Path,
    times_s: Sequence[float],
    audio: np.ndarray | None = None,
    audio_start_s: float = 0.0,
    *,
    vcodec: str = "libx264",
    acodec: str = "pcm_s16le",
    gop: int = 12,
    options: dict[str, str] | None = None,
    rate: Fraction | int = 25,
    fixed_rate: bool = False,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Frame n shows n at the time times_s[n]. audio: int16 [N] mono at 16 kHz, or [N, 2] for stereo.

    fixed_rate: count frames in units of 1 / rate, for codecs without a finer time base.
    """
    with av.open(str(path), "w", options=container_options or {}) as container:
        video = container.add_stream(vcodec, rate=rate, options={"threads": "1", "g": str(gop), **(options or {})})
        video.height, video.width = SIZE
        video.pix_fmt = "yuv420p"
        if not fixed_rate:
            video.codec_context.time_base = _TICK
        packets = []
        for code, time_s in enumerate(times_s):
            frame = av.VideoFrame.from_ndarray(coded_image(code), format="rgb24")
            frame.pts = code if fixed_rate else round(time_s / _TICK)
            frame.time_base = Fraction(1, Fraction(rate)) if fixed_rate else _TICK
            packets += video.encode(frame)
        packets += video.encode(None)
        if audio is not None:
            packets += _encode_audio(container, acodec, audio, audio_start_s)
        packets.sort(key=lambda packet: float(packet.dts * packet.time_base))
        for packet in packets:
            container.mux(packet)
    return path


def _encode_audio(container: av.container.OutputContainer, acodec: str, audio: np.ndarray, start_s: float) -> list:
    layout = "mono" if audio.ndim == 1 else "stereo"
    rate_hz = 48_000 if acodec == "libopus" else 16_000
    stream = container.add_stream(acodec, rate=rate_hz, layout=layout)
    resampler = av.AudioResampler(stream.codec_context.format, layout, rate_hz, frame_size=stream.frame_size or 1024)
    block = av.AudioFrame.from_ndarray(np.ascontiguousarray(audio.reshape(1, -1)), format="s16", layout=layout)
    block.sample_rate = 16_000
    block.pts = None
    packets, num_samples = [], 0
    for piece in [*resampler.resample(block), *resampler.resample(None)]:
        piece.pts = round(start_s * rate_hz) + num_samples
        piece.time_base = Fraction(1, rate_hz)
        num_samples += piece.samples
        packets += stream.encode(piece)
    return packets + stream.encode(None)


def shown(path: Path, start_frame: int = 0, end_frame: int | None = None, count: DecodeCount | None = None) -> list:
    """The code of each 25 fps frame of a span, None where there is no image."""
    info = probe(str(path))
    unit = Unit(Video(Source(str(path)), "", info), start_frame, info.num_frames if end_frame is None else end_frame)
    frames = list(Resample().to_grid(unit, Resample().decode(unit, count or DecodeCount())))
    assert [frame.index for frame in frames] == list(range(unit.start_frame, unit.end_frame))
    return [None if frame.picture is None else code_of(frame.picture.whole()) for frame in frames]


def heard(path: Path, start_frame: int = 0, end_frame: int | None = None) -> np.ndarray:
    """The audio of a span of 25 fps frames: float32 [N], mono, 16 kHz."""
    info = probe(str(path))
    return read_audio(str(path), info, start_frame, info.num_frames if end_frame is None else end_frame).samples
