"""Models that our trainers made: a folder with weights and what they are.

network, about = load_trained("runs/zh20/model")

model/unet.safetensors (or syncnet.safetensors)   every tensor, by its published name, float32
model/config.json                                 kind, layout, and what goes with it: autoencoder, audio encoder
"""

import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lipforge.model.weights.load import MissingModelError, ModelFileError
from lipforge.model.weights.state_dicts import load_strict, read_state_dict

CONFIG_NAME = "config.json"
KINDS = ("unet", "syncnet")


def weights_name(kind: str) -> str:
    return f"{kind}.safetensors"


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
    load_strict(network, *_read(Path(folder) / weights_name(kind)))
    return network, about


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
    """(tensors by name, name for messages) from a file of weights, or from a run's model folder.

    Raises ModelFileError when there is none, or it is damaged, unsafe, or of another kind of model.
    """
    path = Path(place)
    if not path.is_dir():
        return _read(path)
    about = read_about(path)
    if about["kind"] != kind:
        raise ModelFileError(f"{path}: the model there is a {about['kind']}, expected a {kind}")
    return _read(path / weights_name(kind))


def _read(path: Path) -> tuple[dict[str, Tensor], str]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MissingModelError(f"no file of weights at {path} ({error.strerror})") from error
    return read_state_dict(content, str(path)), str(path)
