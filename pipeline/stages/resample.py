"""Put frames and audio on one clock: 25 fps and 16 kHz."""

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np

from lipforge.datasets_manifest.schema import Stage
from lipforge.model.clock import FPS, SAMPLES_PER_FRAME, SYNC_MARGIN_FRAMES
from lipforge.model.faces.picture import Picture
from lipforge.pipeline.clip import Clip, Frame, Unit
from lipforge.pipeline.media.audio import Sound, read_audio
from lipforge.pipeline.media.deinterlace import deinterlace
from lipforge.pipeline.media.grid import to_grid
from lipforge.pipeline.media.picture import ToRgb
from lipforge.pipeline.media.video import DecodeCount, SourceFrame, decode_video


class Resample:
    """Decodes a unit once: its audio as one array, then its frames as a stream, which it puts on the grid.

    Audio has SYNC_MARGIN_FRAMES more on both sides, so a later shift still uses audio from the source.
    """

    name = Stage.RESAMPLE

    def audio(self, unit: Unit) -> Sound:
        """Of num_frames + 2 * SYNC_MARGIN_FRAMES frames."""
        info = unit.video.info
        assert info is not None
        first, end = unit.start_frame - SYNC_MARGIN_FRAMES, unit.end_frame + SYNC_MARGIN_FRAMES
        return read_audio(unit.video.source.uri, info, first, end)

    def decode(self, unit: Unit, count: DecodeCount) -> Iterator[SourceFrame]:
        """The unit's source frames, or the fields of interlaced ones, at the source's own times."""
        info = unit.video.info
        assert info is not None
        frames = decode_video(unit.video.source.uri, info, unit.start_frame, unit.end_frame, count)
        return _in_bursts(deinterlace(frames), unit)

    def to_grid(self, unit: Unit, frames: Iterable[SourceFrame]) -> Iterator[Frame]:
        """One full-size frame per 1/25 s. Repeats of a source frame share one picture."""
        info = unit.video.info
        assert info is not None
        to_rgb = ToRgb(info)
        timed = ((frame.time_s, frame) for frame in _in_bursts(frames, unit))
        shown: SourceFrame | None = None
        picture: Picture | None = None
        for index, frame in to_grid(timed, unit.start_frame, unit.end_frame):
            if frame is not shown:
                picture = to_rgb.convert(frame) if frame is not None and frame.image is not None else None
                shown = frame
            if frame is None:
                yield Frame(index, None)
            else:
                yield Frame(index, picture, frame.shot_index, scale=frame.scale)

    def mark_audio(self, unit: Unit, sound: Sound, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Says of each frame on the grid whether the source has audio there. sound: as `audio` returns it."""
        for frame in frames:
            frame.has_audio = bool(sound.has_audio[frame.index - unit.start_frame + SYNC_MARGIN_FRAMES])
            yield frame


def _in_bursts(frames: Iterable[SourceFrame], unit: Unit) -> Iterator[SourceFrame]:
    """Make several frames at a time, because each stage finds what it works with pushed out of the CPU's caches.

    Towards the end of the unit one at a time, so that none beyond it is decoded in vain.
    """
    burst: deque[SourceFrame] = deque()
    for frame in frames:
        burst.append(frame)
        if len(burst) == _BURST_FRAMES or frame.time_s >= (unit.end_frame - 1) / FPS:
            while burst:
                yield burst.popleft()
    while burst:
        yield burst.popleft()


_BURST_FRAMES = 8


def audio_of(clip: Clip, unit_audio: np.ndarray) -> np.ndarray:
    """A clip's audio, cut from its unit's audio with the same margins."""
    first = (clip.start_frame - clip.unit.start_frame) * SAMPLES_PER_FRAME
    length = (clip.num_frames + 2 * SYNC_MARGIN_FRAMES) * SAMPLES_PER_FRAME
    return unit_audio[first : first + length].copy()
