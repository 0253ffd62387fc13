"""Which frame of the video is shown when, in a result that is as long as the sound asks for."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from lipforge.pipeline.infer.request import InferConfig


@dataclass(frozen=True)
class Shown:
    """A frame of the result."""

    number: int
    """Counts the frames of the result."""
    source: int
    """The frame of the video that it shows."""
    time_s: float
    pts: int
    """In the time base of the video; 0 is the first frame."""
    duration: int
    """In the same."""


class Timeline:
    """The frames of the result, in order. The video plays forward, then back, then forward, ... or holds its end.

    At a turn the last frame is shown twice, as published, so nothing jumps. Played backward, each frame stands as long
    as it does forward.
    """

    def __init__(
        self, pts: np.ndarray, durations: np.ndarray, time_base: Fraction, length_s: float, hold: bool
    ) -> None:
        """pts, durations: int64 [N] of the video's frames, the first at 0; ascending, positive.

        length_s: of the result; hold: the last frame is held where the video is too short, in steps of its usual
        duration, instead of turning back.
        """
        self.pts, self.durations, self.time_base, self.hold = pts, durations, time_base, hold
        self.video_ticks = int(pts[-1] + durations[-1])
        self._usual = int(np.median(durations))
        self.length_ticks = max(1, round(length_s / time_base))
        self.num_frames = self._count()

    def at(self, number: int) -> Shown:
        """number: 0 to num_frames - 1."""
        source, pts, duration = self._place(number)
        if number == self.num_frames - 1 and number >= len(self.pts):
            duration = max(1, min(duration, self.length_ticks - pts))
        return Shown(number, source, float(pts * self.time_base), pts, duration)

    def frames(self, first: int = 0) -> Iterator[Shown]:
        for number in range(first, self.num_frames):
            yield self.at(number)

    @property
    def length_s(self) -> float:
        """Exact length of the result: the end of its last frame."""
        last = self.at(self.num_frames - 1)
        return float((last.pts + last.duration) * self.time_base)

    def places(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(source, pts, duration) of frames of the result: int64 [N] each."""
        count = len(self.pts)
        laps, within = np.divmod(numbers, count)
        if self.hold:
            held = numbers >= count
            source = np.where(held, count - 1, within)
            pts = np.where(held, self.video_ticks + (numbers - count) * self._usual, self.pts[source])
            return source, pts, np.where(held, self._usual, self.durations[source])
        back = laps % 2 == 1
        source = np.where(back, count - 1 - within, within)
        durations = self.durations[source]
        inside = np.where(back, self.video_ticks - self.pts[source] - durations, self.pts[source])
        return source, laps * self.video_ticks + inside, durations

    def _place(self, number: int) -> tuple[int, int, int]:
        source, pts, duration = self.places(np.array([number]))
        return int(source[0]), int(pts[0]), int(duration[0])

    def _count(self) -> int:
        """Frames of which at least half lies before the end; one at least."""
        beyond = 1
        while self._begins_in_time(beyond):
            beyond *= 2
        inside = beyond // 2
        while inside + 1 < beyond:
            middle = (inside + beyond) // 2
            inside, beyond = (middle, beyond) if self._begins_in_time(middle) else (inside, middle)
        return beyond

    def _begins_in_time(self, number: int) -> bool:
        _, pts, duration = self._place(number)
        return pts + min(duration, self._usual) / 2 <= self.length_ticks


def length_of_result(video_s: float, audio_s: float, config: InferConfig, half_frame_s: float) -> float:
    """Length in seconds, from those of the video and the sound. Less than half a frame of difference is none."""
    if abs(audio_s - video_s) <= half_frame_s:
        return video_s
    if audio_s > video_s:
        return video_s if config.extend == "trim" else audio_s
    return audio_s if config.audio_end == "stop" else video_s
