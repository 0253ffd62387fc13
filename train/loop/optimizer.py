"""AdamW, and the learning rate of each step as a pure function: a resume has no schedule to restore."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from lipforge.pipeline.running.quiet import off_terminal
from lipforge.train.config import OptimizerConfig


def make_optimizer(config: OptimizerConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Over these parameters. Its learning rate is 0 until `set_learning_rate`."""
    settings = {"lr": 0.0, "betas": config.betas, "eps": config.eps, "weight_decay": config.weight_decay}
    if config.name == "adamw":
        return torch.optim.AdamW(parameters, **settings)
    with off_terminal(2):  # it warns of what it did not find
        from bitsandbytes.optim.adamw import AdamW8bit

    return AdamW8bit(parameters, **settings)


def learning_rate(config: OptimizerConfig, step: int, num_steps: int) -> float:
    """Of optimizer step `step`, counted from 1: a linear rise over `warmup_steps`, then constant or a half cosine."""
    if step <= config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    done = (step - 1 - config.warmup_steps) / max(1, num_steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = value
