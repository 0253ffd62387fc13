"""Counts live tensor storage while code runs: how much at each moment, and what it is.

Works on fake tensors, which have sizes and no memory, and on real ones: the same operations, so the same numbers.
"""

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lipforge.train.plan.allocator import Block, CachingAllocator

WORKSPACE = "workspace of a kernel"


@dataclass
class Peak:
    """The moment of a phase at which most is alive."""

    bytes: int = 0
    parts: dict[str, int] = field(default_factory=dict)
    """Bytes by what they are; the sum is `bytes`."""


class StorageTracker(TorchDispatchMode):
    """While entered, each new storage counts until it is freed, as what the phase says, or `mark` does.

    A storage that several tensors share counts once. `allocator` says what a GPU would reserve for them.
    """

    def __init__(self, workspace: Callable[[Any, Any, Any], int] | None = None) -> None:
        """workspace: (operation, its inputs, its results) -> bytes that it needs besides, until it is done."""
        super().__init__()
        self._workspace = workspace
        self.allocator = CachingAllocator()
        self._blocks: dict[int, Block] = {}
        self.peaks: dict[str, Peak] = {}
        """By phase, in order."""
        self._live: dict[int, tuple[weakref.ref, int, str]] = {}
        self._parts: dict[str, int] = defaultdict(int)
        self._total = 0
        self._phase, self._part = "", "other"
        self.only_phase: str | None = None
        """Where it is set, phases that begin do not count as such."""

    @contextmanager
    def phase(self, name: str, part: str) -> Iterator[None]:
        """part: what storages are that are made in this phase. A phase may come more than once."""
        before = self._phase, self._part
        name = self.only_phase or name
        self._phase, self._part = name, part
        self._look()
        try:
            yield
        finally:
            self._phase, self._part = before

    def mark(self, tensors: Iterable[Tensor], part: str) -> None:
        """These storages are that from now on; those that were not counted yet are from now on, too."""
        for tensor in tensors:
            self._count(tensor, part)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        made = [value for value in tree_leaves(found) if isinstance(value, Tensor)]
        made = [tensor for tensor in made if tensor.device.type != "meta"]  # those are for trying shapes
        for tensor in made:
            self._count(tensor, None)
        if made and self._workspace is not None and (needed := self._workspace(func, args, found)):
            self._total += needed
            self._parts[WORKSPACE] += needed
            self._look()
            self.allocator.free(self.allocator.allocate(needed))
            self._total -= needed
            self._parts[WORKSPACE] -= needed
        return found

    def _count(self, tensor: Tensor, part: str | None) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)
        known = self._live.get(key)
        if known is not None:
            if part is not None and part != known[2]:
                self._parts[known[2]] -= known[1]
                self._parts[part] += known[1]
                self._live[key] = (known[0], known[1], part)
                self._look()
            return
        size = storage.nbytes()
        if size:
            self._blocks[key] = self.allocator.allocate(size)
        self._live[key] = (weakref.ref(storage, lambda _, key=key: self._freed(key)), size, part or self._part)
        self._parts[part or self._part] += size
        self._total += size
        self._look()

    def _freed(self, key: int) -> None:
        _, size, part = self._live.pop(key)
        if size:
            self.allocator.free(self._blocks.pop(key))
        self._parts[part] -= size
        self._total -= size

    def _look(self) -> None:
        if not self._phase:
            return
        peak = self.peaks.setdefault(self._phase, Peak())
        if self._total >= peak.bytes:
            peak.bytes = self._total
            peak.parts = {part: size for part, size in self._parts.items() if size}
