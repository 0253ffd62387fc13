"""Pass two: walk through the result, draw what is to be drawn, and hand each finished frame on, in order."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import av
import numpy as np

from lipforge.pipeline.infer.blend import Blender
from lipforge.pipeline.infer.crop import Cropper, stored_to_shown
from lipforge.pipeline.infer.paint import OpenStream, RunPainter
from lipforge.pipeline.infer.pictures import SourceFrames, pictures
from lipforge.pipeline.infer.plan import Grid, Matrices, Run, Stretch, runs_of
from lipforge.pipeline.infer.planes import Colours, colours_of, region_of
from lipforge.pipeline.infer.report import Looks
from lipforge.pipeline.infer.timeline import Shown, Timeline
from lipforge.pipeline.media.geometry import PictureShape
from lipforge.pipeline.media.probe import VideoInfo


@dataclass(frozen=True)
class Scene:
    """What is drawn where."""

    uri: str
    info: VideoInfo
    frames: SourceFrames
    timeline: Timeline
    stretches: Sequence[Stretch]
    smoothing_frames: float
    to_output: Callable[[av.VideoFrame], av.VideoFrame]
    """A decoded picture in the size and pixel format of the result."""
    shape: PictureShape
    """How the pictures of the result are shown."""


@dataclass
class _Waiting:
    shown: Shown
    image: av.VideoFrame
    painters: list[RunPainter]


class Drawing:
    """Frames of the result from any one on: the same bytes wherever it begins."""

    def __init__(self, scene: Scene, resolution: int, open_stream: OpenStream, blender: Blender, looks: Looks) -> None:
        self.scene, self.resolution, self.open_stream, self.blender = scene, resolution, open_stream, blender
        self.looks = looks
        self.runs = runs_of(scene.stretches, scene.timeline)
        self.cropper = Cropper(resolution)
        self._matrices: dict[int, Matrices] = {}

    def frames(self, first: int = 0) -> Iterator[tuple[Shown, av.VideoFrame]]:
        """(what it shows, picture) for each frame of the result from `first` on."""
        coming = deque(run for run in self.runs if run.end > first)
        painters: list[RunPainter] = []
        begin = first
        while coming and coming[0].first < first:
            painter = self._painter(coming.popleft())
            painters.append(painter)
            begin = min(begin, painter.begin_at(first))
        waiting: deque[_Waiting] = deque()
        shows = pictures(self.scene.frames, self.scene.uri, self.scene.info, self.scene.timeline, begin)
        for shown, frame in shows:
            while coming and coming[0].first == shown.number:
                painter = self._painter(coming.popleft())
                painter.begin_at(shown.number)
                painters.append(painter)
            painters = [painter for painter in painters if painter.run.end > shown.number]
            here = [painter for painter in painters if painter.run.first <= shown.number]
            assert frame.image is not None
            entry = _Waiting(shown, self.scene.to_output(frame.image), here)
            for painter in here:
                painter.see(shown.number, entry.image, *self._geometry(entry))
            if shown.number >= first:
                waiting.append(entry)
            while waiting and all(painter.can_paint(waiting[0].shown.number) for painter in waiting[0].painters):
                yield self._painted(waiting.popleft())

    def _painter(self, run: Run) -> RunPainter:
        if run.stretch not in self._matrices:
            self._matrices.clear()
            stretch = self.scene.stretches[run.stretch]
            fps = self.scene.info.mean_fps
            self._matrices[run.stretch] = Matrices(stretch, self.resolution, fps, self.scene.smoothing_frames)
        grid = Grid(run, self.scene.timeline)
        matrices = self._matrices[run.stretch]
        return RunPainter(run, grid, matrices, self.open_stream, self.cropper, self.blender)

    def _geometry(self, entry: _Waiting) -> tuple[int, np.ndarray, Colours]:
        to_shown = stored_to_shown(self.scene.shape, entry.image.width, entry.image.height)
        return entry.shown.source, to_shown, colours_of(entry.image, self.scene.info.peak_nits)

    def _painted(self, entry: _Waiting) -> tuple[Shown, av.VideoFrame]:
        if not entry.painters:
            return entry.shown, entry.image
        shown, image = entry.shown, entry.image
        source, to_shown, colours = self._geometry(entry)
        is_looked_at = shown.number in self.looks.wanted
        to_crop = entry.painters[0].to_crop(source, to_shown)
        before = self.looks.crop(image, to_crop, self.resolution, colours) if is_looked_at else None
        if self.scene.timeline.hold:  # a held picture is drawn on again and again
            image = region_of(image, 0, 0, image.width, image.height)
        else:  # keeps what else the frame holds, such as captions
            image.make_writable()
        for painter in entry.painters:
            painter.paint(shown.number, image, source, to_shown, colours)
        if before is not None:
            after = self.looks.crop(image, to_crop, self.resolution, colours)
            self.looks.keep(shown.number, shown.time_s, before, after)
        return shown, image
