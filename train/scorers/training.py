"""Trains one network of the lip-sync scorer: its losses and its loop."""

import logging
import time

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lipforge.model.sync.builtin import SyncNetwork
from lipforge.train.scorers.augmentation import BatchSampler
from lipforge.train.scorers.clips import TrainingClip
from lipforge.train.scorers.config import ScorerTrainingConfig

log = logging.getLogger(__name__)


def train_network(clips: list[TrainingClip], num_steps: int, seed: int, config: ScorerTrainingConfig) -> SyncNetwork:
    """One network, trained on the clips whose offset is not None. Raises FloatingPointError if it diverges."""
    sampler = BatchSampler(clips, config)
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    network = SyncNetwork(config.width, config.num_outputs, config.dropout)
    optimizer = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=num_steps, pct_start=0.15
    )
    started = time.perf_counter()
    for step in range(1, num_steps + 1):
        losses = sync_losses(network, *sampler.draw_batch(rng), config)
        loss = losses["lag"] + config.cross_weight * losses["cross"]
        if not torch.isfinite(loss):
            raise FloatingPointError(f"loss is {loss.item()} at step {step} of seed {seed}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == num_steps:
            values = " ".join(f"{name} {value.item():.3f}" for name, value in losses.items())
            rate = step / (time.perf_counter() - started)
            log.info(
                "  step %d of %d: %s, %.1f steps/s, %.0f s left",
                step,
                num_steps,
                values,
                rate,
                (num_steps - step) / rate,
            )
    return network.eval().requires_grad_(False)


def sync_losses(network: SyncNetwork, lips: Tensor, audio: Tensor, config: ScorerTrainingConfig) -> dict[str, Tensor]:
    """`lag`: which shift of a clip's own audio is the true one? `cross`: which clip's audio is its own?"""
    lip_vectors, audio_vectors = network.lips(lips), network.sound(audio)
    count, num_frames = lip_vectors.shape[:2]
    scale = network.log_scale.exp()
    reach = min(config.max_lag_frames, num_frames - 5)
    similar = lip_vectors @ audio_vectors.transpose(1, 2)
    by_lag = torch.stack([similar.diagonal(lag, 1, 2).mean(dim=1) for lag in range(-reach, reach + 1)], dim=1)
    by_clip = torch.einsum("itd,jtd->ij", lip_vectors, audio_vectors) / num_frames
    clips = torch.arange(count)
    return {
        "lag": functional.cross_entropy(scale * by_lag, torch.full((count,), reach)),
        "cross": (functional.cross_entropy(scale * by_clip, clips) + functional.cross_entropy(scale * by_clip.T, clips))
        / 2,
    }
