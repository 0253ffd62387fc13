"""Make media as found in the wild: broken, odd, badly timed. One function per kind, and `make_all` for all of them.

Each function takes the folder to write to and a short talking clip (`base_clip`), and returns the path of its file.
tests/test_media_factory.py checks that each file has the property in its name.
"""

import struct
import subprocess
import wave
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import av
import ffmpeg
import imageio_ffmpeg
import numpy as np

from lipforge.model.clock import FPS, SAMPLE_RATE_HZ
from tests.talking_photo import make_talking_photo

BASE_DURATION_S = 6.4
BASE_SIZE_PX = 384
CUT_S = 3.2  # when clips that change half-way do so
AUDIO_LATE_S = 0.5
VIDEO_LATE_S = 0.4
EDIT_START_S = 1.2
NEGATIVE_START_S = 0.5
AUDIO_GAP_S = (2.5, 3.5)
SHIFT_FRAMES = 4
LIE_FACTOR = 5

_X264 = {"vcodec": "libx264", "preset": "ultrafast", "crf": 20, "pix_fmt": "yuv420p", "threads": 1}


def base_clip(folder: Path) -> Path:
    """A person talking for 6.4 s: 384 px, 25 fps, H.264 and AAC, in sync."""
    return make_talking_photo(folder / "base.mp4", duration_s=BASE_DURATION_S, size_px=BASE_SIZE_PX)


# --- not media, or no longer -------------------------------------------------------


def empty(folder: Path, base: Path) -> Path:
    path = folder / "empty.mp4"
    path.write_bytes(b"")
    return path


def text(folder: Path, base: Path) -> Path:
    path = folder / "text.mp4"
    path.write_text("This is not a video.\n" * 200)
    return path


def truncated_mp4(folder: Path, base: Path) -> Path:
    """The index (moov) was at the end and is missing: nothing can be read."""
    return _cut_in_half(base, folder / "truncated_mp4.mp4")


def truncated_mkv(folder: Path, base: Path) -> Path:
    """The header promises everything, the data ends half-way."""
    path = folder / "truncated_mkv.mkv"
    return _cut_in_half(_copy(base, path), path)


def truncated_ts(folder: Path, base: Path) -> Path:
    path = folder / "truncated_ts.ts"
    return _cut_in_half(_copy(base, path), path)


def damaged_middle(folder: Path, base: Path) -> Path:
    """8 % of the file, in the middle, is random bytes; the index is intact."""
    content = bytearray(base.read_bytes())
    start, length = int(len(content) * 0.46), int(len(content) * 0.08)
    content[start : start + length] = np.random.default_rng(0).bytes(length)
    path = folder / "damaged_middle.mp4"
    path.write_bytes(content)
    return path


def _cut_in_half(source: Path, path: Path) -> Path:
    content = source.read_bytes()
    path.write_bytes(content[: int(len(content) * 0.55)])
    return path


# --- what is missing ------------------------------------------------------------------------------


def no_video(folder: Path, base: Path) -> Path:
    return _copy(base, folder / "no_video.mp4", vn=None)


def no_audio(folder: Path, base: Path) -> Path:
    return _copy(base, folder / "no_audio.mp4", an=None)


def digital_silence(folder: Path, base: Path) -> Path:
    source = ffmpeg.input(str(base))
    return _write([source.video, source.audio.filter("volume", 0)], folder / "digital_silence.mp4", vcodec="copy")


def music(folder: Path, base: Path) -> Path:
    """The face with chords instead of a voice."""
    chords = ffmpeg.input(str(_write_wav(folder / "music.wav", _play_chords())))
    return _write([ffmpeg.input(str(base)).video, chords.audio], folder / "music.mp4", vcodec="copy")


def no_face(folder: Path, base: Path) -> Path:
    """Speech over moving colours."""
    colours = ffmpeg.input(f"gradients=s=384x384:r={FPS}:d={BASE_DURATION_S}:seed=3:speed=0.02", f="lavfi")
    return _write([colours.video, ffmpeg.input(str(base)).audio], folder / "no_face.mp4", **_X264)


# --- faces ----------------------------------------------------------------------------------------


def two_faces(folder: Path, base: Path) -> Path:
    """The speaker on the left; the same face on the right, mirrored, 1 s late. Only the left one is in sync."""
    source = ffmpeg.input(str(base))
    late = source.video.filter("tpad", start_duration=1, start_mode="clone").filter("trim", duration=BASE_DURATION_S)
    faces = [half.filter("scale", 240, 240) for half in (source.video, late.filter("hflip"))]
    return _write([ffmpeg.filter(faces, "hstack"), source.audio], folder / "two_faces.mp4", **_X264)


def tiny_face(folder: Path, base: Path) -> Path:
    """A face of about 25 px in a frame of 480 px."""
    source = ffmpeg.input(str(base))
    small = source.video.filter("scale", 72, 72).filter("pad", 480, 480, 200, 160, color="gray")
    return _write([small, source.audio], folder / "tiny_face.mp4", **_X264)


def face_leaves(folder: Path, base: Path) -> Path:
    """From 3.2 s on the speaker slides out to the right, gone at 4.2 s; the voice continues."""
    source = ffmpeg.input(str(base))
    wall = ffmpeg.input(f"color=c=0xC8C0C0:s=384x384:r={FPS}:d={BASE_DURATION_S}", f="lavfi")
    moving = ffmpeg.overlay(wall, source.video, x=f"max(0,(t-{CUT_S})*W)", y=0)
    return _write([moving, source.audio], folder / "face_leaves.mp4", **_X264)


def hard_cut(folder: Path, base: Path) -> Path:
    """At 3.2 s (frame 80) another shot begins: the speaker mirrored, closer, in other colours. The voice continues."""
    source = ffmpeg.input(str(base))
    first = source.video.filter("trim", end=CUT_S)
    second = source.video.filter("trim", start=CUT_S).filter("setpts", "PTS-STARTPTS").filter("hflip")
    second = second.filter("crop", 300, 300, 42, 10).filter("scale", 384, 384).filter("setsar", 1)
    second = second.filter("hue", h=150, b=-2)
    cut = ffmpeg.concat(first.filter("setsar", 1), second)
    return _write([cut, source.audio], folder / "hard_cut.mp4", **_X264)


# --- pictures that stand still -------------------------------------------------------------------

FREEZES_S: dict[str, list[tuple[float, float]]] = {
    "repeated": [(2.0, 4.0)],
    "time_gap": [(2.0, 4.0)],
    "encoded_again": [(2.0, 4.0)],
    "in_60": [(2.0, 4.0)],
    "at_start": [(0.0, 2.0)],
    "at_end": [(4.4, 6.4)],
    "hiccups": [(1.0, 1.8), (2.6, 3.4), (4.2, 5.0)],
}
"""How a picture may freeze, and when: each span shows its first frame throughout. The voice goes on."""


def frozen(folder: Path, base: Path, how: str) -> Path:
    """repeated: by a recorder; time_gap: one frame shown for long; encoded_again: with key frames inside the freeze."""
    source = ffmpeg.input(str(base))
    video, options, suffix = source.video, dict(_X264), "mp4"
    if how == "time_gap":
        video = video.filter("select", "not(between(n,51,99))")
        options["fps_mode"] = "passthrough"
    else:
        for start_s, end_s in FREEZES_S[how]:
            first, num_more = round(start_s * FPS), round((end_s - start_s) * FPS) - 1
            # Frames are inserted, so the source's own frames under the freeze are dropped before.
            video = video.filter("select", f"not(between(n,{first + 1},{first + num_more}))")
            video = video.filter("loop", loop=num_more, size=1, start=first).filter("setpts", f"N/{FPS}/TB")
    if how == "in_60":
        video = video.filter("fps", 60)
    if how == "encoded_again":
        options = {"vcodec": "libvpx", "video_bitrate": "600k", "deadline": "realtime", "g": 20, "acodec": "libopus"}
        options["threads"], suffix = 1, "webm"
    return _write([video, source.audio], folder / f"frozen_{how}.{suffix}", **options)


# --- images -------------------------------------------------------------------------------------


def rotated(folder: Path, base: Path, degrees: int) -> Path:
    """Stored rotated clockwise, with the flag to rotate it back: 384 x 320 px when shown upright."""
    source = ffmpeg.input(str(base))
    turned = source.video.filter("crop", 384, 320, 0, 0)
    for _ in range(degrees // 90):
        turned = turned.filter("transpose", "clock")
    stored = _write([turned, source.audio], folder / f"stored_{degrees}.mp4", **_X264)
    flag: dict[str, Any] = {"display_rotation": degrees}
    path = _copy(stored, folder / f"rotated_{degrees}.mp4", flag)
    stored.unlink()
    return path


def ten_bit(folder: Path, base: Path) -> Path:
    return _copy(base, folder / "ten_bit.mp4", None, **_X264 | {"pix_fmt": "yuv420p10le"})


def odd_size(folder: Path, base: Path) -> Path:
    """431 x 333, VP9 and Opus in WebM (x264 refuses odd sides)."""
    source = ffmpeg.input(str(base))
    odd = source.video.filter("scale", 431, -2).filter("crop", 431, 333, 0, 20, exact=1)
    vp9 = {
        "vcodec": "libvpx-vp9",
        "pix_fmt": "yuv420p",
        "deadline": "realtime",
        "cpu-used": 8,
        "b:v": "600k",
        "threads": 1,
    }
    return _write([odd, source.audio], folder / "odd_size.webm", acodec="libopus", **vp9)


# --- time -----------------------------------------------------------------------------------------


def at_rate(folder: Path, base: Path, rate: str, name: str) -> Path:
    """The same clip at another frame rate, frames repeated or dropped."""
    source = ffmpeg.input(str(base))
    return _write([source.video.filter("fps", rate, round="near"), source.audio], folder / f"fps_{name}.mp4", **_X264)


def variable_rate(folder: Path, base: Path) -> Path:
    """A third of the frames is missing, irregularly; the others have their true times."""
    source = ffmpeg.input(str(base))
    some = source.video.filter("select", "not(eq(mod(n,7),2)+eq(mod(n,7),3)+eq(mod(n,11),5))")
    return _write([some, source.audio], folder / "variable_rate.mp4", fps_mode="vfr", **_X264)


def audio_late_mp4(folder: Path, base: Path) -> Path:
    """The first 0.5 s of audio is missing; the rest is in sync."""
    return _audio_late(base, folder / "audio_late_mp4.mp4")


def audio_late_mkv(folder: Path, base: Path) -> Path:
    return _audio_late(base, folder / "audio_late_mkv.mkv")


def _audio_late(base: Path, path: Path) -> Path:
    source = ffmpeg.input(str(base))
    return _write([source.video, source.audio.filter("atrim", start=AUDIO_LATE_S)], path, vcodec="copy")


def video_late(folder: Path, base: Path) -> Path:
    """The first 0.4 s of video is missing, so audio starts earlier; in sync."""
    source = ffmpeg.input(str(base))
    return _write([source.video.filter("trim", start=VIDEO_LATE_S), source.audio], folder / "video_late.mkv", **_X264)


def negative_start(folder: Path, base: Path) -> Path:
    """A fragmented MP4 whose video begins at -0.5 s; in sync (readers drop the audio before 0)."""
    options = {"avoid_negative_ts": "disabled", "movflags": "+frag_keyframe+delay_moov"}
    return _copy(base, folder / "negative_start.mp4", None, output_ts_offset=-NEGATIVE_START_S, **options)


def edit_list(folder: Path, base: Path) -> Path:
    """Cut at 1.2 s without encoding: earlier frames are still in the file, and an edit list hides them."""
    return _copy(base, folder / "edit_list.mp4", {"ss": EDIT_START_S})


def audio_gap(folder: Path, base: Path) -> Path:
    """No audio packets from 2.5 to 3.5 s; the others have their true times."""
    path = folder / "audio_gap.mkv"
    with av.open(str(base)) as source, av.open(str(path), "w") as target:
        copies = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is None or packet.pts is None:
                continue  # the end of a stream
            time_s = float(packet.pts * packet.time_base)
            if packet.stream.type == "audio" and AUDIO_GAP_S[0] <= time_s < AUDIO_GAP_S[1]:
                continue
            packet.stream = copies[packet.stream.index]
            target.mux(packet)
    return path


def lying_mp4(folder: Path, base: Path) -> Path:
    """Movie, track and media headers claim five times the true length.

    Fragmented, because FFmpeg believes the headers only there; with one sample table it adds up the samples.
    """
    path = _copy(base, folder / "lying_mp4.mp4", movflags="+frag_keyframe+delay_moov")
    content = bytearray(path.read_bytes())
    claim_s = LIE_FACTOR * BASE_DURATION_S
    (movie_scale,) = struct.unpack_from(">I", content, content.index(b"mvhd") + 16)
    # offset of the duration from the box name, in version 0 of each box (ISO 14496-12)
    for name, offset in ((b"mvhd", 20), (b"tkhd", 24), (b"mdhd", 20)):
        at = content.find(name)
        while at >= 0:
            scale = struct.unpack_from(">I", content, at + 16)[0] if name == b"mdhd" else movie_scale
            struct.pack_into(">I", content, at + offset, round(claim_s * scale))
            at = content.find(name, at + 4)
    path.write_bytes(content)
    return path


def lying_mkv(folder: Path, base: Path) -> Path:
    """The segment header claims five times the true length."""
    path = _copy(base, folder / "lying_mkv.mkv")
    content = bytearray(path.read_bytes())
    at = content.index(b"\x44\x89\x88") + 3  # Duration, 8 bytes: a double (Matroska)
    (duration,) = struct.unpack_from(">d", content, at)
    struct.pack_into(">d", content, at, duration * LIE_FACTOR)
    path.write_bytes(content)
    return path


# --- tracks ---------------------------------------------------------------------------------------


def timecode(folder: Path, base: Path) -> Path:
    """QuickTime with a timecode track (tmcd) as its third stream."""
    return _copy(base, folder / "timecode.mov", timecode="01:00:00:00")


def surround(folder: Path, base: Path) -> Path:
    """5.1 audio with the voice in the centre channel only."""
    source = ffmpeg.input(str(base))
    return _write([source.video, source.audio.filter("pan", "5.1|FC<c0")], folder / "surround.mp4", vcodec="copy")


def two_audio_tracks(folder: Path, base: Path) -> Path:
    """The voice first, chords second."""
    source = ffmpeg.input(str(base))
    chords = ffmpeg.input(str(_write_wav(folder / "music.wav", _play_chords())))
    return _write([source.video, source.audio, chords.audio], folder / "two_audio_tracks.mkv", vcodec="copy")


# --- planted offsets ------------------------------------------------------------------------------


def shift_samples(base: Path, path: Path, frames: int) -> Path:
    """Shifts the audio by whole samples, keeping its length. frames: at 25 fps, positive = audio becomes early."""
    source = ffmpeg.input(str(base))
    shift_s = abs(frames) / FPS
    if frames > 0:
        audio = source.audio.filter("atrim", start=shift_s).filter("asetpts", "PTS-STARTPTS").filter("apad")
    else:
        audio = source.audio.filter("adelay", f"{round(shift_s * 1000)}", all=1)
    audio = audio.filter("atrim", duration=_duration_s(base))
    return _write([source.video, audio], path, vcodec="copy")


def shift_container(base: Path, path: Path, frames: int) -> Path:
    """Shifts only the timestamps of the audio, like `-itsoffset` with stream copy. frames: as in shift_samples."""
    video, audio = ffmpeg.input(str(base)), ffmpeg.input(str(base), itsoffset=-frames / FPS)
    return _write([video.video, audio.audio], path, c="copy")


# --- the set --------------------------------------------------------------------------------------

RATES = {"50": "50", "60": "60", "30": "30", "29_97": "30000/1001", "23_976": "24000/1001"}
KINDS: dict[str, Callable[[Path, Path], Path]] = {
    function.__name__: function
    for function in (
        empty, text, truncated_mp4, truncated_mkv, truncated_ts, damaged_middle,
        no_video, no_audio, digital_silence, music, no_face,
        two_faces, tiny_face, face_leaves, hard_cut, ten_bit, odd_size,
        variable_rate, audio_late_mp4, audio_late_mkv, video_late, negative_start, edit_list, audio_gap,
        lying_mp4, lying_mkv, timecode, surround, two_audio_tracks,
    )
} | {
    **{f"rotated_{degrees}": partial(rotated, degrees=degrees) for degrees in (90, 180, 270)},
    **{f"fps_{name}": partial(at_rate, rate=rate, name=name) for name, rate in RATES.items()},
    "samples_early": lambda folder, base: shift_samples(base, folder / "samples_early.mp4", SHIFT_FRAMES),
    "samples_late": lambda folder, base: shift_samples(base, folder / "samples_late.mp4", -SHIFT_FRAMES),
    "container_early": lambda folder, base: shift_container(base, folder / "container_early.mp4", SHIFT_FRAMES),
    "container_late": lambda folder, base: shift_container(base, folder / "container_late.mp4", -SHIFT_FRAMES),
}  # fmt: skip


def make_all(folder: Path) -> dict[str, Path]:
    """Writes one file of each kind, and the clip that they are made from: name -> path."""
    base = base_clip(folder)
    paths = {"base": base} | {name: make(folder, base) for name, make in KINDS.items()}
    (folder / "music.wav").unlink()
    return paths


# --- helpers ----------------------------------------------------------------------------------------


def _copy(source: Path, path: Path, input_options: dict[str, Any] | None = None, **options: Any) -> Path:
    """Changes the container or flags and copies the packets, unless options say otherwise."""
    graph = ffmpeg.input(str(source), **(input_options or {})).output(str(path), **{"c": "copy"} | options)
    return _run(graph, path)


def _write(streams: list, path: Path, **options: Any) -> Path:
    return _run(ffmpeg.output(*streams, str(path), **options), path)


def _run(graph: ffmpeg.nodes.OutputStream, path: Path) -> Path:
    quiet = ["-hide_banner", "-loglevel", "error", "-nostdin", "-y", "-filter_threads", "1"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), *quiet, *ffmpeg.get_args(graph)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{result.stderr}")
    return path


def _duration_s(path: Path) -> float:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.duration is not None and stream.time_base is not None
        return float(stream.duration * stream.time_base)


def _write_wav(path: Path, audio: np.ndarray) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE_HZ)
        file.writeframes((audio * 32767).astype("<i2").tobytes())
    return path


def _play_chords() -> np.ndarray:
    """Four plucked chords, repeated: float32 [N] at 16 kHz, as long as the base clip."""
    time_s = np.arange(round(BASE_DURATION_S * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    beat, since_s = (time_s // 0.8).astype(int) % 4, time_s % 0.8
    chords_hz = np.array([(262, 330, 392), (220, 262, 330), (175, 220, 262), (196, 247, 294)], float)[beat]
    notes = [np.sin(2 * np.pi * chords_hz[:, i] * k * since_s) / k for i in range(3) for k in (1, 2, 3)]
    audio = np.sum(notes, axis=0) * np.exp(-since_s / 0.4)
    return (0.5 * audio / np.abs(audio).max()).astype(np.float32)
