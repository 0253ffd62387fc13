"""The two profiles: sets of models that `lipforge prepare` can use, with the thresholds that fit their scales.

A profile is chosen as a whole (`models` in the settings), because a threshold is only valid for its own model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lipforge.model.faces.face import FaceBackend
from lipforge.model.faces.mediapipe import MediaPipeFaces
from lipforge.model.sync.weights_file import DEFAULT_MIN_CONFIDENCE, scorer_name
from lipforge.pipeline.clip import Clip
from lipforge.pipeline.config import ScoreResources
from lipforge.pipeline.media.clips import decode_mp4
from lipforge.pipeline.running.quiet import off_terminal
from lipforge.pipeline.stages.quality import QualityModel
from lipforge.pipeline.stages.sync import SyncScorer

if TYPE_CHECKING:  # it loads torch, which cut workers do without
    from lipforge.model.sync.score import SyncScore

Models = Mapping[str, bytes]
"""Contents of the profile's files by name, as `weights.load(name)` returns them."""


class Profile(ABC):
    """One set of models. Each is loaded by the worker that uses it; torch is loaded for scoring only."""

    min_sync_confidence: float
    min_quality: float
    min_face_width_px: int | None
    short_sync_factor: float
    score_resources: ScoreResources
    """Resources of a score worker."""

    @abstractmethod
    def faces(self, models: Models, device: str = "cpu") -> FaceBackend:
        """device: cpu or cuda. Models that a GPU does not make faster stay on the CPU."""
        ...

    @abstractmethod
    def sync(self, models: Models, device: str = "cpu") -> SyncScorer: ...

    @abstractmethod
    def quality(self, models: Models, device: str = "cpu") -> QualityModel: ...

    def sync_name(self, models: Models) -> str:
        """Name of the scorer of lip-sync, for which its model is opened."""
        return self.sync(models).name


class Builtin(Profile):
    """MediaPipe's faces, and this project's own scorers of lip-sync and quality. All of it is for CPUs."""

    min_sync_confidence = DEFAULT_MIN_CONFIDENCE
    min_quality = 40.0
    min_face_width_px = None
    short_sync_factor = 1.2
    score_resources = ScoreResources()

    def faces(self, models: Models, device: str = "cpu") -> FaceBackend:
        with off_terminal(2):  # LiteRT prints which delegate it created
            return MediaPipeFaces(models)

    def sync(self, models: Models, device: str = "cpu") -> SyncScorer:
        return _LandmarkScorer(models["lip_sync.safetensors"])

    def sync_name(self, models: Models) -> str:
        """Opening the model would load torch. Its file is known to be whole: by its hash, or by `load_models`."""
        return scorer_name(models["lip_sync.safetensors"])

    def quality(self, models: Models, device: str = "cpu") -> QualityModel:
        from lipforge.model.quality.builtin import ImageQuality

        return ImageQuality(models["quality.json"])


class LatentSync(Profile):
    """Models and limits of the published LatentSync (its preprocess/ and latentsync/utils/face_detector.py)."""

    min_sync_confidence = 3.0
    min_quality = 40.0
    min_face_width_px = 50
    short_sync_factor = 1.0
    score_resources = ScoreResources(memory_mb=2200)

    def faces(self, models: Models, device: str = "cpu") -> FaceBackend:
        from lipforge.model.faces.insight import InsightFaces

        return InsightFaces(models, device)

    def sync(self, models: Models, device: str = "cpu") -> SyncScorer:
        return _FrameScorer(models["syncnet_v2.model"], device)

    def quality(self, models: Models, device: str = "cpu") -> QualityModel:
        from lipforge.model.quality.hyperiqa import HyperIQAQuality

        return HyperIQAQuality(models["koniq_pretrained.pkl"], device)


PROFILES: dict[str, Profile] = {"builtin": Builtin(), "latentsync": LatentSync()}


class _LandmarkScorer:
    """The built-in scorer, on landmarks of the lips and images of the mouth."""

    def __init__(self, weights: bytes) -> None:
        from lipforge.model.sync.builtin import LipSyncScorer

        self.model = LipSyncScorer(weights)
        self.name = self.model.name

    def score(self, clip: Clip) -> SyncScore:
        assert clip.lip_points is not None and clip.mouths is not None and clip.audio is not None
        return self.model.score(clip.lip_points, clip.mouths, clip.audio)


class _FrameScorer:
    """SyncNet v2, on the frames of the stored clip, as training reads them; by template latentsync in any case."""

    def __init__(self, weights: bytes, device: str) -> None:
        from lipforge.model.sync.syncnet_v2 import SyncNetScorer

        self.model = SyncNetScorer(weights, device)
        self.name = self.model.name

    def score(self, clip: Clip) -> SyncScore:
        assert clip.audio is not None
        return self.model.score(decode_mp4(clip.scored_mp4 or clip.mp4), clip.audio)
