"""The work of `lipforge features`: what is still to compute, in which units, and how one is computed."""

import hashlib
import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch

from lipforge.datasets_manifest.sample import read_clip
from lipforge.datasets_manifest.storage.files import UnreadableError, is_remote
from lipforge.datasets_manifest.storage.ranges import RangeReader, Span
from lipforge.datasets_manifest.storage.store import CANNOT_WRITE, Store
from lipforge.model.audio.mel import MEL_RECIPE, mel_spectrogram
from lipforge.model.audio.whisper import WhisperFeatures
from lipforge.model.clock import FPS
from lipforge.model.denoiser.mask import hide_mouth, mouth_mask, to_pixels
from lipforge.model.denoiser.vae import PIXELS_PER_LATENT, FrozenVae
from lipforge.model.threads import one_thread
from lipforge.train.features.store import ClipFeatures, MissingFeaturesError, write_shard
from lipforge.train.stream.decode import DamagedSampleError, decode_audio, decode_windows

UNIT_FRAMES = 4096
"""Frames of the clips of a unit, about: 164 s of video."""
_VAE_BATCH_FRAMES = 8


class Clip(NamedTuple):
    """Where the stored bytes of a clip lie, and which clip it is."""

    dataset: str
    shard: str
    offset: int
    size: int
    key: str
    num_frames: int
    crop_px: int
    config_hash: str | None


@dataclass(frozen=True)
class Unit:
    """Clips of one shard of a dataset that lack the same features."""

    kinds: tuple[str, ...]
    clips: tuple[Clip, ...]

    def name(self, models: Mapping[str, str]) -> str:
        """Of its feature shard. Says what is computed and not where the clips lie: the same work has the same name everywhere."""
        clips = [[clip.key, clip.num_frames, clip.config_hash] for clip in self.clips]
        plain = json.dumps([[[kind, models[kind]] for kind in self.kinds], clips])
        return hashlib.sha256(plain.encode()).hexdigest()[:24]


def plan(clips: pa.Table, stored: pa.Table, kinds: Sequence[str]) -> list[Unit]:
    """The units that are still to do. clips: rows of a selection; stored: the index of finished feature shards.

    Where a unit ends does not depend on what is done already, so a run that was interrupted goes on with the same units.
    Raises ValueError for pictures that the VAE cannot take, MissingFeaturesError when the features in the folder are
    of a clip that was cut otherwise.
    """
    odd = [side for side in clips["crop_px"].unique().to_pylist() if side % PIXELS_PER_LATENT]
    if odd and "vae_target" in kinds:
        raise ValueError(f"pictures of {odd} pixels: the VAE takes multiples of {PIXELS_PER_LATENT}")
    columns = ("key", "kind", "num_frames", "config_hash")
    done = {(key, kind): about for key, kind, *about in zip(*(stored[c].to_pylist() for c in columns), strict=True)}
    groups: dict[tuple[str, str, int, tuple[str, ...]], list[Clip]] = {}
    frames_before: Counter[tuple[str, str]] = Counter()
    for clip in _each_once(clips):
        place = (clip.dataset, clip.shard)
        group = frames_before[place] // UNIT_FRAMES
        frames_before[place] += clip.num_frames
        missing = tuple(kind for kind in kinds if (clip.key, kind) not in done)
        for kind in set(kinds) - set(missing):
            if done[clip.key, kind] != [clip.num_frames, clip.config_hash]:
                raise MissingFeaturesError(
                    f"the folder holds {kind} features of clip {clip.key} as it was cut with other settings: take another folder"
                )
        if missing:
            groups.setdefault((*place, group, missing), []).append(clip)
    return [Unit(kinds, tuple(members)) for (*_, kinds), members in groups.items()]


def _each_once(clips: pa.Table) -> Iterator[Clip]:
    """In the order of storage. Datasets may share a clip."""
    columns = ("dataset", "shard", "sample_offset", "sample_size", "key", "num_frames", "crop_px", "config_hash")
    ordered = clips.select(columns).sort_by([(name, "ascending") for name in columns[:3]])
    seen = set()
    for clip in map(Clip._make, zip(*(ordered[name].to_pylist() for name in columns), strict=True)):
        if clip.key not in seen:
            seen.add(clip.key)
            yield clip


@dataclass(frozen=True)
class ModelFiles:
    """The files that make features, of those kinds that are asked for."""

    whisper: tuple[str, bytes] | None = None
    """(name, content)"""
    mel: bool = False
    vae: tuple[str, bytes, bytes] | None = None
    """(name, weights, config)"""

    def by_kind(self) -> dict[str, str]:
        """Which model makes each kind, as the index names it."""
        found = {}
        if self.whisper is not None:
            found["whisper"] = hashlib.sha256(self.whisper[1]).hexdigest()
        if self.mel:
            found["mel"] = MEL_RECIPE
        if self.vae is not None:
            found["vae_target"] = found["vae_masked"] = hashlib.sha256(self.vae[1]).hexdigest()
        return found


@dataclass
class UnitReport:
    """What became of one unit or several."""

    num_clips: int = 0
    video_s: float = 0.0
    """Length of the clips that have features now."""
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Time by step; the steps that compute a feature have its name."""
    size_bytes: Counter[str] = field(default_factory=Counter)
    """By kind."""
    damaged: list[DamagedSampleError] = field(default_factory=list)
    fatal: str = ""
    """Why the run cannot go on, though no clip is to blame; empty when all went well."""

    def add(self, other: "UnitReport") -> None:
        self.num_clips += other.num_clips
        self.video_s += other.video_s
        for step, seconds in other.seconds.items():
            self.seconds[step] += seconds
        self.size_bytes.update(other.size_bytes)
        self.damaged += other.damaged

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[step] += time.perf_counter() - start


@dataclass(frozen=True)
class ComputeUnit:
    """Makes the feature shard of a unit. Travels to workers with the files of the models in it."""

    store: Store
    files: ModelFiles

    def __getstate__(self) -> dict[str, object]:
        return {"store": self.store, "files": self.files}  # not the networks: each process loads its own

    def load_models(self) -> None:
        """Raises ModelFileError when a file is no such model."""
        if self.files.whisper is not None:
            self._whisper  # noqa: B018
        if self.files.vae is not None:
            self._vae  # noqa: B018

    def __call__(self, unit: Unit) -> UnitReport:
        outcome = UnitReport()
        with outcome.timed("loading models"):
            self.load_models()
        start = time.perf_counter() - sum(outcome.seconds.values())
        models = self.files.by_kind()
        try:
            index = write_shard(self.store, unit.name(models), self._clips(unit, outcome), models)
        except (FileNotFoundError, UnreadableError) as error:
            return UnitReport(fatal=str(error))
        except OSError as error:
            if error.errno not in CANNOT_WRITE:
                raise
            return UnitReport(fatal=f"cannot write to {self.store.root}: {os.strerror(error.errno)}")
        for kind, size in zip(index["kind"].to_pylist(), index["size"].to_pylist(), strict=True):
            outcome.size_bytes[kind] += size
        outcome.seconds["writing"] += time.perf_counter() - start - sum(outcome.seconds.values())
        return outcome

    def _clips(self, unit: Unit, outcome: UnitReport) -> Iterator[ClipFeatures]:
        ranges = RangeReader()
        for clip in unit.clips:
            try:
                with outcome.timed("reading"):
                    members = _read(ranges, clip)
                arrays = self._compute(members, clip, unit.kinds, outcome)
            except ValueError as error:
                outcome.damaged.append(DamagedSampleError(clip.key, f"{clip.dataset}/{clip.shard}", str(error)))
                continue
            outcome.num_clips += 1
            outcome.video_s += clip.num_frames / FPS
            yield ClipFeatures(clip.key, clip.num_frames, clip.config_hash, arrays)

    def _compute(
        self, members: dict[str, bytes], clip: Clip, kinds: Sequence[str], outcome: UnitReport
    ) -> dict[str, np.ndarray]:
        """Features by kind: float16, time first. Raises ValueError when the clip is damaged."""
        arrays: dict[str, np.ndarray] = {}
        if "whisper" in kinds or "mel" in kinds:
            with outcome.timed("decoding sound"):
                audio = decode_audio(members["flac"], clip.num_frames)
            if "whisper" in kinds:
                with outcome.timed("whisper"):
                    arrays["whisper"] = self._whisper.encode(audio)
            if "mel" in kinds:
                with outcome.timed("mel"):
                    arrays["mel"] = mel_spectrogram(audio).T
        if "vae_target" in kinds or "vae_masked" in kinds:
            with outcome.timed("decoding video"):
                (frames,) = decode_windows(members["mp4"], clip.num_frames, clip.crop_px, [0], clip.num_frames)
            for kind in ("vae_target", "vae_masked"):
                if kind in kinds:
                    with outcome.timed(kind):
                        arrays[kind] = vae_moments(self._vae, frames, mouth_hidden=kind == "vae_masked")
        return {kind: _half(array, kind) for kind, array in arrays.items()}

    @cached_property
    def _whisper(self) -> WhisperFeatures:
        assert self.files.whisper is not None
        name, content = self.files.whisper
        return WhisperFeatures(content, name)

    @cached_property
    def _vae(self) -> FrozenVae:
        assert self.files.vae is not None
        name, weights, config = self.files.vae
        num_devices = torch.cuda.device_count()
        # workers of a machine spread over its accelerators
        return FrozenVae(weights, config, name, f"cuda:{os.getpid() % num_devices}" if num_devices else "cpu")


def vae_moments(vae: FrozenVae, frames: np.ndarray, mouth_hidden: bool) -> np.ndarray:
    """Posterior moments of frames, or of what is left of them: float32 [T, 8, R / 8, R / 8], mean before log-variance, not scaled.

    frames: uint8 [T, R, R, 3] RGB. On one CPU thread, or on the accelerator that the VAE is on.
    """
    resolution = frames.shape[1]
    mask = mouth_mask(resolution)
    moments = []
    with one_thread():
        for first in range(0, len(frames), _VAE_BATCH_FRAMES):
            pixels = to_pixels(torch.from_numpy(frames[first : first + _VAE_BATCH_FRAMES]), resolution)
            moments.append(vae.moments(hide_mouth(pixels, mask) if mouth_hidden else pixels).cpu())
    return torch.cat(moments).numpy()


def _read(ranges: RangeReader, clip: Clip) -> dict[str, bytes]:
    span = Span(clip.dataset, clip.shard, clip.offset, clip.offset + clip.size)
    try:
        return read_clip(ranges.read([span])[span], clip.size, clip.key)
    except ValueError:
        if not is_remote(clip.dataset):
            raise
        return read_clip(ranges.read([span])[span], clip.size, clip.key)  # servers err, too


def _half(array: np.ndarray, kind: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    if not np.isfinite(half).all():
        raise ValueError(f"its {kind} features are beyond what float16 holds")
    return half
