"""Make sound as found in the wild: any number of channels, labels that say nothing, the voice on some of them, holes.

Channels are float32 [C, N] at 16 kHz in [-1, 1]. Files hold no video: `hear` reads them as the audio of one.
"""

import struct
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import ffmpeg
import imageio_ffmpeg
import numpy as np

from lipforge.model.clock import FPS, SAMPLE_RATE_HZ
from lipforge.pipeline.media.audio import Sound, read_audio
from lipforge.pipeline.media.probe import VideoInfo
from tests.talking_photo import babble

DURATION_S = 6.0
DELAY_SAMPLES = 7
"""0.44 ms: the first notch is at 1.1 kHz."""


def hear(path: Path, start_frame: int = 0, end_frame: int | None = None, duration_s: float = DURATION_S) -> Sound:
    """The sound of grid frames, as if the file had video for duration_s."""
    num_frames = round(duration_s * FPS)
    info = VideoInfo(64, 64, 0, FPS, num_frames, 0.0, (0.0,), True, "h264", "pcm")
    return read_audio(str(path), info, start_frame, num_frames if end_frame is None else end_frame)


# --- what the channels hold -----------------------------------------------------------------------


def voice(seed: int = 0) -> np.ndarray:
    """float32 [N], peak 0.5."""
    return babble(DURATION_S, seed)


def hiss(level: float, seed: int = 0) -> np.ndarray:
    """Steady noise, as of an open microphone."""
    return (level * np.random.default_rng(seed).normal(size=round(DURATION_S * SAMPLE_RATE_HZ))).astype(np.float32)


def chords(level: float, seed: int = 0) -> np.ndarray:
    """Plucked notes in their own rhythm: music that comes and goes."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(DURATION_S * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    music = np.zeros_like(time_s)
    for start_s in np.cumsum(rng.uniform(0.2, 0.5, 20)):
        since_s = np.maximum(time_s - start_s, 0)
        music += np.sin(2 * np.pi * rng.uniform(200, 900) * since_s) * np.exp(-since_s / 0.2)
    return (level * music / np.abs(music).max()).astype(np.float32)


def on_channels(num_channels: int, **by_channel: np.ndarray) -> np.ndarray:
    """Silence but on the channels that are named: c0=..., c5=... (from 0)."""
    channels = np.zeros((num_channels, round(DURATION_S * SAMPLE_RATE_HZ)), np.float32)
    for name, samples in by_channel.items():
        channels[int(name[1:])] = samples
    return channels


def in_turn(*voices: np.ndarray) -> np.ndarray:
    """An interview: voice n is on channel n, and each speaks for a second in turn."""
    turn = np.arange(voices[0].size) // SAMPLE_RATE_HZ % len(voices)
    return np.stack([np.where(turn == n, one, 0) for n, one in enumerate(voices)])


# --- files ----------------------------------------------------------------------------------------


def write_sound(
    path: Path,
    channels: np.ndarray,
    layout: str | None = None,
    acodec: str = "pcm_s16le",
    start_s: float = 0.0,
    holes_s: tuple[tuple[float, float], ...] = (),
) -> Path:
    """One audio track. layout: None for a number of channels without places. No packets begin in holes_s."""
    name = layout or f"{len(channels)} channels"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(acodec, rate=SAMPLE_RATE_HZ, layout=name)
        resampler = av.AudioResampler(stream.codec_context.format, name, SAMPLE_RATE_HZ, stream.frame_size or 320)
        block = av.AudioFrame.from_ndarray(channels.T.reshape(1, -1).copy(), format="flt", layout=name)
        block.sample_rate = SAMPLE_RATE_HZ
        num_samples = round(start_s * SAMPLE_RATE_HZ)
        packets = []
        for piece in [*resampler.resample(block), *resampler.resample(None)]:
            piece.pts, piece.time_base = num_samples, Fraction(1, SAMPLE_RATE_HZ)
            num_samples += piece.samples
            packets += stream.encode(piece)
        for packet in packets + stream.encode(None):
            time_s = float(packet.pts * packet.time_base)
            if not any(first_s <= time_s < end_s for first_s, end_s in holes_s):
                container.mux(packet)
    return path


def write_unused_labels(path: Path, channels: np.ndarray) -> Path:
    """A Core Audio file whose channels are all labelled `unused` (label 0): a layout of labels that say nothing."""
    labels = struct.pack(">III", 0, 0, len(channels)) + len(channels) * struct.pack(">IIfff", 0, 0, 0, 0, 0)
    samples = np.rint(channels.T * 32767).astype(">i2").tobytes()
    width = 2 * len(channels)
    about = struct.pack(">d4sIIIII", SAMPLE_RATE_HZ, b"lpcm", 0, width, 1, len(channels), 16)
    chunks = [(b"desc", about), (b"chan", labels), (b"data", bytes(4) + samples)]
    content = b"".join(name + struct.pack(">q", len(data)) + data for name, data in chunks)
    path.write_bytes(b"caff" + struct.pack(">HH", 1, 0) + content)
    return path


def write_changing_channels(path: Path, *parts: tuple[str, np.ndarray]) -> Path:
    """AAC frames of one layout after the other, in one track: (layout, channels)."""
    content = b""
    for number, (layout, channels) in enumerate(parts):
        part = write_sound(path.with_suffix(f".{number}.aac"), channels, layout, "aac")
        content += part.read_bytes()
    path.write_bytes(content)
    return path


def drifting(base: Path, path: Path, percent: float) -> Path:
    """The clip with its audio played faster by so many percent, in sync at the start; negative: slower."""
    source = ffmpeg.input(str(base))
    faster = source.audio.filter("aresample", 48_000).filter("asetrate", round(48_000 * (1 + percent / 100)))
    graph = ffmpeg.output(source.video, faster.filter("aresample", 48_000), str(path), vcodec="copy")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-y", *ffmpeg.get_args(graph)]
    subprocess.run(command, check=True, capture_output=True)
    return path
