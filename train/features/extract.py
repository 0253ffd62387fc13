"""Computes the features of a unit (units.py): what a worker of `lipforge features` does.

Pictures and sound of the clips of a unit go through the networks in batches that cross the borders of clips
(batches.py). A worker keeps its networks from unit to unit.
"""

import hashlib
import os
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lipforge.datasets_manifest.sample import read_clip
from lipforge.datasets_manifest.storage.files import is_remote
from lipforge.datasets_manifest.storage.ranges import RangeReader, Span
from lipforge.datasets_manifest.storage.store import Store
from lipforge.datasets_manifest.storage.trouble import CANNOT_WRITE, UnreadableError
from lipforge.model.audio.mel import MEL_RECIPE, mel_spectrogram
from lipforge.model.audio.whisper import WhisperFeatures
from lipforge.model.clock import FPS
from lipforge.model.denoiser.mask import hide_mouth, mouth_mask, to_pixels
from lipforge.model.denoiser.vae import LATENT_CHANNELS, FrozenVae
from lipforge.model.threads import one_thread
from lipforge.train.features.batches import ComputedRows, RowBatches
from lipforge.train.features.index import MEAN_ONLY, ROWS_OF
from lipforge.train.features.units import FeatureUnit, StoredClip
from lipforge.train.features.write import ClipFeatures, write_shard
from lipforge.train.stream.decode import DamagedSampleError, decode_audio, decode_windows

BATCH_FRAMES = 8
LogVariance = Literal["both", "target", "none"]


@dataclass(frozen=True)
class ModelFiles:
    """The model files of the kinds to compute."""

    whisper: tuple[str, bytes] | None = field(default=None, repr=False)
    """(name, content)"""
    mel: bool = False
    vae: tuple[str, bytes, bytes] | None = field(default=None, repr=False)
    """(name, weights, config)"""
    shrink_to_px: int | None = None
    """Side of the frames that the VAE sees; None: as they are stored."""
    bf16: bool = False
    """The VAE computes in bfloat16, twice as fast on a CPU that has it. Latents of TAESD then differ by 0.7 %
    of their deviation, and decoded pixels by 0.4 of 255 levels, where the autoencoder itself is off by 7.6."""
    log_variance: LogVariance = "both"
    """Of which pictures the VAE's log-variance is kept: `target` for those with a mouth alone."""

    @cached_property
    def sha256(self) -> dict[str, str]:
        """Of the weights of `whisper` and `vae`. Workers get them with the files, and hash nothing."""
        weights = {"whisper": self.whisper, "vae": self.vae}
        return {name: hashlib.sha256(file[1]).hexdigest() for name, file in weights.items() if file is not None}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "sha256": self.sha256}

    def by_kind(self) -> dict[str, str]:
        """The model that makes each kind, as the index names it."""
        found = {}
        if self.whisper is not None:
            found["whisper"] = self.sha256["whisper"]
        if self.mel:
            found["mel"] = MEL_RECIPE
        if self.vae is not None:
            for kind in ("vae_target", "vae_masked"):
                found[kind] = vae_model(self.sha256["vae"], self.shrink_to_px)
                if not self.has_log_variance(kind):
                    found[kind] += MEAN_ONLY
        return found

    def has_log_variance(self, kind: str) -> bool:
        return self.log_variance == "both" or (self.log_variance == "target" and kind == "vae_target")


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
    num_loads: int = 0
    """How often models were loaded."""
    devices: set[str] = field(default_factory=set)
    """That computed: cpu, cuda."""
    fatal: str = ""
    """Why the run must stop, through no fault of a clip; empty when all went well."""

    def add(self, other: "FeatureReport") -> None:
        self.num_clips += other.num_clips
        self.video_s += other.video_s
        for step, seconds in other.seconds.items():
            self.seconds[step] += seconds
        self.size_bytes.update(other.size_bytes)
        self.damaged += other.damaged
        self.num_loads += other.num_loads
        self.devices |= other.devices

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[step] += time.perf_counter() - start


class _Networks(NamedTuple):
    whisper: WhisperFeatures | None
    vae: FrozenVae | None


@dataclass(frozen=True)
class ComputeUnit:
    """Makes the feature shard of a unit. Sent to workers with the model files in it."""

    store: Store
    files: ModelFiles
    batch_frames: int = BATCH_FRAMES
    """Frames that the VAE, and chunks of 30 s that Whisper takes at once."""
    on_gpu: bool = False
    """Use the GPU that the worker was given. Where torch sees none, the CPU."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_networks"}  # each process loads its own

    @property
    def device(self) -> str:
        return "cuda" if self.on_gpu and torch.cuda.is_available() else "cpu"

    def load_models(self) -> None:
        """Raises ModelFileError when a file is not the model it should be."""
        self._networks  # noqa: B018

    def __call__(self, unit: FeatureUnit) -> FeatureReport:
        report = FeatureReport(num_loads=int("_networks" not in vars(self)), devices={self.device})
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
        """In the order of the unit, without the damaged ones."""
        batches = {kind: self._batches(kind, report) for kind in unit.kinds if kind != "mel"}
        computing: deque[_Computing] = deque()
        ranges = RangeReader()
        for clip in unit.clips:
            try:
                with report.timed("reading"):
                    members = _read(ranges, clip)
                rows, done = self._decoded(members, clip, unit.kinds, report)
            except ValueError as error:
                _report_damage(report, clip, error)
                continue
            computing.append(_Computing(clip, {kind: batches[kind].add(rows[kind]) for kind in rows}, done))
            while computing and computing[0].is_complete:
                yield from self._made(computing.popleft(), unit.kinds, report)
        for waiting in batches.values():
            waiting.finish()
        for clip in computing:
            yield from self._made(clip, unit.kinds, report)

    def _decoded(
        self, members: dict[str, bytes], clip: StoredClip, kinds: Sequence[str], report: FeatureReport
    ) -> tuple[dict[str, Tensor], dict[str, np.ndarray]]:
        """(what networks take, features that need none), by kind. Raises ValueError when the clip is damaged."""
        rows: dict[str, Tensor] = {}
        done: dict[str, np.ndarray] = {}
        if "whisper" in kinds or "mel" in kinds:
            with report.timed("decoding audio"):
                audio = decode_audio(members["flac"], clip.num_frames)
            if "whisper" in kinds:
                assert self._networks.whisper is not None
                with report.timed("whisper"):
                    rows["whisper"] = self._networks.whisper.chunks(audio)
            if "mel" in kinds:
                with report.timed("mel"):
                    done["mel"] = mel_spectrogram(audio).T
        if "vae_target" in kinds or "vae_masked" in kinds:
            with report.timed("decoding video"):
                (frames,) = decode_windows(members["mp4"], clip.num_frames, clip.crop_px, [0], clip.num_frames)
            rows |= {kind: torch.from_numpy(frames) for kind in ("vae_target", "vae_masked") if kind in kinds}
        return rows, done

    def _batches(self, kind: str, report: FeatureReport) -> RowBatches:
        whisper, vae = self._networks

        def compute(rows: Tensor) -> Tensor:
            with report.timed(kind):
                if kind == "whisper":
                    assert whisper is not None
                    return whisper.encode_chunks(rows).cpu()
                assert vae is not None
                side = self.files.shrink_to_px or rows.shape[1]
                moments = vae_moments(vae, rows, kind == "vae_masked", side, self.files.bf16)
                return (moments if self.files.has_log_variance(kind) else moments[:, :LATENT_CHANNELS]).cpu()

        return RowBatches(compute, self.batch_frames)

    def _made(self, computing: "_Computing", kinds: Sequence[str], report: FeatureReport) -> Iterator[ClipFeatures]:
        """The features of a clip, float16, time first; none when they exceed the range of float16."""
        clip = computing.clip
        arrays = {**{kind: rows.join() for kind, rows in computing.rows.items()}, **computing.done}
        if "whisper" in arrays:
            arrays["whisper"] = np.concatenate(arrays["whisper"])[: ROWS_OF["whisper"](clip.num_frames)]
        try:
            halves = {kind: _half(arrays[kind], kind) for kind in kinds}
        except ValueError as error:
            _report_damage(report, clip, error)
            return
        report.num_clips += 1
        report.video_s += clip.num_frames / FPS
        yield ClipFeatures(clip.key, clip.num_frames, clip.config_hash, halves)

    @cached_property
    def _networks(self) -> _Networks:
        whisper, vae, sha256 = self.files.whisper, self.files.vae, self.files.sha256
        return _Networks(
            None if whisper is None else WhisperFeatures(whisper[1], whisper[0], self.device, sha256["whisper"]),
            None if vae is None else FrozenVae(vae[1], vae[2], vae[0], self.device, sha256["vae"]),
        )


class _Computing(NamedTuple):
    """A clip on its way through the batches."""

    clip: StoredClip
    rows: dict[str, ComputedRows]
    done: dict[str, np.ndarray]

    @property
    def is_complete(self) -> bool:
        return all(rows.is_complete for rows in self.rows.values())


def vae_moments(vae: FrozenVae, frames: Tensor, mouth_hidden: bool, resolution: int, bf16: bool = False) -> Tensor:
    """Posterior moments of frames, not scaled: float32 [B, 8, R / 8, R / 8], mean before log-variance.

    frames: uint8 [B, H, H, 3] RGB, shrunk to R = `resolution`. Runs on one CPU thread, or on the VAE's GPU, there
    without the short mantissas of TF32 and by repeatable kernels, and leaves the result there. A frame alone is
    computed twice: torch takes other kernels for a batch of one, with other last bits.
    """
    batch = frames if len(frames) > 1 else frames.repeat(2, 1, 1, 1)
    exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with one_thread(), exact:
        pixels = to_pixels(batch.to(vae.device), resolution)
        seen = hide_mouth(pixels, mouth_mask(resolution).to(vae.device)) if mouth_hidden else pixels
        with torch.autocast(torch.device(vae.device).type, torch.bfloat16, enabled=bf16):
            moments = vae.moments(seen.contiguous(memory_format=torch.channels_last))
    return moments[: len(frames)].float()


def _report_damage(report: FeatureReport, clip: StoredClip, error: ValueError) -> None:
    report.damaged.append(DamagedSampleError(clip.key, f"{clip.dataset}/{clip.shard}", str(error)))


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
