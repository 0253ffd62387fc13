"""Find the cuts, with PySceneDetect's adaptive detector, on the frames that are decoded anyway."""

from collections import deque
from collections.abc import Iterable, Iterator

from lipforge.datasets_manifest.schema import Stage
from lipforge.model.clock import FPS
from lipforge.pipeline.config import ShotsConfig
from lipforge.pipeline.media import reader as media
from lipforge.pipeline.media.reader import SourceFrame
from lipforge.pipeline.running.quiet import off_terminal

with off_terminal(0):  # it starts ffmpeg when it is imported, which would stop a background process at the terminal
    from scenedetect import AdaptiveDetector, FrameTimecode

DETECT_WIDTH_PX = 256
"""Pictures are shrunk to about this width first, as PySceneDetect's own command does."""


class SplitShots:
    """Gives each source frame its `shot_index`. Holds back a few frames: the detector compares each with those after it.

    Looks at source frames, not at the 25 fps grid: where the grid leaves out every sixth frame of a 30 fps pan, the picture jumps as it
    does at a cut.
    """

    name = Stage.SPLIT_SHOTS

    def __init__(self, config: ShotsConfig) -> None:
        self.config = config

    def process(self, frames: Iterable[SourceFrame]) -> Iterator[SourceFrame]:
        detector = AdaptiveDetector(
            adaptive_threshold=self.config.adaptive_threshold, min_scene_len=self.config.min_shot_frames
        )
        waiting: deque[tuple[int, SourceFrame]] = deque()
        cuts: set[int] = set()
        shot_index = 0
        height = 0
        for number, frame in enumerate(frames):
            waiting.append((number, frame))
            if frame.picture is not None:
                height = height or max(2, round(frame.picture.height * DETECT_WIDTH_PX / frame.picture.width))
                small = media.thumbnail_bgr(frame.picture, DETECT_WIDTH_PX, height)
                # The detector only counts frames; the rate is there because its type wants one.
                found = detector.process_frame(FrameTimecode(number, fps=float(FPS)), small)
                cuts.update(cut.frame_num for cut in found)
            while len(waiting) > detector.event_buffer_length + 1:
                number_ready, ready = waiting.popleft()
                shot_index += number_ready in cuts
                ready.shot_index = shot_index
                yield ready
        for number_ready, ready in waiting:
            shot_index += number_ready in cuts
            ready.shot_index = shot_index
            yield ready
