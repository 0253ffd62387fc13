"""A U-Net of ours in a file of one byte a weight: how the model that ships is stored.

Each output channel of a layer has a scale of its own; its weights are whole multiples of it from -127 to 127. Tensors
of one dimension stay as they are, in half precision. The file is safetensors, with config.json of the model's folder in
its metadata.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from lipforge.model.denoiser.unet import UNet3D
from lipforge.model.weights.load import ModelFileError
from lipforge.model.weights.state_dicts import load_strict

_SCALE = ".scale"
_CONFIG = "config"
_MOST = 127


def load_packed(path: Path) -> tuple[UNet3D, dict[str, Any]]:
    """(U-Net in evaluation mode, config), as `load_trained` gives them. Raises ModelFileError."""
    tensors, about = unpacked(path.read_bytes(), str(path))
    network = UNet3D(about["layout"])
    load_strict(network, tensors, str(path))
    return network.eval(), about


def packed(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> bytes:
    """A file for `unpacked`. about: config.json of the model's folder."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.ndim < 2:
            found[name] = tensor.half()
            continue
        scale = tensor.abs().amax(dim=tuple(range(1, tensor.ndim)), keepdim=True).clamp(min=1e-8) / _MOST
        found[name] = (tensor / scale).round().to(torch.int8)
        found[name + _SCALE] = scale.flatten()
    return save_safetensors(found, {_CONFIG: json.dumps(about, sort_keys=True)})


def unpacked(content: bytes, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors in float32, config). name: for messages. Raises ModelFileError."""
    try:
        stored = load_safetensors(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        about: dict[str, Any] = json.loads(header["__metadata__"][_CONFIG])
        tensors = {key: tensor.float() for key, tensor in stored.items() if not key.endswith(_SCALE)}
        for key, tensor in tensors.items():
            if tensor.ndim > 1:
                tensors[key] = tensor * stored[key + _SCALE].float().reshape(-1, *[1] * (tensor.ndim - 1))
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ModelFileError(f"{name}: not a packed U-Net: {error}") from error
    return tensors, about
