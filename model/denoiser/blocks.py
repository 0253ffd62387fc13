"""Blocks of the denoising U-Net, with the keys of LatentSync's (ByteDance, Apache-2.0).

Between layers, a window is a stack of pictures [B * T, C, h, w]: convolutions and spatial attention see one frame
each. Two layers see all frames of a window: the norms of a resnet, and motion modules.
"""

from collections.abc import Iterator
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.downsampling import Downsample2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lipforge.model.denoiser.layouts import UNetConfig
from lipforge.model.denoiser.motion import MotionModule

_ATTENTION_NORM_EPS = 1e-6


class Resnet(nn.Module):
    """Two convolutions with a shortcut. Its norms share their statistics between the frames of a window."""

    def __init__(self, in_width: int, out_width: int, time_width: int, num_groups: int, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(num_groups, in_width, eps)
        self.conv1 = nn.Conv2d(in_width, out_width, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_width, out_width)
        self.norm2 = nn.GroupNorm(num_groups, out_width, eps)
        self.conv2 = nn.Conv2d(out_width, out_width, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_width, out_width, 1) if in_width != out_width else None

    def forward(self, frames: Tensor, time: Tensor) -> Tensor:
        """frames: [B * T, C, h, w]; time: [B, D]. Returns [B * T, out_width, h, w]."""
        num_frames = len(frames) // len(time)
        hidden = self.conv1(functional.silu(norm_of_windows(self.norm1, frames, num_frames)))
        shift = self.time_emb_proj(functional.silu(time)).repeat_interleave(num_frames, dim=0)
        hidden = hidden + shift[:, :, None, None]
        hidden = self.conv2(functional.silu(norm_of_windows(self.norm2, hidden, num_frames)))
        return hidden + (frames if self.conv_shortcut is None else self.conv_shortcut(frames))


def norm_of_windows(norm: nn.GroupNorm, frames: Tensor, num_frames: int) -> Tensor:
    """GroupNorm over [C, T, h, w] of each window; frames: [B * T, C, h, w], T = num_frames."""
    windows = frames.unflatten(0, (-1, num_frames)).transpose(1, 2)
    return norm(windows).transpose(1, 2).flatten(0, 1)


class SpatialAttention(nn.Module):
    """A transformer layer over the points of each frame, which also listens to the audio of that frame."""

    def __init__(self, width: int, num_heads: int, num_groups: int, audio_width: int | None) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(num_groups, width, _ATTENTION_NORM_EPS)
        self.proj_in = nn.Conv2d(width, width, 1)
        block = BasicTransformerBlock(width, num_heads, width // num_heads, cross_attention_dim=audio_width)
        self.transformer_blocks = nn.ModuleList([block])
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, frames: Tensor, audio: Tensor) -> Tensor:
        """frames: [B * T, C, h, w]; audio: [B * T, K, D]."""
        hidden = self.proj_in(self.norm(frames))
        points = hidden.permute(0, 2, 3, 1).flatten(1, 2)
        for block in self.transformer_blocks:
            points = block(points, encoder_hidden_states=audio)
        hidden = points.unflatten(1, frames.shape[2:]).permute(0, 3, 1, 2)
        return frames + self.proj_out(hidden)


class Block(nn.Module):
    """What blocks of the U-Net have in common: layers of a resnet, and perhaps an attention and a motion module."""

    gradient_checkpointing = False

    def __init__(self, config: UNetConfig, in_widths: list[int], width: int, attends: bool, moves: bool) -> None:
        """in_widths: of each layer; attends, moves: whether layers have attention and a motion module."""
        super().__init__()
        audio_width = config.cross_attention_dim if config.add_audio_layer else None
        groups, heads = config.norm_num_groups, config.attention_head_dim
        if attends:
            self.attentions = nn.ModuleList([SpatialAttention(width, heads, groups, audio_width) for _ in in_widths])
        time_width = time_embedding_width(config)
        self.resnets = nn.ModuleList([Resnet(w, width, time_width, groups, config.norm_eps) for w in in_widths])
        if moves:
            modules = [MotionModule(width, groups, config.motion_module_kwargs) for _ in in_widths]
            self.motion_modules = nn.ModuleList(modules)

    def layers(self) -> Iterator[tuple[nn.Module, nn.Module | None, nn.Module | None]]:
        """Resnet, attention and motion module of each layer."""
        for number, resnet in enumerate(self.resnets):
            attention = self.attentions[number] if hasattr(self, "attentions") else None
            motion = self.motion_modules[number] if hasattr(self, "motion_modules") else None
            yield resnet, attention, motion

    def refine(self, frames: Tensor, audio: Tensor, num_frames: int, *modules: nn.Module | None) -> Tensor:
        """Attention and motion module after a resnet, where there are any."""
        attention, motion = modules
        if attention is not None:
            frames = self.run(attention, frames, audio)
        if motion is not None:
            frames = self.run(motion, frames, num_frames)
        return frames

    def run(self, module: nn.Module, *inputs: Any) -> Tensor:
        """The module's output; its activations are not kept when gradient checkpointing is on."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(module, *inputs, use_reentrant=False)
        return module(*inputs)


class DownBlock(Block):
    """A level of the encoder. The last one keeps the resolution."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        width = config.block_out_channels[level]
        in_width = config.block_out_channels[max(level - 1, 0)]
        moves = _has_motion(config, level) and not config.motion_module_decoder_only
        attends = config.down_block_types[level] == "CrossAttnDownBlock3D"
        super().__init__(config, [in_width] + [width] * (config.layers_per_block - 1), width, attends, moves)
        if level < len(config.block_out_channels) - 1:
            self.downsamplers = nn.ModuleList([Downsample2D(width, use_conv=True, name="op")])

    def forward(self, frames: Tensor, time: Tensor, audio: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(what the next block gets, what the decoder gets, in order)."""
        skips = []
        for resnet, *more in self.layers():
            frames = self.refine(self.run(resnet, frames, time), audio, len(frames) // len(time), *more)
            skips.append(frames)
        if hasattr(self, "downsamplers"):
            frames = self.downsamplers[0](frames)
            skips.append(frames)
        return frames, skips


class UpBlock(Block):
    """A level of the decoder. The last one keeps the resolution."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        """level: as of the encoder, 0 is the finest."""
        widths = config.block_out_channels
        width, coarser = widths[level], widths[min(level + 1, len(widths) - 1)]
        # The encoder's outputs at this level, last first; the first of them is what the level before handed down.
        skips = [width] * config.layers_per_block + [widths[max(level - 1, 0)]]
        in_widths = [own + skip for own, skip in zip([coarser] + [width] * config.layers_per_block, skips, strict=True)]
        attends = config.up_block_types[len(widths) - 1 - level] == "CrossAttnUpBlock3D"
        super().__init__(config, in_widths, width, attends, _has_motion(config, level))
        if level > 0:
            self.upsamplers = nn.ModuleList([Upsample2D(width, use_conv=True)])

    def forward(self, frames: Tensor, skips: list[Tensor], time: Tensor, audio: Tensor, size: list[int]) -> Tensor:
        """skips: the encoder's outputs, one a layer, last first; size: height and width of the next level."""
        for (resnet, *more), skip in zip(self.layers(), skips, strict=True):
            frames = self.run(resnet, torch.cat([frames, skip], dim=1), time)
            frames = self.refine(frames, audio, len(frames) // len(time), *more)
        if hasattr(self, "upsamplers"):
            frames = self.upsamplers[0](frames, size)
        return frames


class MidBlock(Block):
    """Between encoder and decoder: a resnet, attention, perhaps a motion module, and another resnet."""

    def __init__(self, config: UNetConfig) -> None:
        width = config.block_out_channels[-1]
        super().__init__(config, [width], width, True, config.use_motion_module and config.motion_module_mid_block)
        self.resnets.append(Resnet(width, width, time_embedding_width(config), config.norm_num_groups, config.norm_eps))

    def forward(self, frames: Tensor, time: Tensor, audio: Tensor) -> Tensor:
        frames = self.run(self.resnets[0], frames, time)
        motion = self.motion_modules[0] if hasattr(self, "motion_modules") else None
        frames = self.refine(frames, audio, len(frames) // len(time), self.attentions[0], motion)
        return self.run(self.resnets[1], frames, time)


def time_embedding_width(config: UNetConfig) -> int:
    return config.block_out_channels[0] * 4


def _has_motion(config: UNetConfig, level: int) -> bool:
    return config.use_motion_module and 2**level in config.motion_module_resolutions
