"""The stream of training samples of a selection, for one process or many ranks with DataLoader workers.

    stream = SampleStream(StreamConfig(selection="zh20.parquet", batch_size=8, num_workers=4), rank, num_ranks)
    for batch in stream:                      # endless: the trainer counts its steps
        ...
        save(stream.state_dict())             # resumes after this batch, on any number of ranks and workers

What comes in which order is in order.py, what a sample shows in windows.py, how it is made in samples.py, how bytes are got in fetch.py.
Each rank makes its own stream, so the loader stays out of `accelerator.prepare()`.
"""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch.utils.data import DataLoader, Dataset, Sampler

from datasets_manifest.selection import read_selection
from model.mouth_mask import mouth_mask
from pipeline.config import Config
from pipeline.sample import read_clip
from train.fetch import COLUMNS, Fetcher, StoredSamples
from train.order import Order
from train.samples import DamagedSampleError, diffusion_sample, syncnet_sample
from train.windows import ClipTooShortError, draw_window

log = logging.getLogger(__name__)

STATE_VERSION = 1
MAX_SUBSTITUTES = 8
"""Damaged samples in a row that `skip` passes over before it takes the dataset for broken."""

Batch = dict[str, Any]
"""What a step of one rank trains on. B: samples.

target, reference: uint8 tensor [B, T, H, W, 3];  mel, negative_mel: float32 [B, 80, M];  audio_rows: int64 [B, T, 10];  start,
reference_start, negative_start: int64 [B]; as `DiffusionSample` or `SyncNetSample` say, and
audio: list of B float32 tensors, each as long as its clip;
mouth_mask: float32 [1, H, W], 1 where the mouth is generated;
key: list of B strings;
position: int64 [B], place in the stream: sample `position % N` of epoch `position // N`;
valid: bool [B], False for a repeat that only fills the batch: leave it out of losses and counts.
"""


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

    @property
    def min_distance_frames(self) -> int:
        """Between the two windows of a sample."""
        return self.num_frames if self.task == "diffusion" else self.min_negative_distance_frames


class SampleStream:
    """Batches of one rank, from where the last one ended. See the module for how to use it."""

    def __init__(self, config: StreamConfig, rank: int = 0, num_ranks: int = 1, num_epochs: int | None = None) -> None:
        """num_epochs: end after so many, for validation; the last step is filled up with repeats that are not valid.

        Raises ValueError for a selection that cannot be streamed, ClipTooShortError when it holds clips that are too short.
        """
        if not 0 <= rank < num_ranks:
            raise ValueError(f"rank {rank} of {num_ranks} ranks: ranks count from 0")
        self.config = config
        self._stored = StoredSamples(read_selection(config.selection, config.split).select(COLUMNS))
        self._crop_px = _check(self._stored, config)
        self._fingerprint = self._stored.fingerprint()
        self._order = Order(self._stored.shards, config.seed, config.batch_size, rank, num_ranks)
        self._end = None if num_epochs is None else num_epochs * len(self._stored)
        self._position = 0
        self.damaged: list[DamagedSampleError] = []
        """What this rank has skipped since it began."""

    @property
    def samples_per_epoch(self) -> int:
        return len(self._stored)

    @property
    def step_size(self) -> int:
        """Samples of one step over all ranks."""
        return self._order.step_size

    def state_dict(self) -> dict[str, Any]:
        """The place after the last batch that was taken, the same on all ranks. Plain values, for JSON or torch.save."""
        position = self._position if self._end is None else min(self._position, self._end)  # repeats do not count
        epoch, num_consumed = divmod(position, len(self._stored))
        return {
            "version": STATE_VERSION,
            "selection": self._fingerprint,
            "seed": self.config.seed,
            "epoch": epoch,
            "num_consumed": num_consumed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after that place; begin a new iteration afterwards. Raises ValueError when the state is of another stream."""
        for name, own in {**self.state_dict(), "epoch": None, "num_consumed": None}.items():
            if own is not None and state[name] != own:
                raise ValueError(f"the saved place is of another stream: {name} was {state[name]!r} and is {own!r}")
        self._position = state["epoch"] * len(self._stored) + state["num_consumed"]

    def __iter__(self) -> Iterator[Batch]:
        mask = mouth_mask(self._crop_px)
        for batch, damaged in self._loader():
            for error in damaged:
                if batch is None:
                    raise error
                log.warning("skipped: %s", error)
            assert batch is not None
            self.damaged += damaged
            self._position += self.step_size  # the trainer has it once it is yielded
            yield {**batch, "mouth_mask": mask}

    def _loader(self) -> DataLoader:
        steps = _Steps(self._position, self.step_size, self._end)
        return DataLoader(
            _StepDataset(self.config, self._stored, self._order, self._end),
            sampler=steps,
            batch_size=None,  # a step of the sampler is a whole batch
            num_workers=self.config.num_workers,
            pin_memory=torch.cuda.is_available(),
            # A loader draws a seed for its workers, which use none. Drawn from torch's own generator it would make the trainer's noise
            # after a resume differ from that of a run that was not interrupted.
            generator=torch.Generator(),
        )


def _check(stored: StoredSamples, config: StreamConfig) -> int:
    """The size of all pictures; ValueError when there are several, ClipTooShortError for clips too short."""
    sizes_px = sorted(stored.rows["crop_px"].unique().to_pylist())
    if len(sizes_px) > 1:
        raise ValueError(
            f"pictures of {sizes_px} pixels in one selection: select with --where 'crop_px = {sizes_px[-1]}'"
        )
    least = config.num_frames + config.min_distance_frames
    short = np.flatnonzero(stored.num_frames < least)
    if len(short):
        first = int(short[0])
        raise ClipTooShortError(
            f"{len(short)} clips are shorter than {least} frames, which two windows of {config.num_frames} frames need "
            f"(first: {stored.key(first)}, {stored.num_frames[first]}): select with --where 'num_frames >= {least}'"
        )
    return sizes_px[0]


class _Steps(Sampler[int]):
    """Positions at which steps begin."""

    def __init__(self, first: int, step_size: int, end: int | None) -> None:
        self.first, self.step_size, self.end = first, step_size, end

    def __iter__(self) -> Iterator[int]:
        position = self.first
        while self.end is None or position < self.end:
            yield position
            position += self.step_size


class _StepDataset(Dataset[tuple[Batch | None, list[DamagedSampleError]]]):
    """Item p: this rank's batch of the step that begins at position p, and what was damaged in it.

    Errors of samples travel as values, because a DataLoader would rob an exception of its attributes.
    """

    def __init__(self, config: StreamConfig, stored: StoredSamples, order: Order, end: int | None) -> None:
        self.config, self.stored, self.order, self.end = config, stored, order, end
        self.fetcher: Fetcher | None = None  # made in the worker: connections and locks do not survive a fork

    def __getitem__(self, step_position: int) -> tuple[Batch | None, list[DamagedSampleError]]:
        positions = self.order.share(step_position)
        outcomes = self.make(positions, lambda: self.order.companions(step_position).tolist())
        samples, damaged = [], []
        for position, outcome in zip(positions.tolist(), outcomes, strict=True):
            valid = self.end is None or position < self.end
            if isinstance(outcome, DamagedSampleError):
                if self.config.on_damage == "raise":
                    return None, [outcome]
                if valid:
                    damaged.append(outcome)
                substitute = self.substitute(position)
                if substitute is None:
                    more = f"{outcome.detail}; and the {MAX_SUBSTITUTES} samples after it are damaged, too"
                    return None, [DamagedSampleError(outcome.key, outcome.where, more)]
                samples.append({**substitute, "position": position, "valid": False})
            else:
                samples.append({**outcome, "position": position, "valid": valid})
        return _collate(samples), damaged

    def substitute(self, position: int) -> dict[str, Any] | None:
        """The next sample of the order that is whole, or None: the same on any rank."""
        for later in range(position + 1, position + 1 + MAX_SUBSTITUTES):
            (outcome,) = self.make(np.array([later]), list)
            if not isinstance(outcome, DamagedSampleError):
                return outcome
        return None

    def make(
        self, positions: np.ndarray, companions: Callable[[], list[int]]
    ) -> list[dict[str, Any] | DamagedSampleError]:
        """A sample, or why there is none, for each position. companions: asked for samples to read along."""
        if self.fetcher is None:
            self.fetcher = Fetcher(self.stored, self.config.cache_dir, int(self.config.cache_gb * 1e9))
        numbers = self.order.samples(positions).tolist()
        data = self.fetcher.fetch(numbers, companions)
        epochs = (positions // len(self.stored)).tolist()
        return [self._sample(number, epoch, data[number]) for number, epoch in zip(numbers, epochs, strict=True)]

    def _sample(self, number: int, epoch: int, data: bytes) -> dict[str, Any] | DamagedSampleError:
        config = self.config
        key, clip_frames, span = self.stored.key(number), int(self.stored.num_frames[number]), self.stored.span(number)
        num_starts = clip_frames - config.num_frames + 1
        window = draw_window(config.seed, epoch, key, num_starts, config.min_distance_frames)
        make = diffusion_sample if config.task == "diffusion" else syncnet_sample
        try:
            members = read_clip(data, span.end - span.start, key)
            return {**make(members, clip_frames, window, config.num_frames), "key": key}
        except ValueError as error:
            return DamagedSampleError(key, f"{span.dataset}/{span.shard}", str(error))


def _collate(samples: list[dict[str, Any]]) -> Batch:
    batch: Batch = {}
    for name in samples[0]:
        values = [sample[name] for sample in samples]
        if name == "audio":
            batch[name] = [torch.from_numpy(value) for value in values]
        elif name == "key":
            batch[name] = values
        else:
            # the only sample of a batch need not be copied once more
            batch[name] = torch.from_numpy(np.stack(values) if len(values) > 1 else np.asarray(values[0])[None])
    return batch
