"""The U-Net of a run: its layout, the weights it begins with, what of it is trained, and its adapters."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lipforge.model.denoiser.layouts import LAYOUTS, read_config
from lipforge.model.denoiser.unet import UNet3D, trainable_names
from lipforge.model.trained import read_weights
from lipforge.model.weights.begin import begin
from lipforge.pipeline.running.quiet import off_terminal
from lipforge.train.config import DiffusionConfig, LoraConfig

log = logging.getLogger(__name__)

_WIDTH_FOLLOWS_AUDIO = ("tiny_", "faces_")
"""Layouts of our own hear whatever the audio encoder gives; published ones were made for one."""


def layout_for(config: DiffusionConfig, audio_width: int) -> dict[str, Any]:
    """The layout of the run's U-Net. Raises ValueError when it does not fit the other settings."""
    if config.unet not in LAYOUTS:
        raise ValueError(f"unet={config.unet}: no such layout; known: {', '.join(LAYOUTS)}")
    layout = dict(LAYOUTS[config.unet])
    if config.unet.startswith(_WIDTH_FOLLOWS_AUDIO):
        layout["cross_attention_dim"] = audio_width
    settings = read_config(layout)
    if settings.cross_attention_dim != audio_width:
        raise ValueError(
            f"unet={config.unet} hears audio of width {settings.cross_attention_dim}, audio_encoder="
            f"{config.audio_encoder} gives {audio_width}: whisper tiny has 384"
        )
    longest = settings.motion_module_kwargs.temporal_position_encoding_max_len
    if settings.use_motion_module and config.num_frames > longest:
        raise ValueError(
            f"num_frames={config.num_frames}: the motion modules of unet={config.unet} know {longest} positions; "
            f"set num_frames to {longest} or less"
        )
    return layout


def build_denoiser(config: DiffusionConfig, audio_width: int) -> tuple[UNet3D, dict[str, Any], list[str]]:
    """(network, its layout, lines to print): with the weights of `init`, or random ones of the seed.

    Only what is trained has gradients. Raises ValueError and ModelFileError.
    """
    layout = layout_for(config, audio_width)
    torch.manual_seed(config.seed)
    network = UNet3D(layout)
    lines = []
    fresh: set[str] = set()
    if config.init is not None:
        tensors, name = read_weights(config.init, "unet")
        fresh = {
            key for key, own in network.state_dict().items() if key not in tensors or tensors[key].shape != own.shape
        }
        lines += begin(network, tensors, config.init_differences, name)
    network.train()
    network.requires_grad_(False)
    if config.lora is not None:
        add_lora(network, config.lora)
        # What begins anew has nothing to adapt: it is trained itself. A new motion module's last layer is 0, and so
        # would be the gradients of all adapters behind it.
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(".lora_" in name or name.replace(".base_layer.", ".") in fresh)
    else:
        names = set(trainable_names(network, config.trainable))
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in names)
    trained = [parameter.numel() for parameter in network.parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError(f"trainable={list(config.trainable)}: no weight of unet={config.unet} has such a name")
    total = sum(parameter.numel() for parameter in network.parameters())
    lines.append(
        f"U-Net {config.unet}: {total / 1e6:,.3f} M parameters, of which {len(trained)} tensors with "
        f"{sum(trained) / 1e6:,.3f} M are trained"
    )
    if config.gradient_checkpointing:
        network.set_gradient_checkpointing(True)
    if config.channels_last:
        network.to(memory_format=torch.channels_last)
    if config.compile:
        network.compile_blocks()
    return network, layout, lines


def add_lora(network: nn.Module, config: LoraConfig) -> None:
    """Put adapters on the named linear layers. Raises ValueError when there are none, or they are not linear."""
    with off_terminal(2):  # it imports packages that warn about each other
        from peft import LoraConfig as PeftConfig
        from peft import inject_adapter_in_model

    ends = tuple(f".{end}" for end in config.modules)
    found = [layer for name, layer in network.named_modules() if f".{name}".endswith(ends)]
    if not found:
        raise ValueError(f"lora.modules={list(config.modules)}: no layer's name ends like that")
    if other := {type(layer).__name__ for layer in found if not isinstance(layer, nn.Linear)}:
        raise ValueError(f"lora.modules={list(config.modules)}: takes linear layers only, found {', '.join(other)}")
    settings = PeftConfig(r=config.rank, lora_alpha=config.alpha, target_modules=list(config.modules), lora_dropout=0.0)
    inject_adapter_in_model(settings, network)


def merged(tensors: Mapping[str, Tensor], lora: LoraConfig | None) -> dict[str, Tensor]:
    """The published tensors of a network: adapters are added to the weights that they adapt."""
    if lora is None:
        return dict(tensors)
    plain = {}
    for name, stored in tensors.items():
        if ".lora_" in name:
            continue
        value = stored
        if name.endswith(".base_layer.weight"):
            layer = name.removesuffix(".base_layer.weight")
            down, up = (tensors[f"{layer}.lora_{side}.default.weight"] for side in "AB")
            value = value + lora.alpha / lora.rank * (up @ down)
        plain[name.replace(".base_layer.", ".")] = value
    return plain
