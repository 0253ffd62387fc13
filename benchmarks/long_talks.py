"""Longer talks made of short clips, for benchmarks that need sources of minutes: clips one after the other, encoded."""

import random
from collections.abc import Iterator
from pathlib import Path

import av
import av.error
import numpy as np
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

FPS = 25
RATE_HZ = 48_000
SAMPLES_PER_FRAME = RATE_HZ // FPS
SIZES = ((640, 360), (1280, 720), (640, 360), (1280, 720), (640, 360), (640, 360), (1920, 1080))
"""Of the talks, in turn: what they cost differs, too."""
LANGUAGES = ("en", "de", "zh")
"""Folders that the talks are in, in turn. What is spoken in them does not matter here."""
CLIPS_OF_TALK = 6
KEY_EVERY_FRAMES = 50


def make_talks(clips: list[Path], folder: Path, number: int = 20, seconds: tuple[float, float] = (115, 165)) -> None:
    """Write talks of so many seconds, each of a few of the clips, in random order. What is there already stays."""
    usable = [clip for clip in clips if _is_usable(clip)]
    for index in range(number):
        path = folder / LANGUAGES[index % len(LANGUAGES)] / f"talk{index:02d}.mp4"
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = random.Random(index)
        some = rng.sample(usable, min(CLIPS_OF_TALK, len(usable)))
        unfinished = path.with_suffix(".part")
        _make_talk(unfinished, some, SIZES[index % len(SIZES)], rng.uniform(*seconds), rng)
        unfinished.rename(path)


def _is_usable(clip: Path) -> bool:
    try:
        with av.open(str(clip)) as container:
            has_both = bool(container.streams.video and container.streams.audio)
            return has_both and 3 <= (container.duration or 0) / av.time_base <= 25
    except av.error.FFmpegError:
        return False


def _make_talk(path: Path, clips: list[Path], size: tuple[int, int], seconds: float, rng: random.Random) -> None:
    with av.open(str(path), "w", format="mp4") as out:
        video = out.add_stream("libx264", rate=FPS)
        video.width, video.height, video.pix_fmt, video.gop_size = *size, "yuv420p", KEY_EVERY_FRAMES
        video.options, video.thread_count = {"preset": "ultrafast", "crf": "20"}, 1
        audio = out.add_stream("aac", rate=RATE_HZ, layout="mono")
        num_frames = 0
        while num_frames < seconds * FPS:
            first = num_frames
            clip = rng.choice(clips)
            for rgb in _pictures(clip, size):
                frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
                frame.pts = num_frames
                out.mux(video.encode(frame))
                num_frames += 1
            for at, samples in _blocks(_sound(clip, (num_frames - first) * SAMPLES_PER_FRAME)):
                sound = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
                sound.rate, sound.pts = RATE_HZ, first * SAMPLES_PER_FRAME + at
                out.mux(audio.encode(sound))
        out.mux(video.encode())
        out.mux(audio.encode())


def _pictures(clip: Path, size: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
    """At 25 fps, as large as fits, on black."""
    width, height = size
    with av.open(str(clip)) as container:
        container.streams.video[0].thread_count = 1
        first_s: float | None = None
        shown = 0
        for frame in container.decode(video=0):
            first_s = float(frame.time or 0) if first_s is None else first_s
            scale = min(width / frame.width, height / frame.height)
            inside = int(frame.width * scale) // 2 * 2, int(frame.height * scale) // 2 * 2
            left, top = (width - inside[0]) // 2, (height - inside[1]) // 2
            picture: NDArray[np.uint8] | None = None
            while shown <= round((float(frame.time or 0) - first_s) * FPS):
                if picture is None:
                    picture = np.zeros((height, width, 3), np.uint8)
                    small = frame.to_ndarray(width=inside[0], height=inside[1], format="rgb24")
                    picture[top : top + inside[1], left : left + inside[0]] = small
                yield picture
                shown += 1


def _sound(clip: Path, num_samples: int) -> NDArray[np.float32]:
    resampler = AudioResampler("fltp", "mono", RATE_HZ)
    with av.open(str(clip)) as container:
        parts = [part.to_ndarray() for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    samples = np.concatenate(parts, axis=1)[:, :num_samples]
    return np.pad(samples, ((0, 0), (0, num_samples - samples.shape[1]))).astype(np.float32)


def _blocks(samples: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    for at in range(0, samples.shape[1], 1024):
        yield at, np.ascontiguousarray(samples[:, at : at + 1024])
