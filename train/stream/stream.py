"""The stream of training samples of a selection, for one process or many ranks with DataLoader workers.

    stream = SampleStream(StreamConfig(selection="zh20.parquet", batch_size=8, num_workers=4), rank, num_ranks)
    for batch in stream:                      # endless: the trainer counts its steps
        ...
        save(stream.state_dict())             # resumes after this batch, on any number of ranks and workers

A batch passes, in this order: stream.py (selection, position, loader), order.py (which samples, which windows),
batches.py (a worker's job), fetch.py (bytes), decode.py (tensors from bytes), features.py (tensors from cached
features). config.py has the settings. Each rank makes its own stream, so the loader stays out of
`accelerator.prepare()`.
"""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import DataLoader

from lipforge.datasets_manifest.display import counted
from lipforge.datasets_manifest.select.again import require_shards
from lipforge.datasets_manifest.selection import read_selection
from lipforge.model.denoiser.mask import mouth_mask
from lipforge.model.faces.templates import Template
from lipforge.train.features.store import FeatureStore
from lipforge.train.stream.batches import Batch, BatchDataset
from lipforge.train.stream.config import FeaturesConfig, StreamConfig
from lipforge.train.stream.decode import DamagedSampleError
from lipforge.train.stream.order import COLUMNS, Order, StoredSamples

log = logging.getLogger(__name__)

STATE_VERSION = 1


class SampleStream:
    """Batches of one rank, endless or for some epochs. The module's docstring has an example."""

    def __init__(self, config: StreamConfig, rank: int = 0, num_ranks: int = 1, num_epochs: int | None = None) -> None:
        """num_epochs: end after so many, for validation; repeats that are not valid fill up the last batch. Each
        iteration then starts from the beginning, the first one after `load_state_dict` from the loaded position.

        Raises ValueError for a selection that cannot be streamed, for example one with clips that are too short for two
        windows, FileNotFoundError when a shard is gone, and what FeatureStore raises when features are missing or of
        another model.
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
        if config.decoded_fields:  # with all features at hand, no sample is read
            require_shards(clips, str(config.selection))
        self._stored = StoredSamples(clips.select(COLUMNS))
        _refuse_short_clips(self._stored, config.num_frames, config.min_distance_frames)
        features = None if config.features is None else _open_features(config.features, clips)
        self._fingerprint = self._stored.fingerprint()
        self._order = Order(self._stored.shards, config.seed, config.batch_size, rank, num_ranks)
        if config.cache_dir is not None:
            try:
                config.cache_dir.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ValueError(f"cache_dir {config.cache_dir} cannot be made: {error.strerror}") from error
        self._end = None if num_epochs is None else num_epochs * len(self._stored)
        self._dataset = BatchDataset(config, self._stored, self._order, self._end, features)
        self._position = self._begin = 0
        self.damaged: list[DamagedSampleError] = []
        """What this rank has skipped so far."""

    @property
    def samples_per_epoch(self) -> int:
        return len(self._stored)

    @property
    def crop_px(self) -> int:
        """Side of the stored frames."""
        return self._stored.crop_px

    @property
    def template(self) -> str:
        """Template that the stored frames were cut by."""
        return self._stored.template

    @property
    def fingerprint(self) -> str:
        """Hash of the clips, in their order: part of the state."""
        return self._fingerprint

    @property
    def global_batch_size(self) -> int:
        """Samples of one batch over all ranks."""
        return self._order.global_batch_size

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch that was taken, the same on all ranks.

        Plain values, for JSON or torch.save.
        """
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
        """Resume after that position: start a new iteration afterwards, which is empty when the position is the end.

        Raises ValueError when the state is invalid or of another stream.
        """
        own = self.state_dict()
        if not isinstance(state, dict) or own.keys() != state.keys():
            raise ValueError(f"not a stream position: expected {', '.join(own)}")
        for name in ("version", "selection", "seed"):
            if state[name] != own[name]:
                raise ValueError(
                    f"the saved position is of another stream: {name} was {state[name]!r} and is {own[name]!r}"
                )
        epoch, num_consumed = state["epoch"], state["num_consumed"]
        if not (isinstance(epoch, int) and isinstance(num_consumed, int)):
            raise ValueError(f"invalid saved position: epoch {epoch!r}, num_consumed {num_consumed!r}")
        if epoch < 0 or not 0 <= num_consumed < len(self._stored):
            raise ValueError(
                f"invalid saved position: sample {num_consumed} of {len(self._stored)} in epoch {epoch}, counted from 0"
            )
        position = epoch * len(self._stored) + num_consumed
        if self._end is not None and position > self._end:
            raise ValueError(
                f"the saved position is beyond the end of this stream: epoch {epoch}, sample {num_consumed}"
            )
        self._position = self._begin = position

    def __iter__(self) -> Iterator[Batch]:
        # The mask fits latentsync's crops alone; a trainer of another template brings its own.
        fitting = self._stored.template == Template.LATENTSYNC
        mask = {"mouth_mask": mouth_mask(self._stored.crop_px)} if fitting else {}
        if self._end is not None:
            self._position, self._begin = self._begin, 0
        for batch, damaged in self._loader():
            for error in damaged:
                if batch is None:
                    raise error
                log.warning("skipped: %s", error)
            assert batch is not None
            self.damaged += damaged
            self._position += self.global_batch_size  # the trainer has it once it is yielded
            yield {**batch, **mask}

    def _loader(self) -> DataLoader:
        size = self.global_batch_size
        starts = count(self._position, size) if self._end is None else range(self._position, self._end, size)
        return DataLoader(
            self._dataset,
            sampler=starts,
            batch_size=None,  # an item of the dataset is a whole batch
            num_workers=self.config.num_workers,
            pin_memory=torch.cuda.is_available(),
            # A loader draws a seed for its workers, which use none. Drawn from torch's own generator, it would make the
            # trainer's noise after a resume differ from that of an uninterrupted run.
            generator=torch.Generator(),
            worker_init_fn=_obey_the_trainer_alone,
        )


def _obey_the_trainer_alone(_worker: int) -> None:
    """In a worker: SIGTERM ends it when its own process sends it.

    A scheduler signals all processes. The trainer then saves, for which it needs its workers until the step is made.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_when_the_parent_asks, daemon=True).start()


def _end_when_the_parent_asks() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _refuse_short_clips(stored: StoredSamples, num_frames: int, min_distance_frames: int) -> None:
    least = num_frames + min_distance_frames
    short = np.flatnonzero(stored.num_frames < least)
    if len(short):
        first = int(short[0])
        raise ValueError(
            f"{counted(len(short), 'clip is', 'clips are')} shorter than {least} frames, which two windows of "
            f"{num_frames} frames need "
            f"(first: {stored.key(first)}, {stored.num_frames[first]}): "
            f"`lipforge select --window-frames {-(-least // 2)}` takes longer clips alone"
        )


def _open_features(config: FeaturesConfig, clips: pa.Table) -> FeatureStore:
    store = FeatureStore(config.folder, {str(kind): model for kind, model in config.models.items()})
    store.require(clips)
    return store
