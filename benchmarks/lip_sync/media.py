"""Changed copies of a clip: other codecs, other frame rates, shifted or noisy audio."""

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from lipforge.model.clock import FPS, SAMPLE_RATE_HZ


def _ffmpeg(*arguments: str, data: bytes | None = None) -> bytes:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-y", "-threads", "1"]
    if data is None:
        command.append("-nostdin")
    result = subprocess.run([*command, *arguments], input=data, capture_output=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)}\n{result.stderr.decode(errors='replace')}")
    return result.stdout


def base_file(source: Path, path: Path, duration_s: float) -> Path:
    """The beginning of a video in Matroska: video packets unchanged, audio as PCM from time 0."""
    audio = ["-af", "aresample=async=1:first_pts=0", "-c:a", "pcm_s16le"]
    _ffmpeg(
        "-i", str(source), "-t", f"{duration_s:g}", "-map", "0:v:0", "-map", "0:a:0", "-c:v", "copy", *audio, str(path)
    )
    return path


def shift_samples(base: Path, path: Path, frames: int) -> Path:
    """Shift the audio samples. frames: at 25 fps; positive: the audio becomes early."""
    shift_s = abs(frames) / FPS
    if frames > 0:
        move = f"atrim=start={shift_s},asetpts=PTS-STARTPTS"
    else:
        move = f"adelay={round(shift_s * 1000)}:all=1"
    _ffmpeg("-i", str(base), "-map", "0", "-c:v", "copy", "-af", move, "-c:a", "pcm_s16le", str(path))
    return path


def shift_container(base: Path, path: Path, frames: int) -> Path:
    """Shift only the audio's timestamps: its bytes stay. frames: as in shift_samples."""
    late = ["-itsoffset", str(-frames / FPS), "-i", str(base)]
    _ffmpeg("-i", str(base), *late, "-map", "0:v", "-map", "1:a", "-c", "copy", str(path))
    return path


def encode_video(base: Path, path: Path, fps: int | None = None, crf: int = 17) -> Path:
    """Re-encode the video in H.264, at another frame rate if given."""
    rate = [] if fps is None else ["-vf", f"fps={fps}"]
    codec = ["-c:v", "libx264", "-preset", "veryfast", "-crf", str(crf), "-pix_fmt", "yuv420p", "-c:a", "copy"]
    _ffmpeg("-i", str(base), "-map", "0", *rate, *codec, str(path))
    return path


def through_codec(audio: np.ndarray, folder: Path, suffix: str, *options: str) -> np.ndarray:
    """Audio after one generation of a codec, with as many samples. audio: float32 [N] at 16 kHz."""
    path = folder / f"audio.{suffix}"
    raw = ["-f", "f32le", "-ar", str(SAMPLE_RATE_HZ), "-ac", "1"]
    _ffmpeg(*raw, "-i", "-", *options, str(path), data=audio.astype(np.float32).tobytes())
    back = np.frombuffer(_ffmpeg("-i", str(path), *raw, "-"), np.float32)
    return np.pad(back, (0, max(0, len(audio) - len(back))))[: len(audio)]


def with_noise(audio: np.ndarray, snr_db: float, seed: int) -> np.ndarray:
    """Add white noise, snr_db below the audio's mean power. audio: float32 [N]."""
    noise = np.random.default_rng(seed).standard_normal(len(audio))
    level = np.sqrt(np.mean(audio.astype(np.float64) ** 2)) * 10 ** (-snr_db / 20)
    return (audio + level * noise).astype(np.float32)
