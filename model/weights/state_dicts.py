"""Read tensors from files of weights without running code in them, and load them strictly into networks.

Separate from model/weights/load.py because it imports torch, which the workers that cut faces do without.
"""

import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from lipforge.model.weights.load import ModelFileError
from lipforge.model.weights.table import list_models


def read_state_dict(content: bytes, name: str) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, from a file of torch (`torch.save`, old or new container) or of safetensors.

    name: file name, for messages. For a file of the table it also decides under which key the tensors lie
    (`ModelFile.state_dict_key`); any other file must be a plain mapping of names to tensors.
    Code in the file is never run. Raises ModelFileError when it is damaged, unsafe, or holds anything else.
    """
    found = _read_safetensors(content, name) if _is_safetensors(content) else _read_torch(content, name)
    return _only_tensors(_unwrap(found, name), content, name)


def read_checkpoint(content: bytes, name: str, tensors_key: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors by name, all other entries) of a torch file with its tensors under one key and plain values beside it.

    name: file name, for messages. Code in the file is never run. Raises as `read_state_dict`.
    """
    found = _read_torch(content, name)
    tensors = _only_tensors(_under(tensors_key, found, name), content, name)
    return tensors, {key: value for key, value in found.items() if key != tensors_key}


def load_strict(module: nn.Module, state_dict: Mapping[str, Tensor], name: str) -> None:
    """Loads exactly these tensors, then sets evaluation mode and turns gradients off.

    name: file name, for the message. Floats of another precision are converted to the module's.
    Raises ModelFileError, and leaves the module unchanged, when a name is missing or unexpected, a shape differs, a
    tensor has integers or complex numbers where the module has floats (or the reverse), or a number is not finite.
    """
    own = module.state_dict()
    wanted = {key: tuple(value.shape) for key, value in own.items()}
    given = {key: tuple(value.shape) for key, value in state_dict.items()}
    differences = {
        "missing": [key for key in wanted if key not in given],
        "unexpected": [key for key in given if key not in wanted],
        "of another shape": [
            f"{key} {list(given[key])} instead of {list(shape)}"
            for key, shape in wanted.items()
            if key in given and given[key] != shape
        ],
        "of another kind": [
            f"{key} {state_dict[key].dtype} instead of {value.dtype}"
            for key, value in own.items()
            if key in given and state_dict[key].is_floating_point() != value.is_floating_point()
        ],
    }
    words = [_some(label, items) for label, items in differences.items() if items]
    if words:
        raise ModelFileError(
            f"{name}: not the weights of {type(module).__name__} ({len(wanted)} tensors). {'; '.join(words)}"
        )
    for key, value in state_dict.items():
        if not value.to(own[key].dtype).isfinite().all():
            raise ModelFileError(f"{name}: {key} holds values that are not finite")
    module.load_state_dict(dict(state_dict), strict=True)
    module.eval().requires_grad_(False)


_SHOWN = 3  # names per kind of difference in a message
_ZIP_MAGIC = b"PK\x03\x04"


def _some(label: str, items: list[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return f"{len(items)} {label}: {', '.join(items[:_SHOWN])}{more}"


def _is_safetensors(content: bytes) -> bool:
    """8 bytes with the length of a JSON header, then the header; no pickle or zip archive begins like that."""
    return content[8:9] == b"{" and int.from_bytes(content[:8], "little") < len(content)


def _read_safetensors(content: bytes, name: str) -> Any:
    try:
        return load_safetensors(content)
    except SafetensorError as error:
        raise ModelFileError(f"{name}: not a readable safetensors file ({error})") from error


def _read_torch(content: bytes, name: str) -> Any:
    if content[:4] == _ZIP_MAGIC:
        _refuse_zip_bomb(content, name)
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises nearly any class for a damaged file
        raise ModelFileError(
            f"{name}: cut off, damaged, or no file with weights alone: {_torch_reason(error)}. No code in it was run. "
            f"Its {len(content)} bytes begin with {content[:16]!r}."
        ) from error


def _torch_reason(error: Exception) -> str:
    """What torch found, without its advice to load the file unsafely."""
    text = str(error)
    for pattern in (r"([Uu]nsupported .*?)(?:\. |\.?$)", r"WeightsUnpickler error:\s*(.*)"):
        if found := re.search(pattern, text, re.MULTILINE):
            return found[1][:200]
    first_line = text.partition("\n")[0]
    return type(error).__name__ if not first_line or first_line.startswith("Weights only") else first_line[:200]


def _refuse_zip_bomb(content: bytes, name: str) -> None:
    """torch stores members uncompressed, so their sizes never add up to more than the file."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            declared = sum(member.file_size for member in archive.infolist())
    except Exception as error:  # zipfile raises many classes for a damaged directory
        raise ModelFileError(f"{name}: cut off or damaged: {len(content)} bytes, {error}") from error
    if declared > len(content):
        raise ModelFileError(f"{name}: refused: {len(content)} bytes claim to unpack to {declared}")


def _unwrap(found: Any, name: str) -> Any:
    key = {file.name: file.state_dict_key for file in list_models()}.get(Path(name).name)
    return found if key is None else _under(key, found, name)


def _under(key: str, found: Any, name: str) -> Any:
    if not isinstance(found, dict) or key not in found:
        raise ModelFileError(f"{name}: expected a mapping with {key!r} in it, found {_describe(found)}")
    return found[key]


def _only_tensors(found: Any, content: bytes, name: str) -> dict[str, Tensor]:
    if not isinstance(found, dict) or not found:
        raise ModelFileError(f"{name}: expected a mapping of names to tensors, found {_describe(found)}")
    for key, value in found.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise ModelFileError(
                f"{name}: expected a mapping of names to tensors, found {_describe(found)}; "
                f"{key!r} is a {type(value).__name__}"
            )
        if value.layout != torch.strided or value.device.type != "cpu":
            raise ModelFileError(f"{name}: {key} is a {value.layout} tensor on {value.device}; expected a dense one")
        if value.numel() * value.element_size() > len(content):
            raise ModelFileError(f"{name}: {key} claims {value.numel()} numbers in a file of {len(content)} bytes")
    return {key: value.detach() for key, value in found.items()}


def _describe(found: Any) -> str:
    if isinstance(found, dict):
        return f"a mapping with {_some('keys', [repr(key) for key in found])}" if found else "an empty mapping"
    return f"a {type(found).__name__}"
