"""Noise and how to take it away: the equations of diffusion, as pure functions.

The process is that of Stable Diffusion (Rombach et al. 2022), which LatentSync (Li et al. 2024, arXiv 2412.09262)
keeps: 1000 steps, `scaled_linear` variances, a network that predicts the noise (Ho et al. 2020).

latents: [B, 4, T, h, w], scaled, deviation about 1. timesteps: int64 [B], 0..999, or one int for all. Whatever the
precision of the input, arithmetic and results are float32: at t = 999 the one-step estimate divides by 0.068, which
float16 does not survive. All functions but `sample` are differentiable.
"""

import functools
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from lipforge.model.denoiser.solvers import CLASSES, NUM_TIMESTEPS, SOLVERS

_BETA_START, _BETA_END = 0.00085, 0.012
_SCHEDULE = {
    "num_train_timesteps": NUM_TIMESTEPS,
    "beta_start": _BETA_START,
    "beta_end": _BETA_END,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
"""What all solvers are told, under diffusers' names."""
_LCM_TRAINING_STEPS = 50  # a consistency model learns at these steps only (Luo et al. 2023, arXiv 2310.04378)

UNet = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(sample [B, 13, T, h, w], timesteps [B], audio [B, T, K, D]) -> predicted noise [B, 4, T, h, w]."""


def mixed_noise(shared: Tensor, independent: Tensor, alpha: float) -> Tensor:
    """Noise whose frames resemble each other: neighbours correlate by alpha^2 / (1 + alpha^2).

    shared: [B, C, 1 or T, h, w], of which the first frame serves all frames; independent: [B, C, T, h, w]; both
    standard normal, and so is the result, [B, C, T, h, w]. alpha: 0 gives `independent`; LatentSync uses 1.
    "Mixed noise" of Ge et al. 2023 (arXiv 2305.10474).
    """
    common = alpha**2 / (1 + alpha**2)
    return common**0.5 * shared[:, :, :1].float() + (1 - common) ** 0.5 * independent.float()


def add_noise(latents: Tensor, noise: Tensor, timesteps: Tensor | int) -> Tensor:
    """What becomes of latents at a timestep. Both inputs have the same shape, which the result has, too."""
    kept = _kept(timesteps, latents)
    return kept.sqrt() * latents.float() + (1 - kept).sqrt() * noise.float()


def clean_latents(noisy: Tensor, prediction: Tensor, timesteps: Tensor | int) -> Tensor:
    """One-step estimate of the latents behind `noisy`, if `prediction` is the noise in them. Undoes `add_noise`."""
    kept = _kept(timesteps, noisy)
    return (noisy.float() - (1 - kept).sqrt() * prediction.float()) / kept.sqrt()


def signal_to_noise(timesteps: Tensor) -> Tensor:
    """Ratio of the variances of signal and noise at timesteps: [B], from 1175 at t = 0 down to 0.0047 at t = 999.

    Hang et al. 2023 (arXiv 2303.09556) weigh the noise loss by min(ratio, gamma) / ratio.
    """
    kept = _table(timesteps.device)[timesteps]
    return kept / (1 - kept)


def network_input(noisy: Tensor, mask: Tensor, masked: Tensor, reference: Tensor) -> Tensor:
    """What the U-Net sees: [B, 13, T, h, w].

    noisy, masked, reference: latents of the noisy target, of the target without its mouth, and of the reference; mask:
    [B, 1, T, h, w], 1 where the picture is KEPT, as the published weights expect it (1 - `mouth_mask`).
    """
    return torch.cat([noisy, mask.to(noisy.dtype), masked.to(noisy.dtype), reference.to(noisy.dtype)], dim=1)


@torch.no_grad()
def sample(
    unet: UNet,
    latents: Tensor,
    mask: Tensor,
    masked: Tensor,
    reference: Tensor,
    audio: Tensor,
    num_steps: int,
    guidance: float,
    solver: str = "ddim",
    generator: torch.Generator | None = None,
    guidance_band: tuple[int, int] = (0, NUM_TIMESTEPS),
) -> Tensor:
    """Generates latents, float32 [B, 4, T, h, w], from noise.

    latents: standard normal noise, [B, 4, 1 or T, h, w]; one frame serves all, as LatentSync does. mask, masked,
    reference: as for `network_input`. audio: [B, T, K, D].
    guidance: 1 asks the network once a step; otherwise it is asked with silence (zeros), too, and its answer is moved
    from there towards the one with sound and beyond (Ho and Salimans 2022). LatentSync uses 1.5.
    guidance_band: (lowest, beyond) timesteps at which it is guided; at others it is asked once (Kynkaanniemi et al.
    2024, arXiv 2404.07724).
    solver: `ddim` (as published), `dpm++` (second order, multistep), `euler`, or `lcm`, which only suits weights that
    were distilled for it. generator: of the noise that `lcm` adds between its steps.
    Raises ValueError for an unknown solver or a number of steps that it cannot take.
    """
    scheduler = _scheduler(solver, num_steps, masked.device)
    latents = latents.float().expand_as(masked) * scheduler.init_noise_sigma
    extra = {"generator": generator} if solver == "lcm" else {}
    for timestep in scheduler.timesteps:
        seen = network_input(scheduler.scale_model_input(latents, timestep), mask, masked, reference)
        strength = guidance if guidance_band[0] <= int(timestep) < guidance_band[1] else 1.0
        noise = _guided(unet, seen, timestep.long().expand(len(seen)), audio, strength)
        latents = scheduler.step(noise, timestep, latents, return_dict=False, **extra)[0]
    return latents


def _guided(unet: UNet, seen: Tensor, timesteps: Tensor, audio: Tensor, guidance: float) -> Tensor:
    if guidance == 1:
        return unet(seen, timesteps, audio).float()
    heard = torch.cat([torch.zeros_like(audio), audio])
    silent, sounding = unet(seen.repeat(2, 1, 1, 1, 1), timesteps.repeat(2), heard).float().chunk(2)
    return silent + guidance * (sounding - silent)


def check_solver(solver: str, num_steps: int) -> None:
    """Raises ValueError for an unknown solver, or a number of steps that it cannot take."""
    if solver not in SOLVERS:
        raise ValueError(f"unknown solver {solver!r}; known: {', '.join(SOLVERS)}")
    most = _LCM_TRAINING_STEPS if solver == "lcm" else NUM_TIMESTEPS
    if not 1 <= num_steps <= most:
        raise ValueError(f"num_steps is {num_steps}; the solver {solver} takes 1 to {most}")


def _scheduler(solver: str, num_steps: int, device: torch.device) -> Any:  # the classes share no annotated protocol
    check_solver(solver, num_steps)
    diffusers: Any = import_module("diffusers")  # it exports the classes in a way that type checkers do not see
    kind = getattr(diffusers, CLASSES[solver])
    published = {"clip_sample": False, "set_alpha_to_one": False} if solver in ("ddim", "lcm") else {}
    scheduler = kind(**_SCHEDULE, **published)
    scheduler.set_timesteps(num_steps, device=device)
    return scheduler


def _kept(timesteps: Tensor | int, latents: Tensor) -> Tensor:
    """Share of the signal's variance that is left, in a shape that multiplies latents: [B, 1, ...] or [1, 1, ...]."""
    at = torch.as_tensor(timesteps, device=latents.device).reshape(-1)
    return _table(latents.device)[at].reshape(-1, *[1] * (latents.ndim - 1))


@functools.cache
def _table(device: torch.device) -> Tensor:
    """Share of the signal's variance that is left at each timestep: the cumulative product of 1 - beta."""
    betas = torch.linspace(_BETA_START**0.5, _BETA_END**0.5, NUM_TIMESTEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0).float().to(device)
