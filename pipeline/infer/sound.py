"""The new sound at 16 kHz, as models hear it: mono, on its own clock, any span at any time."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from lipforge.datasets_manifest.schema import Reason
from lipforge.model.clock import FPS, SAMPLES_PER_FRAME
from lipforge.pipeline.infer.request import InferError
from lipforge.pipeline.media.audio import read_audio
from lipforge.pipeline.media.container import MediaError, audio_stream, open_media, read_packets, timestamp_s, video_stream
from lipforge.pipeline.media.probe import VideoInfo, probe

SPAN_FRAMES = 30 * FPS
"""Read at once: half a minute."""


@dataclass(frozen=True)
class Sound:
    """A sound that can be read. Its time 0 is its first sample; of a video, that of the first frame."""

    uri: str
    info: VideoInfo
    duration_s: float

    def read(self, first: int, end: int) -> np.ndarray:
        """float32 [(end - first) * 640], mono, 16 kHz, of frames [first, end) at 25 fps; zeros beyond both ends."""
        return read_audio(self.uri, self.info, first, end).samples


def open_sound(uri: str) -> Sound:
    """Raises MediaError, NotThereError, StorageError; InferError for a file without sound."""
    with open_media(uri) as container:
        stream = audio_stream(container)
        has_picture = video_stream(container) is not None
        if stream is None:
            raise InferError(f"{uri} has no sound that can be decoded: name a file with an audio track")
        first_s, end_s = np.inf, -np.inf
        for packet in read_packets(container, stream):
            time_s = None if packet is None else timestamp_s(packet, stream.time_base)
            if packet is None or time_s is None or packet.is_discard:
                continue
            first_s = min(first_s, time_s)
            end_s = max(end_s, time_s + float((packet.duration or 0) * stream.time_base))
        codec = stream.codec_context.name
    if end_s <= first_s:
        raise MediaError(Reason.NO_AUDIO, f"{uri}: the sound has no samples")
    blank = VideoInfo(0, 0, 0, float(FPS), 0, float(first_s), (), True, "", codec)
    if has_picture:
        try:
            blank = replace(blank, origin_s=probe(uri).origin_s)
        except MediaError:
            pass
    duration_s = float(end_s - blank.origin_s)
    return Sound(uri, replace(blank, num_frames=int(np.ceil(duration_s * FPS))), duration_s)


class Spans:
    """Reads a sound in spans of half a minute, and keeps the last two."""

    def __init__(self, read: Callable[[int, int], np.ndarray]) -> None:
        """read: as `Sound.read`."""
        self._read = read
        self._kept: dict[int, np.ndarray] = {}

    def samples(self, first: int, end: int) -> np.ndarray:
        """float32 [end - first]: samples at 16 kHz; zeros before 0."""
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
