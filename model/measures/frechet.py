"""Fréchet distance between two sets of features, taken as Gaussians (Dowson and Landau 1982; FID: Heusel et al. 2017).

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))

with means m and covariances C over n - 1. Features are that of a network: with InceptionV3 it is called FID, with I3D
FVD. For fewer features than their width the covariance has no full rank, and the distance depends strongly on n: only
sets of one size compare.
"""

import numpy as np


class Features:
    """Mean and covariance of any number of feature vectors, in float64, without keeping them."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self.mean = np.zeros(width)
        self._scatter = np.zeros((width, width))

    def add(self, rows: np.ndarray) -> None:
        """rows: float [n, width], n may be 0. Raises ValueError for another shape or numbers that are not finite."""
        if rows.ndim != 2 or rows.shape[1] != len(self.mean):
            raise ValueError(f"expected features [n, {len(self.mean)}], got {list(rows.shape)}")
        if not len(rows):
            return
        found = rows.astype(np.float64)
        if not np.isfinite(found).all():
            raise ValueError("features that are not finite")
        mean = found.mean(axis=0)
        centred, apart = found - mean, mean - self.mean
        total = self.count + len(rows)
        # Chan et al. 1979: sums of squares about the mean, without the cancellation of sums of squares
        self._scatter += centred.T @ centred + np.outer(apart, apart) * (self.count * len(rows) / total)
        self.mean = self.mean + apart * (len(rows) / total)
        self.count = total

    @property
    def covariance(self) -> np.ndarray:
        """float64 [width, width]. Raises ValueError for fewer than two vectors."""
        if self.count < 2:
            raise ValueError(f"a covariance takes at least 2 feature vectors, got {self.count}")
        return self._scatter / (self.count - 1)


def frechet_distance(first: Features, second: Features) -> float:
    """Distance of two sets, at least 2 vectors each, of one width. Raises ValueError otherwise."""
    _check_widths(len(first.mean), len(second.mean))
    one, two = first.covariance, second.covariance
    # The trace of (C1 C2)^(1/2) from symmetric matrices alone, whose eigenvalues are real and found without loss
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ two @ root).clip(0)).sum()
    return _distance(first.mean - second.mean, float(np.trace(one) + np.trace(two)), float(shared))


def frechet_distance_of_rows(first: np.ndarray, second: np.ndarray) -> float:
    """The same from the vectors themselves, float [n, width] and [m, width]: quicker when n and m are small.

    The trace of (C1 C2)^(1/2) is the sum of the singular values of X1 X2^T, X being centred vectors over (n - 1)^(1/2).
    Raises ValueError as above.
    """
    _check_widths(first.shape[1], second.shape[1])
    if min(len(first), len(second)) < 2:
        raise ValueError(f"a covariance takes at least 2 feature vectors, got {len(first)} and {len(second)}")
    means = [rows.mean(axis=0, dtype=np.float64) for rows in (first, second)]
    one, two = ((rows - mean) / np.sqrt(len(rows) - 1) for rows, mean in zip((first, second), means, strict=True))
    shared = np.linalg.svd(one @ two.T, compute_uv=False).sum()
    return _distance(means[0] - means[1], float(np.square(one).sum() + np.square(two).sum()), float(shared))


def _distance(apart: np.ndarray, traces: float, shared: float) -> float:
    return max(0.0, float(np.square(apart).sum()) + traces - 2 * shared)


def _check_widths(first: int, second: int) -> None:
    if first != second:
        raise ValueError(f"features of {first} and of {second} numbers do not compare")
