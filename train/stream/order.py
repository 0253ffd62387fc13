"""The order of a stream: which sample comes at which position on which rank, and which windows of its clip it shows.

All of it is a pure function of the selection, the seed and the epoch. Samples are numbered as they lie in storage, and
an epoch takes them through two shuffles:

1. Neighbours in a shard form groups of up to `GROUP_SAMPLES`; the boundaries are redrawn for each epoch. All groups
   are shuffled.
2. `BLOCK_GROUPS` consecutive groups form a block, and all samples of a block are shuffled.

So neighbours in an epoch come from everywhere, while the members of a group come within one block and can be fetched
together. Epochs follow each other without a seam: position p is sample p mod N of epoch p div N. A global batch, the
batches of all ranks at one training step, takes the next `num_ranks * batch_size` positions, across the end of an epoch
if need be. Hence no remainder, equally many batches on all ranks, each sample once per epoch, and a stream position
that is one number for any number of ranks.

Random numbers come from SplitMix64 (Steele, Lea and Flood 2014): a few lines whose results no library version changes.
"""

import hashlib
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from lipforge.datasets_manifest.storage.ranges import Span
from lipforge.model.faces.templates import Template

GROUP_SAMPLES = 8
BLOCK_GROUPS = 256
COLUMNS = ("dataset", "shard", "key", "sample_offset", "sample_size", "num_frames", "crop_px", "align_template")
"""Columns of a selection that locate its samples, and say what their frames are."""
_STORAGE_ORDER = ("dataset", "shard", "sample_offset")

_U64 = np.uint64


class StoredSamples:
    """The rows of a selection in storage order. Sample n is row n."""

    def __init__(self, rows: pa.Table) -> None:
        """rows: COLUMNS of a selection, at least one row. Raises ValueError when frames differ in size or template."""
        rows = rows.select(COLUMNS).sort_by([(column, "ascending") for column in _STORAGE_ORDER]).combine_chunks()
        self.rows = rows
        self.num_frames = rows["num_frames"].to_numpy()
        sizes_px = sorted(rows["crop_px"].unique().to_pylist())
        if len(sizes_px) > 1:
            raise ValueError(
                f"frames of {sizes_px} pixels in one selection: select with --where 'crop_px = {sizes_px[-1]}'"
            )
        self.crop_px: int = sizes_px[0]
        """Side of all frames."""
        self.template = one_template(rows)
        """Of all frames."""
        self.shards = _run_numbers(rows["dataset"], rows["shard"])
        """int64 [N]: the shard of each sample, numbered."""

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, sample: int) -> str:
        return self.rows["key"][sample].as_py()

    def span(self, sample: int) -> Span:
        row = {name: self.rows[name][sample].as_py() for name in ("dataset", "shard", "sample_offset", "sample_size")}
        end = row["sample_offset"] + row["sample_size"]
        return Span(row["dataset"], row["shard"], row["sample_offset"], end)

    def fingerprint(self) -> str:
        """Hash of what shapes the stream: the clips, their lengths, order and shards. Does not depend on where the
        datasets lie.
        """
        digest = hashlib.blake2b(digest_size=16)
        for chunk in self.rows["key"].chunks:
            digest.update("\n".join(chunk.to_pylist()).encode())
        digest.update(self.num_frames.astype("<i8").tobytes())
        digest.update(self.shards.astype("<i8").tobytes())
        return digest.hexdigest()


def one_template(rows: pa.Table) -> str:
    """The template that all frames of a selection were cut by: those of earlier versions by latentsync.

    rows: with `align_template`, at least one. Raises ValueError for several.
    """
    templates = sorted(rows["align_template"].fill_null(Template.LATENTSYNC.value).unique().to_pylist())
    if len(templates) > 1:
        raise ValueError(
            f"crops of the templates {', '.join(templates)} in one selection: select with "
            f"--where \"coalesce(align_template, 'latentsync') = '{templates[0]}'\""
        )
    return templates[0]


def refuse_other_templates(rows: pa.Table, what: str) -> None:
    """Raises ValueError unless all crops are by template latentsync. what: that fits no others, for the message."""
    template = one_template(rows) if len(rows) else Template.LATENTSYNC
    if template != Template.LATENTSYNC:
        raise ValueError(
            f"crops of template {template}, but {what} fits those of latentsync only: select from a dataset that was "
            "prepared with align.template=latentsync"
        )


def _run_numbers(*columns: pa.ChunkedArray) -> np.ndarray:
    """A number for each run of rows that are equal in all columns."""
    changed = np.zeros(len(columns[0]), bool)
    for column in columns:
        codes = column.combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
        changed[1:] |= codes[1:] != codes[:-1]
    return np.cumsum(changed)


def mix(numbers: np.ndarray, *salts: int) -> np.ndarray:
    """uint64 [N]: a pseudo-random number for each of `numbers`; other salts give other ones."""
    state = numbers.astype(_U64)
    for salt in (*salts, len(salts)):
        state = _splitmix(state ^ _splitmix(np.full(1, salt % 2**64, _U64)))
    return state


def _splitmix(state: np.ndarray) -> np.ndarray:
    state = state + _U64(0x9E3779B97F4A7C15)  # arrays wrap around silently, as wanted
    state = (state ^ (state >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> _U64(27))) * _U64(0x94D049BB133111EB)
    return state ^ (state >> _U64(31))


@dataclass(frozen=True)
class EpochOrder:
    """One epoch. Both arrays are indexed by place in the epoch."""

    samples: np.ndarray
    """int64 [N]: which sample is at each place; every sample once."""
    groups: np.ndarray
    """int64 [N]: the group of the sample at each place, numbered in shuffled order."""


def epoch_order(shards: np.ndarray, seed: int, epoch: int) -> EpochOrder:
    """The order of one epoch.

    shards: int [N], the shard of each sample; samples are numbered in storage order, so equal values are consecutive.
    """
    numbers = np.arange(len(shards))
    new_shard = np.concatenate([[True], shards[1:] != shards[:-1]])
    first_of_shard = np.maximum.accumulate(np.where(new_shard, numbers, 0))
    phase = int(mix(np.zeros(1), seed, epoch, 0)[0]) % GROUP_SAMPLES
    new_group = new_shard | ((numbers - first_of_shard + phase) % GROUP_SAMPLES == 0)
    group = np.cumsum(new_group) - 1
    shuffled_groups = np.argsort(mix(np.arange(group[-1] + 1), seed, epoch, 1), kind="stable")
    place_of_group = np.empty_like(shuffled_groups)
    place_of_group[shuffled_groups] = np.arange(len(shuffled_groups))
    place = place_of_group[group]
    samples = np.lexsort((mix(numbers, seed, epoch, 2), place // BLOCK_GROUPS))
    return EpochOrder(samples, place[samples])


@dataclass
class Order:
    """The endless sequence of epochs, and the share of one rank."""

    shards: np.ndarray
    seed: int
    batch_size: int
    """Samples of one rank in one batch."""
    rank: int
    num_ranks: int
    _epochs: dict[int, EpochOrder] = field(default_factory=dict, init=False)

    @property
    def global_batch_size(self) -> int:
        """Positions that one batch takes over all ranks."""
        return self.batch_size * self.num_ranks

    def samples(self, positions: np.ndarray) -> np.ndarray:
        """int64: the samples at these positions."""
        return self._look_up(positions)[0]

    def share(self, first: int) -> np.ndarray:
        """int64 [batch_size]: the positions, ascending, that this rank takes of the global batch that begins at
        position `first`.

        A global batch is dealt group by group, so most members of a group go to one rank, which can read them together.
        """
        return np.sort(self._shares(first, 1))

    def companions(self, first: int) -> np.ndarray:
        """int64: samples that this rank takes soon after the global batch at `first`, from the same groups, in stream
        order.

        Soon means before the end of the block in which that batch ends.
        """
        now = self.share(first)
        next_first = first + self.global_batch_size
        num_batches = -(-(self._end_of_block(int(now[-1])) - next_first) // self.global_batch_size)
        later = self._shares(next_first, max(0, num_batches))
        return self.samples(later[np.isin(self._marks(later), self._marks(now))])

    def _shares(self, first: int, num_batches: int) -> np.ndarray:
        """int64 [num_batches * batch_size]: the positions that this rank takes of consecutive global batches, batch by
        batch.
        """
        size = self.global_batch_size
        positions = np.arange(first, first + num_batches * size)
        batches = np.arange(len(positions)) // size
        dealt = positions[np.lexsort((self._marks(positions), batches))].reshape(num_batches, size)
        return dealt[:, self.rank * self.batch_size : (self.rank + 1) * self.batch_size].ravel()

    def _marks(self, positions: np.ndarray) -> np.ndarray:
        """A number for the group at each position, unique over epochs; later epochs have larger ones."""
        return positions // len(self.shards) * len(self.shards) + self._look_up(positions)[1]

    def _end_of_block(self, position: int) -> int:
        epoch, place = divmod(position, len(self.shards))
        blocks = self._epoch(epoch).groups // BLOCK_GROUPS
        return epoch * len(self.shards) + int(np.searchsorted(blocks, blocks[place], side="right"))

    def _look_up(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        epochs, places = np.divmod(positions, len(self.shards))
        samples, groups = np.empty_like(places), np.empty_like(places)
        for epoch in np.unique(epochs).tolist():
            there = epochs == epoch
            order = self._epoch(epoch)
            samples[there], groups[there] = order.samples[places[there]], order.groups[places[there]]
        return samples, groups

    def _epoch(self, epoch: int) -> EpochOrder:
        if epoch not in self._epochs:
            # A global batch lies in two epochs at most, unless it is larger than the selection.
            while len(self._epochs) > 1:
                del self._epochs[min(self._epochs)]
            self._epochs[epoch] = epoch_order(self.shards, self.seed, epoch)
        return self._epochs[epoch]


@dataclass(frozen=True)
class ClipWindow:
    """A clip, and the two windows of it that a sample shows. Frames count from 0 at 25 fps."""

    key: str
    clip_frames: int
    crop_px: int
    start: int
    """First of the consecutive target frames."""
    other_start: int
    """First frame of the second window: the reference, or for a SyncNet the audio that does not belong to the target.
    """


def draw_starts(seed: int, epoch: int, key: str, num_starts: int, min_distance_frames: int) -> tuple[int, int]:
    """(start, other_start) of a random pair of windows of a clip.

    num_starts: possible first frames of a window (frames of the clip - frames of a window + 1). min_distance_frames:
    least distance of the two starts. Every start that has a second window is equally likely, and then every second
    window. Raises ValueError when there is no pair.
    """
    if num_starts <= min_distance_frames:
        raise ValueError(
            f"clip {key} has {num_starts} possible windows, and two of them must be {min_distance_frames} frames "
            "apart: `lipforge select --window-frames` takes longer clips alone"
        )
    starts = np.arange(num_starts)
    allowed = starts[(starts >= min_distance_frames) | (starts < num_starts - min_distance_frames)]
    digest = hashlib.blake2b(f"{seed}/{epoch}/{key}".encode(), digest_size=16).digest()
    start = int(allowed[int.from_bytes(digest[:8], "big") % len(allowed)])
    others = starts[np.abs(starts - start) >= min_distance_frames]
    return start, int(others[int.from_bytes(digest[8:], "big") % len(others)])
