"""Exponential moving average of trainable weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lipforge.train.config import EmaConfig


class Ema:
    """Averages of named parameters, in float32. Off, when the config has no decay: then it holds nothing.

    The decay of early steps is lower, (1 + step) / (10 + step), so that the average forgets the initial weights.
    """

    def __init__(self, config: EmaConfig, parameters: Mapping[str, nn.Parameter]) -> None:
        """parameters: by name, as the optimizer sees them; with FSDP, their shards."""
        self._decay = config.decay
        self._parameters = dict(parameters)
        self.averages: dict[str, Tensor] = {}
        if config.decay is not None:
            for name, parameter in parameters.items():
                average = parameter.detach().clone().float()
                self.averages[name] = average.cpu() if config.on_cpu else average

    @torch.no_grad()
    def update(self, step: int) -> None:
        """step: the number of the optimizer step that was just made, from 1."""
        if self._decay is None:
            return
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, average in self.averages.items():
            average.lerp_(self._parameters[name].detach().to(average.device, torch.float32), 1 - decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The network has the averages for as long as the block lasts."""
        kept = {name: self._parameters[name].detach().clone() for name in self.averages}
        try:
            self._put(self.averages)
            yield
        finally:
            self._put(kept)

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self._parameters[name].copy_(value.to(self._parameters[name].device))
