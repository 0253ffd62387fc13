"""Every setting of the data pipeline: one small class per stage, nested into `PrepareConfig`.

Changing a setting that shapes media or measures (all but `thresholds`, `language`, `speaker`, `pack` and `run`) needs a
new dataset folder. `thresholds` are compared with stored measures, so `lipforge pack` applies new ones without the
models.
"""

import math
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from lipforge.model.clock import FPS, SYNC_MARGIN_FRAMES
from lipforge.model.faces.templates import Template
from lipforge.pipeline.config_loader import Config, hash_of

RECIPE_VERSION = 5
"""Raise this when a code change alters stored media or measures under the same settings."""


class ResampleConfig(Config):
    """Frames and audio on one clock, in spans of bounded length."""

    max_span_s: float = Field(default=300.0, ge=20)
    """Longer sources are split at key frames into work units of about this length."""


class ShotsConfig(Config):
    """Shot boundaries, by PySceneDetect's adaptive detector."""

    adaptive_threshold: float = Field(default=2.0, gt=0)
    """A cut is a frame whose change exceeds that of its neighbours by this factor (LatentSync: 2)."""
    min_shot_frames: int = Field(default=3, ge=1)
    """Cuts closer together than this count as one."""


class FacePolicy(StrEnum):
    ALL = "all"
    SINGLE = "single"
    LARGEST = "largest"


class FacesConfig(Config):
    """Face tracking: detection when due or lost, landmarks in between."""

    policy: FacePolicy = FacePolicy.ALL
    """all: every face gives clips; single: only clips that show one face; largest: only the largest face."""
    detect_every_frames: int = Field(default=25, ge=1)
    """Detect new faces this often while a face is tracked."""
    search_every_frames: int = Field(default=5, ge=1)
    """Detect faces this often while none is tracked."""
    max_gap_frames: int = Field(default=5, ge=0)
    """Gaps of up to this many frames in a face track are interpolated; a longer gap ends the run."""
    max_tracks: int = Field(default=8, ge=1)
    """Faces tracked at once, the largest first. Bounds memory."""
    min_height_px: int = Field(default=80, ge=1)
    """Smallest median face height of a clip, forehead to chin, in source pixels (LatentSync: 80)."""
    min_width_px: int | None = Field(default=None, ge=1)
    """Smallest median face width of a clip, source pixels. Unset: set by `models` (latentsync: 50, builtin: none)."""


class AlignConfig(Config):
    """The aligned crop. Runs end, and clips are scored, by the latentsync crop whatever the template."""

    template: Template = Template.LATENTSYNC
    """latentsync: three-point alignment, 3:4 stretched to a square; square: the same points at natural proportions;
    musetalk, wav2lip: the upright boxes that those are trained on (model/faces/templates.py)."""
    resolution: Literal[96, 256, 512] = 256
    """Side of the stored crop, in pixels. 96 is for template wav2lip."""
    smoothing_frames: float = Field(default=0.7, ge=0)
    """Standard deviation, in frames at 25 fps, of the Gaussian that smooths alignment points or boxes within a clip."""
    max_outside_ratio: float = Field(default=0.3, ge=0, le=1)
    """Share of the latentsync crop that may lie outside the frame, as below the chin in a close-up; more ends the run.
    `thresholds.max_outside_ratio` limits the stored crop, without preparing anew."""
    max_hidden_ratio: float = Field(default=0.05, ge=0, le=1)
    """Share of the face's landmarks that may lie outside the frame; more ends the run."""
    max_upscale_ratio: float = Field(default=4.0, gt=0)
    """Stored pixels per source pixel. A clip that needs more enlargement is rejected."""

    @model_validator(mode="after")
    def _small_crops_are_for_wav2lip(self) -> "AlignConfig":
        if self.resolution == 96 and self.template is not Template.WAV2LIP:
            raise ValueError(f"resolution 96 is for template wav2lip; for {self.template}: 256 or 512")
        return self

    @property
    def scored_px(self) -> int:
        """Side of the latentsync crop that scorers see: they are calibrated on 256 px."""
        return max(256, self.resolution)


class CutConfig(Config):
    """How the runs of a face, frames in a row that can be used, become clips."""

    min_run_s: float = Field(default=2.0, ge=1.0)
    """Shorter runs are rejected before anything is measured: the lip-sync scorers need a second. How short a clip may
    be that is kept is `thresholds.min_clip_s`, which needs no new run."""
    max_clip_s: float = Field(default=10.0, gt=0)
    """Longer runs become several clips, none of them shorter than half of this. At least twice min_run_s."""
    max_still_s: float = Field(default=0.5, ge=1 / FPS)
    """A face that does not move at all for longer is frozen: rejected. Living faces were still for up to 0.24 s."""

    @model_validator(mode="after")
    def _halves_fit(self) -> "CutConfig":
        if self.max_clip_s < 2 * self.min_run_s:
            raise ValueError("max_clip_s must be at least twice min_run_s; else some runs cannot be cut without loss")
        return self

    @property
    def min_frames(self) -> int:
        return round(self.min_run_s * FPS)

    @property
    def max_frames(self) -> int:
        return round(self.max_clip_s * FPS)

    @property
    def max_still_frames(self) -> int:
        return round(self.max_still_s * FPS)


class EncodeConfig(Config):
    """The only lossy encode: H.264 in MP4, closed GOPs without B-frames."""

    crf: int = Field(default=17, ge=0, le=51)
    """x264's constant quality: lower is better and larger."""
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow"] = "veryfast"
    """x264's preset: slower ones give smaller files."""
    gop_frames: int = Field(default=12, ge=1)
    """Key frame interval. A reader decodes fewer than this many frames before the one it wants."""


class Thresholds(Config):
    """Limits that decide which measured clips are kept. `lipforge pack` applies new ones to stored measures."""

    max_outside_ratio: float = Field(default=0.1, ge=0, le=1)
    """Largest share of the stored crop, in any frame, that may lie outside the picture, where its last pixels repeat.
    On real clips these stripes reached the chin from 0.18 on, and only the neck up to 0.07."""
    min_clip_s: float = Field(default=3.0, ge=0)
    """Shortest clip. Runs of `cut.min_run_s` and more are measured and stored, so less than 3 needs no new run."""
    min_speech_ratio: float = Field(default=0.2, ge=0, le=1)
    """Smallest share of the clip's time that has speech."""
    min_sync_confidence: float | None = None
    """Smallest confidence, on the lip-sync scorer's scale. Unset: set by `models` (builtin: 2.2, latentsync: 3)."""
    short_sync_factor: float | None = Field(default=None, ge=1)
    """Clips of up to 4 s need this many times min_sync_confidence, as wrong audio fits them more easily by chance; the
    factor falls to 1 at 5 s. Unset: set by `models` (builtin: 1.2, docs/models/lip_sync_lengths.md; latentsync: 1)."""
    sync_model: str | None = None
    """Scorer that min_sync_confidence is calibrated for. Unset: set by `models`; other values are refused."""
    max_av_offset_frames: int = Field(default=6, ge=0, le=SYNC_MARGIN_FRAMES)
    """Largest offset, in frames at 25 fps, that is corrected and kept (LatentSync: 6)."""
    max_av_drift_frames: float = Field(default=2.0, ge=0)
    """Largest change of the offset within a clip, in frames at 25 fps: 2 leaves both ends within one frame."""
    min_quality: float | None = Field(default=None, ge=0, le=100)
    """Smallest image quality, 0..100, on the scale of the quality scorer. Unset: set by `models` (both: 40)."""
    quality_model: str | None = None
    """Scorer that min_quality is calibrated for. Unset: set by `models`; other values are refused."""

    def words(self) -> str:
        """Each threshold with the scorer it is calibrated for, as text."""
        scales = {"min_sync_confidence": self.sync_model, "min_quality": self.quality_model}
        numbers = self.model_dump(exclude={"sync_model", "quality_model"})
        return ", ".join(
            f"{name}={value} ({scales[name]})" if name in scales else f"{name}={value}"
            for name, value in numbers.items()
        )


class LanguageConfig(Config):
    """Language of sources without a label. Sets the manifest's language columns; never changes clips or measures."""

    whisper: str | None = None
    """tiny, base or small (see `lipforge models fetch whisper`), or the path of a multilingual checkpoint of
    openai-whisper. Unset: languages are not identified and stay `und`."""


class SpeakerConfig(Config):
    """Speakers of sources without a label. Sets the manifest's speaker columns; never changes clips or measures."""

    by_voice: bool = False
    """Name them by their voices, after `lipforge models fetch voice`. Costs 5 to 8 ms of CPU per second of clip.
    `lipforge identify-speakers` does it for a finished dataset."""


class SyncConfig(Config):
    """The built-in lip-sync scorer."""

    weights: Path | None = None
    """Weights from `python -m train.scorers.lip_sync train`. Unset: the shipped ones. Other weights have another
    scale, so set `thresholds.min_sync_confidence` too."""


class StageResources(Config):
    """Resources that one worker reserves on the cluster."""

    cpus: float = Field(gt=0)
    memory_mb: int = Field(gt=0)
    gpus: float = Field(default=0, ge=0)
    """A share for several workers on one GPU, as 0.25; 0: models run on the CPU."""

    @field_validator("gpus")
    @classmethod
    def _ray_can_share_them_so(cls, gpus: float) -> float:
        return require_share(gpus)


def require_share(gpus: float) -> float:
    """Raises ValueError for numbers of GPUs that Ray cannot give to a worker."""
    if not math.isfinite(gpus) or 0 < gpus < 0.0001 or (gpus > 1 and gpus != int(gpus)):
        raise ValueError(f"{gpus:g} GPUs for a worker: take a share such as 0.25, or a whole number")
    return gpus


class CutResources(StageResources):
    cpus: float = Field(default=0.75, gt=0)
    memory_mb: int = Field(default=1500, gt=0)


class ScoreResources(StageResources):
    cpus: float = Field(default=0.25, gt=0)
    memory_mb: int = Field(default=1000, gt=0)


class RunConfig(Config):
    """How the work is distributed. Never changes a byte of the result."""

    executor: Literal["ray", "local"] = "ray"
    """ray: on a cluster, or on all CPUs of this machine; local: one source at a time, without Ray."""
    workers: int | None = Field(default=None, ge=1)
    """Workers. Each does a unit from decoding to its result, unless scoring has workers of its own. Unset: as many as
    the cluster has room for, also on nodes that join later."""
    score_workers: int | None = Field(default=None, ge=1)
    """Workers that only score, beside `workers`, which then only cut. Unset: none; with `score.gpus` or `cut.gpus`, as
    many as the GPUs have room for."""
    cut: CutResources = CutResources()
    """What the stages from decoding to encoding reserve."""
    score: ScoreResources = ScoreResources()
    """What measuring speech, sync and quality and writing the result reserve. Unset: set by `models`."""
    max_attempts: int = Field(default=3, ge=1)
    """A unit fails after crashing its worker or timing out this often."""
    max_kills: int = Field(default=10, ge=1)
    """A unit fails after its worker was killed from outside (for example, out of memory) this often."""
    unit_timeout_s: float = Field(default=1800.0, gt=0)
    """Time limit for cutting, and for scoring, one unit; for probing a source, plus 1 s for each 10 MB."""
    stall_timeout_s: float = Field(default=120.0, gt=0)
    """A worker that waits for this long, as for a read that never returns, is ended."""
    max_failed_ratio: float = Field(default=0.2, gt=0, le=1)
    """The run stops when more than this share of units, and at least 5, crash, time out or meet failing storage: a
    fault of the setup."""
    max_decode_error_ratio: float = Field(default=0.5, gt=0, le=1)
    """The run stops when more than this share of the last 40 units cannot be decoded, which is rather a fault of the
    storage. 1: never."""


class PackConfig(Config):
    """Size of shards."""

    shard_size_mb: float = Field(default=512.0, gt=0)
    """Largest size of a shard, in 10^6 bytes. A larger sample gets a shard of its own."""


class PrepareConfig(Config):
    """All settings of `lipforge prepare`."""

    models: Literal["builtin", "latentsync"] = "builtin"
    """Profile: the models for faces, lip-sync and quality, with their thresholds. latentsync is the published chain of
    LatentSync (InsightFace, SyncNet v2, hyperIQA); `lipforge models` says how to get its files."""
    resample: ResampleConfig = ResampleConfig()
    shots: ShotsConfig = ShotsConfig()
    faces: FacesConfig = FacesConfig()
    align: AlignConfig = AlignConfig()
    cut: CutConfig = CutConfig()
    encode: EncodeConfig = EncodeConfig()
    sync: SyncConfig = SyncConfig()
    thresholds: Thresholds = Thresholds()
    language: LanguageConfig = LanguageConfig()
    speaker: SpeakerConfig = SpeakerConfig()
    pack: PackConfig = PackConfig()
    run: RunConfig = RunConfig()

    @model_validator(mode="after")
    def _some_clips_are_long_enough(self) -> "PrepareConfig":
        if self.thresholds.min_clip_s > self.cut.max_clip_s:
            raise ValueError(
                f"thresholds.min_clip_s is {self.thresholds.min_clip_s:g}, but cut.max_clip_s is "
                f"{self.cut.max_clip_s:g}: no clip would be kept"
            )
        return self

    def measuring(self) -> dict[str, Any]:
        """The settings that shape media and measures, as plain values. Model files count by hash, not by path."""
        plain = self.model_dump(mode="json", exclude={"sync", "thresholds", "language", "speaker", "run", "pack"})
        return {"recipe_version": RECIPE_VERSION, **plain}

    def config_hash(self) -> str:
        return hash_of(self.measuring())
