"""Score how well each face fits the old sound, in stretches of up to 4 s, while the frames stream by."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from lipforge.model.clock import SAMPLES_PER_FRAME, SYNC_MARGIN_FRAMES
from lipforge.model.faces.alignment import align, steady, to_square
from lipforge.model.faces.face import FaceBackend
from lipforge.model.faces.lip_points import mouth_images
from lipforge.pipeline.clip import Clip, FacePiece, Frame, Unit
from lipforge.pipeline.config import AlignConfig, CutConfig, EncodeConfig, FacesConfig
from lipforge.pipeline.infer.choose import StretchScore
from lipforge.pipeline.stages.align import fill_gaps, warp_all
from lipforge.pipeline.stages.cut import CutRuns
from lipforge.pipeline.stages.encode import EncodeClip
from lipforge.pipeline.stages.sync import SyncScorer

STRETCH_FRAMES = 100
"""4 s at 25 fps: what the built-in scorer reads a confidence from."""
MIN_FRAMES = 25
"""The scorers need a second."""
_WARP_EVERY = 10
"""Frames that wait are warped this many at once: a few pictures of each face are in memory, however long it is seen."""

OldSound = Callable[[int, int], np.ndarray]
"""(start_frame, end_frame) at 25 fps, start may be negative -> float32 [(end - start) * 640], mono, 16 kHz; zeros where
there is none: `lambda start, end: read_audio(uri, info, start, end).samples`."""


@dataclass
class _Stretch:
    shot_index: int
    start_frame: int
    landmarks: list[np.ndarray | None] = field(default_factory=list)
    """In frames of the unit's first size; None where the face was lost briefly."""
    waiting: deque[FacePiece] = field(default_factory=deque)
    """The last frames, not yet warped."""
    images: list[np.ndarray] = field(default_factory=list)
    """Of the frames before them: mouths, or aligned faces where the scorer looks at those."""

    @property
    def end_frame(self) -> int:
        return self.start_frame + len(self.landmarks)


class SyncStretches:
    """Takes the frames of the 25 fps grid, with their faces, and scores each face's stretches as they end."""

    def __init__(
        self,
        unit: Unit,
        backend: FaceBackend,
        scorer: SyncScorer,
        sound: OldSound,
        crop: AlignConfig | None = None,
    ) -> None:
        from lipforge.model.audio.speech import SpeechDetector

        self.unit = unit
        self.backend = backend
        self.scorer = scorer
        self.sound = sound
        self.crop = crop or AlignConfig()
        self.faces = FacesConfig()
        self._cutter = CutRuns(CutConfig(), self.faces, self.crop, backend)
        self._encoder = EncodeClip(EncodeConfig())
        self._speech = SpeechDetector()
        self._open: dict[int, _Stretch] = {}
        self._scores: dict[int, list[StretchScore]] = {}

    def add(self, frame: Frame) -> None:
        """frame: the next of the 25 fps grid (`frame.index`), full size, with its `faces` by track index."""
        for track, stretch in list(self._open.items()):
            if stretch.shot_index != frame.shot_index or frame.picture is None:
                self._close(track)
            elif track not in frame.faces:
                if _num_trailing_gaps(stretch.landmarks) >= self.faces.max_gap_frames:
                    self._close(track)
                else:
                    stretch.landmarks.append(None)
                    stretch.waiting.append(stretch.waiting[-1])
        for track, face in frame.faces.items():
            assert frame.picture is not None
            piece = self._cutter.piece(frame.picture, face)
            if piece is None:  # the picture's edge cuts it off
                self._close(track)
                continue
            stretch = self._open.get(track)
            if stretch is None:
                stretch = self._open[track] = _Stretch(frame.shot_index, frame.index)
            piece = piece.in_reference(frame.scale)
            stretch.landmarks.append(piece.landmarks)
            stretch.waiting.append(piece)
            if len(stretch.landmarks) == STRETCH_FRAMES:
                self._close(track)
            elif len(stretch.waiting) >= _WARP_EVERY + self._reach:
                self._warp(stretch, _WARP_EVERY)

    def finish(self) -> dict[int, list[StretchScore]]:
        """By track index, in order of time. A track without a stretch of a second has none."""
        for track in list(self._open):
            self._close(track)
        return self._scores

    @property
    def _reach(self) -> int:
        """Frames by which later ones still move the smoothed points."""
        return int(np.ceil(3 * self.crop.smoothing_frames)) + self.faces.max_gap_frames

    def _close(self, track: int) -> None:
        stretch = self._open.pop(track, None)
        if stretch is None:
            return
        for _ in range(_num_trailing_gaps(stretch.landmarks)):
            stretch.landmarks.pop()
            stretch.waiting.pop()
        if len(stretch.landmarks) < MIN_FRAMES:
            return
        self._warp(stretch, len(stretch.waiting))
        margin = SYNC_MARGIN_FRAMES
        audio = self.sound(stretch.start_frame - margin, stretch.end_frame + margin)
        spoken = audio[margin * SAMPLES_PER_FRAME : -margin * SAMPLES_PER_FRAME]
        clip = Clip(self.unit, stretch.start_frame, stretch.end_frame, stretch.shot_index, track, audio=audio)
        lip_points = self.backend.sync_points(fill_gaps(stretch.landmarks))
        if lip_points is None:
            clip = self._encoder.process(replace(clip, frames=np.stack(stretch.images)))[0]
        else:
            clip = replace(clip, lip_points=lip_points, mouths=np.stack(stretch.images))
        found = self.scorer.score(clip)
        self._scores.setdefault(track, []).append(
            StretchScore(
                start_frame=stretch.start_frame,
                num_frames=clip.num_frames,
                confidence=found.confidence,
                offset_frames=found.offset_frames,
                speech_ratio=self._speech.speech_ratio(spoken),
            )
        )

    def _warp(self, stretch: _Stretch, num_frames: int) -> None:
        """Turn the first of the frames that wait into what the scorer looks at, as the stage `align` does."""
        landmarks = fill_gaps(stretch.landmarks)
        points = steady(self.backend.alignment_points(landmarks), self.crop.smoothing_frames)
        first = len(stretch.images)
        matrices = to_square(align(points[: first + num_frames], self.crop.resolution), self.crop.resolution)[first:]
        pieces = [stretch.waiting.popleft() for _ in range(num_frames)]
        faces = warp_all(pieces, matrices, self.crop.resolution)
        stretch.images.extend(faces if self.backend.sync_points(landmarks[:1]) is None else mouth_images(faces))


def _num_trailing_gaps(landmarks: list[np.ndarray | None]) -> int:
    count = 0
    while count < len(landmarks) and landmarks[-1 - count] is None:
        count += 1
    return count
