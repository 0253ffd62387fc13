"""Files with weights become tensors, and tensors become a network: nothing in a file is ever run, nothing is guessed.

Apart from model/weights/table.py, which says where files come from, so that the workers that cut faces do without torch.
"""

import contextlib
import io
import pickletools
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from lipforge.model.weights.load import ModelFileError
from lipforge.model.weights.table import list_models


class BrokenModelError(ModelFileError):
    """The file is cut off, damaged, of another format, or holds something else than named tensors."""


class UnsafeModelError(ModelFileError):
    """The file is a pickle that asks for more than tensors: reading it could run code."""


class WrongLayoutError(ModelFileError):
    """The tensors are not those of the network: other names, shapes or kinds of numbers."""


def read_state_dict(content: bytes, name: str) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, from a file of torch (`torch.save`, old or new container) or of safetensors.

    name: file name, for messages; what the table says of a file of this name decides where in it the tensors lie
    (`ModelFile.state_dict_key`). Any other file must be a plain mapping of names to tensors.
    Nothing in the file is ever run. Raises BrokenModelError or UnsafeModelError.
    """
    found = _read_safetensors(content, name) if _is_safetensors(content) else _read_torch(content, name)
    return _only_tensors(_unwrap(found, name), content, name)


def read_checkpoint(content: bytes, name: str, tensors_key: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors by name, all else) of a torch file that holds its tensors under one key and plain values beside them.

    name: file name, for messages. Nothing in the file is ever run. Raises BrokenModelError or UnsafeModelError.
    """
    found = _read_torch(content, name)
    tensors = _only_tensors(_under(tensors_key, found, name), content, name)
    return tensors, {key: value for key, value in found.items() if key != tensors_key}


def load_strict(module: nn.Module, state_dict: Mapping[str, Tensor], name: str) -> None:
    """Fills the module with exactly these tensors; then it is in evaluation mode and asks for no gradients.

    name: file name, for the message. Real numbers may have another precision than the module's. Raises WrongLayoutError,
    and leaves the module as it was, when a name is missing or unexpected, a shape differs, or a tensor holds whole or
    complex numbers for real ones or the other way round; BrokenModelError when a number is not finite.
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
        raise WrongLayoutError(
            f"{name}: not the weights of {type(module).__name__} ({len(wanted)} tensors). {'; '.join(words)}"
        )
    for key, value in state_dict.items():
        if not value.to(own[key].dtype).isfinite().all():
            raise BrokenModelError(f"{name}: {key} holds numbers that are not finite")
    module.load_state_dict(dict(state_dict), strict=True)
    module.eval().requires_grad_(False)


_SHOWN = 3  # names per kind of difference in a message
_ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_PICKLES = 5  # magic number, version, platform, the object, names of its storages


def _some(label: str, items: list[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return f"{len(items)} {label}: {', '.join(items[:_SHOWN])}{more}"


def _is_safetensors(content: bytes) -> bool:
    """8 bytes with the length of a JSON header, then the header; a pickle or a zip archive never begins so."""
    return content[8:9] == b"{" and int.from_bytes(content[:8], "little") < len(content)


def _read_safetensors(content: bytes, name: str) -> Any:
    try:
        return load_safetensors(content)
    except SafetensorError as error:
        raise BrokenModelError(f"{name}: not a readable safetensors file ({error})") from error


def _read_torch(content: bytes, name: str) -> Any:
    if content[:4] == _ZIP_MAGIC:
        _refuse_zip_bomb(content, name)
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises nearly any class for a damaged file
        if wanted := _dangerous_globals(content):
            raise UnsafeModelError(
                f"{name}: refused: it is a pickle that wants to run code ({', '.join(wanted[:5])}). Nothing of it was run. "
                "Take the file from its publisher."
            ) from error
        raise BrokenModelError(
            f"{name}: cut off, damaged, or no file with weights: {len(content)} bytes that begin with {content[:16]!r} "
            f"({_torch_reason(error)})"
        ) from error


def _torch_reason(error: Exception) -> str:
    """What torch found, without its advice to try again with the safety off."""
    found = re.search(r"WeightsUnpickler error:\s*(.*)", str(error))
    words = found[1] if found else str(error).partition("\n")[0]
    return type(error).__name__ if not words or words.startswith("Weights only") else words[:200]


def _refuse_zip_bomb(content: bytes, name: str) -> None:
    """torch stores its members uncompressed, so all of them together are smaller than the file."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            declared = sum(member.file_size for member in archive.infolist())
    except Exception as error:  # zipfile raises many classes for a damaged directory
        raise BrokenModelError(f"{name}: cut off or damaged: {len(content)} bytes, {error}") from error
    if declared > len(content):
        raise BrokenModelError(f"{name}: refused: {len(content)} bytes that claim to unpack to {declared}")


_TENSOR_GLOBALS = re.compile(
    r"collections\.OrderedDict|torch\.\w+Storage|torch\.storage\.\w+|torch\._utils\._rebuild_\w+"
    r"|torch\._tensor\._rebuild_from_type_v2|torch\.nn\.parameter\.Parameter|torch\.(Size|device|b?float\d*|u?int\d+)"
)
"""What a file that holds nothing but tensors may name. Used for messages only: torch's own list decides what is read."""


def _dangerous_globals(content: bytes) -> list[str]:
    """Python names that a torch file's pickles call for, besides those that make tensors. Runs nothing."""
    names: dict[str, None] = {}
    for stream in _pickles(content):
        strings = ["?", "?"]
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name in ("GLOBAL", "INST"):
                    names[str(argument).replace(" ", ".")] = None
                elif opcode.name == "STACK_GLOBAL":
                    names[".".join(strings[-2:])] = None
                elif isinstance(argument, str):
                    strings.append(argument)
        except Exception:  # noqa: BLE001, S112 - the bytes are damaged from here on
            continue
    return [name for name in names if re.fullmatch(r"[\w.]+", name) and not _TENSOR_GLOBALS.fullmatch(name)]


def _pickles(content: bytes) -> Iterator[io.BytesIO]:
    """The pickles of a torch file: in a zip archive its `*.pkl` members; else several in a row from the start."""
    if content[:4] == _ZIP_MAGIC:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.namelist():
                if member.endswith(".pkl"):
                    with contextlib.suppress(Exception):  # damaged: there is nothing to read
                        yield io.BytesIO(archive.read(member))
        return
    stream = io.BytesIO(content)
    for _ in range(_LEGACY_PICKLES):
        yield stream  # the reader leaves it where the pickle ended


def _unwrap(found: Any, name: str) -> Any:
    key = {file.name: file.state_dict_key for file in list_models()}.get(Path(name).name)
    return found if key is None else _under(key, found, name)


def _under(key: str, found: Any, name: str) -> Any:
    if not isinstance(found, dict) or key not in found:
        raise BrokenModelError(f"{name}: expected a mapping with {key!r} in it, found {_describe(found)}")
    return found[key]


def _only_tensors(found: Any, content: bytes, name: str) -> dict[str, Tensor]:
    if not isinstance(found, dict) or not found:
        raise BrokenModelError(f"{name}: expected a mapping of names to tensors, found {_describe(found)}")
    for key, value in found.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise BrokenModelError(
                f"{name}: expected a mapping of names to tensors, found {_describe(found)}; {key!r} is a {type(value).__name__}"
            )
        if value.layout != torch.strided or value.device.type != "cpu":
            raise BrokenModelError(f"{name}: {key} is a {value.layout} tensor on {value.device}; expected a dense one")
        if value.numel() * value.element_size() > len(content):
            raise BrokenModelError(f"{name}: {key} claims {value.numel()} numbers in a file of {len(content)} bytes")
    return {key: value.detach() for key, value in found.items()}


def _describe(found: Any) -> str:
    if isinstance(found, dict):
        return f"a mapping with {_some('keys', [repr(key) for key in found])}" if found else "an empty mapping"
    return f"a {type(found).__name__}"
