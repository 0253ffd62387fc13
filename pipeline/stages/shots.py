"""Find shot boundaries with PySceneDetect's adaptive detector, on the frames as they are decoded."""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import groupby

from lipforge.datasets_manifest.schema import Stage
from lipforge.model.clock import FPS
from lipforge.pipeline.config import ShotsConfig
from lipforge.pipeline.media.video import SourceFrame, thumbnail_bgr
from lipforge.pipeline.running.quiet import off_terminal
from lipforge.pipeline.stages.second_look import SecondLook

with off_terminal(0):  # importing it runs ffmpeg, which reads the terminal: a background job would be stopped
    from scenedetect import AdaptiveDetector, FrameTimecode

DETECT_WIDTH_PX = 256
"""Frames are scaled to about this width first, as PySceneDetect's own command does."""


class SplitShots:
    """Gives each source frame its `shot_index`. Delays frames a little, because detector and second look look ahead.

    Uses source frames, not the 25 fps grid: where the grid drops every sixth frame of a 30 fps pan, the image jumps as
    at a cut. Pictures of other proportions are another shot.
    """

    name = Stage.SPLIT_SHOTS

    def __init__(self, config: ShotsConfig) -> None:
        self.config = config

    def process(self, frames: Iterable[SourceFrame]) -> Iterator[SourceFrame]:
        num_shots = 0
        for _, same_shape in groupby(frames, key=lambda frame: frame.shape_index):
            first = num_shots
            for frame in self._split(same_shape):
                frame.shot_index += first
                num_shots = frame.shot_index + 1
                yield frame

    def _split(self, frames: Iterable[SourceFrame]) -> Iterator[SourceFrame]:
        detector = AdaptiveDetector(
            adaptive_threshold=self.config.adaptive_threshold, min_scene_len=self.config.min_shot_frames
        )
        second_look = SecondLook()
        waiting: deque[tuple[int, SourceFrame]] = deque()
        candidates: deque[int] = deque()
        cuts: set[int] = set()
        shot_index = 0
        height = 0
        for number, frame in enumerate(frames):
            waiting.append((number, frame))
            if frame.image is not None:
                height = height or max(2, round(frame.image.height * DETECT_WIDTH_PX / frame.image.width))
                small = thumbnail_bgr(frame.image, DETECT_WIDTH_PX, height)
                # The detector only counts frames; FrameTimecode just requires a rate.
                found = detector.process_frame(FrameTimecode(number, fps=float(FPS)), small)
                candidates.extend(cut.frame_num for cut in found)
                second_look.add(number, small)
            while candidates and second_look.has_seen_enough(candidates[0]):
                candidate = candidates.popleft()
                if second_look.is_cut(candidate):
                    cuts.add(candidate)
            while len(waiting) > detector.event_buffer_length + 1 and waiting[0][0] not in candidates:
                number_ready, ready = waiting.popleft()
                shot_index += number_ready in cuts
                ready.shot_index = shot_index
                yield ready
        cuts.update(filter(second_look.is_cut, candidates))
        for number_ready, ready in waiting:
            shot_index += number_ready in cuts
            ready.shot_index = shot_index
            yield ready
