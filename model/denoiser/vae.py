"""The frozen autoencoder whose latents are diffused, and the only place that scales latents.

Three kinds, by name or by their files:
- `sd-vae-ft-mse`: the VAE of Stable Diffusion (Rombach et al. 2022) that LatentSync (ByteDance, Apache-2.0) uses. Files
  are those of diffusers: a folder with config.json and diffusion_pytorch_model.safetensors, or the latter alone.
- `taesd`: TAESD (Ollin Boer Bohan, MIT), small and fast, for the same latents. A folder with its two published files,
  taesd_encoder.safetensors and taesd_decoder.safetensors, or a folder of diffusers.
- `blocks`: no file at all (block_code.py).
"""

import hashlib
import json
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from lipforge.model.denoiser.block_code import BLOCK_CODE, BlockCode
from lipforge.model.weights.load import MissingModelError, ModelFileError, load
from lipforge.model.weights.state_dicts import load_strict, read_state_dict

LATENT_SCALE = 0.18215
"""Scales latents to a deviation of about 1 (Rombach et al. 2022, appendix G)."""
PIXELS_PER_LATENT = 8
LATENT_CHANNELS = 4
CONFIG_NAME = "config.json"
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"

_KL, _TINY, _BLOCKS = "AutoencoderKL", "AutoencoderTiny", "BlockCode"
"""Classes that a config may name."""
_TAESD_ENCODER, _TAESD_DECODER = "taesd_encoder.safetensors", "taesd_decoder.safetensors"
_ENCODER_SIZE = "encoder_size_bytes"
"""In the config of TAESD's two files: where the first one ends."""
LOWEST_LOGVAR = -30.0
_LOGVAR_RANGE = (LOWEST_LOGVAR, 20.0)  # where diffusers clamps it
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


def read_vae_files(place: str | Path) -> tuple[bytes, bytes]:
    """(weights, config) of an autoencoder, for `FrozenVae`.

    place: `sd-vae-ft-mse`, once fetched; `taesd` and `blocks`, which ship; or a path as above. Without a config.json
    beside a file of weights, config is that of Stable Diffusion's VAE.

    Raises MissingModelError, which says how to get the files.
    """
    path = Path(place)
    if place == "blocks":
        return BLOCK_CODE.encode(), json.dumps({"_class_name": _BLOCKS}).encode()
    if place == "taesd":
        files = load("taesd")
        return _both(files[_TAESD_ENCODER], files[_TAESD_DECODER])
    if place == "sd-vae-ft-mse":
        files = load("sd-vae-ft-mse")
        return files["sd-vae-ft-mse.safetensors"], files["sd-vae-ft-mse.json"]
    weights = path / WEIGHTS_NAME if path.is_dir() else path
    config = weights.parent / CONFIG_NAME
    try:
        if (path / _TAESD_ENCODER).exists() or (path / _TAESD_DECODER).exists():
            return _both((path / _TAESD_ENCODER).read_bytes(), (path / _TAESD_DECODER).read_bytes())
        content = weights.read_bytes()
        if config.exists() or path.is_dir():
            return content, config.read_bytes()
    except OSError as error:
        raise MissingModelError(
            f"no VAE at {path} ({error.filename}: {error.strerror}): expected `sd-vae-ft-mse`, once "
            f"fetched, `taesd`, `blocks`, a folder of diffusers with {CONFIG_NAME} and {WEIGHTS_NAME}, the latter "
            f"alone, or a folder with {_TAESD_ENCODER} and {_TAESD_DECODER}"
        ) from error
    return content, json.dumps(_SD_VAE).encode()


def open_vae(place: str | Path, device: str = "cpu") -> "FrozenVae":
    """An autoencoder by name or path. Raises as `read_vae_files` and `FrozenVae`."""
    return FrozenVae(*read_vae_files(place), str(place), device)


class FrozenVae:
    """Pixels to latents and back, in float32 unless autocast is on.

    pixels: [..., 3, R, R] RGB in -1..1, R a multiple of 8; r = R / 8.
    """

    def __init__(
        self, weights: bytes, config: bytes, name: str, device: str = "cpu", sha256: str | None = None
    ) -> None:
        """weights, config: as from `read_vae_files`; name: for messages; sha256: of the weights, where it is known.

        Raises ModelFileError if files are damaged, unsafe or do not match.
        """
        self.sha256 = sha256 or hashlib.sha256(weights).hexdigest()
        """Of the weights: of both files for TAESD, one after the other; of its name for `blocks`."""
        self.device = device
        self._network: Any = _network(weights, config, name).to(device)  # diffusers' annotations are wrong
        self._has_deviations = type(self._network).__name__ == _KL

    def to(self, device: torch.device | str) -> None:
        self.device = str(device)
        self._network.to(device)

    @torch.no_grad()
    def moments(self, pixels: Tensor) -> Tensor:
        """Unscaled posterior of the latents: float32 [..., 8, r, r], mean (4 channels) and log-variance (-30..20).

        Autoencoders that are sure of their latents give the lowest log-variance.
        """
        flat = pixels.reshape(-1, *pixels.shape[-3:]).to(self.device)
        if self._has_deviations:
            posterior = self._network.encode(flat).latent_dist
            found = torch.cat([posterior.mean, posterior.logvar], dim=1)
        else:
            encoded = self._network.encode(flat)
            mean = (encoded if isinstance(encoded, Tensor) else encoded.latents) / LATENT_SCALE
            found = torch.cat([mean, torch.full_like(mean, LOWEST_LOGVAR)], dim=1)
        return found.reshape(*pixels.shape[:-3], *found.shape[1:])

    def decode(self, latents: Tensor, checkpoint: bool = False) -> Tensor:
        """Pixels of scaled latents [..., 4, r, r], slightly beyond -1..1 at times. Differentiable.

        checkpoint: decode picture by picture, and again when gradients are computed: memory for one picture's
        activations instead of all, for a third more time.
        """
        flat = latents.reshape(-1, *latents.shape[-3:]).to(self.device)
        if checkpoint:
            parts = [recomputed(self._decode, part, use_reentrant=False) for part in flat.split(1)]
            pixels = torch.cat(cast("list[Tensor]", parts))
        else:
            pixels = self._decode(flat)
        return pixels.reshape(*latents.shape[:-3], *pixels.shape[1:])

    def _decode(self, latents: Tensor) -> Tensor:
        decoded = self._network.decode(latents / LATENT_SCALE if self._has_deviations else latents)
        return decoded if isinstance(decoded, Tensor) else decoded.sample


def sample_latents(moments: Tensor, noise: Tensor) -> Tensor:
    """Draw scaled latents [..., 4, r, r] from a posterior.

    moments: [..., 8, r, r] from `FrozenVae.moments`; noise: standard normal, in the shape of the result.
    """
    mean, logvar = moments.chunk(2, dim=-3)
    return (mean + torch.exp(0.5 * logvar.clamp(*_LOGVAR_RANGE)) * noise) * LATENT_SCALE


def _both(encoder: bytes, decoder: bytes) -> tuple[bytes, bytes]:
    """(weights, config) of TAESD's two files, one after the other."""
    return encoder + decoder, json.dumps({"_class_name": _TINY, _ENCODER_SIZE: len(encoder)}).encode()


def _network(weights: bytes, config: bytes, name: str) -> nn.Module:
    settings = _settings(config, name)
    if settings["_class_name"] == _BLOCKS:
        return BlockCode()
    if encoder_size := settings.pop(_ENCODER_SIZE, 0):
        tensors = _taesd_tensors(weights[:encoder_size], weights[encoder_size:], name)
    else:
        tensors = {_current_name(key): value for key, value in read_state_dict(weights, name).items()}
    network = _empty_network(settings, name)
    load_strict(network, tensors, name)
    return network


def _settings(config: bytes, name: str) -> dict[str, Any]:
    try:
        settings = json.loads(config)
        if settings.get("_class_name") not in (_KL, _TINY, _BLOCKS):
            raise ValueError(f"its class is {settings.get('_class_name')}")
        if settings.get("latent_channels", 4) != 4:
            raise ValueError(f"its latents have {settings['latent_channels']} channels, not 4")
    except (AttributeError, TypeError, ValueError) as error:
        raise ModelFileError(f"{name}: its {CONFIG_NAME} is not for an {_KL} or {_TINY}: {error}") from error
    return settings


def _empty_network(settings: dict[str, Any], name: str) -> nn.Module:
    try:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
        from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
    except ImportError as error:
        raise ModelFileError(
            "the VAE needs the package diffusers, which is not installed: pip install 'lipforge[train]'"
        ) from error
    kinds: dict[str, Any] = {_KL: AutoencoderKL, _TINY: AutoencoderTiny}
    try:
        return kinds[settings["_class_name"]].from_config(settings)
    except (AttributeError, TypeError, ValueError) as error:
        raise ModelFileError(f"{name}: its {CONFIG_NAME} is not for an {_KL} or {_TINY}: {error}") from error


def _taesd_tensors(encoder: bytes, decoder: bytes, name: str) -> dict[str, Tensor]:
    """The published names, "1.conv.0.weight", as diffusers has them. Layer 0 of the decoder is a clamp in one only."""
    parts = {"encoder": (encoder, 0), "decoder": (decoder, 1)}
    tensors = {}
    for part, (content, first) in parts.items():
        for key, value in read_state_dict(content, f"{name}: {part}").items():
            layer, dot, rest = key.partition(".")
            shifted = int(layer) - first if layer.isdecimal() else layer
            tensors[f"{part}.layers.{shifted}{dot}{rest}"] = value
    return tensors


def _current_name(key: str) -> str:
    head, _, leaf = key.rpartition(".")
    head, _, layer = head.rpartition(".")
    is_old = ".attentions." in key and layer in _NAMES_BEFORE_2023
    return f"{head}.{_NAMES_BEFORE_2023[layer]}.{leaf}" if is_old else key
