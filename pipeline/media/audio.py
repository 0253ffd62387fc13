"""Decode the audio of a span of a video: mono, 16 kHz."""

from collections.abc import Iterator
from typing import Any

import av
import av.error
import numpy as np

from lipforge.model.clock import FPS, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from lipforge.pipeline.media.container import audio_stream, open_media, read_packets, timestamp_s
from lipforge.pipeline.media.probe import VideoInfo

SEEK_PREROLL_S = 2.0
"""Audio decoders need some input before their output is right."""
PCM_SCALE = 32_768
"""16-bit value of amplitude 1, in both directions, so 16-bit audio passes through unchanged."""
AUDIO_JUMP_S = 0.03
"""A timestamp this far from what the sample count predicts is a gap or an overlap, not rounding."""


def read_audio(uri: str, info: VideoInfo, start_frame: int, end_frame: int) -> np.ndarray:
    """Audio of the grid frames [start_frame, end_frame): float32 [(end - start) * 640], mono, 16 kHz, in [-1, 1].

    start_frame may be negative. Zeros where the source has no audio or it cannot be decoded. Channels are mixed down.
    """
    samples = np.zeros((end_frame - start_frame) * SAMPLES_PER_FRAME, dtype=np.float32)
    if not info.has_audio:
        return samples
    start_s, end_s = start_frame / FPS, end_frame / FPS
    for time_s, piece in _decode_audio(uri, info, start_s, end_s):
        first = round((time_s - start_s) * SAMPLE_RATE_HZ)
        begin, end = max(first, 0), min(first + len(piece), len(samples))
        if begin < end:
            samples[begin:end] = piece[begin - first : end - first]
    return samples


def _decode_audio(uri: str, info: VideoInfo, start_s: float, end_s: float) -> Iterator[tuple[float, np.ndarray]]:
    """(time of the first sample, samples) of each stretch without a gap, mono 16 kHz."""
    with open_media(uri) as container:
        stream = audio_stream(container)
        context = stream.codec_context
        wanted_s = info.origin_s + start_s - SEEK_PREROLL_S
        if start_s > SEEK_PREROLL_S:
            container.seek(int(wanted_s / stream.time_base), stream=stream, backward=True)
        stretch: _Stretch | None = None
        for packet in read_packets(container, stream):
            try:
                frames = context.decode(packet)
            except av.error.EOFError:
                break
            except av.error.FFmpegError:
                continue
            for frame in frames:
                time_s = timestamp_s(frame, stream.time_base)
                if time_s is not None:
                    time_s -= info.origin_s
                if stretch is not None and not stretch.continues(frame, time_s):
                    yield stretch.finish()
                    stretch = None
                if stretch is None:
                    if time_s is None:
                        continue
                    stretch = _Stretch(frame, time_s)
                stretch.add(frame)
            if packet is None or (stretch is not None and stretch.end_s > end_s + SEEK_PREROLL_S):
                break
        if stretch is not None:
            yield stretch.finish()


class _Stretch:
    """Audio frames without a gap between them, fed through one resampler."""

    def __init__(self, frame: Any, start_s: float) -> None:
        self.kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        self.start_s = start_s
        self.num_samples_in = 0
        # To 16 bit, where the library normalizes the downmix; in float it exceeds [-1, 1].
        self.resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ)
        self.pieces: list[np.ndarray] = []

    @property
    def end_s(self) -> float:
        return self.start_s + self.num_samples_in / self.kind[2]

    def continues(self, frame: Any, time_s: float | None) -> bool:
        if (frame.format.name, frame.layout.name, frame.sample_rate) != self.kind:
            return False
        return time_s is None or abs(time_s - self.end_s) < AUDIO_JUMP_S

    def add(self, frame: Any) -> None:
        self.num_samples_in += frame.samples
        frame.pts = None  # the resampler must count samples; start_s has the time
        self.pieces.extend(out.to_ndarray()[0] for out in self.resampler.resample(frame))

    def finish(self) -> tuple[float, np.ndarray]:
        self.pieces.extend(out.to_ndarray()[0] for out in self.resampler.resample(None))
        samples = np.concatenate(self.pieces) if self.pieces else np.zeros(0, np.int16)
        return self.start_s, samples.astype(np.float32) / PCM_SCALE
