"""Batches of rows that cross the borders of clips, as long clips and short ones keep a GPU busy alike."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor


@dataclass(eq=False)
class ComputedRows:
    """What is computed of the rows of one clip, as it comes."""

    num_rows: int
    _parts: list[np.ndarray] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        return sum(map(len, self._parts)) == self.num_rows

    def append(self, part: np.ndarray) -> None:
        self._parts.append(part)

    def join(self) -> np.ndarray:
        """[num_rows, ...], once it is complete."""
        return self._parts[0] if len(self._parts) == 1 else np.concatenate(self._parts)


class RowBatches:
    """Computes rows of clips in batches of equal size: only the last one, and one before rows of another shape, are
    smaller.

    Which rows share a batch follows from the rows alone, never from time. Holds less than a batch, and one clip.
    """

    def __init__(self, compute: Callable[[Tensor], Tensor], batch_rows: int) -> None:
        """compute: rows [B, ...] to rows [B, ...]."""
        self._compute, self._batch_rows = compute, batch_rows
        self._waiting: deque[tuple[Tensor, ComputedRows]] = deque()

    def add(self, rows: Tensor) -> ComputedRows:
        """Hand in the rows of a clip, [N >= 1, ...]. They are complete after more rows, or after `finish`."""
        if self._waiting and self._waiting[0][0].shape[1:] != rows.shape[1:]:
            self.finish()
        computed = ComputedRows(len(rows))
        self._waiting.append((rows, computed))
        while sum(len(part) for part, _ in self._waiting) >= self._batch_rows:
            self._compute_batch()
        return computed

    def finish(self) -> None:
        """Compute what waits."""
        while self._waiting:
            self._compute_batch()

    def _compute_batch(self) -> None:
        parts: list[tuple[Tensor, ComputedRows]] = []
        room = self._batch_rows
        while self._waiting and room:
            rows, computed = self._waiting.popleft()
            parts.append((rows[:room], computed))
            if len(rows) > room:
                self._waiting.appendleft((rows[room:], computed))
            room -= len(parts[-1][0])
        result = self._compute(torch.cat([rows for rows, _ in parts]))
        start = 0
        for rows, computed in parts:
            computed.append(result[start : start + len(rows)].float().cpu().numpy())
            start += len(rows)
