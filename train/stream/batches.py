"""Batches of one rank: what a DataLoader worker does. Damaged samples are replaced."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from lipforge.model.audio.windows import HALF_WINDOW_FRAMES, audio_rows
from lipforge.train.features.store import FeatureStore
from lipforge.train.stream.config import StreamConfig
from lipforge.train.stream.decode import DamagedSampleError, Outcome, decode_fields
from lipforge.train.stream.features import read_fields
from lipforge.train.stream.fetch import Fetcher, Members
from lipforge.train.stream.order import ClipWindow, Order, StoredSamples, draw_starts

MAX_SUBSTITUTES = 8
"""Damaged samples in a row that `skip` passes over; one more, and the dataset is taken for broken."""

Batch = dict[str, Any]
"""What one rank trains on in one step. B samples, T frames of a window, M = ceil(T / 5 * 16) mel columns:

target: uint8 tensor [B, T, H, W, 3] RGB: frames to reproduce;
reference: uint8 [B, T, H, W, 3] RGB: another window of the clip; no frame is in both;
mel: float32 [B, 80, M]: StableSyncNet's input for the target;
negative_mel: float32 [B, 80, M]: audio of another moment of the clip;
audio: list of B float32 tensors: audio of the whole clip at 16 kHz in [-1, 1], for Whisper (2 rows a frame);
audio_rows: int64 [B, T, 10]: which of these rows belong to each target frame;
mouth_mask: float32 [1, H, W], 1 where the mouth is generated; only for crops of template latentsync;
key: list of B strings;
start, reference_start, negative_start: int64 [B], first frame of each window;
position: int64 [B], place in the stream: sample `position % N` of epoch `position // N`;
valid: bool [B], False for a repeat that only fills the batch: leave it out of losses and counts.

From cached features, with S states of D channels, R the side of the frames, r = R / 8:

audio_features: float16 [B, 2 (T + 4), S, D], instead of audio: audio_rows count from its first row;
target_moments, reference_moments: float16 [B, T, 8, r, r], instead of target, reference: moments of the VAE;
masked_moments: float16 [B, T, 8, r, r]: of the target with the mouth hidden.
"""


class BatchDataset(Dataset[tuple[Batch | None, list[DamagedSampleError]]]):
    """Map-style dataset: item p is this rank's batch of the global batch that begins at position p, and what was
    damaged in it.

    The batch is None when the stream must end with that damage. Errors travel as values, because a DataLoader strips
    exceptions of their attributes.
    """

    def __init__(
        self, config: StreamConfig, stored: StoredSamples, order: Order, end: int | None, features: FeatureStore | None
    ) -> None:
        """end: first position beyond the stream; None: endless."""
        self.config, self.stored, self.order, self.end, self.features = config, stored, order, end, features
        self.fetcher: Fetcher | None = None  # made in the worker: connections and locks do not survive a fork

    def __getitem__(self, first: int) -> tuple[Batch | None, list[DamagedSampleError]]:
        positions = self.order.share(first)
        outcomes = self._samples(positions, lambda: self.order.companions(first).tolist())
        samples, damaged = [], []
        for position, outcome in zip(positions.tolist(), outcomes, strict=True):
            valid = self.end is None or position < self.end
            if isinstance(outcome, DamagedSampleError):
                if self.config.on_damage == "raise":
                    return None, [outcome]
                if valid:
                    damaged.append(outcome)
                substitute = self._substitute(position)
                if substitute is None:
                    more = f"{outcome.detail}; and the {MAX_SUBSTITUTES} samples after it are damaged, too"
                    return None, [DamagedSampleError(outcome.key, outcome.where, more)]
                samples.append({**substitute, "position": position, "valid": False})
            else:
                samples.append({**outcome, "position": position, "valid": valid})
        return _collate(samples), damaged

    def _substitute(self, position: int) -> dict[str, Any] | None:
        """The next undamaged sample of the order, the same on any rank; or None."""
        for later in range(position + 1, position + 1 + MAX_SUBSTITUTES):
            (outcome,) = self._samples(np.array([later]), lambda: [])
            if not isinstance(outcome, DamagedSampleError):
                return outcome
        return None

    def _samples(self, positions: np.ndarray, companions: Callable[[], list[int]]) -> list[Outcome]:
        """The sample at each position, or what is wrong with it. companions: called for samples to read along."""
        numbers = self.order.samples(positions).tolist()
        epochs = (positions // len(self.stored)).tolist()
        clips = [self._window(number, epoch) for number, epoch in zip(numbers, epochs, strict=True)]
        samples: list[Outcome] = [self._places(clip) for clip in clips]
        if self.features is not None:
            cached = read_fields(self.features, clips, self.config.num_frames, self.config.task == "syncnet")
            samples = [_joined(*pair) for pair in zip(samples, cached, strict=True)]
        if self.config.decoded_fields:
            if self.fetcher is None:
                self.fetcher = Fetcher(self.stored, self.config.cache_dir, int(self.config.cache_gb * 1e9))
            fetched = self.fetcher.fetch(numbers, companions)
            decoded = [
                self._decoded(number, clip, fetched[number]) for number, clip in zip(numbers, clips, strict=True)
            ]
            samples = [_joined(*pair) for pair in zip(samples, decoded, strict=True)]
        return samples

    def _window(self, number: int, epoch: int) -> ClipWindow:
        config, key, clip_frames = self.config, self.stored.key(number), int(self.stored.num_frames[number])
        num_starts = clip_frames - config.num_frames + 1
        starts = draw_starts(config.seed, epoch, key, num_starts, config.min_distance_frames)
        return ClipWindow(key, clip_frames, self.stored.crop_px, *starts)

    def _places(self, clip: ClipWindow) -> dict[str, Any]:
        start, num_frames = clip.start, self.config.num_frames
        if self.config.task == "syncnet":
            return {"key": clip.key, "start": start, "negative_start": clip.other_start}
        rows = audio_rows(start, num_frames, clip.clip_frames)
        if "whisper" in self.config.feature_kinds:  # the features are those of the window with its margins
            rows = audio_rows(HALF_WINDOW_FRAMES, num_frames, num_frames + 2 * HALF_WINDOW_FRAMES)
        return {"key": clip.key, "start": start, "reference_start": clip.other_start, "audio_rows": rows}

    def _decoded(self, number: int, clip: ClipWindow, members: Members | ValueError) -> Outcome:
        try:
            if isinstance(members, ValueError):
                raise members
            return decode_fields(members, clip, self.config.num_frames, self.config.decoded_fields)
        except ValueError as error:
            span = self.stored.span(number)
            return DamagedSampleError(clip.key, f"{span.dataset}/{span.shard}", str(error))


def _joined(sample: Outcome, more: Outcome) -> Outcome:
    """The fields of both, or the first error of the two."""
    if isinstance(sample, DamagedSampleError):
        return sample
    return more if isinstance(more, DamagedSampleError) else {**sample, **more}


def _collate(samples: list[dict[str, Any]]) -> Batch:
    batch: Batch = {}
    for name in samples[0]:
        values = [sample[name] for sample in samples]
        if name == "audio":
            batch[name] = [torch.from_numpy(value) for value in values]
        elif name == "key":
            batch[name] = values
        else:
            # A batch of one sample is not copied, unless torch could not take the array as it is.
            array = np.stack(values) if len(values) > 1 else np.require(values[0], requirements=["C", "W"])[None]
            batch[name] = torch.from_numpy(array)
    return batch
