"""The order of the stream: well shuffled, each sample once, the same for any number of ranks."""

import numpy as np
import pytest

from lipforge.train.stream.order import BLOCK_GROUPS, GROUP_SAMPLES, Order, epoch_order

SHARDS = np.repeat(np.arange(40), 250)
"""10,000 samples, as 20 hours have."""


def test_an_epoch_takes_each_sample_once() -> None:
    for shards in (SHARDS, np.zeros(1, int), np.arange(7), np.repeat([0, 1, 2], [1, 90, 17])):
        assert np.array_equal(np.sort(epoch_order(shards, 3, 5).samples), np.arange(len(shards)))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    first = epoch_order(SHARDS, 1, 1).samples
    assert np.array_equal(first, epoch_order(SHARDS.copy(), 1, 1).samples)
    for other in (epoch_order(SHARDS, 1, 2), epoch_order(SHARDS, 2, 1)):
        assert (first == other.samples).mean() < 0.01


def test_the_order_is_the_same_on_every_machine_and_version() -> None:
    # A change here breaks the resuming of runs that began before it: raise STATE_VERSION then.
    expected = [9, 1, 5, 2, 0, 11, 10, 4, 3, 7, 6, 8]
    assert epoch_order(np.repeat([0, 1], 6), 7, 2).samples.tolist() == expected


def test_places_have_nothing_to_do_with_storage() -> None:
    """Over the epoch and within its parts: rank correlation as in a random permutation (deviation 1 / sqrt(N))."""
    for epoch in range(3):
        samples = epoch_order(SHARDS, 0, epoch).samples
        assert abs(np.corrcoef(samples, np.arange(len(samples)))[0, 1]) < 5 / np.sqrt(len(samples)) * np.sqrt(
            GROUP_SAMPLES
        )
        for part in samples[: len(samples) // 500 * 500].reshape(-1, 500):
            ranks = np.argsort(np.argsort(part))
            assert abs(np.corrcoef(ranks, np.arange(500))[0, 1]) < 5 / np.sqrt(500)


def test_batches_mix_shards_as_a_random_permutation_does() -> None:
    def shards_in_a_batch(samples: np.ndarray) -> float:
        batches = SHARDS[samples][: len(samples) // 32 * 32].reshape(-1, 32)
        return float(np.mean([len(np.unique(batch)) for batch in batches]))

    ours = np.mean([shards_in_a_batch(epoch_order(SHARDS, 0, epoch).samples) for epoch in range(5)])
    rng = np.random.default_rng(0)
    random = np.mean([shards_in_a_batch(rng.permutation(len(SHARDS))) for _ in range(5)])
    assert ours > 0.95 * random


def test_neighbours_of_a_shard_rarely_follow_each_other() -> None:
    samples = epoch_order(SHARDS, 0, 0).samples
    expected = 2 / (GROUP_SAMPLES * BLOCK_GROUPS)  # each sample of a block is equally likely to come next
    assert (np.abs(np.diff(samples)) == 1).mean() < 3 * expected


def test_members_of_a_group_come_within_one_block_and_other_ones_in_each_epoch() -> None:
    partners = []
    for epoch in (0, 1):
        order = epoch_order(SHARDS, 0, epoch)
        blocks = order.groups // BLOCK_GROUPS
        assert (np.diff(blocks) >= 0).all()
        group_of = np.empty(len(SHARDS), int)
        group_of[order.samples] = order.groups
        partners.append(group_of[1:] == group_of[:-1])
    assert (partners[0] != partners[1]).any()


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 8])
def test_the_ranks_share_out_each_global_batch(num_ranks: int) -> None:
    shards = np.repeat(np.arange(5), 7)
    ranks = [Order(shards, 0, 4, rank, num_ranks) for rank in range(num_ranks)]
    for step in range(30):
        position = step * ranks[0].global_batch_size
        taken = np.concatenate([order.share(position) for order in ranks])
        assert np.array_equal(np.sort(taken), np.arange(position, position + ranks[0].global_batch_size))


def test_a_group_goes_mostly_to_one_rank() -> None:
    """Else a rank would find no neighbours to read together."""
    ranks = [Order(SHARDS, 0, 8, rank, 8) for rank in range(8)]
    num_places = GROUP_SAMPLES * BLOCK_GROUPS // 2
    groups = epoch_order(SHARDS, 0, 0).groups[:num_places]
    rank_of = np.empty(num_places, int)
    for rank, order in enumerate(ranks):
        for step in range(0, num_places, order.global_batch_size):
            rank_of[order.share(step)] = rank
    members = [np.bincount(rank_of[groups == group], minlength=8) for group in np.unique(groups)]
    largest_shares = [counts.max() / counts.sum() for counts in members if counts.sum() > 2]
    rng = np.random.default_rng(0)
    by_chance = [np.bincount(rng.permutation(rank_of)[groups == group], minlength=8) for group in np.unique(groups)]
    chance_shares = [counts.max() / counts.sum() for counts in by_chance if counts.sum() > 2]
    assert np.mean(largest_shares) > 1.5 * np.mean(chance_shares)


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_companions_are_what_the_same_rank_takes_later_of_the_same_groups(num_ranks: int) -> None:
    shards = np.repeat(np.arange(3), 700)
    order = Order(shards, 0, 4, num_ranks - 1, num_ranks)
    position = 30 * order.global_batch_size
    epoch = epoch_order(shards, 0, 0)
    groups = set(epoch.groups[order.share(position)].tolist())
    block = epoch.groups[position] // BLOCK_GROUPS
    expected = [
        int(epoch.samples[place])
        for step in range(position + order.global_batch_size, len(shards), order.global_batch_size)
        for place in order.share(step)
        if epoch.groups[place] in groups and epoch.groups[place] // BLOCK_GROUPS == block
    ]
    assert sorted(order.companions(position).tolist()) == sorted(expected)
    assert len(expected) > 0
