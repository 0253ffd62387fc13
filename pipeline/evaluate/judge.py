"""The numbers of one clip: used by `lipforge evaluate` and by the trainers' validation."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

import cv2
import numpy as np

from lipforge.model.clock import FPS, SAMPLES_PER_FRAME, SYNC_MARGIN_FRAMES
from lipforge.model.faces.crop_points import crop_landmarks
from lipforge.model.faces.lip_points import SYNC_LANDMARKS, mouth_images
from lipforge.model.faces.mediapipe import MediaPipeFaces
from lipforge.model.sync.builtin import LipSyncScorer
from lipforge.model.sync.score import SyncScore
from lipforge.model.weights import load as weights
from lipforge.model.weights.table import list_models
from lipforge.pipeline.evaluate.clip import AlignedClip, Unmeasurable
from lipforge.pipeline.evaluate.mouth import jitter_px, lip_distance_px, movement, opening_curve
from lipforge.pipeline.evaluate.networks import IDENTITY, SYNCNET, Networks, sampled
from lipforge.pipeline.evaluate.result import Missing, ModelUsed
from lipforge.pipeline.running.quiet import off_terminal
from lipforge.pipeline.stages.align import fill_gaps

CROP_PX = 256
"""Every clip is judged at this size."""
MAX_MISSING = 0.2
"""Share of frames in which the face may be missing; points are filled in there."""
MIN_SYNC_FRAMES = 25
PLANTED_FRAMES = (-5, -4, -3, -2, -1, 1, 2, 3, 4, 5)
PICTURES = 50
"""Frames, evenly spread, in which pictures are compared and faces recognised."""
FID_EVERY = 5
"""Frames."""
_SYNC, _SHIFTED = ("sync_confidence", "sync_offset_frames"), ("shift_error_frames",)
_OF_POINTS = (
    "lip_distance_px",
    "mouth_opening",
    "mouth_movement",
    "silent_opening",
    "silent_movement",
    "leak",
    "jitter",
    "jitter_excess",
)


@dataclass
class Measured:
    """Numbers of one clip, and why others are missing, in a few words."""

    values: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


class Judge:
    """Networks that are on this machine, opened once in a process."""

    def __init__(
        self, device: str = "cpu", *, only: frozenset[str] | None = None, num_pictures: int = PICTURES
    ) -> None:
        """only: names of the metrics that are wanted; None: all. num_pictures: frames of a clip in which pictures are
        compared and faces recognised. Raises ModelFileError for a damaged file.
        """
        self.device, self.only, self.num_pictures = device, only, num_pictures
        files = weights.load("builtin")
        with off_terminal(2):  # LiteRT prints which delegate it created
            self.faces = MediaPipeFaces(files)
        self._scorer = LipSyncScorer(files["lip_sync.safetensors"])
        self.networks = Networks(device, self._wants)
        self.models: list[ModelUsed] = [
            _used("lip_sync.safetensors", self._scorer.name, (*_SYNC, *_SHIFTED, "foreign_sync_confidence")),
            _used("face_landmark.tflite", "FaceMesh", _OF_POINTS),
            *self.networks.used,
        ]
        self.missing: list[Missing] = self.networks.missing

    def aligned(
        self, name: str, frames: np.ndarray, audio: np.ndarray, language: str = "und", speaker: str | None = None
    ) -> AlignedClip:
        """A clip with its points. Other sizes than 256 px are resized first.

        frames: uint8 [T, R, R, 3] RGB, aligned; audio: float32 [(T + 30) * 640].
        Raises Unmeasurable where more than a fifth of the frames show no face.
        """
        expected = (len(frames) + 2 * SYNC_MARGIN_FRAMES) * SAMPLES_PER_FRAME
        if audio.shape != (expected,):
            raise ValueError(f"audio: expected [{expected}] for {len(frames)} frames, got {audio.shape}")
        found = crop_landmarks(frames, self.faces)
        missing = sum(points is None for points in found)
        if missing > MAX_MISSING * len(found) or missing == len(found):
            raise Unmeasurable("no face" if missing == len(found) else "a face in too few frames")
        if frames.shape[1] != CROP_PX:
            how = cv2.INTER_AREA if frames.shape[1] > CROP_PX else cv2.INTER_CUBIC
            frames = np.stack([cv2.resize(frame, (CROP_PX, CROP_PX), interpolation=how) for frame in frames])
        return AlignedClip(name, frames, audio, fill_gaps(found), language, speaker)

    def sync(self, clip: AlignedClip, shift_frames: int = 0) -> SyncScore:
        """Offset and confidence by the built-in scorer. shift_frames: the sound is delayed by so many frames first.

        Raises Unmeasurable for less than a second, and for digital silence.
        """
        return self._scorer.match(self._lips(clip), self._heard(clip, shift_frames))

    def measure(self, clip: AlignedClip, reference: AlignedClip | None = None) -> dict[str, float]:
        """By metric, what can be measured of one clip. reference: of the same frames."""
        return self.measured(clip, reference).values

    def measured(
        self, clip: AlignedClip, reference: AlignedClip | None = None, face_crops: np.ndarray | None = None
    ) -> Measured:
        """The same, with the reasons of what is missing.

        face_crops: uint8 [T, 224, 224, 3] RGB, cut from the video as SyncNet v2's own code does (`OpenVideo.crops`);
        None: it looks at the aligned crop, as when a dataset is prepared with it.
        """
        if reference is not None and reference.frames.shape != clip.frames.shape:
            raise ValueError(f"the reference has {reference.frames.shape}, the clip {clip.frames.shape}")
        found = Measured()
        self._add(found, _SYNC, lambda: self._sync_numbers(clip))
        self._add(found, _SHIFTED, lambda: self._shift_error(clip))
        if self.networks.syncnet is not None:
            self._add(found, SYNCNET, lambda: self._syncnet_numbers(clip, face_crops))
        curve = opening_curve(clip.points)
        self._add(found, ("mouth_opening",), lambda: {"mouth_opening": float(curve.mean())})
        self._add(found, ("mouth_movement",), lambda: {"mouth_movement": _movement(curve)})
        self._add(found, ("jitter",), lambda: {"jitter": _jitter(clip)})
        if reference is not None:
            self._against(found, clip, reference)
        if self.networks.arcface is not None:
            self._add(found, IDENTITY, lambda: self._identity_numbers(clip, reference))
        return found

    def features(self, clip: AlignedClip) -> dict[str, np.ndarray]:
        """By metric of a set, what one clip adds to it: float32 [n, width]."""
        found = {}
        if self.networks.inception is not None:
            found["fid"] = self.networks.inception.features(clip.frames[::FID_EVERY])
        if self.networks.i3d is not None:
            found["fvd"] = self.networks.i3d.features(clip.frames)
        return found

    def _against(self, found: Measured, clip: AlignedClip, reference: AlignedClip) -> None:
        self._add(
            found, ("lip_distance_px",), lambda: {"lip_distance_px": lip_distance_px(clip.points, reference.points)}
        )
        self._add(found, ("jitter_excess",), lambda: {"jitter_excess": _jitter(clip) - _jitter(reference)})
        chosen = sampled(len(clip.frames), self.num_pictures)
        whole = clip.frames[chosen], reference.frames[chosen]
        for suffix, pair in (("", whole), ("_mouth", (mouth_part(whole[0]), mouth_part(whole[1])))):
            for name, compare in self._pictures.items():
                self._add(found, (name + suffix,), partial(_mean, name + suffix, compare, *pair))

    @property
    def _pictures(self) -> dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]:
        """Comparisons of pictures, frame by frame."""
        from lipforge.model.measures.pictures import psnr_db, ssim

        found: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {}
        if self.networks.lpips is not None:
            found["lpips"] = self.networks.lpips.distance
        if self.networks.st_lpips is not None:
            found["st_lpips"] = self.networks.st_lpips.distance
        return {**found, "ssim": ssim, "psnr_db": psnr_db}

    def _wants(self, names: Iterable[str]) -> bool:
        return self.only is None or any(name in self.only for name in names)

    def _add(self, found: Measured, names: Iterable[str], measure: Callable[[], dict[str, float]]) -> None:
        if not self._wants(names):
            return
        try:
            values = measure()
        except Unmeasurable as error:
            found.reasons.update(dict.fromkeys(names, str(error)))
            return
        found.values.update({name: value for name, value in values.items() if self._wants((name,))})

    def _lips(self, clip: AlignedClip) -> np.ndarray:
        if len(clip.frames) < MIN_SYNC_FRAMES:
            raise Unmeasurable("shorter than 1 s")
        return self._scorer.embed_lips(clip.points[:, SYNC_LANDMARKS], mouth_images(clip.frames))

    def _heard(self, clip: AlignedClip, shift_frames: int = 0) -> np.ndarray:
        _check_sound(clip)
        return self._scorer.embed_audio(delayed(clip.audio, shift_frames))

    def _sync_numbers(self, clip: AlignedClip) -> dict[str, float]:
        score = self.sync(clip)
        return {"sync_confidence": score.confidence, "sync_offset_frames": float(score.offset_frames)}

    def _shift_error(self, clip: AlignedClip) -> dict[str, float]:
        """Mean difference between the moves of the sound and of the offset that is found. Late sound: lower offset."""
        lips = self._lips(clip)
        own = self._scorer.match(lips, self._heard(clip)).offset_frames
        found = [self._scorer.match(lips, self._heard(clip, shift)).offset_frames for shift in PLANTED_FRAMES]
        errors = [abs(own - moved - shift) for moved, shift in zip(found, PLANTED_FRAMES, strict=True)]
        return {"shift_error_frames": float(np.mean(errors))}

    def _syncnet_numbers(self, clip: AlignedClip, face_crops: np.ndarray | None) -> dict[str, float]:
        assert self.networks.syncnet is not None
        if len(clip.frames) < MIN_SYNC_FRAMES:
            raise Unmeasurable("shorter than 1 s")
        _check_sound(clip)
        if face_crops is None:
            score = self.networks.syncnet.score(clip.frames, clip.audio)
        else:
            score = self.networks.syncnet.score_crops(face_crops, clip.audio)
        return dict(zip(SYNCNET, (score.confidence, score.distance, float(score.offset_frames)), strict=True))

    def _identity_numbers(self, clip: AlignedClip, reference: AlignedClip | None) -> dict[str, float]:
        assert self.networks.arcface is not None
        chosen = sampled(len(clip.frames), self.num_pictures)
        who = self.networks.arcface.embed(clip.frames[chosen], clip.points[chosen])
        found = {"identity_drift": _drift(who, chosen)}
        if reference is not None:
            wanted = self.networks.arcface.embed(reference.frames[chosen], reference.points[chosen])
            found["csim"] = float((who * wanted).sum(axis=1).mean())
        return found


def delayed(audio: np.ndarray, shift_frames: int) -> np.ndarray:
    """The sound so many frames later, or earlier; zeros where it is beyond its ends."""
    moved = np.zeros_like(audio)
    by = shift_frames * SAMPLES_PER_FRAME
    if by >= 0:
        moved[by:] = audio[: len(audio) - by]
    else:
        moved[:by] = audio[-by:]
    return moved


def mouth_part(frames: np.ndarray) -> np.ndarray:
    """[T, R / 2, R / 2, 3]: lips, jaw and lower cheeks, where alignment puts them; the part that sync looks at."""
    size = frames.shape[1]
    top, left, side = size * 7 // 16, size // 4, size // 2
    return frames[:, top : top + side, left : left + side]


def _mean(
    name: str, compare: Callable[[np.ndarray, np.ndarray], np.ndarray], frames: np.ndarray, wanted: np.ndarray
) -> dict[str, float]:
    return {name: float(compare(frames, wanted).mean())}


def _drift(who: np.ndarray, frames: np.ndarray) -> float:
    """Largest fall, over seconds, of the mean cosine to the first second's mean. who: unit vectors [n, 512]."""
    seconds = frames // FPS
    first = who[seconds == 0].mean(axis=0)
    likeness = who @ (first / max(float(np.linalg.norm(first)), 1e-12))
    means = [float(likeness[seconds == second].mean()) for second in np.unique(seconds)]
    return means[0] - min(means)


def _check_sound(clip: AlignedClip) -> None:
    margin = SYNC_MARGIN_FRAMES * SAMPLES_PER_FRAME
    if not clip.audio[margin:-margin].any():
        raise Unmeasurable("no sound")


def _movement(curve: np.ndarray) -> float:
    if len(curve) < FPS:
        raise Unmeasurable("shorter than 1 s")
    return movement(curve)


def _jitter(clip: AlignedClip) -> float:
    if len(clip.points) < 3:
        raise Unmeasurable("shorter than 3 frames")
    return jitter_px(clip.points)


def _used(file_name: str, title: str, metrics: Iterable[str]) -> ModelUsed:
    file = next(file for file in list_models() if file.name == file_name)
    return ModelUsed(title, file.sha256, file.licence, list(metrics))
