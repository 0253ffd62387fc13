"""From the numbers of clips to those of groups: means with 95 % bootstrap intervals."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from lipforge.pipeline.evaluate.metrics import METRICS
from lipforge.pipeline.evaluate.result import ALL, Number

RESAMPLES = 2000
SEED = 0
_LOW, _HIGH = 2.5, 97.5
_AT_ONCE = 200
"""Resamples that are drawn together, to bound memory."""
Row = dict[str, Any]
"""One video: its columns of REPORT/clips.parquet, and `reasons`: metric -> words."""


def numbers_of(rows: Sequence[Row], by: Sequence[str], metrics: Sequence[str], seed: int = SEED) -> list[Number]:
    """Of all rows, and of each group. by: columns, `language` or `speaker`. metrics: those that were tried."""
    groups: dict[str, list[Row]] = {ALL: list(rows)}
    for column in by:
        for row in rows:
            groups.setdefault(f"{column}={row[column] or 'unknown'}", []).append(row)
    clustered = resampled_by_speaker(rows)
    return [
        _number(name, group, members, clustered, seed)
        for group, members in sorted(groups.items(), key=lambda item: (item[0] != ALL, item[0]))
        for name in metrics
        if not METRICS[name].of_set
    ]


def resampled_by_speaker(rows: Sequence[Row]) -> bool:
    """Clips of one speaker are alike: where every speaker is known, speakers are drawn, not clips."""
    return bool(rows) and all(row["speaker"] for row in rows) and len({row["speaker"] for row in rows}) > 1


def _number(name: str, group: str, rows: Sequence[Row], clustered: bool, seed: int) -> Number:
    found = [row for row in rows if row.get(name) is not None]
    reasons = Counter(row["reasons"].get(name, "not measured") for row in rows if row.get(name) is None)
    if not found:
        return Number(name, group, 0, None, unmeasured=dict(reasons))
    values = np.array([row[name] for row in found], np.float64)
    clusters = [str(row["speaker"]) for row in found] if clustered else None
    low, high = interval(values, clusters, seed)
    return Number(name, group, len(values), float(values.mean()), low, high, dict(reasons))


def interval(
    values: np.ndarray, clusters: Sequence[str] | None = None, seed: int = SEED, resamples: int = RESAMPLES
) -> tuple[float | None, float | None]:
    """95 % percentile bootstrap interval of the mean. (None, None) where there are fewer than two to draw from.

    values: float [N]. clusters: for each value, to whom it belongs: whole clusters are drawn, and the mean is over all
    their values.
    """
    names = list(range(len(values))) if clusters is None else list(clusters)
    _, owner = np.unique(np.array(names), return_inverse=True)
    sums, counts = np.bincount(owner, weights=values), np.bincount(owner)
    if len(sums) < 2:
        return None, None
    rng = np.random.default_rng(seed)
    means = []
    for first in range(0, resamples, _AT_ONCE):
        drawn = rng.integers(len(sums), size=(min(_AT_ONCE, resamples - first), len(sums)))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    low, high = np.percentile(np.concatenate(means), [_LOW, _HIGH])
    return float(low), float(high)
