"""The units of work of `lipforge features`, and which of them are still to do."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from lipforge.model.denoiser.vae import PIXELS_PER_LATENT
from lipforge.train.features.index import FeatureError
from lipforge.train.features.places import Places
from lipforge.train.stream.order import refuse_other_templates

UNIT_FRAMES = 4096
"""Frames in a unit, about 164 s of video."""


class StoredClip(NamedTuple):
    """A clip of the selection, and where its bytes lie."""

    dataset: str
    shard: str
    offset: int
    size: int
    key: str
    num_frames: int
    crop_px: int
    config_hash: str | None


@dataclass(frozen=True)
class FeatureUnit:
    """Clips of one dataset shard that lack the same kinds of features."""

    kinds: tuple[str, ...]
    clips: tuple[StoredClip, ...]

    def name(self, models: Mapping[str, str]) -> str:
        """Name of its feature shard: a hash of the work, not of where the clips lie, so it is the same everywhere."""
        clips = [[clip.key, clip.num_frames, clip.config_hash] for clip in self.clips]
        plain = json.dumps([[[kind, models[kind]] for kind in self.kinds], clips])
        return hashlib.sha256(plain.encode()).hexdigest()[:24]


def plan(clips: pa.Table, stored: pa.Table, kinds: Sequence[str]) -> list[FeatureUnit]:
    """The units that are still to do. clips: rows of a selection; stored: the index of finished feature shards.

    Unit boundaries do not depend on what is done already, so an interrupted run resumes with the same units. Raises
    ValueError for frames of a size that the VAE cannot take, FeatureError when the folder holds features of a clip that
    was cut with other settings.
    """
    odd = [side for side in clips["crop_px"].unique().to_pylist() if side % PIXELS_PER_LATENT]
    if odd and "vae_target" in kinds:
        raise ValueError(f"frames of {odd} pixels: the VAE takes multiples of {PIXELS_PER_LATENT}")
    if "vae_masked" in kinds:
        refuse_other_templates(clips, "the mask of the masked latents")
    done = {kind: Places(stored, kind) for kind in kinds}
    groups: dict[tuple[str, str, int, tuple[str, ...]], list[StoredClip]] = {}
    frames_before: Counter[tuple[str, str]] = Counter()
    once = list(_each_once(clips))
    rows = {kind: places.find([clip.key for clip in once]) for kind, places in done.items()}
    for number, clip in enumerate(once):
        place = (clip.dataset, clip.shard)
        group = frames_before[place] // UNIT_FRAMES
        frames_before[place] += clip.num_frames
        missing = tuple(kind for kind in kinds if rows[kind][number] < 0)
        for kind in set(kinds) - set(missing):
            if not done[kind].is_of(rows[kind][number], clip.num_frames, clip.config_hash):
                raise FeatureError(
                    f"the folder holds {kind} features of clip {clip.key} cut with other settings: use another folder"
                )
        if missing:
            groups.setdefault((*place, group, missing), []).append(clip)
    return [FeatureUnit(kinds, tuple(members)) for (*_, kinds), members in groups.items()]


def _each_once(clips: pa.Table) -> Iterator[StoredClip]:
    """In storage order. Datasets may share a clip."""
    columns = ("dataset", "shard", "sample_offset", "sample_size", "key", "num_frames", "crop_px", "config_hash")
    ordered = clips.select(columns).sort_by([(name, "ascending") for name in columns[:3]])
    seen = set()
    for clip in map(StoredClip._make, zip(*(ordered[name].to_pylist() for name in columns), strict=True)):
        if clip.key not in seen:
            seen.add(clip.key)
            yield clip
