"""An executor that treats its work as a cluster does: everything is pickled, and results come in another order."""

import pickle
from collections.abc import Callable, Iterator
from typing import Any

from lipforge.pipeline.config import PrepareConfig


class FarWorkers:
    """Stands for RayExecutor. `items`, `num_gpus`: those that it was given, and the most it was asked for, in all."""

    num_workers = 2

    def __init__(self, config: PrepareConfig) -> None:
        self.items: list[Any] = []
        self.num_gpus = 0.0

    def map(self, function: Callable[[Any], Any], items: list[Any], num_gpus: float = 0) -> Iterator[Any]:
        self.items += items
        self.num_gpus = max(self.num_gpus, num_gpus)
        for item in reversed(items):
            yield pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(function))(pickle.loads(pickle.dumps(item)))))

    def close(self) -> None:
        pass
