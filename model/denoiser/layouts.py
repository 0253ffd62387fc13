"""Layouts of the denoising U-Net, by name: those of LatentSync, and small ones.

The keys are those of the `model` sections of LatentSync's `configs/unet/*.yaml` (ByteDance, Apache-2.0). Those that
have one value in all its files are checked and otherwise have no effect.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lipforge.model.settings_words import wrong_settings


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MotionConfig(_Settings):
    """One motion module: transformer layers over time."""

    num_attention_heads: int = Field(default=8, ge=1)
    num_transformer_block: int = Field(default=1, ge=1)
    attention_block_types: tuple[Literal["Temporal_Self"], ...] = ("Temporal_Self", "Temporal_Self")
    """One attention over time for each."""
    temporal_position_encoding: Literal[True] = True
    temporal_position_encoding_max_len: int = Field(default=24, ge=1)
    """Longest window, in frames."""
    temporal_attention_dim_div: Literal[1] = 1
    zero_initialize: bool = True
    """A new motion module returns its input."""


class UNetConfig(_Settings):
    """Settings of `UNet3D`. A level is a block of the encoder and the block of the decoder at the same resolution."""

    block_out_channels: tuple[int, ...] = Field(min_length=1)
    """Width of each level, from fine to coarse."""
    down_block_types: tuple[Literal["CrossAttnDownBlock3D", "DownBlock3D"], ...]
    """From fine to coarse; only those with CrossAttn see the whole picture and hear."""
    up_block_types: tuple[Literal["CrossAttnUpBlock3D", "UpBlock3D"], ...]
    """From coarse to fine."""
    mid_block_type: Literal["UNetMidBlock3DCrossAttn"] = "UNetMidBlock3DCrossAttn"
    layers_per_block: int = Field(default=2, ge=1)
    """In the encoder; blocks of the decoder have one more."""
    in_channels: int = Field(default=13, ge=1)
    out_channels: int = Field(default=4, ge=1)
    cross_attention_dim: int = Field(default=384, ge=1)
    """Width of the audio features."""
    add_audio_layer: bool = True
    """False: the network is deaf."""
    attention_head_dim: int = Field(default=8, ge=1)
    """Number of heads, despite its name."""
    norm_num_groups: int = Field(default=32, ge=1)
    norm_eps: float = Field(default=1e-5, gt=0)
    """Of the resnets."""
    use_motion_module: bool = False
    motion_module_resolutions: tuple[int, ...] = (1, 2, 4, 8)
    """Levels that have motion modules, by how much coarser than the input they are."""
    motion_module_mid_block: bool = False
    motion_module_decoder_only: bool = False
    motion_module_type: Literal["Vanilla"] = "Vanilla"
    motion_module_kwargs: MotionConfig = MotionConfig()
    act_fn: Literal["silu"] = "silu"
    center_input_sample: Literal[False] = False
    downsample_padding: Literal[1] = 1
    flip_sin_to_cos: Literal[True] = True
    freq_shift: Literal[0] = 0
    mid_block_scale_factor: Literal[1] = 1
    resnet_time_scale_shift: Literal["default"] = "default"
    sample_size: int = 64
    """Side of the published latents. Any size works."""


def read_config(config: Mapping[str, Any]) -> UNetConfig:
    """Checked settings. Raises ValueError that names each wrong one, what was given and what fits."""
    try:
        found = UNetConfig.model_validate(dict(config))
    except ValidationError as error:
        raise ValueError(f"not a layout of a U-Net: {wrong_settings(UNetConfig, error)}") from error
    levels = len(found.block_out_channels)
    if len(found.down_block_types) != levels or len(found.up_block_types) != levels:
        raise ValueError(
            f"not a layout of a U-Net: {levels} block_out_channels, {len(found.down_block_types)} down_block_types and "
            f"{len(found.up_block_types)} up_block_types; give one of each for every level"
        )
    for width in found.block_out_channels:
        heads = {found.attention_head_dim, found.motion_module_kwargs.num_attention_heads}
        unfit = [number for number in sorted({found.norm_num_groups, *heads}) if width % number]
        if unfit:
            raise ValueError(
                f"not a layout of a U-Net: a width of {width} cannot be split into {unfit[0]}; block_out_channels must "
                "be multiples of norm_num_groups, attention_head_dim and num_attention_heads"
            )
    return found


_PUBLISHED: dict[str, Any] = {
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": [*["CrossAttnDownBlock3D"] * 3, "DownBlock3D"],
    "up_block_types": ["UpBlock3D", *["CrossAttnUpBlock3D"] * 3],
}
_TINY: dict[str, Any] = {
    "block_out_channels": [32, 64, 64, 64],
    "down_block_types": ["DownBlock3D", "CrossAttnDownBlock3D", "CrossAttnDownBlock3D", "DownBlock3D"],
    "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D", "CrossAttnUpBlock3D", "UpBlock3D"],
    "layers_per_block": 1,
    "cross_attention_dim": 96,
    "attention_head_dim": 2,
    "motion_module_resolutions": [2, 4, 8],
    "motion_module_kwargs": {"num_attention_heads": 2},
}
_FACES: dict[str, Any] = {
    "block_out_channels": [64, 128, 256],
    "down_block_types": ["DownBlock3D", *["CrossAttnDownBlock3D"] * 2],
    "up_block_types": [*["CrossAttnUpBlock3D"] * 2, "UpBlock3D"],
}
_MOTION = {"use_motion_module": True}

LAYOUTS: dict[str, dict[str, Any]] = {
    # LatentSync 1.5 and 1.6: 850, 1267 and 1100 million parameters.
    "stage1": _PUBLISHED,
    "stage2": _PUBLISHED | _MOTION,
    "stage2_efficient": _PUBLISHED | _MOTION | {"motion_module_decoder_only": True},
    # To see the way work on a CPU.
    "tiny_stage1": _TINY,
    "tiny_stage2": _TINY | _MOTION,
    # Real faces of 128 px as latents of 16 x 16, in hours on a CPU.
    "faces_stage1": _FACES,
    "faces_stage2": _FACES | _MOTION,
    # The same with 5.5 million parameters, as the built-in model has them: 11 MB in half precision.
    "faces_small": _FACES | {"block_out_channels": [64, 96, 128], "layers_per_block": 1},
}
