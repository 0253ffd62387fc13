"""The video's pictures in the order of the result: forward, back, or held, with bounded memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lipforge.model.clock import FPS
from lipforge.pipeline.infer.timeline import Shown, Timeline
from lipforge.pipeline.media.probe import VideoInfo
from lipforge.pipeline.media.video import SourceFrame, decode_video

BACKWARD_BYTES = 200_000_000
"""Pictures that are held at once to play backward. The decoder runs once from a key frame for each such block."""
_MIN_BLOCK, _MAX_BLOCK = 4, 128


@dataclass(frozen=True)
class SourceFrames:
    """The frames of a video that can be decoded."""

    times_s: np.ndarray
    """float64 [N], on the clock of media/video.py, ascending."""

    def decode(self, uri: str, info: VideoInfo, first: int, end: int) -> Iterator[tuple[int, SourceFrame]]:
        """(number, frame) of frames [first, end), in order."""
        start_s, end_s = self.times_s[first], self.times_s[end - 1]
        start_frame, end_frame = max(0, int(start_s * FPS)), int(end_s * FPS) + 2
        number = first
        for frame in decode_video(uri, info, start_frame, end_frame):
            if frame.image is None or frame.time_s < self.times_s[number] - 1e-6:
                continue
            yield number, frame
            number += 1
            if number == end:
                return


def pictures(
    frames: SourceFrames, uri: str, info: VideoInfo, timeline: Timeline, first: int
) -> Iterator[tuple[Shown, SourceFrame]]:
    """What the result shows from its frame `first` on."""
    count = len(frames.times_s)
    number = first
    held: SourceFrame | None = None
    while number < timeline.num_frames:
        shown = timeline.at(number)
        lap_end = min((number // count + 1) * count, timeline.num_frames)
        if timeline.hold and number >= count:
            if held is None:
                held = next(frames.decode(uri, info, count - 1, count))[1]
            yield shown, held
            number += 1
        elif (number // count) % 2 == 0:
            for _, frame in frames.decode(uri, info, shown.source, shown.source + lap_end - number):
                yield timeline.at(number), frame
                held = frame
                number += 1
        else:
            yield from _backward(frames, uri, info, timeline, number, lap_end)
            number = lap_end


def _backward(
    frames: SourceFrames, uri: str, info: VideoInfo, timeline: Timeline, number: int, lap_end: int
) -> Iterator[tuple[Shown, SourceFrame]]:
    while number < lap_end:
        last = timeline.at(number).source
        block = int(np.clip(BACKWARD_BYTES // (3 * info.width_px * info.height_px), _MIN_BLOCK, _MAX_BLOCK))
        begin = max(last - min(block, lap_end - number) + 1, 0)
        kept = [frame for _, frame in frames.decode(uri, info, begin, last + 1)]
        for frame in reversed(kept):
            yield timeline.at(number), frame
            number += 1
