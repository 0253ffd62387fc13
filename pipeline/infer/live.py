"""Live: sound comes in as it is spoken, frames with new lips go out.

The video is looked at first, then plays forward and back for as long as sound comes. The engine is that of files
(draw.py); only the windows differ: each ends at the newest frame and shows its last few, so a frame waits for little
more than the sound that the model hears beyond it.
"""

import os
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import av
import av.error
import numpy as np

from lipforge.datasets_manifest.display import counted
from lipforge.model.clock import FPS, SAMPLE_RATE_HZ
from lipforge.pipeline.infer.blend import Blender
from lipforge.pipeline.infer.draw import Drawing
from lipforge.pipeline.infer.lips import open_lip_model
from lipforge.pipeline.infer.protocols import LipModel, Voice
from lipforge.pipeline.infer.report import Looks
from lipforge.pipeline.infer.request import InferConfig, InferError
from lipforge.pipeline.infer.run import check_out
from lipforge.pipeline.infer.source import Chosen, Source, open_source
from lipforge.pipeline.infer.timeline import Timeline
from lipforge.pipeline.infer.voice import open_live_voice

STEP_FRAMES = 4
"""New frames of each window, at 25 fps: 160 ms that the first of them waits for the last."""
LONGEST_S = 4 * 3600.0
"""Of one session."""
_FILE_STARTS = (b"RIFF", b"fLaC", b"OggS", b"ID3\x03", b"ID3\x04", b"RF64")
_MICROPHONES = {"linux": ("alsa", "default"), "darwin": ("avfoundation", ":default")}


class Feed:
    """Samples that arrive while others are read. One thread puts, another waits for them."""

    def __init__(self) -> None:
        self._samples = np.zeros(1 << 20, np.float32)
        self._begin = 0
        """Sample number of the first one that is kept."""
        self._count = 0
        self._is_over = False
        self._read_from = 0
        """Of the last read."""
        self._first_s = self._last_s = 0.0
        self._arrivals: deque[tuple[int, float]] = deque(maxlen=4096)
        """(number of samples, when they were there)"""
        self._arrived = threading.Condition()

    def put(self, samples: np.ndarray) -> None:
        """float32 [N], mono at 16 kHz."""
        with self._arrived:
            # Sound that comes faster than it is drawn waits; a microphone's is kept by the system for a while.
            most = len(self._samples) // 2 - len(samples)
            self._arrived.wait_for(lambda: self._count - self._read_from <= most)
            kept = self._count - self._begin
            if kept + len(samples) > len(self._samples):
                old = max(0, kept - len(self._samples) // 2)
                self._samples[: kept - old] = self._samples[old:kept].copy()
                self._begin += old
                kept -= old
            self._samples[kept : kept + len(samples)] = samples
            self._count += len(samples)
            self._last_s = time.monotonic()
            self._first_s = self._first_s or self._last_s
            self._arrivals.append((self._count, self._last_s))
            self._arrived.notify_all()

    def finish(self) -> None:
        with self._arrived:
            self._is_over = True
            self._arrived.notify_all()

    def read(self, first: int, end: int) -> np.ndarray:
        """float32 [end - first]: waits until they are there; zeros before the start and after the end."""
        with self._arrived:
            self._read_from = max(first, 0)
            self._arrived.notify_all()
            self._arrived.wait_for(lambda: self._count >= end or self._is_over)
            found = np.zeros(end - first, np.float32)
            low, high = max(first, self._begin), min(end, self._count)
            if low < high:
                found[low - first : high - first] = self._samples[low - self._begin : high - self._begin]
            return found

    def arrived_s(self, end: int) -> float:
        """When sample `end` was there, on the clock of `time.monotonic`."""
        with self._arrived:
            return next(at_s for count, at_s in self._arrivals if count >= end)

    @property
    def heard_in_s(self) -> float:
        with self._arrived:
            return self._last_s - self._first_s

    def has_until(self, end: int) -> bool:
        """Whether sample `end` is there. Waits until that is known."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._count >= end or self._is_over)
            return self._count >= end


class LiveStream:
    """Draws the newest frames of a run with the ones before them, which are drawn again and not shown."""

    first = 0

    def __init__(self, model: LipModel, voice: Voice) -> None:
        self.model, self.voice = model, voice
        self._recent: deque[tuple[np.ndarray, float]] = deque(maxlen=model.window_frames)
        self._count = self._shown = 0
        self._ready: list[tuple[int, np.ndarray]] = []

    def push(self, face: np.ndarray, heard_s: float) -> None:
        self._recent.append((face, heard_s))
        self._count += 1
        if self._count - self._shown >= STEP_FRAMES:
            self._draw()

    def finish(self) -> None:
        if self._count > self._shown:
            self._draw()

    def ready(self) -> list[tuple[int, np.ndarray]]:
        found, self._ready = self._ready, []
        return found

    def _draw(self) -> None:
        entries = list(self._recent)
        missing = self.model.window_frames - len(entries)
        faces = np.stack([entries[0][0]] * missing + [face for face, _ in entries])
        first_s = entries[0][1]
        heard_s = np.array([first_s - (missing - n) / FPS for n in range(missing)] + [time_s for _, time_s in entries])
        tokens = self.voice.tokens(heard_s) if self.model.audio_encoder else None
        new = self._count - self._shown
        shown = self.model.show(self.model.draw(faces, tokens)[-new:])
        self._ready += [(self._shown + index, face) for index, face in enumerate(shown)]
        self._shown = self._count


@dataclass(frozen=True)
class LiveResult:
    """What a session made."""

    num_frames: int
    duration_s: float
    mean_delay_s: float
    """From the moment at which a frame's sound had arrived to the moment at which the frame was written."""
    worst_delay_s: float
    heard_in_s: float
    """From the first of its sound to the last."""


def delay_s(voice: Voice) -> float:
    """What a frame waits for at most, computing aside: the last of its step, and the sound that is heard beyond it."""
    return STEP_FRAMES / FPS + voice.looks_ahead_s


def run_live(video: str, audio: str, out: str, config: InferConfig, say: Callable[[str], None]) -> LiveResult:
    """audio: `-`, raw PCM on standard input, or `mic`. out: a file (.mkv), or `-`, standard output.

    say: told the delay, and what was made. The stream is Matroska: H.264 that is encoded without delay, and the sound
    as it came. Raises InferError, MediaError.
    """
    if out != "-" and Path(out).suffix.lower() != ".mkv":
        raise InferError(f"--out {out}: a live result is a Matroska file, .mkv, or - for standard output")
    if out != "-":
        check_out(out, [video], config.overwrite)
    if out == "-" and sys.stdout.isatty():
        raise InferError("--out -: pipe it into a player, such as `| mpv -`; this is a terminal")
    model = open_lip_model(config)
    source = open_source(video, "live.mkv", config)
    with tempfile.TemporaryDirectory() as folder:
        chosen = source.choose(Path(folder), config, Path(out), lambda done_s: None, lambda: False)
    feed = Feed()
    target = "pipe:1" if out == "-" else f"file:{Path(out).absolute()}"
    voice = open_live_voice(feed.read, model.audio_encoder)
    spoken = _microphone() if audio == "mic" else _pipe(sys.stdin.buffer)
    threading.Thread(target=_fill, args=(feed, spoken), daemon=True).start()
    say(f"listening; frames come {delay_s(voice) * 1000:.0f} ms after their sound")
    try:
        result = stream_live(source, chosen, model, voice, feed, target)
    except av.error.BrokenPipeError as error:
        raise InferError("whoever read the pictures has closed the pipe") from error
    if not result.num_frames:
        raise InferError(f"--audio {audio}: no sound came")
    if result.heard_in_s < 0.8 * result.duration_s:
        say(
            f"{result.duration_s:.1f} s, {counted(result.num_frames, 'frame')}; the sound came faster than it is spoken"
        )
        return result
    delays = f"{result.mean_delay_s * 1000:.0f} ms after their sound, {result.worst_delay_s * 1000:.0f} ms at most"
    say(f"{result.duration_s:.1f} s, {counted(result.num_frames, 'frame')}, which came {delays}")
    return result


def stream_live(source: Source, chosen: Chosen, model: LipModel, voice: Voice, feed: Feed, target: Any) -> LiveResult:
    """Draw and write frames until the sound ends. target: a file's name, or a file object."""
    timeline = Timeline(chosen.pts, chosen.durations, chosen.time_base, LONGEST_S, hold=False)
    drawing = Drawing(
        source.scene(chosen, timeline),
        model.resolution,
        lambda wanted, num_frames: LiveStream(model, voice),
        Blender(model.resolution),
        Looks(Path(), []),
    )
    delays: list[float] = []
    with _Writer(target, source) as writer:
        number = 0
        for shown, image in drawing.frames():
            end = round((shown.time_s + shown.duration * float(timeline.time_base)) * SAMPLE_RATE_HZ)
            if not feed.has_until(end):
                break
            writer.write(image, shown.pts, feed.read(writer.num_samples, end))
            delays.append(time.monotonic() - feed.arrived_s(end))
            number += 1
    length_s = writer.num_samples / SAMPLE_RATE_HZ
    return LiveResult(number, length_s, float(np.mean(delays or [0.0])), max(delays, default=0.0), feed.heard_in_s)


def _fill(feed: Feed, spoken: Iterator[np.ndarray]) -> None:
    try:
        for samples in spoken:
            feed.put(samples)
    finally:
        feed.finish()


def _checked(spoken: Iterator[np.ndarray], first: bytes) -> Iterator[np.ndarray]:
    """Raises InferError for a sound file where raw samples are expected. first: the first bytes of the pipe."""
    if first[:4] in _FILE_STARTS:
        raise InferError(
            "--audio -: this is a sound file, not raw samples: pipe it through "
            "`ffmpeg -i FILE -f s16le -ar 16000 -ac 1 -`, or name it with --audio FILE"
        )
    return spoken


def _pipe(stream: BinaryIO) -> Iterator[np.ndarray]:
    """Raw PCM: 16 bit, little endian, mono, 16 kHz. Waits for the first bytes."""
    first = os.read(stream.fileno(), 1 << 14)
    return _checked(_samples(stream, first), first)


def _samples(stream: BinaryIO, chunk: bytes) -> Iterator[np.ndarray]:
    rest = b""
    while chunk:
        whole = rest + chunk
        even = len(whole) // 2 * 2
        rest = whole[even:]
        yield np.frombuffer(whole[:even], "<i2").astype(np.float32) / 32768
        chunk = os.read(stream.fileno(), 1 << 14)


def _microphone() -> Iterator[np.ndarray]:
    """Raises InferError where there is none."""
    if sys.platform not in _MICROPHONES:
        raise InferError("--audio mic: not known on this system; pipe raw PCM into --audio - instead")
    kind, name = _MICROPHONES[sys.platform]
    try:
        container = cast(Any, av.open(name, format=kind))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise InferError(
            f"--audio mic: no microphone can be opened ({error}); pipe raw PCM into --audio - instead"
        ) from error
    return _heard(container)


def _heard(container: Any) -> Iterator[np.ndarray]:
    resampler = av.AudioResampler("flt", layout="mono", rate=SAMPLE_RATE_HZ)
    with container:
        for frame in container.decode(audio=0):
            for part in resampler.resample(frame):
                yield part.to_ndarray()[0]


class _Writer:
    """Matroska, written as it comes: nothing is held back."""

    def __init__(self, target: Any, source: Source) -> None:
        self.num_samples = 0
        """Of the sound, at 16 kHz."""
        wanted = source.format
        # One second per cluster would be one second of delay.
        options = {"cluster_time_limit": "40", "flush_packets": "1"}
        self._container = av.open(target, "w", format="matroska", options=options)
        encoder = {"preset": "ultrafast", "tune": "zerolatency", "crf": "14"}
        self._video: Any = self._container.add_stream("libx264", rate=wanted.rate, options=encoder)
        self._video.width, self._video.height, self._video.pix_fmt = wanted.width_px, wanted.height_px, wanted.pix_fmt
        self._video.codec_context.time_base = wanted.time_base
        self._audio: Any = self._container.add_stream("pcm_s16le", rate=SAMPLE_RATE_HZ, layout="mono")

    def write(self, image: av.VideoFrame, pts: int, samples: np.ndarray) -> None:
        image.pts, image.time_base = pts, self._video.codec_context.time_base
        self._container.mux(self._video.encode(image))
        if len(samples):
            pcm = np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(pcm[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts = SAMPLE_RATE_HZ, self.num_samples
            self._container.mux(self._audio.encode(frame))
            self.num_samples += len(samples)

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self._video, self._audio):
            self._container.mux(stream.encode(None))
        self._container.close()
