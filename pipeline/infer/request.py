"""What a user asks of `lipforge infer`, and what comes back."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from lipforge.model.denoiser.solvers import NUM_TIMESTEPS, SOLVERS
from lipforge.pipeline.config_loader import Config

IDENTITY = "identity"
"""The model that draws the original mouth again: it shows what everything around a network costs."""


class SamplingConfig(Config):
    """How a diffusion model draws."""

    steps: int = Field(default=20, ge=1)
    """Denoising steps (LatentSync: 20)."""
    guidance: float = Field(default=1.5, ge=1)
    """1: none. Larger follows the sound more closely, up to distortion (LatentSync: 1.5)."""
    guidance_band: tuple[int, int] = (0, NUM_TIMESTEPS)
    """Guide only at timesteps from the first to below the second number; elsewhere a step costs half."""
    solver: str = "ddim"
    """ddim, as published; dpm++ and euler need fewer steps; lcm only suits weights that were distilled for it."""
    seed: int = Field(default=1247, ge=0)
    """Same seed, same device: same bytes."""

    @field_validator("solver")
    @classmethod
    def _known(cls, solver: str) -> str:
        if solver not in SOLVERS:
            raise ValueError(f"unknown solver {solver!r}; known: {', '.join(SOLVERS)}")
        return solver

    @field_validator("guidance_band")
    @classmethod
    def _in_order(cls, band: tuple[int, int]) -> tuple[int, int]:
        if not 0 <= band[0] < band[1] <= NUM_TIMESTEPS:
            raise ValueError(f"expected two numbers, 0 <= first < second <= {NUM_TIMESTEPS}")
        return band


class InferConfig(Config):
    """Everything but the files that go in and out."""

    model: str | None = None
    """A run's model folder, a published file, a name of `lipforge models list`, `builtin`, the small one that ships, or
    `identity`. Unset: the best published U-Net that was fetched, else `builtin`."""
    sampling: SamplingConfig = SamplingConfig()
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    dtype: Literal["auto", "fp32", "fp16", "bf16", "int8"] = "auto"
    """Of the network. auto: fp16 on cuda, else fp32. int8: weights only, by torchao."""
    offload: bool = False
    """Keep each network on the GPU only while it works: slower, fits smaller GPUs."""
    vae: str | None = None
    """Autoencoder for a published U-Net; unset: sd-vae-ft-mse. A run's model folder names its own."""
    audio_encoder: str | None = None
    """Whisper checkpoint for a published U-Net; unset: tiny. A run's model folder names its own."""
    face_models: Literal["builtin", "latentsync"] = "builtin"
    """The profile whose face models find and align faces. Take the one that the model's data was prepared with."""
    face: str = "speaker"
    """speaker: in each shot, who fits the old sound best; largest; all; or track:N,M,..., numbers of --list-faces. A
    person has another number in each shot."""
    face_points: Path | None = None
    """Points of a face, from outside, for drawn faces that no detector finds."""
    max_yaw_deg: float = Field(default=50.0, gt=0, le=90)
    """Faces turned further to the side pass unchanged."""
    extend: Literal["loop", "hold", "trim"] = "loop"
    """When the sound is longer. loop: play the video forward and back; hold its last frame; trim the sound."""
    audio_end: Literal["silence", "stop"] = "silence"
    """When the sound is shorter. silence: the video goes on, mouth closed; stop: it ends with the sound."""
    sharpen: float = Field(default=0.0, ge=0, le=2)
    """Unsharp mask on the new mouth; 0: none."""
    lossless: bool = False
    """Pictures are stored without loss, so that all that was not drawn is equal to the bit."""
    overwrite: bool = False
    """Replace an output that exists."""


class PassReason(StrEnum):
    """Why frames passed unchanged."""

    NO_FACE = "no_face"
    NOT_CHOSEN = "not_chosen"
    FACE_CUT_OFF = "face_cut_off"
    SIDE_FACE = "side_face"
    MOUTH_COVERED = "mouth_covered"
    TOO_SHORT = "too_short"
    FACE_TOO_SMALL = "face_too_small"


PASSED_WORDS = {
    PassReason.NO_FACE: "no face",
    PassReason.NOT_CHOSEN: "another face than the chosen one",
    PassReason.FACE_CUT_OFF: "the picture's edge cuts the face off",
    PassReason.SIDE_FACE: "the face is turned to the side",
    PassReason.MOUTH_COVERED: "something covers the mouth",
    PassReason.TOO_SHORT: "the face is usable for too short a time",
    PassReason.FACE_TOO_SMALL: "the face is too small",
}


@dataclass(frozen=True)
class PassedSpan:
    """Frames of the output that are those of the video."""

    start_s: float
    end_s: float
    reason: PassReason


@dataclass(frozen=True)
class InferResult:
    """What was made."""

    out: str
    num_frames: int
    duration_s: float
    num_drawn: int
    """Frames with a new mouth."""
    passed: list[PassedSpan] = field(default_factory=list)
    model: str = ""
    model_sha256: str = ""
    cpu_s: dict[str, float] = field(default_factory=dict)
    """CPU seconds by part of the work."""
    wall_s: float = 0.0
    notes: list[str] = field(default_factory=list)
    """What else a person should know."""
    report: str = ""
    """Where all this is written down, as JSON."""


class InferError(Exception):
    """The request cannot be met; the message says why and what to do."""
