"""The values that flow through the pipeline: Source -> Video -> Unit -> Frame -> Clip."""

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lipforge.datasets_manifest.schema import Reason, Status
from lipforge.model.clock import FPS
from lipforge.model.faces.boxes import Box
from lipforge.model.faces.face import FaceLandmarks
from lipforge.pipeline.media.probe import VideoInfo


@dataclass(frozen=True)
class Source:
    """One entry of the input list: where a video is, and its labels from the user."""

    uri: str
    language: str = "und"
    language_source: str = "none"
    speaker: str | None = None
    speaker_source: str = "none"
    start_s: float | None = None
    """Use only this span; None: from the start, to the end."""
    end_s: float | None = None

    @property
    def entry_id(self) -> str:
        """Identifies the entry by location and span, not by content."""
        text = f"{self.uri}\n{self.start_s}\n{self.end_s}"
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]


@dataclass(frozen=True)
class Video:
    """A probed source. `info` is None when it cannot be used: then `reason` says why."""

    source: Source
    source_id: str
    info: VideoInfo | None
    reason: Reason | None = None
    detail: str = ""

    @property
    def first_frame(self) -> int:
        """First frame of the wanted span, at 25 fps."""
        return min(round((self.source.start_s or 0.0) * FPS), self.num_source_frames)

    @property
    def end_frame(self) -> int:
        if self.source.end_s is None:
            return self.num_source_frames
        return max(self.first_frame, min(round(self.source.end_s * FPS), self.num_source_frames))

    @property
    def num_source_frames(self) -> int:
        return self.info.num_frames if self.info else 0

    @property
    def seconds_in(self) -> float:
        return (self.end_frame - self.first_frame) / FPS


@dataclass(frozen=True)
class Unit:
    """The span of a video that one worker processes at once: frames [start_frame, end_frame) at 25 fps."""

    video: Video
    start_frame: int
    end_frame: int

    @property
    def unit_id(self) -> str:
        return f"{self.video.source_id[:32]}-{self.start_frame:08d}-{self.end_frame:08d}"

    @property
    def num_frames(self) -> int:
        return self.end_frame - self.start_frame

    @property
    def pass_number(self) -> int:
        """1; 2 for a unit whose frames other units have seen before (sources/seams.py)."""
        return 1


@dataclass
class Frame:
    """One frame on the 25 fps grid. `rgb` is None where the source cannot be decoded."""

    index: int
    """Frame number in the video, at 25 fps."""
    rgb: np.ndarray | None
    """uint8 [H, W, 3], upright, full size. Never leaves the process that decoded it."""
    shot_index: int = 0
    has_audio: bool = True
    """False where the source has no audio for a while (media/audio.py)."""
    faces: dict[int, FaceLandmarks] = field(default_factory=dict)
    """By track, in pixels of this frame."""
    scale: float = 1.0
    """Pixels of this frame per pixel of the first frame with its proportions: streams change their size under way."""


@dataclass(frozen=True)
class Clip:
    """A candidate: a span of frames with one face or none. Immutable: stages return a changed copy."""

    unit: Unit
    start_frame: int
    end_frame: int
    shot_index: int = -1
    track_index: int = -1
    status: Status = Status.KEPT
    stage: str = ""
    reason: Reason | None = None
    detail: str = ""
    measures: dict[str, Any] = field(default_factory=dict)
    """Manifest columns measured so far."""
    face_width_px: float = 0.0
    """Median native face width."""
    border_box: Box | None = None
    """Where the face is at the border to the next unit, for a short run that waits there (sources/seams.py)."""
    pieces: list["FacePiece"] = field(default_factory=list, repr=False)
    """Per frame, the area around the face (until `align`)."""
    frames: np.ndarray | None = field(default=None, repr=False)
    """uint8 [T, R, R, 3]: aligned face (until `encode`)."""
    lip_points: np.ndarray | None = field(default=None, repr=False)
    """float32 [T, P, 3]: landmarks for the built-in lip-sync scorer; None when the face backend has none."""
    mouths: np.ndarray | None = field(default=None, repr=False)
    """uint8 [T, 64, 64]: mouth images for the built-in lip-sync scorer."""
    quality_frames: np.ndarray | None = field(default=None, repr=False)
    """uint8 [3, R, R, 3]: first, middle and last aligned frame."""
    audio: np.ndarray | None = field(default=None, repr=False)
    """float32 mono 16 kHz: the clip's span with SYNC_MARGIN_FRAMES more on both sides."""
    mp4: bytes = field(default=b"", repr=False)
    poster: bytes = field(default=b"", repr=False)
    """Small JPEG of a candidate without media, for the report."""

    @property
    def num_frames(self) -> int:
        return self.end_frame - self.start_frame

    @property
    def key(self) -> str:
        """The same clip has the same key on any machine, in any folder, at any number of workers."""
        text = f"{self.unit.video.source_id}:{self.start_frame}:{self.end_frame}:{self.track_index}:{self.shot_index}"
        if self.unit.pass_number > 1:  # it may have the very span of a run of the first pass
            text += f":{self.unit.pass_number}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def measured(self, **measures: Any) -> "Clip":
        return replace(self, measures={**self.measures, **measures})

    def rejected(self, stage: str, reason: Reason, detail: str = "") -> "Clip":
        return replace(self, status=Status.REJECTED, stage=stage, reason=reason, detail=detail)

    def failed(self, stage: str, reason: Reason, detail: str = "") -> "Clip":
        return replace(self, status=Status.FAILED, stage=stage, reason=reason, detail=detail)


@dataclass(frozen=True)
class FacePiece:
    """The area of one frame around one face, reduced so that many fit in memory.

    Pixel (x, y) of `rgb` lies at (left + x * step + (step - 1) / 2, ...) of the frame: where the face is much larger
    than the stored crop, blocks of `step` by `step` source pixels are averaged.
    Within a clip, places are those of `in_reference`.
    """

    rgb: np.ndarray
    left: float
    top: float
    step: float
    landmarks: np.ndarray | None
    """float32 [K, 2 or 3], pixels of the frame; None where the face was lost briefly."""
    scale: float = 1.0
    """Source pixels per pixel of the frame: not 1 after `in_reference`."""

    def in_reference(self, scale: float) -> "FacePiece":
        """The same piece in pixels of the first frame with its proportions. scale: as in `Frame`."""
        if scale == 1.0:
            return self
        landmarks = self.landmarks
        if landmarks is not None:
            landmarks = landmarks / np.float32(scale)
            landmarks[:, :2] += (1 / scale - 1) / 2  # coordinates are those of pixel centres
        return replace(
            self, left=self.left / scale, top=self.top / scale, step=self.step / scale, landmarks=landmarks, scale=scale
        )
