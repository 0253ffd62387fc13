"""Work that a cluster can share: a function that can be pickled, applied to items by whoever has workers."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lipforge.datasets_manifest.storage.store import Store

Mapper = Callable[[Callable[[Any], Any], list[Any]], Iterator[Any]]
"""Applies a function to items, perhaps in other processes, and gives the results in any order. `map` is one."""

DELETED_TOGETHER = 1000
"""Files of one task: an object store takes as many in one request."""


def delete_files(store: Store, names: Sequence[str], run_map: Mapper) -> None:
    """Delete files; all are gone when this returns. What is gone already is a success."""
    chunks = [names[first : first + DELETED_TOGETHER] for first in range(0, len(names), DELETED_TOGETHER)]
    for _ in run_map(store.delete_all, chunks):
        pass
