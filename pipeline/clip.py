"""The values that flow through the pipeline: Source -> Video -> Unit -> Frame -> Clip."""

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lipforge.datasets_manifest.schema import Reason, Status
from lipforge.model.clock import FPS
from lipforge.model.faces.boxes import Box
from lipforge.model.faces.face import FaceLandmarks
from lipforge.model.faces.picture import Picture
from lipforge.pipeline.media.probe import VideoInfo


def fingerprint_of(about: dict[str, Any]) -> str:
    """Changes when a remote file does. about: what fsspec says of it, in a listing or by itself."""
    tag = about.get("ETag") or about.get("etag") or about.get("LastModified") or about.get("mtime")
    return f"{about.get('size')}:{tag}"


@dataclass(frozen=True, slots=True)
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
    listed: str | None = field(default=None, compare=False)
    """Its fingerprint, where listing its folder told: saves a request per source."""

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
    fingerprint: str | None = field(default=None, compare=False)
    """Of the file when it was probed: see stages/probe.py."""

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
    """One frame on the 25 fps grid."""

    index: int
    """Frame number in the video, at 25 fps."""
    picture: Picture | None
    """Full size; None where the source cannot be decoded. Never leaves the process that decoded it."""
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
    scored_frames: np.ndarray | None = field(default=None, repr=False)
    """uint8 [T, S, S, 3]: by template latentsync, which scorers are calibrated on, where `frames` are of another (until
    `encode`)."""
    lip_points: np.ndarray | None = field(default=None, repr=False)
    """float32 [T, P, 3]: landmarks for the built-in lip-sync scorer; None when the face backend has none."""
    mouths: np.ndarray | None = field(default=None, repr=False)
    """uint8 [T, 64, 64]: mouth images for the built-in lip-sync scorer."""
    quality_frames: np.ndarray | None = field(default=None, repr=False)
    """uint8 [3, S, S, 3]: first, middle and last frame as scorers see them."""
    audio: np.ndarray | None = field(default=None, repr=False)
    """float32 mono 16 kHz: the clip's span with SYNC_MARGIN_FRAMES more on both sides."""
    mp4: bytes = field(default=b"", repr=False)
    scored_mp4: bytes = field(default=b"", repr=False)
    """`scored_frames`, encoded like `mp4`, for scorers of lip-sync that look at pixels."""
    npz: bytes = field(default=b"", repr=False)
    """Where each frame lies in the source (datasets_manifest/geometry.py)."""
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
    face_box: np.ndarray | None = None
    """float32 [2, 2]: corners of the face, from forehead to chin; None where it was lost."""
    frame_size_px: tuple[int, int] = (0, 0)
    """Width and height of the frame, in source pixels whatever the scale."""
    stored: "FacePiece | None" = None
    """The area that the stored crop needs, where it is of another template than latentsync."""

    def in_reference(self, scale: float) -> "FacePiece":
        """The same piece in pixels of the first frame with its proportions. scale: as in `Frame`."""
        if scale == 1.0:
            return self
        landmarks, face_box = self.landmarks, self.face_box
        if landmarks is not None:
            landmarks = landmarks / np.float32(scale)
            landmarks[:, :2] += (1 / scale - 1) / 2  # coordinates are those of pixel centres
        if face_box is not None:
            face_box = face_box / np.float32(scale) + np.float32((1 / scale - 1) / 2)
        return replace(
            self,
            left=self.left / scale,
            top=self.top / scale,
            step=self.step / scale,
            landmarks=landmarks,
            scale=scale,
            face_box=face_box,
            stored=None if self.stored is None else self.stored.in_reference(scale),
        )
