"""The frozen VAE of Stable Diffusion (Rombach et al. 2022), and the only place that scales latents.

LatentSync (ByteDance, Apache-2.0) uses stabilityai/sd-vae-ft-mse. Files are those of diffusers: a folder with
config.json and diffusion_pytorch_model.safetensors, or the latter alone.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lipforge.model.weights.load import MissingModelError, ModelFileError
from lipforge.model.weights.state_dicts import load_strict, read_state_dict

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

LATENT_SCALE = 0.18215
"""Scales latents to a deviation of about 1 (Rombach et al. 2022, appendix G)."""
PIXELS_PER_LATENT = 8
CONFIG_NAME = "config.json"
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"

_LOGVAR_RANGE = (-30.0, 20.0)  # where diffusers clamps it
_SD_VAE = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 256,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
"""config.json of stabilityai/sd-vae-ft-mse, for a weights file without one."""
_NAMES_BEFORE_2023 = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names of attention layers in files of diffusers before 0.15, such as sd-vae-ft-mse."""


def read_vae_files(path: Path) -> tuple[bytes, bytes]:
    """(weights, config) from a folder of diffusers or from a weights file and the config.json beside it.

    Without a config.json beside the file, config is that of Stable Diffusion's VAE.

    Raises MissingModelError.
    """
    weights = path / WEIGHTS_NAME if path.is_dir() else path
    config = weights.parent / CONFIG_NAME
    try:
        content = weights.read_bytes()
        if config.exists() or path.is_dir():
            return content, config.read_bytes()
    except OSError as error:
        raise MissingModelError(
            f"no VAE at {path} ({error.filename}: {error.strerror}): expected a folder of diffusers with {CONFIG_NAME} "
            f"and {WEIGHTS_NAME}, or the latter alone; LatentSync uses "
            "https://huggingface.co/stabilityai/sd-vae-ft-mse (MIT licence)"
        ) from error
    return content, json.dumps(_SD_VAE).encode()


class FrozenVae:
    """Pixels to latents and back, in float32. pixels: [..., 3, R, R] RGB in -1..1, R a multiple of 8; r = R / 8."""

    def __init__(self, weights: bytes, config: bytes, name: str, device: str = "cpu") -> None:
        """weights, config: as from `read_vae_files`; name: for messages.

        Raises ModelFileError if files are damaged, unsafe or do not match.
        """
        tensors = {_current_name(key): value for key, value in read_state_dict(weights, name).items()}
        network: Any = _empty_network(config, name)  # diffusers' annotations are wrong
        load_strict(network, tensors, name)
        self.sha256 = hashlib.sha256(weights).hexdigest()
        self.device = device
        self._network = network.to(device)

    @torch.inference_mode()
    def moments(self, pixels: Tensor) -> Tensor:
        """Unscaled posterior of the latents: float32 [..., 8, r, r], mean (4 channels) and log-variance (-30..20)."""
        flat = pixels.reshape(-1, *pixels.shape[-3:]).to(self.device)
        posterior = self._network.encode(flat).latent_dist
        found = torch.cat([posterior.mean, posterior.logvar], dim=1)
        return found.reshape(*pixels.shape[:-3], *found.shape[1:])

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels of scaled latents [..., 4, r, r], slightly beyond -1..1 at times. Differentiable."""
        flat = latents.reshape(-1, *latents.shape[-3:]).to(self.device) / LATENT_SCALE
        pixels: Tensor = self._network.decode(flat).sample
        return pixels.reshape(*latents.shape[:-3], *pixels.shape[1:])


def sample_latents(moments: Tensor, noise: Tensor) -> Tensor:
    """Draw scaled latents [..., 4, r, r] from a posterior.

    moments: [..., 8, r, r] from `FrozenVae.moments`; noise: standard normal, in the shape of the result.
    """
    mean, logvar = moments.chunk(2, dim=-3)
    return (mean + torch.exp(0.5 * logvar.clamp(*_LOGVAR_RANGE)) * noise) * LATENT_SCALE


def _empty_network(config: bytes, name: str) -> "AutoencoderKL":
    try:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    except ImportError as error:
        raise ModelFileError(
            "the VAE needs the package diffusers, which is not installed: pip install 'lipforge[train]'"
        ) from error
    try:
        settings = json.loads(config)
        if settings.get("_class_name") != "AutoencoderKL":
            raise ValueError(f"its class is {settings.get('_class_name')}")
        network = AutoencoderKL.from_config(settings)
    except (AttributeError, TypeError, ValueError) as error:
        raise ModelFileError(f"{name}: its {CONFIG_NAME} is not for an AutoencoderKL: {error}") from error
    assert isinstance(network, AutoencoderKL)
    return network


def _current_name(key: str) -> str:
    head, _, leaf = key.rpartition(".")
    head, _, layer = head.rpartition(".")
    is_old = ".attentions." in key and layer in _NAMES_BEFORE_2023
    return f"{head}.{_NAMES_BEFORE_2023[layer]}.{leaf}" if is_old else key
