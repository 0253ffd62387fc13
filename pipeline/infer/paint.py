"""Draw one run: crops in, drawn faces out, pasted into each frame at its own moment."""

from collections.abc import Callable
from typing import Protocol

import av
import numpy as np

from lipforge.pipeline.infer.blend import Blender
from lipforge.pipeline.infer.carry import Carrier
from lipforge.pipeline.infer.crop import Cropper, paste
from lipforge.pipeline.infer.plan import Grid, Matrices, Run, opacity
from lipforge.pipeline.infer.planes import Colours


class FaceStream(Protocol):
    """Draws the faces of a run one after the other (windows.py)."""

    first: int
    """The grid frame that it wants first: before the one asked for, when a run is gone on with in its middle."""

    def push(self, face: np.ndarray, heard_s: float) -> None:
        """The next face: uint8 [R, R, 3]."""
        ...

    def finish(self) -> None:
        """No more faces come."""
        ...

    def ready(self) -> list[tuple[int, np.ndarray]]:
        """(grid frame, float32 [R, R, 3] in 0..255) of those that are drawn now, in order."""
        ...


OpenStream = Callable[[int, int], FaceStream]
"""(grid frame that is wanted first, grid frames of the run) -> stream."""


class RunPainter:
    """Paints the frames of one run, from a frame of the result on."""

    def __init__(
        self, run: Run, grid: Grid, matrices: Matrices, open_stream: OpenStream, cropper: Cropper, blender: Blender
    ) -> None:
        self.run, self.grid, self.matrices = run, grid, matrices
        self.cropper, self.blender, self.carrier = cropper, blender, Carrier()
        self._open_stream = open_stream
        self._stream: FaceStream | None = None
        self._next_grid = 0
        self._crops: dict[int, np.ndarray] = {}
        self._faces: dict[int, np.ndarray] = {}

    def begin_at(self, number: int) -> int:
        """Prepare to paint from frame `number` of the result on; returns the first frame that must be seen for it."""
        wanted = self.grid.neighbours(max(number - self.run.first, 0))[0]
        self._stream = self._open_stream(wanted, self.grid.num_frames)
        self._next_grid = self._stream.first
        return self.run.first + int(self.grid.shown[self._next_grid])

    def see(self, number: int, image: av.VideoFrame, source: int, to_shown: np.ndarray, colours: Colours) -> None:
        """Take what is needed from a frame of the result, in order. to_shown: [2, 3], stored pixels to shown ones."""
        assert self._stream is not None
        index = number - self.run.first
        crop: np.ndarray | None = None
        while self._next_grid < self.grid.num_frames and self.grid.shown[self._next_grid] == index:
            if crop is None:
                crop = self.cropper.take(image, self.to_crop(source, to_shown), colours)
            self._crops[self._next_grid] = crop
            self._stream.push(crop, float(self.grid.heard_s[self._next_grid]))
            self._next_grid += 1
        if crop is not None and self._next_grid == self.grid.num_frames:
            self._stream.finish()
        for at, face in self._stream.ready():
            self._faces[at] = self.blender.matched(face, self._crops[at])
            for old in [drawn for drawn in self._crops if drawn <= at]:
                del self._crops[old]

    def can_paint(self, number: int) -> bool:
        _, after, _ = self.grid.neighbours(number - self.run.first)
        return after in self._faces

    def paint(self, number: int, image: av.VideoFrame, source: int, to_shown: np.ndarray, colours: Colours) -> None:
        """image: writable; frames come in order."""
        index = number - self.run.first
        before, after, share = self.grid.neighbours(index)
        for old in [at for at in self._faces if at < before]:
            del self._faces[old]
        face = self._faces[after]
        if share:
            face = self.carrier.between(self._faces[before], face, share, (before, after))
        alpha = self.blender.alpha * np.float32(opacity(self.run, self.grid, index))
        paste(image, self.to_crop(source, to_shown), face, alpha, colours)

    def to_crop(self, source: int, to_shown: np.ndarray) -> np.ndarray:
        """float64 [2, 3]: stored pixels of a frame to those of the crop."""
        matrix = self.matrices.at(source)
        return np.column_stack([matrix[:, :2] @ to_shown[:, :2], matrix[:, :2] @ to_shown[:, 2] + matrix[:, 2]])
