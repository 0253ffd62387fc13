"""What a DataLoader's worker does: one rank's batch of one step, whole samples in the place of damaged ones."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from lipforge.model.audio.windows import HALF_WINDOW_FRAMES, audio_rows
from lipforge.train.features.store import FeatureStore
from lipforge.train.stream.cached import CachedParts
from lipforge.train.stream.config import StreamConfig
from lipforge.train.stream.decode import ClipWindow, DamagedSampleError, Outcome, decode_parts
from lipforge.train.stream.fetch import Fetcher, Members, StoredSamples
from lipforge.train.stream.order import Order
from lipforge.train.stream.windows import draw_window

MAX_SUBSTITUTES = 8
"""Damaged samples in a row that `skip` passes over before it takes the dataset for broken."""

Batch = dict[str, Any]
"""What a step of one rank trains on. B samples, T frames of a window, M = ceil(T / 5 * 16) mel columns:

target: uint8 tensor [B, T, H, W, 3] RGB: frames to reproduce;
reference: uint8 [B, T, H, W, 3] RGB: another window of the clip; no frame is in both;
mel: float32 [B, 80, M]: what StableSyncNet hears with the target;
negative_mel: float32 [B, 80, M]: the sound of another moment of the clip;
audio: list of B float32 tensors, sound of the whole clip at 16 kHz in [-1, 1]: Whisper's features of it are 2 rows a frame;
audio_rows: int64 [B, T, 10]: which of these rows belong to each target frame;
mouth_mask: float32 [1, H, W], 1 where the mouth is generated;
key: list of B strings;  start, reference_start, negative_start: int64 [B], first frame of each window;
position: int64 [B], place in the stream: sample `position % N` of epoch `position // N`;
valid: bool [B], False for a repeat that only fills the batch: leave it out of losses and counts.

Of cached features, with S states of D channels, R the side of the pictures, r = R / 8:

audio_features: float16 [B, 2 (T + 4), S, D], in place of audio: audio_rows count from its first row;
target_moments, reference_moments: float16 [B, T, 8, r, r], in place of target and reference: posterior moments of the VAE;
masked_moments: float16 [B, T, 8, r, r]: of the target with the mouth hidden.
"""


class StepDataset(Dataset[tuple[Batch | None, list[DamagedSampleError]]]):
    """Item p: this rank's batch of the step that begins at position p, and what was damaged in it.

    Errors of samples travel as values, because a DataLoader would rob an exception of its attributes.
    """

    def __init__(
        self,
        config: StreamConfig,
        stored: StoredSamples,
        order: Order,
        end: int | None,
        features: FeatureStore | None,
    ) -> None:
        self.config, self.stored, self.order, self.end = config, stored, order, end
        self.cached = None if features is None else CachedParts(features, config)
        self.decoded = config.decoded_parts
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
            (outcome,) = self.make(np.array([later]), lambda: [])
            if not isinstance(outcome, DamagedSampleError):
                return outcome
        return None

    def make(self, positions: np.ndarray, companions: Callable[[], list[int]]) -> list[Outcome]:
        """A sample, or why there is none, for each position. companions: asked for samples to read along."""
        numbers = self.order.samples(positions).tolist()
        epochs = (positions // len(self.stored)).tolist()
        clips = [self._clip(number, epoch) for number, epoch in zip(numbers, epochs, strict=True)]
        samples: list[Outcome] = [self._places(clip) for clip in clips]
        if self.cached is not None:
            samples = [_joined(*pair) for pair in zip(samples, self.cached.read(clips), strict=True)]
        if self.decoded:
            decoded = self._decode(numbers, clips, companions)
            samples = [_joined(*pair) for pair in zip(samples, decoded, strict=True)]
        return samples

    def _clip(self, number: int, epoch: int) -> ClipWindow:
        config, key, clip_frames = self.config, self.stored.key(number), int(self.stored.num_frames[number])
        num_starts = clip_frames - config.num_frames + 1
        window = draw_window(config.seed, epoch, key, num_starts, config.min_distance_frames)
        return ClipWindow(key, clip_frames, self.stored.crop_px, window)

    def _places(self, clip: ClipWindow) -> dict[str, Any]:
        start, num_frames = clip.window.start, self.config.num_frames
        if self.config.task == "syncnet":
            return {"key": clip.key, "start": start, "negative_start": clip.window.other_start}
        rows = audio_rows(start, num_frames, clip.clip_frames)
        if "whisper" in self.config.feature_kinds:  # of the window with its margins, and not of the whole clip
            rows = audio_rows(HALF_WINDOW_FRAMES, num_frames, num_frames + 2 * HALF_WINDOW_FRAMES)
        return {"key": clip.key, "start": start, "reference_start": clip.window.other_start, "audio_rows": rows}

    def _decode(
        self, numbers: list[int], clips: list[ClipWindow], companions: Callable[[], list[int]]
    ) -> list[Outcome]:
        if self.fetcher is None:
            self.fetcher = Fetcher(self.stored, self.config.cache_dir, int(self.config.cache_gb * 1e9))
        fetched = self.fetcher.fetch(numbers, companions)
        return [self._parts(number, clip, fetched[number]) for number, clip in zip(numbers, clips, strict=True)]

    def _parts(self, number: int, clip: ClipWindow, members: Members | ValueError) -> Outcome:
        try:
            if isinstance(members, ValueError):
                raise members
            return decode_parts(members, clip, self.config.num_frames, self.decoded)
        except ValueError as error:
            span = self.stored.span(number)
            return DamagedSampleError(clip.key, f"{span.dataset}/{span.shard}", str(error))


def _joined(sample: Outcome, more: Outcome) -> Outcome:
    """Both, or the first error of the two."""
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
            # the only sample of a batch need not be copied once more, unless it is not as torch wants it
            array = np.stack(values) if len(values) > 1 else np.require(values[0], requirements=["C", "W"])[None]
            batch[name] = torch.from_numpy(array)
    return batch
