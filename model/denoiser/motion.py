"""Motion modules: attention over time, at each point of the picture (AnimateDiff, Guo et al. 2023, arXiv 2307.04725).

The keys are those of LatentSync's (ByteDance, Apache-2.0).
"""

from typing import Any

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from lipforge.model.denoiser.layouts import MotionConfig

_NORM_EPS = 1e-6


class MotionModule(nn.Module):
    """[B * T, C, h, w] -> the same; each point attends to itself in all frames of its window."""

    def __init__(self, width: int, num_groups: int, config: MotionConfig) -> None:
        super().__init__()
        self.temporal_transformer = TemporalTransformer(width, num_groups, config)
        if config.zero_initialize:
            nn.init.zeros_(self.temporal_transformer.proj_out.weight)
            nn.init.zeros_(self.temporal_transformer.proj_out.bias)

    def forward(self, frames: Tensor, num_frames: int) -> Tensor:
        return self.temporal_transformer(frames, num_frames)


class TemporalTransformer(nn.Module):
    def __init__(self, width: int, num_groups: int, config: MotionConfig) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(num_groups, width, _NORM_EPS)
        self.proj_in = nn.Linear(width, width)
        blocks = [TemporalBlock(width, config) for _ in range(config.num_transformer_block)]
        self.transformer_blocks = nn.ModuleList(blocks)
        self.proj_out = nn.Linear(width, width)

    def forward(self, frames: Tensor, num_frames: int) -> Tensor:
        """frames: [B * T, C, h, w], T = num_frames. The norm sees each frame alone."""
        height, width = frames.shape[2:]
        hidden = self.norm(frames).unflatten(0, (-1, num_frames))
        points = self.proj_in(hidden.permute(0, 3, 4, 1, 2).flatten(0, 2))  # [B * h * w, T, C]
        for block in self.transformer_blocks:
            points = block(points)
        hidden = self.proj_out(points).unflatten(0, (-1, height, width)).permute(0, 3, 4, 1, 2)
        return frames + hidden.flatten(0, 1)


class TemporalBlock(nn.Module):
    """Attentions over time and a feed-forward layer; points: [N, T, C]."""

    def __init__(self, width: int, config: MotionConfig) -> None:
        super().__init__()
        kinds, length = config.attention_block_types, config.temporal_position_encoding_max_len
        attentions = [TemporalAttention(width, config.num_attention_heads, length) for _ in kinds]
        self.attention_blocks = nn.ModuleList(attentions)
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in kinds])
        self.ff = FeedForward(width, activation_fn="geglu")
        self.ff_norm = nn.LayerNorm(width)

    def forward(self, points: Tensor) -> Tensor:
        for attention, norm in zip(self.attention_blocks, self.norms, strict=True):
            points = points + attention(norm(points))
        return points + self.ff(self.ff_norm(points))


class TemporalAttention(Attention):
    """Self-attention over time, with positions added to its input."""

    def __init__(self, width: int, num_heads: int, max_frames: int) -> None:
        super().__init__(width, heads=num_heads, dim_head=width // num_heads)
        self.pos_encoder = Positions(width, max_frames)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return super().forward(self.pos_encoder(hidden_states), *args, **kwargs)


class Positions(nn.Module):
    """Adds sines and cosines of the frame number (Vaswani et al. 2017, section 3.5) to points [N, T, C]."""

    pe: Tensor

    def __init__(self, width: int, max_frames: int) -> None:
        super().__init__()
        self.register_buffer("pe", sinusoids(max_frames, width)[None])

    def forward(self, points: Tensor) -> Tensor:
        return points + self.pe[:, : points.shape[1]]


def sinusoids(num_positions: int, width: int) -> Tensor:
    """float32 [num_positions, width]: sines in even columns, cosines in odd ones, of falling frequencies."""
    frequencies = 10_000.0 ** (-torch.arange(0, width, 2) / width)
    angles = torch.arange(num_positions)[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]
