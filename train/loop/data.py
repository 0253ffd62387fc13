"""The streams of a run: what is cached and what is decoded, which split, which resolution."""

from typing import Any

import pyarrow as pa

from lipforge.datasets_manifest.selection import read_selection
from lipforge.datasets_manifest.storage.store import Store
from lipforge.model.audio.mel import MEL_RECIPE
from lipforge.train.config import TrainerConfig
from lipforge.train.features.extract import vae_model
from lipforge.train.features.index import INDEX, MEAN_ONLY, models_of, read_index
from lipforge.train.loop.together import Together
from lipforge.train.stream.config import StreamConfig
from lipforge.train.stream.order import refuse_other_templates
from lipforge.train.stream.stream import SampleStream

_VAE_KINDS = {"vae_target", "vae_masked"}


class Data:
    """Streams of the selection for one rank. Made before networks are moved to a GPU: bad input is refused early."""

    def __init__(
        self,
        config: TrainerConfig,
        together: Together,
        models: dict[str, str],
        vae_sha256: str | None = None,
        **settings: Any,
    ) -> None:
        """models: the model that must have made each kind of cached feature that the trainer can use, by kind;
        vae_sha256: of the VAE, if it can use moments; settings: of StreamConfig, what the trainer needs besides.

        Raises ValueError, FeatureError, FileNotFoundError, UnreadableError when the selection or features cannot be
        used.
        """
        self._config = config
        self._rank, self._num_ranks = together.accelerator.process_index, together.accelerator.num_processes
        selection = read_selection(config.selection)
        refuse_other_templates(selection, "the mask of the trainers")
        self.resolution, shrinks = _resolution(config, selection)
        wanted = {**models, "mel": MEL_RECIPE}
        if vae_sha256 is not None:
            wanted |= dict.fromkeys(_VAE_KINDS, vae_model(vae_sha256, self.resolution if shrinks else None))
        cached = _cached(config.features, wanted)
        self.cached_kinds = set(cached)
        self._settings = {
            "selection": config.selection,
            "num_frames": config.num_frames,
            "features": {"folder": config.features, "models": cached} if cached else None,
            "num_workers": config.num_workers,
            "seed": config.seed,
            "on_damage": config.on_damage,
            "cache_dir": config.cache_dir,
            "cache_gb": config.cache_gb,
            **settings,
        }
        self.train = self._stream("train", config.batch_size, None)
        self._num_val_clips = selection["split"].to_pylist().count("val")
        if self._num_val_clips:
            self.validation()  # what its clips lack is said now, and not after the first thousand steps
        self.has_validation = self._num_val_clips > 0

    def validation(self) -> SampleStream:
        """At least `num_validation_samples` of the val split, the same each time; few clips show several windows."""
        return self._stream("val", 1, -(-self._config.num_validation_samples // self._num_val_clips))

    def _stream(self, split: str, batch_size: int, num_epochs: int | None) -> SampleStream:
        config = StreamConfig.model_validate({**self._settings, "split": split, "batch_size": batch_size})
        return SampleStream(config, self._rank, self._num_ranks, num_epochs)


def _resolution(config: TrainerConfig, selection: pa.Table) -> tuple[int, bool]:
    """(side of the frames that networks see, whether stored ones are larger)."""
    sides = selection["crop_px"].unique().to_pylist()
    stored = sides[0] if len(sides) == 1 else config.resolution or 0  # the stream refuses several, and none
    wanted = config.resolution or stored
    if wanted > stored or (wanted < stored and not config.resize):
        shrink = ", let resize=true shrink them" if wanted < stored else ""
        raise ValueError(
            f"{config.selection} has frames of {stored} px, but resolution is {wanted}: set resolution={stored}"
            f"{shrink}, or select from a dataset of that size"
        )
    return wanted, wanted < stored


def _cached(folder: str | None, models: dict[str, str]) -> dict[str, str]:
    """The kinds that the folder has, and the model that must have made each. Of a VAE, the mean alone will do."""
    if folder is None:
        return {}
    try:
        there = models_of(read_index(Store(folder), INDEX))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"no {INDEX} in {folder}: `lipforge features SELECTION --out {folder}` makes it"
        ) from error
    found = {
        kind: there[kind] if there[kind] == model + MEAN_ONLY else model
        for kind, model in models.items()
        if kind in there
    }
    if not found.keys() >= _VAE_KINDS:
        found = {kind: model for kind, model in found.items() if kind not in _VAE_KINDS}
    if not found:
        raise ValueError(
            f"{folder} has features {', '.join(sorted(there))}, none of which this run can use: leave `features` "
            f"unset, or make {', '.join(sorted(models))}"
        )
    return found
