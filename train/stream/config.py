"""Settings of a stream: which samples, and which fields each has."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from lipforge.pipeline.config_loader import Config
from lipforge.train.features.index import MEAN_ONLY

FeatureKind = Literal["whisper", "mel", "vae_target", "vae_masked"]
DecodedField = Literal["target", "reference", "mel", "negative_mel", "audio"]

_FIELDS: dict[str, tuple[DecodedField, ...]] = {
    "diffusion": ("target", "reference", "mel", "audio"),
    "syncnet": ("target", "mel", "negative_mel"),
}
_REPLACED_BY: dict[FeatureKind, tuple[DecodedField, ...]] = {
    "whisper": ("audio",),
    "mel": ("mel", "negative_mel"),
    "vae_target": ("target", "reference"),
    "vae_masked": (),
}
_VAE_KINDS: tuple[FeatureKind, ...] = ("vae_target", "vae_masked")


class FeaturesConfig(Config):
    """Cached features to use instead of media."""

    folder: str
    """Output of `lipforge features`: a folder or an fsspec URL."""
    models: dict[FeatureKind, str] = Field(min_length=1)
    """Kinds to use, and the model that must have made each: sha256 of its weights; for mel
    `lipforge.model.audio.mel.MEL_RECIPE`.
    """

    @field_validator("models")
    @classmethod
    def _both_vae_kinds(cls, models: dict[FeatureKind, str]) -> dict[FeatureKind, str]:
        vae_models = {models.get(kind, "").removesuffix(MEAN_ONLY) for kind in _VAE_KINDS}
        if len(vae_models) > 1:
            raise ValueError("vae_target and vae_masked go together, made by one model")
        return models


class StreamConfig(Config):
    """Which samples, and how they are read."""

    selection: str
    """Parquet file that `lipforge select` wrote: a path or an fsspec URL."""
    split: Literal["train", "val"] | None = "train"
    """Rows of the selection to use; None: all."""
    task: Literal["diffusion", "syncnet"] = "diffusion"
    """diffusion: target and reference; syncnet: target, its audio and audio of another moment."""
    num_frames: int = Field(default=16, ge=1)
    """Frames of a window at 25 fps (LatentSync: 16; 5 for a SyncNet of 5 frames)."""
    min_negative_distance_frames: int = Field(default=3, ge=1)
    """Least distance of a SyncNet negative from its positive, in frames at 25 fps."""
    features: FeaturesConfig | None = None
    """Stored features that replace media; None: everything is decoded."""
    decode_target: bool = False
    """Decode target frames even when VAE features replace them: for pixel losses, as in stage 2."""
    batch_size: int = Field(default=1, ge=1)
    """Samples of one rank in one batch."""
    num_workers: int = Field(default=2, ge=0)
    """Processes of one rank that read ahead; 0: read in the trainer's process."""
    seed: int = 0
    on_damage: Literal["raise", "skip"] = "raise"
    """skip: report a damaged sample and replace it by the next one in order, marked as not valid."""
    cache_dir: Path | None = None
    """Folder on a local disk for samples of remote datasets; None: they are read again in each epoch."""
    cache_gb: float = Field(default=20.0, gt=0)
    """Size limit of the cache folder, in units of 10^9 bytes."""

    @model_validator(mode="after")
    def _features_fit_the_task(self) -> "StreamConfig":
        if self.task == "syncnet" and self.feature_kinds - {"mel"}:
            raise ValueError("task syncnet takes frames and mel: of cached features it can use mel alone")
        return self

    @property
    def feature_kinds(self) -> set[FeatureKind]:
        return set() if self.features is None else set(self.features.models)

    @property
    def decoded_fields(self) -> set[DecodedField]:
        """Fields of a sample that are decoded from media; without any, the dataset is not read at all."""
        replaced = {name for kind in self.feature_kinds for name in _REPLACED_BY[kind]}
        found = set(_FIELDS[self.task]) - replaced
        if self.decode_target:
            found.add("target")
        return found

    @property
    def min_distance_frames(self) -> int:
        """Between the two windows of a sample."""
        return self.num_frames if self.task == "diffusion" else self.min_negative_distance_frames
