"""Which codec brings a clip's sound back exactly: samples too many or too late, by codec and reader.

    python -m benchmarks.sound_in_mp4 [--ffmpeg PATH ...]

A click in noise, 16 kHz mono, beside 151 H.264 frames, is muxed with each codec and read by decord, PyAV and the ffmpeg
program (imageio-ffmpeg's, and others that are named): to 16 kHz as it is, and after `-f segment -c copy`, which cuts
MuseTalk's clips. `exact`: the samples that went in; else how many more there are, and how many samples late they come.
"""

import argparse
import io
import subprocess
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import decord
import imageio_ffmpeg
import numpy as np

from lipforge.model.clock import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from lipforge.pipeline.config import EncodeConfig
from lipforge.pipeline.media.clips import encode_mp4

CODECS = ("flac", "alac", "aac", "libmp3lame", "pcm_s16le")
NUM_FRAMES = 151


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ffmpeg", action="append", default=[], help="another ffmpeg program; can be repeated")
    programs = [imageio_ffmpeg.get_ffmpeg_exe(), *parser.parse_args().ffmpeg]
    readers: dict[str, Callable[[Path], np.ndarray]] = {f"decord {decord.__version__}": by_decord, "PyAV": by_pyav}
    for program in programs:
        name = subprocess.run([program, "-version"], capture_output=True, text=True, check=True).stdout.split()[2]
        readers[f"ffmpeg {name}"] = lambda path, program=program: by_ffmpeg(program, path)
        readers[f"ffmpeg {name}, cut"] = lambda path, program=program: by_ffmpeg(program, cut(program, path))
    rng = np.random.default_rng(0)
    pcm = rng.normal(0, 1500, NUM_FRAMES * SAMPLES_PER_FRAME).astype(np.int16)
    pcm[len(pcm) // 2] = 30_000
    pictures = encode_mp4(np.zeros((NUM_FRAMES, 128, 128, 3), np.uint8), EncodeConfig())
    print(f"| codec | {' | '.join(readers)} |\n| --- |{' --- |' * len(readers)}")
    with tempfile.TemporaryDirectory() as folder:
        for codec in CODECS:
            path = Path(folder) / f"{codec}.mp4"
            mux(path, pictures, pcm, codec)
            print(f"| {codec} | {' | '.join(compared(read, path, pcm) for read in readers.values())} |", flush=True)


def mux(path: Path, mp4: bytes, pcm: np.ndarray, codec: str) -> None:
    """An MP4 of the copied pictures and the encoded sound. pcm: int16 [N]."""
    with av.open(io.BytesIO(mp4), "r") as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        pictures = target.add_stream_from_template(stream)
        sound: Any = target.add_stream(codec, rate=SAMPLE_RATE_HZ, layout="mono")
        packets = []
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.stream = pictures
                packets.append(packet)
        resampler = av.AudioResampler(sound.codec_context.codec.audio_formats[0], "mono", SAMPLE_RATE_HZ)
        for first in range(0, len(pcm), 4096):
            frame = av.AudioFrame.from_ndarray(pcm[None, first : first + 4096], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE_HZ, first, Fraction(1, SAMPLE_RATE_HZ)
            for piece in resampler.resample(frame):
                packets += sound.encode(piece)
        for packet in sorted(packets + sound.encode(None), key=lambda packet: packet.dts * packet.time_base):
            target.mux(packet)


def by_decord(path: Path) -> np.ndarray:
    audio = decord.AudioReader(str(path), ctx=decord.cpu(0), sample_rate=SAMPLE_RATE_HZ)
    return np.round(audio[:].asnumpy().squeeze(0) * 32768)


def by_pyav(path: Path) -> np.ndarray:
    resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE_HZ)
    with av.open(str(path)) as container:
        frames = [*container.decode(audio=0), None]
        return np.concatenate([piece.to_ndarray()[0] for frame in frames for piece in resampler.resample(frame)])


def by_ffmpeg(program: str, path: Path) -> np.ndarray:
    raw = _run(program, "-i", str(path), "-vn", "-ar", str(SAMPLE_RATE_HZ), "-ac", "1", "-f", "s16le", "-")
    return np.frombuffer(raw, np.int16)


def cut(program: str, path: Path) -> Path:
    """The first segment of 30 s, cut as MuseTalk's preprocess.py does."""
    options = ["-c", "copy", "-map", "0", "-segment_time", "30", "-f", "segment", "-reset_timestamps", "1"]
    _run(program, "-y", "-i", str(path), *options, str(path.with_name(f"cut%03d_{path.name}")))
    return path.with_name(f"cut000_{path.name}")


def _run(program: str, *arguments: str) -> bytes:
    return subprocess.run([program, "-loglevel", "quiet", *arguments], capture_output=True, check=True).stdout


def compared(read: Callable[[Path], np.ndarray], path: Path, pcm: np.ndarray) -> str:
    try:
        found = np.asarray(read(path), np.float64)
    except (decord.DECORDError, subprocess.CalledProcessError):
        return "cannot"
    if np.array_equal(found, pcm):
        return "exact"
    length = len(pcm) + len(found)
    spectrum = np.fft.rfft(found, length) * np.conj(np.fft.rfft(pcm.astype(np.float64), length))
    late = int(np.fft.irfft(spectrum, length).argmax())
    return f"{len(found) - len(pcm):+d}, {late - length if late > length // 2 else late} late"


if __name__ == "__main__":
    main()
