"""An executor that treats its work as a cluster does: everything is pickled, and results come in another order."""

import pickle
from collections.abc import Callable, Iterator
from typing import Any

from lipforge.pipeline.config import PrepareConfig


class FarWorkers:
    """Stands for RayExecutor. `items`: those that it was given, over all calls."""

    num_workers = 2

    def __init__(self, config: PrepareConfig) -> None:
        self.items: list[Any] = []

    def map(self, function: Callable[[Any], Any], items: list[Any], num_gpus: float = 0) -> Iterator[Any]:
        self.items += items
        for item in reversed(items):
            yield pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(function))(pickle.loads(pickle.dumps(item)))))

    def close(self) -> None:
        pass
