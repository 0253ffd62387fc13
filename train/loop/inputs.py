"""From a batch of the stream to what the diffusion losses take: latents, audio tokens, noise, timesteps."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lipforge.model.denoiser.diffusion import NUM_TIMESTEPS, mixed_noise
from lipforge.model.denoiser.mask import hide_mouth, mouth_mask, to_pixels
from lipforge.model.denoiser.vae import PIXELS_PER_LATENT, FrozenVae, sample_latents
from lipforge.train.config import DiffusionConfig
from lipforge.train.loop import randomness
from lipforge.train.loop.audio import AudioEncoder
from lipforge.train.stream.batches import Batch


@dataclass(frozen=True)
class DiffusionInputs:
    """B samples of T frames; r is the side of the latents, R of the frames. On the training device, float32."""

    keys: list[str]
    valid: Tensor
    """float [B]: 0 for a sample that only fills the batch."""
    latents: Tensor
    """[B, 4, T, r, r], scaled: what the network should find."""
    masked: Tensor
    """[B, 4, T, r, r]: of the target with the mouth hidden."""
    reference: Tensor
    """[B, 4, T, r, r]: of another window of the clip."""
    mask: Tensor
    """[B, 1, T, r, r]: 1 where the picture is kept, as published."""
    audio: Tensor
    """[B, T, K, D]"""
    noise: Tensor
    """[B, 4, T, r, r]"""
    timesteps: Tensor
    """int64 [B]"""
    target: Tensor | None
    """[B, T, 3, R, R] in -1..1, where losses compare pixels."""
    mel: Tensor
    """[B, 1, 80, M]"""

    def network_input(self, noisy: Tensor) -> Tensor:
        """[B, 13, T, r, r]: noisy latents, mask, masked and reference latents, in the published order."""
        return torch.cat([noisy, self.mask, self.masked, self.reference], dim=1)


class InputMaker:
    """Frozen networks and random draws. The same sample at the same position always gives the same inputs."""

    def __init__(
        self,
        config: DiffusionConfig,
        resolution: int,
        vae: FrozenVae,
        audio_encoder: AudioEncoder,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self.config, self.resolution, self.vae, self.audio_encoder = config, resolution, vae, audio_encoder
        self.device, self.autocast = device, autocast

    @torch.no_grad()
    def make(self, batch: Batch, purpose: str = "train", timesteps: Tensor | None = None) -> DiffusionInputs:
        """purpose: training and validation draw different numbers for one position.

        timesteps: int64 [B]; None: drawn.
        """
        seed, positions = self.config.seed, batch["position"].tolist()
        mask = mouth_mask(self.resolution)
        kept = 1 - functional.interpolate(mask[None], scale_factor=1 / PIXELS_PER_LATENT)
        target, moments = self._moments(batch, mask.to(self.device))
        shape = list(moments[0].shape[1:])
        shape[-3] //= 2
        latents = []
        for name, posterior in zip(("target", "masked", "reference"), moments, strict=True):
            draw = randomness.normal(seed, f"{purpose} {name} latents", positions, shape)
            drawn = sample_latents(posterior.to(self.device, torch.float32), draw.to(self.device))
            latents.append(drawn.transpose(1, 2).contiguous())
        num_frames, channels, *side = shape
        shared = randomness.normal(seed, f"{purpose} shared noise", positions, [channels, 1, *side])
        independent = randomness.normal(seed, f"{purpose} noise", positions, [channels, num_frames, *side])
        noise = mixed_noise(shared, independent, self.config.mixed_noise_alpha)
        if timesteps is None:
            timesteps = randomness.integers(seed, f"{purpose} timesteps", positions, NUM_TIMESTEPS)
        audio = self.audio_encoder.tokens(batch)
        if self.config.audio_dropout and purpose == "train":
            heard = randomness.uniform(seed, f"{purpose} audio dropout", positions) >= self.config.audio_dropout
            audio = audio * heard[:, None, None, None]
        return DiffusionInputs(
            keys=batch["key"],
            valid=batch["valid"].to(self.device, torch.float32),
            latents=latents[0],
            masked=latents[1],
            reference=latents[2],
            mask=kept[:, :, None].expand(len(positions), 1, num_frames, *side).to(self.device),
            audio=audio.to(self.device),
            noise=noise.to(self.device),
            timesteps=timesteps.to(self.device),
            target=target,
            mel=batch["mel"][:, None].to(self.device),
        )

    def _moments(self, batch: Batch, mask: Tensor) -> tuple[Tensor | None, tuple[Tensor, Tensor, Tensor]]:
        """Pixels of the target, if they were decoded; and moments of target, masked target and reference."""
        target = to_pixels(batch["target"].to(self.device), self.resolution) if "target" in batch else None
        if "target_moments" in batch:
            return target, (batch["target_moments"], batch["masked_moments"], batch["reference_moments"])
        assert target is not None
        reference = to_pixels(batch["reference"].to(self.device), self.resolution)
        with self.autocast():
            encode = self.vae.moments
            return target, (encode(target), encode(hide_mouth(target, mask)), encode(reference))

    @torch.no_grad()
    def pictures(self, made: DiffusionInputs, estimate: Tensor) -> dict[str, Tensor]:
        """Frames to draw, by label: [B, T, 3, R, R]. estimate: clean latents [B, 4, T, r, r], in one step."""
        seen = f"estimate in one step, t = {int(made.timesteps[0])}"
        latents = {"target": made.latents, "masked": made.masked, seen: estimate, "reference": made.reference}
        return {label: self.vae.decode(values.float().transpose(1, 2)) for label, values in latents.items()}
