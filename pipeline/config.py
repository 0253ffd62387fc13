"""Every setting of the data pipeline: one small class per stage, nested into `PrepareConfig`.

Two kinds of settings, because they cost differently when changed:
- what shapes media and measures (all but `thresholds`, `language`, `pack` and `run`): changing one needs a new dataset folder;
- `thresholds`: compared with stored measures, so `lipforge pack` applies new ones without measuring again.
"""

from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from lipforge.model.clock import FPS, SYNC_MARGIN_FRAMES
from lipforge.pipeline.config_loader import Config, hash_of

RECIPE_VERSION = 3
"""Raise it when a code change alters stored media or measures under the same settings."""


class ResampleConfig(Config):
    """One clock for picture and sound."""

    max_span_s: float = Field(default=300.0, ge=20)
    """A longer source is cut into work units of about this length, at key frames."""


class ShotsConfig(Config):
    """PySceneDetect's adaptive detector."""

    adaptive_threshold: float = Field(default=2.0, gt=0)
    """Ratio of a frame's change to that of its neighbours that makes a cut (LatentSync: 2)."""
    min_shot_frames: int = Field(default=3, ge=1)
    """Cuts closer than this are one cut."""


class FacePolicy(StrEnum):
    ALL = "all"
    SINGLE = "single"
    LARGEST = "largest"


class FacesConfig(Config):
    """Detection when due or lost, landmarks in between."""

    policy: FacePolicy = FacePolicy.ALL
    """all: every face is a candidate; single: only clips with one face; largest: only the largest face."""
    detect_every_frames: int = Field(default=25, ge=1)
    """Look for new faces this often while one is tracked."""
    search_every_frames: int = Field(default=5, ge=1)
    """Look for a face this often while there is none."""
    max_gap_frames: int = Field(default=5, ge=0)
    """A face lost for at most so many frames is bridged by interpolation; a longer gap ends the run."""
    max_tracks: int = Field(default=8, ge=1)
    """Faces followed at once; further ones, the smallest, are left alone. Bounds memory."""
    min_height_px: int = Field(default=80, ge=1)
    """Median native face height that a clip needs, forehead to chin (LatentSync: 80)."""
    min_width_px: int | None = Field(default=None, ge=1)
    """Median native face width that a clip needs. Unset: what belongs to `models` (latentsync: 50, builtin: none)."""


class AlignConfig(Config):
    """LatentSync's three-point alignment."""

    resolution: Literal[256, 512] = 256
    """Side of the stored crop, pixels."""
    smoothing_frames: float = Field(default=0.7, ge=0)
    """Deviation of the Gaussian, in frames at 25 fps, that steadies the alignment points within a clip."""
    max_outside_ratio: float = Field(default=0.3, ge=0, le=1)
    """Share of the crop's area that may lie outside the picture, as below the chin of a close-up; more ends the run."""
    max_hidden_ratio: float = Field(default=0.05, ge=0, le=1)
    """Share of the face's own landmarks that may lie outside the picture; more ends the run."""
    max_upscale_ratio: float = Field(default=4.0, gt=0)
    """Stored pixels per source pixel; a crop that must be enlarged further is refused."""


class CutConfig(Config):
    """How long clips are."""

    min_clip_s: float = Field(default=5.0, ge=1 / FPS)
    max_clip_s: float = Field(default=10.0, gt=0)
    """At least twice min_clip_s, or some runs could not be cut without loss."""

    @model_validator(mode="after")
    def _halves_fit(self) -> "CutConfig":
        if self.max_clip_s < 2 * self.min_clip_s:
            raise ValueError("max_clip_s must be at least twice min_clip_s, or some runs cannot be cut without loss")
        return self

    @property
    def min_frames(self) -> int:
        return round(self.min_clip_s * FPS)

    @property
    def max_frames(self) -> int:
        return round(self.max_clip_s * FPS)


class EncodeConfig(Config):
    """The one lossy encode: H.264 in MP4, closed GOPs without B-frames."""

    crf: int = Field(default=17, ge=0, le=51)
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow"] = "veryfast"
    gop_frames: int = Field(default=12, ge=1)
    """Distance of key frames: a window of 16 frames is at most this far from one."""


class Thresholds(Config):
    """What a measured clip must reach. Applied to stored measures: see `lipforge pack`."""

    min_speech_ratio: float = Field(default=0.2, ge=0, le=1)
    """Share of the clip's time with speech."""
    min_sync_confidence: float | None = None
    """Confidence of the sync model, whose scale is its own. Unset: what belongs to `models` (builtin: 2.2,
    latentsync: 3)."""
    sync_model: str | None = None
    """Whose scale that is. Unset: the sync model of `models`, and no other name is taken."""
    max_av_offset_frames: int = Field(default=6, ge=0, le=SYNC_MARGIN_FRAMES)
    """Largest offset at 25 fps that is corrected and kept (LatentSync: 6)."""
    min_quality: float | None = Field(default=None, ge=0, le=100)
    """No-reference quality of 0..100, on the quality model's own scale. Unset: what belongs to `models` (40 for
    both)."""
    quality_model: str | None = None
    """Whose scale that is. Unset: the quality model of `models`, and no other name is taken."""

    def words(self) -> str:
        """Each threshold, and the model whose scale it is on."""
        scales = {"min_sync_confidence": self.sync_model, "min_quality": self.quality_model}
        numbers = self.model_dump(exclude={"sync_model", "quality_model"})
        return ", ".join(
            f"{name}={value} ({scales[name]})" if name in scales else f"{name}={value}"
            for name, value in numbers.items()
        )


class LanguageConfig(Config):
    """Which language sources without a label speak. Writes the manifest's language columns; never changes a clip or its measures."""

    whisper: str | None = None
    """tiny, base or small (`lipforge models fetch whisper`), or the path of a multilingual checkpoint of openai-whisper. Unset: nothing is
    identified, and the language stays `und`."""


class SyncConfig(Config):
    """The built-in judge of lip-sync."""

    weights: Path | None = None
    """Weights that `python -m train.scorers.lip_sync train` wrote; unset: the shipped ones. Their scale is their own: set
    `thresholds.min_sync_confidence` with them."""


class StageResources(Config):
    """What one worker of an operator takes from the cluster."""

    cpus: float = Field(gt=0)
    memory_mb: int = Field(gt=0)


class RunConfig(Config):
    """How the work is spread. Never changes a byte of the result."""

    executor: Literal["ray", "local"] = "ray"
    workers: int | None = Field(default=None, ge=1)
    """Pairs of cut and score workers; unset: one per CPU of the cluster."""
    cut: StageResources = StageResources(cpus=0.75, memory_mb=1500)
    """probe to encode: decoding and faces."""
    score: StageResources = StageResources(cpus=0.25, memory_mb=1000)
    """speech, sync, quality, commit. Unset: what `models` need."""
    max_attempts: int = Field(default=3, ge=1)
    """A unit that crashes its worker or runs out of time this often is `failed`."""
    max_kills: int = Field(default=10, ge=1)
    """The same for workers that vanish without a trace (killed from outside, out of memory)."""
    unit_timeout_s: float = Field(default=3600.0, gt=0)
    """Longest time for one operator on one unit."""
    max_failed_ratio: float = Field(default=0.2, gt=0, le=1)
    """The run stops when more than this share of units (and at least 5) crash or time out: the fault is not the data's."""


class PackConfig(Config):
    """How large shards are."""

    shard_size_mb: float = Field(default=512.0, gt=0)
    """A shard is closed before it would grow beyond this size (10^6 bytes)."""


class PrepareConfig(Config):
    """The whole of `lipforge prepare`."""

    models: Literal["builtin", "latentsync"] = "builtin"
    """What finds faces, judges lip-sync and quality, as one set: builtin needs a package index only; latentsync is the published chain
    (InsightFace, SyncNet v2, hyperIQA) with its thresholds, from files that `lipforge models` tells about."""
    resample: ResampleConfig = ResampleConfig()
    shots: ShotsConfig = ShotsConfig()
    faces: FacesConfig = FacesConfig()
    align: AlignConfig = AlignConfig()
    cut: CutConfig = CutConfig()
    encode: EncodeConfig = EncodeConfig()
    sync: SyncConfig = SyncConfig()
    thresholds: Thresholds = Thresholds()
    language: LanguageConfig = LanguageConfig()
    pack: PackConfig = PackConfig()
    run: RunConfig = RunConfig()

    def measuring(self) -> dict[str, Any]:
        """The settings that shape media and measures, as plain values. What is in model files counts by their hash, wherever they lie."""
        plain = self.model_dump(mode="json", exclude={"sync", "thresholds", "language", "run", "pack"})
        return {"recipe_version": RECIPE_VERSION, **plain}

    def config_hash(self) -> str:
        return hash_of(self.measuring())
