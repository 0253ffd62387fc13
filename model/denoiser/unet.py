"""The denoising U-Net of LatentSync (Li et al. 2024, arXiv 2412.09262; ByteDance, Apache-2.0).

Stable Diffusion's U-Net (Rombach et al. 2022) over windows of frames: it sees the noisy latents, which part of the
picture is kept, the masked frame and a reference frame, and hears Whisper's features by cross-attention. Stage 2 adds
motion modules.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn
from torch import _dynamo as dynamo
from torch.nn import functional

from lipforge.model.denoiser.blocks import (
    Block,
    DownBlock,
    MidBlock,
    Resnet,
    SpatialAttention,
    UpBlock,
    norm_of_windows,
    time_embedding_width,
)
from lipforge.model.denoiser.layouts import read_config
from lipforge.model.denoiser.motion import MotionModule

_MAX_COMPILED_SHAPES = 128


class UNet3D(nn.Module):
    """Predicts the noise in latents of a window of frames."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """config: one of `LAYOUTS`, or the `model` section of a LatentSync config.

        Raises ValueError that names each setting that does not fit.
        """
        super().__init__()
        settings = read_config(config)
        self.config: dict[str, Any] = settings.model_dump(mode="json")
        """What builds this network again."""
        widths, groups = settings.block_out_channels, settings.norm_num_groups
        self.conv_in = nn.Conv2d(settings.in_channels, widths[0], 3, padding=1)
        self.time_proj = Timesteps(widths[0], flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(widths[0], time_embedding_width(settings))
        levels = range(len(widths))
        self.down_blocks = nn.ModuleList([DownBlock(settings, level) for level in levels])
        self.up_blocks = nn.ModuleList([UpBlock(settings, level) for level in reversed(levels)])
        self.mid_block = MidBlock(settings)
        self._num_skips = settings.layers_per_block + 1  # outputs of the encoder that each block of the decoder takes
        self.conv_norm_out = nn.GroupNorm(groups, widths[0], settings.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], settings.out_channels, 3, padding=1)
        motion = settings.motion_module_kwargs
        self.max_frames = motion.temporal_position_encoding_max_len if settings.use_motion_module else None
        """Longest window that its motion modules have positions for; None: any."""

    def forward(self, sample: Tensor, timesteps: Tensor | int, audio: Tensor) -> Tensor:
        """Predicted noise [B, 4, T, h, w].

        sample: float [B, 13, T, h, w]: noisy latents (4 channels), mask (1; 1 where the picture is kept), masked frame
        (4), reference frame (4); timesteps: 0..999, one for all or [B]; audio: float [B, T, K, D], features around each
        frame.
        Raises ValueError for a window that is too long or audio that does not fit it.
        """
        batch, _, num_frames, height, width = sample.shape
        self._check(sample, audio)
        steps = torch.as_tensor(timesteps, device=sample.device).expand(batch)
        time = self.time_embedding(self.time_proj(steps).to(self.conv_in.weight.dtype))
        audio = audio.flatten(0, 1)

        frames = self.conv_in(sample.transpose(1, 2).flatten(0, 1))
        skips = [frames]
        for block in self.down_blocks:
            frames, more = block(frames, time, audio)
            skips += more
        frames = self.mid_block(frames, time, audio)
        for block in self.up_blocks:
            own, skips = skips[: -self._num_skips - 1 : -1], skips[: -self._num_skips]
            size = list(skips[-1].shape[2:]) if skips else [height, width]
            frames = block(frames, own, time, audio, size)

        frames = functional.silu(norm_of_windows(self.conv_norm_out, frames, num_frames))
        return self.conv_out(frames).unflatten(0, (batch, num_frames)).transpose(1, 2)

    def set_gradient_checkpointing(self, on: bool) -> None:
        """On: activations inside of layers are computed again when gradients need them, to the same bits."""
        for module in self.modules():
            if isinstance(module, Block):
                module.gradient_checkpointing = on

    def compile_blocks(self, **settings: Any) -> None:
        """torch.compile the layers, each without a graph break. Names in the state dict stay as they are.

        settings: for torch.compile, such as `mode`.
        """
        # Layers of one shape share what was compiled; torch gives up at 8 shapes of one function, and a U-Net has more.
        dynamo.config.recompile_limit = max(dynamo.config.recompile_limit, _MAX_COMPILED_SHAPES)
        for module in self.modules():
            if isinstance(module, (Resnet, SpatialAttention, MotionModule)):
                module.compile(fullgraph=True, dynamic=False, **settings)

    def _check(self, sample: Tensor, audio: Tensor) -> None:
        num_frames = sample.shape[2]
        if self.max_frames is not None and num_frames > self.max_frames:
            raise ValueError(
                f"{num_frames} frames are too many: this U-Net's motion modules have positions for {self.max_frames}"
            )
        if audio.ndim != 4 or audio.shape[:2] != (len(sample), num_frames):
            raise ValueError(
                f"audio {list(audio.shape)} does not fit latents {list(sample.shape)}; expected [B, T, K, D] with "
                f"B = {len(sample)} and T = {num_frames}"
            )


def trainable_names(network: nn.Module, parts: Iterable[str]) -> list[str]:
    """Names of the parameters that contain one of the parts, in order; of all, if there are no parts."""
    parts = tuple(parts)
    names = [name for name, _ in network.named_parameters()]
    return [name for name in names if not parts or any(part in name for part in parts)]
