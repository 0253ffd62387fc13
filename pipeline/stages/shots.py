"""Find the cuts, with PySceneDetect's adaptive detector, on the frames that are already decoded."""

from collections import deque
from collections.abc import Iterable, Iterator

import cv2
import numpy as np
from scenedetect import AdaptiveDetector, FrameTimecode

from pipeline.clip import Frame
from pipeline.config import FPS, ShotsConfig

DETECT_WIDTH_PX = 256
"""Pictures are shrunk to this width first, as PySceneDetect's own command does."""


class SplitShots:
    """Gives each frame its `shot_index`. Holds back a few frames: the detector compares each with those after it."""

    name = "split_shots"

    def __init__(self, config: ShotsConfig) -> None:
        self.config = config

    def process(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        detector = AdaptiveDetector(
            adaptive_threshold=self.config.adaptive_threshold, min_scene_len=self.config.min_shot_frames
        )
        waiting: deque[Frame] = deque()
        cuts: set[int] = set()
        shot_index = 0
        previous: tuple[np.ndarray, np.ndarray] | None = None
        for frame in frames:
            waiting.append(frame)
            if frame.rgb is not None:
                if previous is None or previous[0] is not frame.rgb:
                    previous = (frame.rgb, _small_bgr(frame.rgb))
                found = detector.process_frame(FrameTimecode(frame.index, fps=float(FPS)), previous[1])
                cuts.update(cut.frame_num for cut in found)
            while len(waiting) > detector.event_buffer_length + 1:
                ready = waiting.popleft()
                shot_index += ready.index in cuts
                ready.shot_index = shot_index
                yield ready
        for ready in waiting:
            shot_index += ready.index in cuts
            ready.shot_index = shot_index
            yield ready


def _small_bgr(rgb: np.ndarray) -> np.ndarray:
    height = max(1, round(rgb.shape[0] * DETECT_WIDTH_PX / rgb.shape[1]))
    if rgb.shape[1] > 2 * DETECT_WIDTH_PX:
        # Every n-th pixel first: averaging all of a large picture would cost more than the detector itself.
        step = rgb.shape[1] // (2 * DETECT_WIDTH_PX)
        rgb = np.ascontiguousarray(rgb[::step, ::step])
    small = cv2.resize(rgb, (DETECT_WIDTH_PX, height), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
