"""The Fréchet distance of two sets of features: the number of scipy's matrix root and of torchmetrics."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from lipforge.model.measures.frechet import Features, frechet_distance, frechet_distance_of_rows


def two_sets(count: int = 300, width: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """float32 [count, width] of two Gaussians, far from the origin, as features are."""
    draws = np.random.default_rng(5)
    mix = draws.normal(size=(2, width, width)) / 4
    sets = [draws.normal(size=(count, width)) @ mix[number] + 3 + 0.2 * number for number in range(2)]
    return sets[0].astype(np.float32), sets[1].astype(np.float32)


def features_of(*parts: np.ndarray) -> Features:
    found = Features(parts[0].shape[1])
    for part in parts:
        found.add(part)
    return found


def by_scipy(first: np.ndarray, second: np.ndarray) -> float:
    one, two = (np.cov(rows.astype(np.float64), rowvar=False) for rows in (first, second))
    apart = first.mean(axis=0, dtype=np.float64) - second.mean(axis=0, dtype=np.float64)
    return float(apart @ apart + np.trace(one + two - 2 * scipy.linalg.sqrtm(one @ two).real))


class Unchanged(nn.Module):
    """What takes features for pictures."""

    num_features = 24

    def forward(self, rows: Tensor) -> Tensor:
        return rows


def test_the_distance_is_that_of_scipy_and_of_torchmetrics() -> None:
    first, second = two_sets()
    expected = by_scipy(first, second)
    assert expected > 0.1
    assert frechet_distance(features_of(first), features_of(second)) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance_of_rows(first, second) == pytest.approx(expected, rel=1e-6)
    theirs = FrechetInceptionDistance(feature=Unchanged(), normalize=True)
    theirs.update(torch.from_numpy(first).double(), real=True)
    theirs.update(torch.from_numpy(second).double(), real=False)
    assert float(theirs.compute()) == pytest.approx(expected, rel=1e-6)


def test_fewer_vectors_than_their_width_give_the_same_by_both_ways() -> None:
    first, second = two_sets(count=9)
    expected = frechet_distance_of_rows(first, second)
    assert frechet_distance(features_of(first), features_of(second[:8], second[8:])) == pytest.approx(
        expected, rel=1e-6
    )
    assert by_scipy(first, second) == pytest.approx(expected, rel=1e-4)  # no full rank: the root itself is not exact


def test_mean_and_covariance_do_not_depend_on_how_vectors_arrive() -> None:
    rows = two_sets()[0] + 1000
    found = features_of(rows[:1], rows[:0], rows[1:120], rows[120:])
    assert found.count == len(rows)
    assert found.mean == pytest.approx(rows.mean(axis=0, dtype=np.float64), rel=1e-12)
    assert found.covariance == pytest.approx(np.cov(rows.astype(np.float64), rowvar=False), rel=1e-9, abs=1e-9)


def test_a_set_is_at_no_distance_from_itself_and_a_shift_counts_squared() -> None:
    first, _ = two_sets()
    assert frechet_distance(features_of(first), features_of(first)) == pytest.approx(0, abs=1e-6)
    shifted = first.astype(np.float64) + 0.5
    assert frechet_distance_of_rows(first.astype(np.float64), shifted) == pytest.approx(24 * 0.25, rel=1e-6)


def test_sets_without_a_distance_are_refused() -> None:
    first, second = two_sets()
    with pytest.raises(ValueError, match="at least 2 feature vectors, got 1"):
        frechet_distance(features_of(first[:1]), features_of(second))
    with pytest.raises(ValueError, match="at least 2 feature vectors, got 300 and 1"):
        frechet_distance_of_rows(first, second[:1])
    with pytest.raises(ValueError, match="features of 24 and of 3 numbers"):
        frechet_distance(features_of(first), features_of(second[:, :3]))
    with pytest.raises(ValueError, match="not finite"):
        features_of(first * np.nan)
    with pytest.raises(ValueError, match="expected features"):
        features_of(first).add(second[:, :3])
