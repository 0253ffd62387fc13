"""Plans the units that `lipforge features` still has to compute, and computes one."""

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
from lipforge.datasets_manifest.storage.files import is_remote
from lipforge.datasets_manifest.storage.ranges import RangeReader, Span
from lipforge.datasets_manifest.storage.store import CANNOT_WRITE, Store
from lipforge.datasets_manifest.storage.trouble import UnreadableError
from lipforge.model.audio.mel import MEL_RECIPE, mel_spectrogram
from lipforge.model.audio.whisper import WhisperFeatures
from lipforge.model.clock import FPS
from lipforge.model.denoiser.mask import hide_mouth, mouth_mask, to_pixels
from lipforge.model.denoiser.vae import PIXELS_PER_LATENT, FrozenVae
from lipforge.model.threads import one_thread
from lipforge.train.features.index import FeatureError
from lipforge.train.features.write import ClipFeatures, write_shard
from lipforge.train.stream.decode import DamagedSampleError, decode_audio, decode_windows
from lipforge.train.stream.order import refuse_other_templates

UNIT_FRAMES = 4096
"""Frames in a unit, about 164 s of video."""
_VAE_BATCH_FRAMES = 8


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
    columns = ("key", "kind", "num_frames", "config_hash")
    done = {(key, kind): about for key, kind, *about in zip(*(stored[c].to_pylist() for c in columns), strict=True)}
    groups: dict[tuple[str, str, int, tuple[str, ...]], list[StoredClip]] = {}
    frames_before: Counter[tuple[str, str]] = Counter()
    for clip in _each_once(clips):
        place = (clip.dataset, clip.shard)
        group = frames_before[place] // UNIT_FRAMES
        frames_before[place] += clip.num_frames
        missing = tuple(kind for kind in kinds if (clip.key, kind) not in done)
        for kind in set(kinds) - set(missing):
            if done[clip.key, kind] != [clip.num_frames, clip.config_hash]:
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


@dataclass(frozen=True)
class ModelFiles:
    """The model files of the kinds to compute."""

    whisper: tuple[str, bytes] | None = None
    """(name, content)"""
    mel: bool = False
    vae: tuple[str, bytes, bytes] | None = None
    """(name, weights, config)"""
    shrink_to_px: int | None = None
    """Side of the frames that the VAE sees; None: as they are stored."""
    bf16: bool = False
    """The VAE computes in bfloat16, twice as fast on a CPU that has it. Latents of TAESD then differ by 0.7 %
    of their deviation, and decoded pixels by 0.4 of 255 levels, where the autoencoder itself is off by 7.6."""

    def by_kind(self) -> dict[str, str]:
        """The model that makes each kind, as the index names it."""
        found = {}
        if self.whisper is not None:
            found["whisper"] = hashlib.sha256(self.whisper[1]).hexdigest()
        if self.mel:
            found["mel"] = MEL_RECIPE
        if self.vae is not None:
            sha256 = hashlib.sha256(self.vae[1]).hexdigest()
            found["vae_target"] = found["vae_masked"] = vae_model(sha256, self.shrink_to_px)
        return found


def vae_model(sha256: str, shrink_to_px: int | None) -> str:
    """How the index names what made moments: the VAE's weights, and the side of the frames if they were shrunk."""
    return sha256 if shrink_to_px is None else f"{sha256}@{shrink_to_px}px"


@dataclass
class FeatureReport:
    """The outcome of one or more units."""

    num_clips: int = 0
    video_s: float = 0.0
    """Length of the clips that got features."""
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Time by step; a step that computes a kind of feature has its name."""
    size_bytes: Counter[str] = field(default_factory=Counter)
    """By kind."""
    damaged: list[DamagedSampleError] = field(default_factory=list)
    fatal: str = ""
    """Why the run must stop, through no fault of a clip; empty when all went well."""

    def add(self, other: "FeatureReport") -> None:
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
    """Makes the feature shard of a unit. Sent to workers with the model files in it."""

    store: Store
    files: ModelFiles

    def __getstate__(self) -> dict[str, object]:
        return {"store": self.store, "files": self.files}  # without networks: each process loads its own

    def load_models(self) -> None:
        """Raises ModelFileError when a file is not the model it should be."""
        if self.files.whisper is not None:
            self._whisper  # noqa: B018
        if self.files.vae is not None:
            self._vae  # noqa: B018

    def __call__(self, unit: FeatureUnit) -> FeatureReport:
        report = FeatureReport()
        with report.timed("loading models"):
            self.load_models()
        start = time.perf_counter() - sum(report.seconds.values())
        models = self.files.by_kind()
        try:
            index = write_shard(self.store, unit.name(models), self._clips(unit, report), models)
        except (FileNotFoundError, UnreadableError) as error:
            return FeatureReport(fatal=str(error))
        except OSError as error:
            if error.errno not in CANNOT_WRITE:
                raise
            return FeatureReport(fatal=f"cannot write to {self.store.root}: {os.strerror(error.errno)}")
        for kind, size in zip(index["kind"].to_pylist(), index["size"].to_pylist(), strict=True):
            report.size_bytes[kind] += size
        report.seconds["writing"] += time.perf_counter() - start - sum(report.seconds.values())
        return report

    def _clips(self, unit: FeatureUnit, report: FeatureReport) -> Iterator[ClipFeatures]:
        ranges = RangeReader()
        for clip in unit.clips:
            try:
                with report.timed("reading"):
                    members = _read(ranges, clip)
                arrays = self._compute(members, clip, unit.kinds, report)
            except ValueError as error:
                report.damaged.append(DamagedSampleError(clip.key, f"{clip.dataset}/{clip.shard}", str(error)))
                continue
            report.num_clips += 1
            report.video_s += clip.num_frames / FPS
            yield ClipFeatures(clip.key, clip.num_frames, clip.config_hash, arrays)

    def _compute(
        self, members: dict[str, bytes], clip: StoredClip, kinds: Sequence[str], report: FeatureReport
    ) -> dict[str, np.ndarray]:
        """Features by kind: float16, time first. Raises ValueError when the clip is damaged."""
        arrays: dict[str, np.ndarray] = {}
        if "whisper" in kinds or "mel" in kinds:
            with report.timed("decoding audio"):
                audio = decode_audio(members["flac"], clip.num_frames)
            if "whisper" in kinds:
                with report.timed("whisper"):
                    arrays["whisper"] = self._whisper.encode(audio)
            if "mel" in kinds:
                with report.timed("mel"):
                    arrays["mel"] = mel_spectrogram(audio).T
        if "vae_target" in kinds or "vae_masked" in kinds:
            with report.timed("decoding video"):
                (frames,) = decode_windows(members["mp4"], clip.num_frames, clip.crop_px, [0], clip.num_frames)
            for kind in ("vae_target", "vae_masked"):
                if kind in kinds:
                    with report.timed(kind):
                        side = self.files.shrink_to_px or clip.crop_px
                        arrays[kind] = vae_moments(self._vae, frames, kind == "vae_masked", side, self.files.bf16)
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
        # spread the workers of a machine over its accelerators
        return FrozenVae(weights, config, name, f"cuda:{os.getpid() % num_devices}" if num_devices else "cpu")


def vae_moments(
    vae: FrozenVae, frames: np.ndarray, mouth_hidden: bool, resolution: int, bf16: bool = False
) -> np.ndarray:
    """Posterior moments of frames, not scaled: float32 [T, 8, R / 8, R / 8], mean before log-variance.

    frames: uint8 [T, H, H, 3] RGB, shrunk to R = `resolution`. Runs on one CPU thread, or on the accelerator that holds
    the VAE.
    """
    mask = mouth_mask(resolution)
    moments = []
    with one_thread():
        for first in range(0, len(frames), _VAE_BATCH_FRAMES):
            pixels = to_pixels(torch.from_numpy(frames[first : first + _VAE_BATCH_FRAMES]), resolution)
            seen = hide_mouth(pixels, mask) if mouth_hidden else pixels
            with torch.autocast(torch.device(vae.device).type, torch.bfloat16, enabled=bf16):
                moments.append(vae.moments(seen.contiguous(memory_format=torch.channels_last)).float().cpu())
    return torch.cat(moments).numpy()


def _read(ranges: RangeReader, clip: StoredClip) -> dict[str, bytes]:
    span = Span(clip.dataset, clip.shard, clip.offset, clip.offset + clip.size)
    try:
        return read_clip(ranges.read([span])[span], clip.size, clip.key)
    except ValueError:
        if not is_remote(clip.dataset):
            raise
        # a remote read that fails its check is retried once
        return read_clip(ranges.read([span])[span], clip.size, clip.key)


def _half(array: np.ndarray, kind: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    if not np.isfinite(half).all():
        raise ValueError(f"its {kind} features exceed the range of float16")
    return half
