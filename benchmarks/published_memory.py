"""Does the memory planner's count agree with the memory that LatentSync's README states for its trainers?

python -m benchmarks.published_memory

Rehearses the published step (scripts/train_unet.py of LatentSync, ByteDance, Apache-2.0) in its order, with the tracker
of `lipforge train plan`, on tensors without memory: frozen networks in half precision, DDP on one GPU too, gradients
that are kept until the backward pass, a VAE that is checkpointed by blocks, all frames at once, and the decoding of its
validation. Results are also written to bench/published_memory.json.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lipforge.model.denoiser import lpips, videomae
from lipforge.model.denoiser.diffusion import add_noise, clean_latents, signal_to_noise
from lipforge.model.denoiser.layouts import LAYOUTS
from lipforge.model.denoiser.losses import lpips_loss, noise_loss, sync_loss, trepa_loss
from lipforge.model.denoiser.lpips import Lpips
from lipforge.model.denoiser.unet import UNet3D, trainable_names
from lipforge.model.denoiser.videomae import VideoMae
from lipforge.model.sync import stable_syncnet
from lipforge.model.sync.stable_syncnet import StableSyncNet
from lipforge.model.sync.window import syncnet_input
from lipforge.train.config import DiffusionConfig, Stage2Config
from lipforge.train.plan.kernels import convolution_workspace, norms_in_float32
from lipforge.train.plan.networks import PlannedVae
from lipforge.train.plan.plan import ALLOWANCE_BYTES, GB, make_plan, read_config
from lipforge.train.plan.step import optimizer_state, optimizer_temporary
from lipforge.train.plan.tracker import StorageTracker

STATED_GB = {"stage1": 23, "stage2": 30, "stage2_efficient": 20, "stage1_512": 30, "stage2_512": 55}
"""At batch 1, in the README of LatentSync 1.6."""
VALIDATION_BYTES = 295_000_000
"""Whisper tiny, SyncNet v2 and a face detector, which stay on its GPU: the sizes of their files."""
OUT = Path("bench/published_memory.json")
FRAMES = 16


@contextmanager
def built_in(kind: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(kind)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def frozen(network: nn.Module) -> nn.Module:
    return network.eval().requires_grad_(False)


def published(config: DiffusionConfig) -> tuple[dict[str, int], int]:
    """(bytes of tensors at the fullest moment of each phase, bytes that the allocator reserves)."""
    side = config.resolution or 256
    signal_to_noise(torch.zeros(1, dtype=torch.int64))  # keeps a table, which must not be one without memory
    tracker = StorageTracker(convolution_workspace)
    with FakeTensorMode(allow_non_fake_inputs=True), norms_in_float32(), tracker:
        judged = isinstance(config, Stage2Config)
        with built_in(torch.float16):
            vae = PlannedVae("sd-vae-ft-mse")
            temporal: Any = frozen(VideoMae(videomae.LAYOUTS["giant"])) if judged and config.losses.trepa else None
            layout = stable_syncnet.LAYOUTS["syncnet_16_pixel_attn"]
            sync: Any = frozen(StableSyncNet(layout)) if judged else None
        perceptual: Any = frozen(Lpips(lpips.LAYOUTS["vgg16"])) if judged else None
        if judged:
            network_of_vae: Any = vae.network
            network_of_vae.enable_gradient_checkpointing()
        if temporal is not None:
            temporal.gradient_checkpointing = True
        unet = UNet3D(LAYOUTS[config.unet])
        unet.set_gradient_checkpointing(True)
        names = set(trainable_names(unet, config.trainable))
        for name, parameter in unet.named_parameters():
            parameter.requires_grad_(name in names)
        trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
        kept = [optimizer_state("adamw", trained), [torch.empty_like(value) for value in trained]]  # and DDP's buckets
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)

        with tracker.phase("encode", "inputs"), torch.no_grad():
            pictures = [torch.zeros(FRAMES, 3, side, side, dtype=torch.float16) for _ in range(3)]
            target, masked, reference = (
                vae.moments(pixels)[:, :4].contiguous().transpose(0, 1)[None] for pixels in pictures
            )
            noise = torch.zeros_like(target)
        timesteps = torch.zeros(1, dtype=torch.int64)
        with tracker.phase("forward", "activations"):
            noisy = add_noise(target, noise, timesteps).half()
            mask = torch.zeros_like(target[:, :1])
            seen = torch.cat([noisy, mask, masked, reference], dim=1)
            with torch.autocast("cpu", torch.float16):
                prediction = unet(seen, timesteps, torch.zeros(1, FRAMES, 50, 384, dtype=torch.float16))
            loss = noise_loss(prediction, noise).mean()
            estimate = clean_latents(noisy, prediction, timesteps).half()
        if judged:
            with tracker.phase("pixels", "activations"):
                pixels = vae.decode(estimate.transpose(1, 2))
                loss = loss + _judgement(pixels, pictures[0][None], perceptual, temporal, sync, layout)
        for parameter in trained:
            parameter.grad = None
        with tracker.phase("backward", "activations"):
            loss.backward()
        with tracker.phase("optimizer", "activations"):
            optimizer_temporary("adamw", trained)
        with tracker.phase("validation", "activations"), torch.no_grad():
            vae.decode(torch.zeros(FRAMES, 4, side // 8, side // 8, dtype=torch.float16))
        assert kept
    peaks = {name: peak.bytes + VALIDATION_BYTES for name, peak in tracker.peaks.items()}
    return peaks, tracker.allocator.reserved_bytes + VALIDATION_BYTES


def _judgement(pixels: Tensor, target: Tensor, perceptual: Any, temporal: Any, sync: Any, layout: Any) -> Tensor:
    loss = lpips_loss(perceptual, pixels, target).mean()
    if temporal is not None:
        half = lambda video: temporal(video.half())  # noqa: E731
        loss = loss + trepa_loss(half, pixels.transpose(1, 2), target.transpose(1, 2)).mean()
    sees = syncnet_input("published", layout, FRAMES)
    vision, audio = sync(sees.frames(pixels, None), torch.zeros(1, 1, 80, 52, dtype=torch.float16))
    return loss + sync_loss(vision, audio, torch.ones(1)).mean()


def main() -> None:
    rows = []
    print("GB of 2^30 bytes       stated  tensors  counted          fullest phase    ours")
    for preset, stated in STATED_GB.items():
        config = read_config(preset, [])
        assert isinstance(config, DiffusionConfig)
        peaks, reserved = published(config)
        phase = max(peaks, key=lambda name: peaks[name])
        tensors, counted = peaks[phase] / GB, (reserved + ALLOWANCE_BYTES) / GB
        ours = make_plan(config).total_bytes / GB
        print(f"{preset:20}{stated:9}{tensors:9.1f}{counted:9.1f} {counted / stated - 1:+6.0%}   {phase:15}{ours:6.1f}")
        rows.append(
            {"preset": preset, "stated_gb": stated, "tensors_gb": tensors, "counted_gb": counted, "ours_gb": ours}
        )
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
