"""In which order samples are trained on, and who gets which: pure functions of the selection, the seed and the epoch.

Samples are numbered as they lie in storage. An epoch takes them through two shuffles:

1. Neighbours of one shard form groups of up to `GROUP_SAMPLES`; where a group begins is drawn for each epoch. All groups are shuffled.
2. `BLOCK_GROUPS` groups in a row form a block, and all samples of a block are shuffled.

So the samples near each other in an epoch come from everywhere, while a reader finds the members of a group within one block, and may fetch them
together. Epochs follow each other without a seam: position p is sample p mod N of epoch p div N, and step s takes the next
`num_ranks * batch_size` positions, over the end of an epoch if need be. Hence no remainder, equal steps on all ranks, each sample once per
epoch, and a place in the stream that is one number whatever the number of ranks.

Random numbers come from SplitMix64 (Steele, Lea and Flood 2014), a few lines whose results no library version changes.
"""

from dataclasses import dataclass, field

import numpy as np

GROUP_SAMPLES = 8
BLOCK_GROUPS = 256

_U64 = np.uint64


def mix(numbers: np.ndarray, *salts: int) -> np.ndarray:
    """uint64 [N]: an independent-looking number for each of `numbers`, other ones for other salts."""
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
    """One epoch. Place: index into both arrays."""

    samples: np.ndarray
    """int64 [N]: which sample is at each place; every sample once."""
    groups: np.ndarray
    """int64 [N]: the group of the sample at each place, numbered in the order of the shuffle."""


def epoch_order(shards: np.ndarray, seed: int, epoch: int) -> EpochOrder:
    """The order of one epoch.

    shards: int [N], the shard of each sample; samples are numbered as they lie in storage, so equal values are consecutive.
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
    """The endless sequence of epochs, and what each rank takes of it."""

    shards: np.ndarray
    seed: int
    batch_size: int
    """Samples of one rank in one step."""
    rank: int
    num_ranks: int
    _epochs: dict[int, EpochOrder] = field(default_factory=dict, init=False)

    @property
    def step_size(self) -> int:
        """Positions that one step takes, over all ranks."""
        return self.batch_size * self.num_ranks

    def samples(self, positions: np.ndarray) -> np.ndarray:
        """int64: the samples at these positions."""
        return self._look_up(positions)[0]

    def share(self, step_position: int) -> np.ndarray:
        """The positions, rising, that this rank takes of the step that begins at a position: int64 [batch_size].

        The step is dealt group by group, so that members of a group mostly go to the same rank, which can read them together.
        """
        return np.sort(self._shares(step_position, 1))

    def companions(self, step_position: int) -> np.ndarray:
        """Samples that this rank takes soon after a step, from the groups of that step: int64, in the order in which they come.

        Soon is: until the block ends that the step ends in.
        """
        now = self.share(step_position)
        next_step = step_position + self.step_size
        num_steps = -(-(self._end_of_block(int(now[-1])) - next_step) // self.step_size)
        later = self._shares(next_step, max(0, num_steps))
        return self.samples(later[np.isin(self._marks(later), self._marks(now))])

    def _shares(self, step_position: int, num_steps: int) -> np.ndarray:
        """The positions that this rank takes of consecutive steps: int64 [num_steps * batch_size], step by step."""
        positions = np.arange(step_position, step_position + num_steps * self.step_size)
        steps = np.arange(len(positions)) // self.step_size
        dealt = positions[np.lexsort((self._marks(positions), steps))].reshape(num_steps, self.step_size)
        return dealt[:, self.rank * self.batch_size : (self.rank + 1) * self.batch_size].ravel()

    def _marks(self, positions: np.ndarray) -> np.ndarray:
        """A number for the group of each position that no group of another epoch has; later epochs have larger ones."""
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
            while (
                len(self._epochs) > 1
            ):  # a step lies in two epochs at most, unless the selection is smaller than a step
                del self._epochs[min(self._epochs)]
            self._epochs[epoch] = epoch_order(self.shards, self.seed, epoch)
        return self._epochs[epoch]
