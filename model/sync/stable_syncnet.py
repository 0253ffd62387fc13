"""StableSyncNet: do these frames of a mouth match this audio? LatentSync trains against it.

Published with LatentSync (Li et al. 2024, arXiv 2412.09262; ByteDance, Apache-2.0) as `stable_syncnet.pt`. Two
encoders, for stacked frames and for a mel spectrogram, shrink their input to one point. Attention and feed-forward
layers come from diffusers, whose keys the published file has.
"""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint as recomputed

_NORM_GROUPS = 32
_NORM_EPS = 1e-6
_NUM_HEADS = 8


def _encoder(
    in_channels: int, widths: list[int], factors: list[int | list[int]], attention: list[int] | None = None
) -> dict[str, Any]:
    return {
        "in_channels": in_channels,
        "block_out_channels": widths,
        "downsample_factors": factors,
        "attn_blocks": attention or [0] * len(widths),
        "dropout": 0.0,
    }


_AUDIO_WIDTHS = [32, 64, 128, 256, 512, 1024, 2048]
_AUDIO_FACTORS: list[int | list[int]] = [[2, 1], 2, 2, 1, 2, 2, [2, 3]]
_PIXEL_WIDTHS = [64, 128, 256, 256, 512, 1024, 2048, 2048]
_PIXEL_FACTORS: list[int | list[int]] = [[1, 2], 2, 2, 2, 2, 2, 2, 2]
_LATENT_WIDTHS = [64, 128, 256, 256, 512, 1024]
_LATENT_FACTORS: list[int | list[int]] = [2, 2, 2, 1, 2, 2]

_TINY_WIDTHS = [32, 64, 128, 256]
"""The norms have 32 groups, and those of the last one should have several channels: 256 at least."""
_TINY_PIXEL_FACTORS: list[int | list[int]] = [2, [2, 4], 4, 2]
_TINY_LATENT_FACTORS: list[int | list[int]] = [2, 4, 2, 2]
_TINY_AUDIO_16_FACTORS: list[int | list[int]] = [4, 4, 2, [2, 1]]
_TINY_AUDIO_5_FACTORS: list[int | list[int]] = [4, [4, 2], 2, [2, 1]]

LAYOUTS: dict[str, dict[str, dict[str, Any]]] = {
    # The published weights: 16 frames [48, 128, 256] and mel [1, 80, 52], 2048 numbers out.
    "syncnet_16_pixel_attn": {
        "audio_encoder": _encoder(1, _AUDIO_WIDTHS, _AUDIO_FACTORS, [0, 0, 0, 1, 1, 0, 0]),
        "visual_encoder": _encoder(48, _PIXEL_WIDTHS, _PIXEL_FACTORS, [0, 0, 0, 0, 1, 1, 0, 0]),
    },
    "syncnet_16_pixel": {
        "audio_encoder": _encoder(1, _AUDIO_WIDTHS, _AUDIO_FACTORS),
        "visual_encoder": _encoder(48, _PIXEL_WIDTHS, _PIXEL_FACTORS),
    },
    # 16 whole latents of the VAE [64, 32, 32] and mel [1, 80, 52], 1024 numbers out.
    "syncnet_16_latent": {
        "audio_encoder": _encoder(1, [32, 64, 128, 256, 512, 1024], [[2, 1], 2, 2, 2, 2, [2, 3]]),
        "visual_encoder": _encoder(64, _LATENT_WIDTHS, _LATENT_FACTORS),
    },
    # 25 frames [75, 128, 256] and mel [1, 80, 80], 1024 numbers out.
    "syncnet_25_pixel": {
        "audio_encoder": _encoder(1, [64, 128, 256, 256, 512, 1024], [2, 2, 2, 2, 2, 2]),
        "visual_encoder": _encoder(75, [128, 128, 256, 256, 512, 512, 1024, 1024], _PIXEL_FACTORS),
    },
    # Ours, for windows of 5 frames: [15, 128, 256] or latents [20, 32, 32], mel [1, 80, 16]. No weights are published.
    "syncnet_5_pixel_attn": {
        "audio_encoder": _encoder(1, _AUDIO_WIDTHS, [[2, 1], 2, 2, 1, 2, [2, 1], 2], [0, 0, 0, 1, 1, 0, 0]),
        "visual_encoder": _encoder(15, _PIXEL_WIDTHS, _PIXEL_FACTORS, [0, 0, 0, 0, 1, 1, 0, 0]),
    },
    "syncnet_5_latent": {
        "audio_encoder": _encoder(1, [32, 64, 128, 256, 512, 1024], [[2, 1], 2, 2, 2, [2, 1], 2]),
        "visual_encoder": _encoder(20, _LATENT_WIDTHS, _LATENT_FACTORS),
    },
    # Ours, for a CPU: faces of 64 px ([48, 32, 64] or [15, 32, 64]), or latents [64, 32, 32]; 256 numbers out.
    "tiny_16_pixel": {
        "audio_encoder": _encoder(1, _TINY_WIDTHS, _TINY_AUDIO_16_FACTORS),
        "visual_encoder": _encoder(48, _TINY_WIDTHS, _TINY_PIXEL_FACTORS),
    },
    "tiny_5_pixel": {
        "audio_encoder": _encoder(1, _TINY_WIDTHS, _TINY_AUDIO_5_FACTORS),
        "visual_encoder": _encoder(15, _TINY_WIDTHS, _TINY_PIXEL_FACTORS),
    },
    "tiny_16_latent": {
        "audio_encoder": _encoder(1, _TINY_WIDTHS, _TINY_AUDIO_16_FACTORS),
        "visual_encoder": _encoder(64, _TINY_WIDTHS, _TINY_LATENT_FACTORS),
    },
}
"""By name. Those without another word are the model sections of LatentSync's `configs/syncnet/*.yaml`, by file name."""


class StableSyncNet(nn.Module):
    """Unit vectors of frames and audio, whose dot product is high where the two match."""

    def __init__(self, config: Mapping[str, Mapping[str, Any]]) -> None:
        """config: `visual_encoder` and `audio_encoder` as in `LAYOUTS` (`attn_blocks` may be absent: none)."""
        super().__init__()
        self.audio_encoder = Encoder(**config["audio_encoder"])
        self.visual_encoder = Encoder(**config["visual_encoder"])

    def forward(self, frames: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of frames and of their audio.

        frames: float [B, T * 3, H / 2, W], the lower halves of T RGB faces in [-1, 1], channels of one frame side by
        side; or [B, T * 4, h, w], VAE latents.
        mel: float [B, 1, 80, M] of `mel_spectrogram`.
        Returns unit vectors [B, D] of vision and of audio. No component is negative, so neither is a dot product.
        """
        vision = self.visual_encoder(frames).flatten(1)
        audio = self.audio_encoder(mel).flatten(1)
        return functional.normalize(vision), functional.normalize(audio)


class Encoder(nn.Module):
    """[B, C, H, W] -> [B, D, 1, 1] if the factors fit the input."""

    def __init__(
        self,
        in_channels: int,
        block_out_channels: list[int],
        downsample_factors: list[int | list[int]],
        attn_blocks: list[int] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        attn_blocks = attn_blocks or [0] * len(block_out_channels)
        self.conv_in = nn.Conv2d(in_channels, block_out_channels[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        width = block_out_channels[0]
        for out_width, factor, attends in zip(block_out_channels, downsample_factors, attn_blocks, strict=True):
            self.down_blocks.append(ShrinkingBlock(width, out_width, factor, dropout))
            if attends:
                self.down_blocks.append(AttentionBlock(out_width, dropout))
            width = out_width
        self.norm_out = nn.GroupNorm(_NORM_GROUPS, width, _NORM_EPS)
        self.gradient_checkpointing = False
        """Compute activations of the blocks twice instead of keeping them."""

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.conv_in(inputs)
        for block in self.down_blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                hidden = recomputed(block, hidden, use_reentrant=False)
            else:
                hidden = block(hidden)
        return functional.relu(self.norm_out(hidden))


class ShrinkingBlock(nn.Module):
    """Two convolutions with a shortcut, then one with stride `factor`: for both axes, or [vertical, horizontal]."""

    def __init__(self, in_width: int, out_width: int, factor: int | list[int], dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(_NORM_GROUPS, in_width, _NORM_EPS)
        self.conv1 = nn.Conv2d(in_width, out_width, 3, padding=1)
        self.norm2 = nn.GroupNorm(_NORM_GROUPS, out_width, _NORM_EPS)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_width, out_width, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_width, out_width, 1) if in_width != out_width else None
        strides = (factor, factor) if isinstance(factor, int) else (factor[0], factor[1])
        self.downsample_conv = nn.Conv2d(out_width, out_width, 3, strides) if strides != (1, 1) else None
        # Zeros on the far side only; on both sides of an axis that keeps its size.
        vertical, horizontal = strides
        self.padding = (int(horizontal == 1), 1, int(vertical == 1), 1)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.conv1(functional.silu(self.norm1(inputs)))
        hidden = self.conv2(self.dropout(functional.silu(self.norm2(hidden))))
        hidden = hidden + (inputs if self.conv_shortcut is None else self.conv_shortcut(inputs))
        if self.downsample_conv is None:
            return hidden
        return self.downsample_conv(functional.pad(hidden, self.padding))


class AttentionBlock(nn.Module):
    """A transformer layer over the points of the feature map."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(_NORM_GROUPS, width, _NORM_EPS)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width, dropout=dropout, activation_fn="geglu")
        self.conv_in = nn.Conv2d(width, width, 1)
        self.conv_out = nn.Conv2d(width, width, 1)
        self.attn = Attention(width, heads=_NUM_HEADS, dim_head=width // _NUM_HEADS, dropout=dropout, bias=True)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.conv_in(self.norm1(inputs))
        points = hidden.flatten(2).transpose(1, 2)
        points = points + self.attn(self.norm2(points))
        points = points + self.ff(self.norm3(points))
        return inputs + self.conv_out(points.transpose(1, 2).reshape(hidden.shape))
