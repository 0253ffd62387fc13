"""Validation: the same held-out samples each time, on all ranks; losses by name, and one-step estimates as pictures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lipforge.train.loop.data import Data
from lipforge.train.loop.run import DATA_ERRORS, Run
from lipforge.train.stream.batches import Batch


@dataclass(frozen=True)
class Validated:
    """What the trainer found for one batch."""

    losses: Mapping[str, Tensor]
    """[B] by name."""
    valid: Tensor
    """[B]: 0 for a sample that does not count."""
    pictures: Mapping[str, Tensor] | None = None
    """Frames to draw, by label: float [B, T, 3, R, R] in -1..1."""


DRAWN_SHARES = (0.25, 0.6)
"""What rank 0 draws: its first samples at or past these shares of the timesteps. Near 0 every estimate looks good."""


def validate(
    run: Run,
    data: Data,
    weights: Mapping[str, float],
    look: Callable[[Batch, Tensor, bool], Validated],
    conclude: Callable[[], Mapping[str, float]] = dict,
) -> None:
    """Log the mean of each loss over the val split, and draw. Collective.

    look: from a batch, the timesteps [B] as shares in 0..1, and whether to draw it. The network has its averages then,
    where they are on. conclude: called on all ranks after the last batch, for other numbers to log.
    """
    if not data.has_validation:
        return
    sums: dict[str, Tensor] = {}
    drawn: list[Mapping[str, Tensor]] = []
    num_samples = run.config.num_validation_samples
    accelerator = run.accelerator
    network_mode = run.network.training
    run.network.eval()
    with run.not_training(), run.ema.swapped_in(), torch.no_grad():
        source = iter(run.together.do(data.validation, *DATA_ERRORS))
        first = 0
        while first < num_samples:
            batch = run.together.do(lambda: next(source, None), *DATA_ERRORS)
            if batch is None:
                break
            shares = (batch["position"].double() % num_samples + 0.5) / num_samples
            wanted = DRAWN_SHARES[len(drawn) :]
            draws = accelerator.is_main_process and bool(wanted) and float(shares[0]) >= wanted[0]
            found = look(batch, shares, draws)
            valid = found.valid * (batch["position"] < num_samples).to(found.valid)
            total = sum(weights[name] * values for name, values in found.losses.items())
            for name, values in {**found.losses, "loss": total, _COUNT: torch.ones_like(valid)}.items():
                summed = torch.where(valid > 0, values.float(), 0.0).double().sum()
                sums[name] = sums.get(name, torch.zeros_like(summed)) + summed
            if draws and found.pictures is not None:
                drawn.append({label: frames[0] for label, frames in found.pictures.items()})
            first += accelerator.num_processes
    run.network.train(network_mode)
    names = list(sums)
    totals = dict(zip(names, run.together.total(torch.stack([sums[name] for name in names])).tolist(), strict=True))
    count = max(1.0, totals.pop(_COUNT))
    losses = {name: value / count for name, value in totals.items()}
    run.validated({**losses, **conclude()}, int(count), drawn)


_COUNT = "samples"
