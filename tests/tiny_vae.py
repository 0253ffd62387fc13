"""Autoencoders in their published formats, with random weights; the VAE is tiny."""

from functools import cache
from pathlib import Path
from typing import Any


@cache
def tiny_network(seed: int = 0) -> Any:
    """As Stable Diffusion's in all but width: 4 latent channels at an eighth of the size."""
    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layout: Any = {
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
            "block_out_channels": (8, 8, 8, 8),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "latent_channels": 4,
        }
        return AutoencoderKL(**layout).eval()


def save_tiny_vae(folder: Path, seed: int = 0) -> Path:
    """Folder with config.json and diffusion_pytorch_model.safetensors."""
    tiny_network(seed).save_pretrained(folder)
    return folder


def save_taesd(folder: Path, seed: int = 0) -> Any:
    """The two files of TAESD, with the published names of layers. Returns the network of diffusers that they hold."""
    import torch
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
    from safetensors.torch import save_file

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network: Any = AutoencoderTiny().eval()
    for part, first in (("encoder", 0), ("decoder", 1)):
        tensors = {}
        for key, value in getattr(network, part).layers.state_dict().items():
            layer, rest = key.split(".", 1)
            tensors[f"{int(layer) + first}.{rest}"] = value
        save_file(tensors, folder / f"taesd_{part}.safetensors")
    return network
