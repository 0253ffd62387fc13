"""Random numbers of training: each is a pure function of the seed, what it is for, and the sample's position.

So a step draws the same numbers after a resume, on any number of ranks, and however a batch is split; no state of a
generator has to be saved.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def generator(seed: int, purpose: str, position: int) -> torch.Generator:
    """On the CPU, so that a GPU sees the same numbers."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{position}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big", signed=True))


def normal(seed: int, purpose: str, positions: Sequence[int], shape: Sequence[int]) -> Tensor:
    """float32 [B, *shape]: standard normal, a draw for each position."""
    return torch.stack([torch.randn(*shape, generator=generator(seed, purpose, place)) for place in positions])


def uniform(seed: int, purpose: str, positions: Sequence[int]) -> Tensor:
    """float32 [B] in 0..1."""
    return torch.cat([torch.rand(1, generator=generator(seed, purpose, place)) for place in positions])


def integers(seed: int, purpose: str, positions: Sequence[int], end: int) -> Tensor:
    """int64 [B], 0 .. end - 1."""
    return torch.cat([torch.randint(end, (1,), generator=generator(seed, purpose, place)) for place in positions])


def seed_layers(seed: int, position: int, rank: int) -> None:
    """Seed torch's own generators: for layers that draw by themselves, such as dropout."""
    torch.manual_seed(generator(seed, f"layers of rank {rank}", position).initial_seed())
