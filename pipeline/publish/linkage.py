"""Average linkage (UPGMA) of very many vectors in bounded memory: products of blocks, so no neighbour is missed."""

import numpy as np

_BLOCK_NUMBERS = 1 << 24
"""Likenesses that are held at once: 64 MB."""
_NONE = -1


def average_linkage(vectors: np.ndarray, weights: np.ndarray, num_fixed: int, least: float) -> np.ndarray:
    """Joins the two clusters that are most alike, until no two are alike by `least`: int [V], each row's cluster.

    vectors: float32 [V, D]; the likeness of two is their product, that of two clusters its weighted mean over all
        pairs between them. weights: float64 [V], more than 0.
    num_fixed: that many rows, the first ones, are never joined with each other.
    A cluster is named by its lowest row. Ties go to lower rows.

    Clusters that are each other's nearest are joined at once. Joining two never makes a third more alike to them than
    it was to one of them, so the result is that of joining one pair at a time, and whatever has no neighbour within
    reach is done. Time: V * V * D for the first round, and about three times as much for all others together.
    """
    means, weights = vectors.astype(np.float32), weights.astype(np.float64)
    parent = np.arange(len(means))
    nearest = np.full(len(means), _NONE)
    likeness = np.zeros(len(means), np.float32)
    alive = np.ones(len(means), bool)
    active = stale = np.arange(len(means))
    while len(active):
        _find_nearest(means, active, stale, num_fixed, least, nearest, likeness)
        is_alone = nearest[active] == _NONE
        alive[active[is_alone]] = False
        active = active[~is_alone]
        if not len(active):
            break
        first = active[(nearest[nearest[active]] == active) & (active < nearest[active])]
        if not len(first):  # rounding made a circle of ties: its best pair
            first = active[[np.argmax(likeness[active])]]
        second = nearest[first]
        first, second = np.minimum(first, second), np.maximum(first, second)
        total = weights[first] + weights[second]
        share = (weights[second] / total).astype(np.float32)[:, None]
        means[first] += share * (means[second] - means[first])
        weights[first] = total
        parent[second] = first
        alive[first], alive[second] = True, False
        changed = ~alive
        changed[first] = True
        active = active[alive[active]]
        stale = active[changed[active] | changed[nearest[active]]]
    while (parent[parent] != parent).any():
        parent = parent[parent]
    return parent


def _find_nearest(
    means: np.ndarray,
    active: np.ndarray,
    stale: np.ndarray,
    num_fixed: int,
    least: float,
    nearest: np.ndarray,
    likeness: np.ndarray,
) -> None:
    """Fills `nearest` (-1: nothing within reach) and `likeness` of the stale rows. active: rows in order."""
    others = np.ascontiguousarray(means[active].T)
    fixed_others = np.searchsorted(active, num_fixed)
    block = max(1, _BLOCK_NUMBERS // max(1, len(active)))
    for at in range(0, len(stale), block):
        rows = stale[at : at + block]
        products = means[rows] @ others
        products[np.arange(len(rows)), np.searchsorted(active, rows)] = -np.inf
        products[rows < num_fixed, :fixed_others] = -np.inf
        best = products.argmax(axis=1)
        likeness[rows] = products[np.arange(len(rows)), best]
        nearest[rows] = np.where(likeness[rows] >= least, active[best], _NONE)
