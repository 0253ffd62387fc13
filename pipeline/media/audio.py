"""Decode the audio of a span of a video: mono, 16 kHz."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av
import av.error
import numpy as np

from lipforge.model.clock import FPS, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from lipforge.pipeline.media.channels import (
    channels_of,
    floats_of,
    front_centre,
    keep_labels,
    one_channel,
    plain_layout,
)
from lipforge.pipeline.media.container import audio_stream, open_media, read_packets, timestamp_s
from lipforge.pipeline.media.downmix import MEAN, ChannelLevels, Downmix, choose
from lipforge.pipeline.media.probe import VideoInfo

SEEK_PREROLL_S = 2.0
"""Audio decoders need some input before their output is right."""
PCM_SCALE = 32_768
"""16-bit value of amplitude 1, in both directions, so 16-bit audio passes through unchanged."""
AUDIO_JUMP_S = 0.03
"""A timestamp this far from what the sample count predicts is a gap or an overlap, not rounding."""
NO_AUDIO_S = 0.55
"""A longer hole without packets is missing audio. In silence, Opus sends a packet every 0.4 s."""
RATES_HZ = range(1_000, 1_000_000)
"""Other sample rates are damage."""


@dataclass(frozen=True)
class Sound:
    """The audio of some grid frames."""

    samples: np.ndarray
    """float32 [num_frames * 640], mono, 16 kHz, in [-1, 1]; zeros where the source has none."""
    has_audio: np.ndarray
    """bool [num_frames]: False in holes of more than NO_AUDIO_S."""
    downmix: str | None
    """How the channels became one, as in the manifest (`audio_downmix`); None without audio."""


_Channels = tuple[str, int]
"""What a downmix is chosen for: name of the layout, sample rate."""


def read_audio(uri: str, info: VideoInfo, start_frame: int, end_frame: int) -> Sound:
    """Audio of the grid frames [start_frame, end_frame). start_frame may be negative.

    Zeros where the source has no audio or it cannot be decoded. The channels become one so that the voice stays
    (media/downmix.py). Where their mean does not keep it, the audio is decoded again, with the chosen channels.
    """
    reading = _Reading(uri, info, start_frame, end_frame)
    if info.has_audio:
        reading.read({})
        downmixes = {of: choose(levels.power(), levels.centre) for of, levels in reading.levels.items()}
        if any(downmix != MEAN for downmix in downmixes.values()):
            reading = _Reading(uri, info, start_frame, end_frame)
            reading.read(downmixes)
    return Sound(reading.finished_samples(), reading.has_audio(), ", ".join(dict.fromkeys(reading.words)) or None)


class _Reading:
    """Decodes a span once."""

    def __init__(self, uri: str, info: VideoInfo, start_frame: int, end_frame: int) -> None:
        self.uri, self.info = uri, info
        self.start_frame, self.end_frame = start_frame, end_frame
        self.start_s, self.end_s = start_frame / FPS, end_frame / FPS
        self.samples = np.zeros((end_frame - start_frame) * SAMPLES_PER_FRAME, dtype=np.float32)
        self.added_up = np.zeros(len(self.samples), dtype=bool)
        """Where a sample is the sum of channels, which may exceed [-1, 1]."""
        self.heard_s: list[tuple[float, float]] = []
        """Spans with audio, on our clock."""
        self.levels: dict[_Channels, ChannelLevels] = {}
        self.words: list[str] = []

    def read(self, downmixes: dict[_Channels, Downmix]) -> None:
        """Without downmixes, the mean of all channels is taken, and `levels` measured."""
        for stretch in self._stretches(downmixes):
            self.heard_s.append((stretch.start_s, stretch.end_s))
            piece = stretch.finish()
            first = round((stretch.start_s - self.start_s) * SAMPLE_RATE_HZ)
            begin, end = max(first, 0), min(first + len(piece), len(self.samples))
            if begin < end:
                self.samples[begin:end] = piece[begin - first : end - first]
                self.added_up[begin:end] = stretch.adds_up
                self.words.append(stretch.words)

    def finished_samples(self) -> np.ndarray:
        """Sums of channels are scaled as a whole to at most full scale, and to 16 bit like the rest."""
        if self.added_up.any():
            sums = self.samples[self.added_up] * PCM_SCALE
            sums *= min(1.0, (PCM_SCALE - 1) / max(float(np.abs(sums).max()), 1.0))
            self.samples[self.added_up] = np.rint(sums) / PCM_SCALE
        return self.samples

    def has_audio(self) -> np.ndarray:
        """bool [frames]. A hole is measured where the source has video, also beyond the span."""
        has_audio = np.ones(self.end_frame - self.start_frame, dtype=bool)
        first_s = max(0.0, self.start_s - SEEK_PREROLL_S)
        last_s = min(self.info.num_frames / FPS, self.end_s + SEEK_PREROLL_S)
        end_s = first_s
        for next_s, next_end_s in [*sorted(self.heard_s), (last_s, last_s)]:
            if min(next_s, last_s) - end_s > NO_AUDIO_S:
                first, end = (round(time_s * FPS) - self.start_frame for time_s in (end_s, min(next_s, last_s)))
                has_audio[max(first, 0) : max(end, 0)] = False
            end_s = max(end_s, next_end_s)
        return has_audio

    def _stretches(self, downmixes: dict[_Channels, Downmix]) -> Iterator["_Stretch"]:
        """Each stretch without a gap."""
        with open_media(self.uri) as container:
            stream = audio_stream(container)
            context = stream.codec_context
            plain_layout(context)
            wanted_s = self.info.origin_s + self.start_s - SEEK_PREROLL_S
            if self.start_s > SEEK_PREROLL_S:
                container.seek(int(wanted_s / stream.time_base), stream=stream, backward=True)
            stretch: _Stretch | None = None
            for packet in read_packets(container, stream):
                try:
                    frames = context.decode(packet)
                except av.error.EOFError:
                    break
                except av.error.FFmpegError:
                    continue
                keep_labels(frames)
                for frame in frames:
                    if frame.samples <= 0 or frame.sample_rate not in RATES_HZ:
                        continue
                    time_s = timestamp_s(frame, stream.time_base)
                    if time_s is not None:
                        time_s -= self.info.origin_s
                    if stretch is not None and not stretch.continues(frame, time_s):
                        yield stretch
                        stretch = None
                    if stretch is None:
                        if time_s is None:
                            continue
                        downmix = downmixes.get((frame.layout.name, frame.sample_rate), MEAN)
                        stretch = _Stretch(frame, time_s, downmix)
                    if not downmixes and self.start_s <= stretch.end_s < self.end_s:
                        self._measure(frame)
                    stretch.add(frame)
                if packet is None or (stretch is not None and stretch.end_s > self.end_s + SEEK_PREROLL_S):
                    break
            if stretch is not None:
                yield stretch

    def _measure(self, frame: Any) -> None:
        if frame.layout.nb_channels == 1:
            return
        of = (frame.layout.name, frame.sample_rate)
        if of not in self.levels:
            self.levels[of] = ChannelLevels(frame.layout.nb_channels, frame.sample_rate, front_centre(frame.layout))
        if self.levels[of].wants(frame.samples):
            self.levels[of].add(floats_of(channels_of(frame)))


class _Stretch:
    """Audio frames without a gap between them, fed through one resampler."""

    def __init__(self, frame: Any, start_s: float, downmix: Downmix) -> None:
        self.kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        self.start_s = start_s
        self.num_samples_in = 0
        self.downmix = downmix
        self.words = downmix.words(frame.layout.nb_channels)
        self.adds_up = downmix.adds_up
        # To 16 bit, where the library normalizes the downmix; in float it exceeds [-1, 1].
        self.resampler = av.AudioResampler("flt" if self.adds_up else "s16", layout="mono", rate=SAMPLE_RATE_HZ)
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
        # The resampler never sees more than two channels: it knows no mean of channels without places.
        if self.downmix != MEAN or self.kind[1] not in ("mono", "stereo"):
            frame = one_channel(frame, self.downmix)
        frame.pts = None  # the resampler must count samples; start_s has the time
        self.pieces.extend(out.to_ndarray()[0] for out in self.resampler.resample(frame))

    def finish(self) -> np.ndarray:
        """float32 [N], mono, 16 kHz."""
        self.pieces.extend(out.to_ndarray()[0] for out in self.resampler.resample(None))
        samples = np.concatenate(self.pieces) if self.pieces else np.zeros(0, np.int16)
        return samples if self.adds_up else samples.astype(np.float32) / PCM_SCALE
