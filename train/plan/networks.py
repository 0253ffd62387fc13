"""The networks of a run without their files: the same layers and sizes, so memory is planned before a download."""

import json
from pathlib import Path
from typing import Any

from torch import nn

from lipforge.model.audio.tokens import MEL_WIDTH
from lipforge.model.audio.windows import NUM_MEL_COLUMNS
from lipforge.model.denoiser import lpips, videomae
from lipforge.model.denoiser.block_code import BlockCode
from lipforge.model.denoiser.layouts import LAYOUTS, read_config
from lipforge.model.denoiser.lpips import Lpips
from lipforge.model.denoiser.vae import CONFIG_NAME, FrozenVae
from lipforge.model.denoiser.videomae import VideoMae
from lipforge.model.sync import stable_syncnet
from lipforge.model.sync.stable_syncnet import StableSyncNet
from lipforge.model.sync.window import syncnet_input
from lipforge.model.trained import read_about
from lipforge.train.config import DiffusionConfig, Stage2Config
from lipforge.train.loop.judges import RANDOM, Judges, check_windows

_WHISPER = {"tiny": (50, 384), "base": (70, 512), "small": (130, 768)}
"""Tokens of a frame (10 rows of each encoder state) and their width."""
_MEL, _LIP_SYNC = (NUM_MEL_COLUMNS, MEL_WIDTH), (1, 384)
_SD_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
"""The VAE of Stable Diffusion: 84 M parameters."""


class PlannedVae(FrozenVae):
    """An autoencoder without weights, of the kind that `vae` names."""

    def __init__(self, place: str) -> None:
        """place: as of `open_vae`. A path without a config.json: the VAE of Stable Diffusion."""
        self.sha256, self.device = "", "cpu"
        self.network = _autoencoder(place).eval().requires_grad_(False)
        self._network: Any = self.network
        self._has_deviations = type(self.network).__name__ == "AutoencoderKL"


def _autoencoder(place: str) -> nn.Module:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    kl: Any = AutoencoderKL
    path = Path(place) / CONFIG_NAME
    if place == "blocks":
        return BlockCode()
    if place == "taesd" or (Path(place) / "taesd_encoder.safetensors").exists():
        return AutoencoderTiny()
    if path.exists():
        settings = json.loads(path.read_text())
        tiny: Any = AutoencoderTiny
        return (tiny if settings.get("_class_name") == "AutoencoderTiny" else kl).from_config(settings)
    return kl(**_SD_VAE)


def audio_shape(config: DiffusionConfig) -> tuple[int, int]:
    """(K, D): tokens of a frame and their width."""
    if config.audio_encoder == "mel":
        return _MEL
    if config.audio_encoder == "lip_sync":
        return _LIP_SYNC
    if config.audio_encoder in _WHISPER:
        return _WHISPER[config.audio_encoder]
    width = read_config(LAYOUTS[config.unet]).cross_attention_dim if config.unet in LAYOUTS else _WHISPER["tiny"][1]
    return next((shape for shape in _WHISPER.values() if shape[1] == width), _WHISPER["tiny"])


def planned_judges(config: Stage2Config) -> Judges:
    """The networks of the losses whose weight is not 0. Raises ValueError for a window that does not fit one."""
    check_windows(config)
    perceptual = temporal = sync = sees = None
    if config.losses.lpips:
        perceptual = Lpips(lpips.LAYOUTS["tiny" if config.lpips == RANDOM else "vgg16"])
    if config.losses.trepa:
        temporal = VideoMae(videomae.LAYOUTS["tiny" if config.videomae == RANDOM else "giant"])
        temporal.gradient_checkpointing = config.gradient_checkpointing
    if config.losses.sync:
        layout = _judge_layout(config)
        sees, sync = syncnet_input(config.syncnet, layout, config.num_frames), StableSyncNet(layout)
    for network in (perceptual, temporal, sync):
        if network is not None:
            network.eval().requires_grad_(False)
    return Judges(perceptual, temporal, sync, sees)


def _judge_layout(config: Stage2Config) -> Any:
    if config.syncnet == RANDOM:
        return stable_syncnet.LAYOUTS[f"tiny_{config.num_frames}_pixel"]
    if Path(config.syncnet).is_dir():
        return read_about(Path(config.syncnet))["layout"]
    return stable_syncnet.LAYOUTS["syncnet_16_pixel_attn"]
