"""Read tensors from files of weights without running code in them, and load them strictly into networks.

Separate from model/weights/load.py because it imports torch, which the workers that cut faces do without.
"""

import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from lipforge.model.weights.load import MissingModelError, ModelFileError
from lipforge.model.weights.table import list_models


def read_state_dict(content: bytes, name: str) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, from a file of torch (`torch.save`, old or new container) or of safetensors.

    name: file name, for messages. For a file of the table it also decides under which key the tensors lie
    (`ModelFile.state_dict_key`); any other file must be a plain mapping of names to tensors.
    Code in the file is never run. Raises ModelFileError when it is damaged, unsafe, or holds anything else.
    """
    found = (
        _read_safetensors(content, name)
        if _is_safetensors(content[:_HEAD_BYTES], len(content))
        else _read_torch(content, name)
    )
    return _only_tensors(_unwrap(found, name), len(content), name)


def read_checkpoint(content: bytes, name: str, tensors_key: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors by name, all other entries) of a torch file with its tensors under one key and plain values beside it.

    name: file name, for messages. Code in the file is never run. Raises as `read_state_dict`.
    """
    found = _read_torch(content, name)
    tensors = _only_tensors(_under(tensors_key, found, name), len(content), name)
    return tensors, {key: value for key, value in found.items() if key != tensors_key}


class Checkpoint(NamedTuple):
    """A file of weights, as `read_checkpoint_file` finds it."""

    tensors: dict[str, Tensor]
    global_step: int | None
    """Optimizer steps that made it, if the file says so."""
    left_out: tuple[str, ...]
    """Other entries of the file: lists of losses, an optimizer's state."""
    is_safetensors: bool


def read_checkpoint_file(path: Path) -> Checkpoint:
    """A file of safetensors (`global_step` in its metadata), or of torch: names to tensors, or {"state_dict": that}.

    For a file of the table, its `state_dict_key` is the name of that entry. Tensors stay in the file until they are
    used (except in torch's old container), so 5 GB take next to no memory; the file must not change meanwhile.
    Code in the file is never run. Raises MissingModelError, or ModelFileError as `read_state_dict`.
    """
    name = str(path)
    try:
        size = path.stat().st_size
        with open(path, "rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except OSError as error:
        raise MissingModelError(f"no file of weights at {path} ({error.strerror})") from error
    is_safetensors = _is_safetensors(head, size)
    if is_safetensors:
        found, rest = _open_safetensors(path)
        left_out = tuple(sorted(set(rest) - {_STEP, "format"}))
    else:
        whole = _open_torch(path, head, size)
        key = _key_of(name) or "state_dict"
        is_wrapped = isinstance(whole, dict) and (key in whole or key == _key_of(name))
        found = _under(key, whole, name) if is_wrapped else whole
        rest = whole if is_wrapped else {}
        left_out = tuple(sorted(str(entry) for entry in set(rest) - {_STEP, key}))
    return Checkpoint(_only_tensors(found, size, name), _step(rest, name), left_out, is_safetensors)


def load_strict(module: nn.Module, state_dict: Mapping[str, Tensor], name: str) -> None:
    """Loads exactly these tensors, then sets evaluation mode and turns gradients off.

    name: file name, for the message. Floats of another precision are converted to the module's.
    Raises ModelFileError, and leaves the module unchanged, when a name is missing or unexpected, a shape differs, a
    tensor has integers or complex numbers where the module has floats (or the reverse), or a number is not finite.
    """
    own = module.state_dict()
    check_fit(own, state_dict, name, type(module).__name__)
    module.load_state_dict(dict(state_dict), strict=True)
    module.eval().requires_grad_(False)


def check_fit(own: Mapping[str, Tensor], given: Mapping[str, Tensor], name: str, network: str) -> None:
    """Raises ModelFileError unless the given tensors can replace `own` one by one, as `load_strict` says.

    name: of the file; network: what `own` belongs to.
    """
    if words := misfits(own, given):
        raise ModelFileError(f"{name}: not the weights of {network} ({len(own)} tensors). {words}")
    for key, value in given.items():
        if not value.to(own[key].dtype).isfinite().all():
            raise ModelFileError(f"{name}: {key} holds values that are not finite")


def misfits(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """What keeps the given tensors from replacing `own` one by one, in words; empty if nothing does."""
    differences = {
        "missing": [key for key in own if key not in given],
        "unexpected": [key for key in given if key not in own],
        "of another shape": [
            f"{key} {list(given[key].shape)} instead of {list(value.shape)}"
            for key, value in own.items()
            if key in given and given[key].shape != value.shape
        ],
        "of another kind": [
            f"{key} {given[key].dtype} instead of {value.dtype}"
            for key, value in own.items()
            if key in given and given[key].is_floating_point() != value.is_floating_point()
        ],
    }
    return "; ".join(_some(label, items) for label, items in differences.items() if items)


_SHOWN = 3  # names per kind of difference in a message
_ZIP_MAGIC = b"PK\x03\x04"
_HEAD_BYTES = 16
_STEP = "global_step"


def _some(label: str, items: list[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return f"{len(items)} {label}: {', '.join(items[:_SHOWN])}{more}"


def _is_safetensors(head: bytes, size: int) -> bool:
    """8 bytes with the length of a JSON header, then the header; no pickle or zip archive begins like that."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size


def _read_safetensors(content: bytes, name: str) -> Any:
    try:
        return load_safetensors(content)
    except SafetensorError as error:
        raise ModelFileError(f"{name}: not a readable safetensors file ({error})") from error


def _open_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata)"""
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ModelFileError(f"{path}: not a readable safetensors file ({error})") from error


def _read_torch(content: bytes, name: str) -> Any:
    stream = io.BytesIO(content)
    if content[:4] == _ZIP_MAGIC:
        _refuse_zip_bomb(stream, len(content), name)
    try:
        return torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises nearly any class for a damaged file
        raise _damaged(error, content, len(content), name) from error


def _open_torch(path: Path, head: bytes, size: int) -> Any:
    is_zip = head[:4] == _ZIP_MAGIC
    if is_zip:
        with open(path, "rb") as stream:
            _refuse_zip_bomb(stream, size, str(path))
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:  # as above
        raise _damaged(error, head, size, str(path)) from error


def _damaged(error: Exception, head: bytes, size: int, name: str) -> ModelFileError:
    return ModelFileError(
        f"{name}: cut off, damaged, or no file with weights alone: {_torch_reason(error)}. No code in it was run. "
        f"Its {size} bytes begin with {head[:_HEAD_BYTES]!r}."
    )


def _torch_reason(error: Exception) -> str:
    """What torch found, without its advice to load the file unsafely."""
    text = str(error)
    for pattern in (r"([Uu]nsupported .*?)(?:\. |\.?$)", r"WeightsUnpickler error:\s*(.*)"):
        if found := re.search(pattern, text, re.MULTILINE):
            return found[1][:200]
    first_line = text.partition("\n")[0]
    return type(error).__name__ if not first_line or first_line.startswith("Weights only") else first_line[:200]


def _refuse_zip_bomb(stream: BinaryIO, size: int, name: str) -> None:
    """torch stores members uncompressed, so their sizes never add up to more than the file."""
    try:
        with zipfile.ZipFile(stream) as archive:
            declared = sum(member.file_size for member in archive.infolist())
    except Exception as error:  # zipfile raises many classes for a damaged directory
        raise ModelFileError(f"{name}: cut off or damaged: {size} bytes, {error}") from error
    stream.seek(0)
    if declared > size:
        raise ModelFileError(f"{name}: refused: {size} bytes claim to unpack to {declared}")


def _key_of(name: str) -> str | None:
    """Entry of the tensors in a file of the table."""
    return {file.name: file.state_dict_key for file in list_models()}.get(Path(name).name)


def _unwrap(found: Any, name: str) -> Any:
    key = _key_of(name)
    return found if key is None else _under(key, found, name)


def _step(rest: Mapping[str, Any], name: str) -> int | None:
    value = rest.get(_STEP)
    if value is None:
        return None
    is_number = str(value).isdecimal() and not isinstance(value, Tensor)
    if not is_number:
        raise ModelFileError(f"{name}: its {_STEP} is {value!r}, expected a number of steps")
    return int(value)


def _under(key: str, found: Any, name: str) -> Any:
    if not isinstance(found, dict) or key not in found:
        raise ModelFileError(f"{name}: expected a mapping with {key!r} in it, found {_describe(found)}")
    return found[key]


def _only_tensors(found: Any, size: int, name: str) -> dict[str, Tensor]:
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
        if value.numel() * value.element_size() > size:
            raise ModelFileError(f"{name}: {key} claims {value.numel()} numbers in a file of {size} bytes")
    return {key: value.detach() for key, value in found.items()}


def _describe(found: Any) -> str:
    if isinstance(found, dict):
        return f"a mapping with {_some('keys', [repr(key) for key in found])}" if found else "an empty mapping"
    return f"a {type(found).__name__}"
