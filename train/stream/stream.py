"""The stream of training samples of a selection, for one process or many ranks with DataLoader workers.

    stream = SampleStream(StreamConfig(selection="zh20.parquet", batch_size=8, num_workers=4), rank, num_ranks)
    for batch in stream:                      # endless: the trainer counts its steps
        ...
        save(stream.state_dict())             # resumes after this batch, on any number of ranks and workers

Settings are in stream_config.py, what comes in which order in order.py, what a sample shows in windows.py. Workers make batches in
steps.py, of media (samples.py; fetch.py gets the bytes) and of cached features (cached_parts.py).
Each rank makes its own stream, so the loader stays out of `accelerator.prepare()`.
"""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import DataLoader, Sampler

from lipforge.datasets_manifest.selection import read_selection
from lipforge.model.denoiser.mask import mouth_mask
from lipforge.train.features.store import FeatureStore
from lipforge.train.stream.batches import Batch, StepDataset
from lipforge.train.stream.config import StreamConfig
from lipforge.train.stream.decode import DamagedSampleError
from lipforge.train.stream.fetch import COLUMNS, StoredSamples
from lipforge.train.stream.order import Order
from lipforge.train.stream.windows import ClipTooShortError

log = logging.getLogger(__name__)

STATE_VERSION = 1


class SampleStream:
    """Batches of one rank, from where the last one ended, or pass by pass. See the module for how to use it."""

    def __init__(self, config: StreamConfig, rank: int = 0, num_ranks: int = 1, num_epochs: int | None = None) -> None:
        """num_epochs: end after so many, for validation; the last step is filled up with repeats that are not valid. Each iteration
        is a pass from the beginning, the first one after `load_state_dict` from there.

        Raises ValueError for a selection that cannot be streamed, ClipTooShortError when it holds clips that are too short, and what
        FeatureStore raises when features are missing or of another model.
        """
        if not 0 <= rank < num_ranks:
            raise ValueError(f"rank {rank} of {num_ranks} ranks: ranks count from 0")
        self.config = config
        clips = read_selection(config.selection, config.split)
        if not len(clips):
            words = "" if config.split is None else f" of split {config.split}"
            raise ValueError(
                f"{config.selection} holds no clip{words}: `lipforge select --val-hours` makes a val split"
            )
        self._stored = StoredSamples(clips.select(COLUMNS))
        _refuse_short_clips(self._stored, config)
        self._features = _open_features(clips, config)
        self._fingerprint = self._stored.fingerprint()
        self._order = Order(self._stored.shards, config.seed, config.batch_size, rank, num_ranks)
        _make_cache_folder(config)
        self._end = None if num_epochs is None else num_epochs * len(self._stored)
        self._steps = StepDataset(config, self._stored, self._order, self._end, self._features)
        self._position = self._begin = 0
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
        """Go on after that place; begin a new iteration afterwards, which is empty when that place is the end.

        Raises ValueError when the state is of another stream, or none.
        """
        own = self.state_dict()
        if not isinstance(state, dict) or own.keys() != state.keys():
            raise ValueError(f"not a place in a stream: expected {', '.join(own)}")
        for name in ("version", "selection", "seed"):
            if state[name] != own[name]:
                raise ValueError(
                    f"the saved place is of another stream: {name} was {state[name]!r} and is {own[name]!r}"
                )
        epoch, num_consumed = state["epoch"], state["num_consumed"]
        if not (isinstance(epoch, int) and isinstance(num_consumed, int)):
            raise ValueError(f"the saved place is no place: epoch {epoch!r}, num_consumed {num_consumed!r}")
        if epoch < 0 or not 0 <= num_consumed < len(self._stored):
            raise ValueError(
                f"the saved place is no place: sample {num_consumed} of {len(self._stored)} in epoch {epoch}, which count from 0"
            )
        position = epoch * len(self._stored) + num_consumed
        if self._end is not None and position > self._end:
            raise ValueError(f"the saved place is beyond the end of this stream: epoch {epoch}, sample {num_consumed}")
        self._position = self._begin = position

    def __iter__(self) -> Iterator[Batch]:
        mask = mouth_mask(self._stored.crop_px)
        if self._end is not None:
            self._position, self._begin = self._begin, 0
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
            self._steps,
            sampler=steps,
            batch_size=None,  # a step of the sampler is a whole batch
            num_workers=self.config.num_workers,
            pin_memory=torch.cuda.is_available(),
            # A loader draws a seed for its workers, which use none. Drawn from torch's own generator it would make the trainer's noise
            # after a resume differ from that of a run that was not interrupted.
            generator=torch.Generator(),
        )


def _make_cache_folder(config: StreamConfig) -> None:
    if config.cache_dir is not None:
        try:
            config.cache_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"cache_dir {config.cache_dir} cannot be made: {error.strerror}") from error


def _open_features(clips: pa.Table, config: StreamConfig) -> FeatureStore | None:
    if config.features is None:
        return None
    store = FeatureStore(config.features.folder, {str(kind): model for kind, model in config.features.models.items()})
    store.require(clips)
    return store


def _refuse_short_clips(stored: StoredSamples, config: StreamConfig) -> None:
    least = config.num_frames + config.min_distance_frames
    short = np.flatnonzero(stored.num_frames < least)
    if len(short):
        first = int(short[0])
        raise ClipTooShortError(
            f"{len(short)} clips are shorter than {least} frames, which two windows of {config.num_frames} frames need "
            f"(first: {stored.key(first)}, {stored.num_frames[first]}): select with --where 'num_frames >= {least}'"
        )


class _Steps(Sampler[int]):
    """Positions at which steps begin."""

    def __init__(self, first: int, step_size: int, end: int | None) -> None:
        self.first, self.step_size, self.end = first, step_size, end

    def __iter__(self) -> Iterator[int]:
        position = self.first
        while self.end is None or position < self.end:
            yield position
            position += self.step_size
