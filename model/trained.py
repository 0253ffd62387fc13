"""Models that our trainers made: a folder with weights and what they are.

network, about = load_trained("runs/zh20/model")

model/unet.safetensors (or syncnet.safetensors)   every tensor, by its published name, float32
model/config.json                                 kind, layout, and what goes with it: autoencoder, audio encoder
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lipforge.model.weights.load import MissingModelError, ModelFileError, checked_path
from lipforge.model.weights.state_dicts import load_strict, read_checkpoint_file
from lipforge.model.weights.table import list_models

CONFIG_NAME = "config.json"
KINDS = ("unet", "syncnet")


def weights_name(kind: str) -> str:
    return f"{kind}.safetensors"


def step_of_model(path: Path) -> int | None:
    """Optimizer steps that made a model's file of weights; None when there is none, or it cannot be read."""
    try:
        return read_checkpoint_file(path).global_step
    except ModelFileError:
        return None


def load_trained(folder: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """(network in evaluation mode, config.json) of a run's model folder. Raises ModelFileError."""
    about = read_about(Path(folder))
    kind = about["kind"]
    if kind == "unet":
        from lipforge.model.denoiser.unet import UNet3D

        network: nn.Module = UNet3D(about["layout"])
    else:
        from lipforge.model.sync.stable_syncnet import StableSyncNet

        network = StableSyncNet(about["layout"])
    path = Path(folder) / weights_name(kind)
    load_strict(network, read_checkpoint_file(path).tensors, str(path))
    return network, about


def hash_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """sha256 (hex) of names and values, whatever file they came from."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_about(folder: Path) -> dict[str, Any]:
    """config.json of a model folder. Raises ModelFileError."""
    path = folder / CONFIG_NAME
    try:
        about = json.loads(path.read_text())
        if about["kind"] not in KINDS or not isinstance(about["layout"], dict):
            raise ValueError(f"kind is {about['kind']!r}")
    except FileNotFoundError as error:
        raise MissingModelError(f"no model in {folder}: a run writes {CONFIG_NAME} and weights to RUN/model") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelFileError(f"{path}: not the description of a model of ours: {error}") from error
    return about


def read_weights(place: str, kind: str) -> tuple[dict[str, Tensor], str]:
    """(tensors by name, name for messages) from a file of weights, a run's model folder, or a file of the table.

    place: a path, or the name of a fetched file, with or without its suffix, or of a bundle of one file. Tensors stay
    in the file until they are used. Raises ModelFileError when there is none, or it is damaged, unsafe, or of another
    kind of model.
    """
    files = list_models()
    alone = [file for file in files if sum(other.bundle == file.bundle for other in files) == 1]
    published = {file.bundle: file for file in alone}
    published |= {name: file for file in files for name in (file.name, Path(file.name).stem)}
    if place in published:
        return read_checkpoint_file(checked_path(published[place])).tensors, place
    path = Path(place)
    if path.is_dir():
        about = read_about(path)
        if about["kind"] != kind:
            raise ModelFileError(f"{path}: the model there is a {about['kind']}, expected a {kind}")
        path = path / weights_name(kind)
    return read_checkpoint_file(path).tensors, str(path)
