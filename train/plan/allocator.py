"""Torch's caching allocator for a GPU, simulated: how much it reserves for given tensors, gaps between them included.

The rules are those of c10/cuda/CUDACachingAllocator.cpp (PyTorch, BSD-3-Clause) with default settings: blocks are
multiples of 512 bytes; small ones (up to 1 MiB) come from segments of 2 MiB, others from segments of 20 MiB or of their
own size; the smallest free block that is large enough is taken, and split if enough is left; neighbours that are free
become one. Segments are kept. When memory runs short, torch gives back those that are empty: that is not simulated.
"""

from bisect import bisect_left, insort
from dataclasses import dataclass, field

_MIB = 2**20
_UNIT = 512
_SMALL = 1 * _MIB
_SMALL_SEGMENT = 2 * _MIB
_LARGE_SEGMENT, _LARGE = 20 * _MIB, 10 * _MIB
_ROUNDED = 2 * _MIB
"""Segments for blocks of `_LARGE` and more are multiples of this."""


@dataclass(eq=False)
class Block:
    size: int
    is_small: bool
    number: int
    before: "Block | None" = None
    after: "Block | None" = None
    is_free: bool = False

    @property
    def rank(self) -> tuple[int, int]:
        return self.size, self.number


@dataclass
class CachingAllocator:
    reserved_bytes: int = 0
    """Never shrinks."""
    _free: dict[bool, list[tuple[int, int]]] = field(default_factory=lambda: {True: [], False: []})
    """Sizes and numbers of free blocks, small ones apart, in order."""
    _blocks: dict[int, Block] = field(default_factory=dict)
    """The free ones, by number."""
    _count: int = 0

    def allocate(self, size: int) -> Block:
        size = max(_UNIT, _up(size, _UNIT))
        block = self._best(size, size <= _SMALL) or self._segment(size)
        left = block.size - size
        if left >= _UNIT if block.is_small else left > _SMALL:
            rest = self._new(left, block.is_small, block, block.after)
            if block.after is not None:
                block.after.before = rest
            block.size, block.after = size, rest
            self._add(rest)
        return block

    def free(self, block: Block) -> None:
        for other in (block.before, block.after):
            if other is None or not other.is_free:
                continue
            self._remove(other)
            block.size += other.size
            if other is block.before:
                block.before = other.before
                if other.before is not None:
                    other.before.after = block
            else:
                block.after = other.after
                if other.after is not None:
                    other.after.before = block
        self._add(block)

    def _best(self, size: int, is_small: bool) -> Block | None:
        free = self._free[is_small]
        at = bisect_left(free, (size, 0))
        if at == len(free):
            return None
        block = self._blocks[free[at][1]]
        self._remove(block)
        return block

    def _segment(self, size: int) -> Block:
        is_small = size <= _SMALL
        length = _SMALL_SEGMENT if is_small else _LARGE_SEGMENT if size < _LARGE else _up(size, _ROUNDED)
        self.reserved_bytes += length
        return self._new(length, is_small, None, None)

    def _new(self, size: int, is_small: bool, before: Block | None, after: Block | None) -> Block:
        self._count += 1
        return Block(size, is_small, self._count, before, after)

    def _add(self, block: Block) -> None:
        block.is_free = True
        self._blocks[block.number] = block
        insort(self._free[block.is_small], block.rank)

    def _remove(self, block: Block) -> None:
        block.is_free = False
        del self._blocks[block.number]
        free = self._free[block.is_small]
        del free[bisect_left(free, block.rank)]


def _up(size: int, unit: int) -> int:
    return -(-size // unit) * unit
