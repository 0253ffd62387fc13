"""Which samples a stream gives, and of what each consists."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from lipforge.pipeline.config_loader import Config

FeatureKind = Literal["whisper", "mel", "vae_target", "vae_masked"]
DecodedPart = Literal["target", "reference", "mel", "negative_mel", "audio"]

_PARTS: dict[str, tuple[DecodedPart, ...]] = {
    "diffusion": ("target", "reference", "mel", "audio"),
    "syncnet": ("target", "mel", "negative_mel"),
}
_REPLACED_BY: dict[FeatureKind, tuple[DecodedPart, ...]] = {
    "whisper": ("audio",),
    "mel": ("mel", "negative_mel"),
    "vae_target": ("target", "reference"),
    "vae_masked": (),
}


class FeaturesConfig(Config):
    """Cached features that take the place of media."""

    folder: str
    """What `lipforge features` wrote: a folder or an fsspec URL."""
    models: dict[FeatureKind, str] = Field(min_length=1)
    """Features to use, and the model that must have made them: sha256 of its weights; for mel `lipforge.model.audio.mel.MEL_RECIPE`."""

    @field_validator("models")
    @classmethod
    def _both_of_the_vae(cls, models: dict[FeatureKind, str]) -> dict[FeatureKind, str]:
        vae_models = {models.get("vae_target"), models.get("vae_masked")}
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
    """diffusion: target and reference; syncnet: target, its sound and another moment's sound."""
    num_frames: int = Field(default=16, ge=1)
    """Frames of a window at 25 fps (LatentSync: 16; 5 for a SyncNet of 5 frames)."""
    min_negative_distance_frames: int = Field(default=3, ge=1)
    """Least distance of a SyncNet negative from its positive, in frames at 25 fps."""
    features: FeaturesConfig | None = None
    """What is not computed from media at each step, because it is stored; None: everything is decoded."""
    decode_target: bool = False
    """Frames of the target also where VAE features make them needless: for losses on pixels, as those of stage 2."""
    batch_size: int = Field(default=1, ge=1)
    """Samples of one rank in one step."""
    num_workers: int = Field(default=2, ge=0)
    """Processes of one rank that read ahead; 0: read in the trainer's own."""
    seed: int = 0
    on_damage: Literal["raise", "skip"] = "raise"
    """skip: report a damaged sample and put the next one of the order in its place, marked as not valid."""
    cache_dir: Path | None = None
    """Folder on a local disk for samples of datasets behind a URL; None: they are read again in each epoch."""
    cache_gb: float = Field(default=20.0, gt=0)
    """Most that the cache folder may hold, in units of 10^9 bytes."""

    @model_validator(mode="after")
    def _features_of_the_task(self) -> "StreamConfig":
        if self.task == "syncnet" and self.feature_kinds - {"mel"}:
            raise ValueError("task syncnet takes pictures and mel: of cached features it can use mel alone")
        return self

    @property
    def feature_kinds(self) -> set[FeatureKind]:
        return set() if self.features is None else set(self.features.models)

    @property
    def decoded_parts(self) -> set[DecodedPart]:
        """Parts of a sample that are made of its media; without any, the dataset is not read at all."""
        replaced = {part for kind in self.feature_kinds for part in _REPLACED_BY[kind]}
        found = set(_PARTS[self.task]) - replaced
        if self.decode_target:
            found.add("target")
        return found

    @property
    def min_distance_frames(self) -> int:
        """Between the two windows of a sample."""
        return self.num_frames if self.task == "diffusion" else self.min_negative_distance_frames
