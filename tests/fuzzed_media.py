"""Small videos in many containers and codecs, and mutations of their bytes."""

import random
from collections.abc import Iterator
from pathlib import Path

import ffmpeg
import imageio_ffmpeg

from tests.talking_photo import make_talking_photo

DURATION_S = 1.6
ENCODINGS: dict[str, dict[str, object]] = {
    "h264-aac.mp4": {"vcodec": "libx264", "acodec": "aac", "bf": 2},
    "hevc-ac3-6ch.mkv": {"vcodec": "libx265", "acodec": "ac3", "ac": 6, "x265-params": "log-level=none"},
    "vp8-opus.webm": {"vcodec": "libvpx", "acodec": "libopus", "deadline": "realtime"},
    "vp9-vorbis.webm": {"vcodec": "libvpx-vp9", "acodec": "libvorbis", "deadline": "realtime"},
    "mpeg2-mp2.ts": {"vcodec": "mpeg2video", "acodec": "mp2"},
    "mpeg1-mp2.mpg": {"vcodec": "mpeg1video", "acodec": "mp2"},
    "mpeg4-mp3.avi": {"vcodec": "mpeg4", "acodec": "libmp3lame"},
    "mjpeg-pcm-4ch.mov": {"vcodec": "mjpeg", "acodec": "pcm_s24le", "ac": 4},
    "flv1-mp3.flv": {"vcodec": "flv", "acodec": "libmp3lame", "ar": 22050},
    "wmv2-wmav2.asf": {"vcodec": "wmv2", "acodec": "wmav2"},
    "theora-flac.ogv": {"vcodec": "libtheora", "acodec": "flac"},
    "interlaced-pcm.mxf": {"vcodec": "mpeg2video", "acodec": "pcm_s16le", "flags": "+ildct+ilme", "ar": 48000},
}


def make_originals(folder: Path) -> list[Path]:
    """One video of 1.6 s for each of ENCODINGS."""
    base = make_talking_photo(folder / "base.mp4", duration_s=DURATION_S, size_px=192)
    made = []
    for name, options in ENCODINGS.items():
        source = ffmpeg.input(str(base))
        output = ffmpeg.output(source.video, source.audio, str(folder / name), pix_fmt=_pixels(name), g=10, **options)
        output.run(cmd=imageio_ffmpeg.get_ffmpeg_exe(), quiet=True, overwrite_output=True)
        made.append(folder / name)
    return made


def _pixels(name: str) -> str:
    return "yuvj420p" if name.startswith("mjpeg") else "yuv420p"


def mutations(originals: list[Path], count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """(name, content) of `count` damaged copies, the originals in turn. The same for the same seed."""
    contents = [path.read_bytes() for path in originals]
    for number in range(count):
        rng = random.Random(f"{seed}-{number}")
        path, content = originals[number % len(originals)], bytearray(contents[number % len(originals)])
        for _ in range(rng.choice((1, 1, 2, 4, 16))):
            rng.choice((_header, _anywhere, _extreme, _cut, _repeat, _blank))(content, rng)
        yield f"{number:05d}-{path.name}", bytes(content)


def _header(content: bytearray, rng: random.Random) -> None:
    """A few bytes of the first or last 2 kB, where containers keep their headers."""
    place = rng.randrange(min(2048, len(content)))
    content[-1 - place if rng.random() < 0.5 else place] = rng.randrange(256)


def _anywhere(content: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 8, 64))):
        content[rng.randrange(len(content))] = rng.randrange(256)


def _extreme(content: bytearray, rng: random.Random) -> None:
    """A number that is too large, negative or zero."""
    place = rng.randrange(max(1, min(4096, len(content) - 8)))
    value = rng.choice((b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00", b"\x00" * 4, b"\xff" * 8))
    content[place : place + len(value)] = value


def _cut(content: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(content))
    del content[start : start + rng.choice((1, 100, 5000, 1 << 30))]
    content.extend(b"\x00" * (not content))


def _repeat(content: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(content))
    content[start:start] = content[start : start + rng.randrange(1, 2000)]


def _blank(content: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(content))
    end = min(len(content), start + rng.randrange(1, 3000))
    content[start:end] = bytes(end - start)
