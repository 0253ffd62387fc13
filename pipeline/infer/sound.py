"""The new sound at 16 kHz, as models hear it: mono, any span at any time."""

from collections.abc import Callable
from math import ceil

import numpy as np

from lipforge.model.clock import FPS, SAMPLES_PER_FRAME
from lipforge.pipeline.media.audio import read_audio
from lipforge.pipeline.media.output.sound import SoundTrack
from lipforge.pipeline.media.probe import VideoInfo

SPAN_FRAMES = 30 * FPS
"""Read at once: half a minute."""
ReadSamples = Callable[[int, int], np.ndarray]
"""(first, end) -> float32 [end - first], mono at 16 kHz; zeros where there is no sound. first may be negative."""


def reader_of(sound: SoundTrack) -> ReadSamples:
    """Reads a sound in spans of half a minute, and keeps the last two."""
    info = VideoInfo(
        width_px=0,
        height_px=0,
        rotation_deg=0,
        mean_fps=float(FPS),
        num_frames=ceil(sound.duration_s * FPS),
        origin_s=sound.origin_s,
        key_times_s=(),
        has_audio=True,
        video_codec="",
        audio_codec=sound.codec,
    )
    return Spans(lambda first, end: read_audio(sound.uri, info, first, end).samples).samples


class Spans:
    """Any samples of a sound that is read in spans."""

    def __init__(self, read: Callable[[int, int], np.ndarray]) -> None:
        """read: (first frame, end frame) at 25 fps -> float32 [(end - first) * 640]."""
        self._read = read
        self._kept: dict[int, np.ndarray] = {}

    def samples(self, first: int, end: int) -> np.ndarray:
        """float32 [end - first]; zeros before 0."""
        size = SPAN_FRAMES * SAMPLES_PER_FRAME
        parts = []
        for number in range(first // size, -(-end // size)):
            begin = number * size
            part = np.zeros(size, np.float32) if number < 0 else self._span(number)
            parts.append(part[max(first - begin, 0) : min(end - begin, size)])
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def _span(self, number: int) -> np.ndarray:
        if number not in self._kept:
            while len(self._kept) > 1:
                del self._kept[min(self._kept)]
            self._kept[number] = self._read(number * SPAN_FRAMES, (number + 1) * SPAN_FRAMES)
        return self._kept[number]
