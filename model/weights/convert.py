"""Convert checkpoints between torch's format, as LatentSync publishes them, and safetensors. Bytes stay as they are.

torch: {"state_dict": names to tensors, "global_step": steps}, as LatentSync's own code reads them. safetensors: the
tensors, and `global_step` in the metadata.
"""

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from lipforge.model.weights.load import MissingModelError, ModelFileError
from lipforge.model.weights.state_dicts import Checkpoint, read_checkpoint_file

TORCH_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")


def convert(source: Path, target: Path) -> list[str]:
    """Writes the tensors and the step of one file into another, in the format that its name ends with.

    Both files are mapped into memory, so 5 GB take hardly any of it, except from torch's container before 1.6. The
    target appears whole or not at all; one with the same content stays as it is. Returns lines that say what was done.
    Raises ValueError for a target that holds something else or has no known suffix; ModelFileError for a source that is
    missing, damaged, unsafe, or no checkpoint; OSError when the target cannot be written.
    """
    if target.suffix not in (".safetensors", *TORCH_SUFFIXES):
        raise ValueError(f"{target}: expected a name that ends with .safetensors or {', '.join(TORCH_SUFFIXES)}")
    checkpoint = read_checkpoint_file(source)
    lines = _describe(checkpoint)
    if target.exists():
        if not _holds(target, checkpoint):
            raise ValueError(f"{target} exists and holds something else: move it away, or choose another name")
        return [f"{target}: there already, with the same content", *lines]
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        _write(checkpoint, temporary, target)
        temporary.chmod(0o644)  # safetensors leaves it readable by its owner only
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return [f"{target}: written, {target.stat().st_size / 1e6:,.1f} MB", *lines]


def _write(checkpoint: Checkpoint, temporary: Path, target: Path) -> None:
    step = checkpoint.global_step
    try:
        if target.suffix == ".safetensors":
            metadata = {"format": "pt"} | ({} if step is None else {"global_step": str(step)})
            save_file(apart(checkpoint.tensors), temporary, metadata)
        else:
            content = {"state_dict": apart(checkpoint.tensors)} | ({} if step is None else {"global_step": step})
            with open(temporary, "wb") as stream:
                torch.save(content, stream)
    except (KeyError, RuntimeError, SafetensorError) as error:  # what the libraries make of a full disk, or of a dtype
        raise ModelFileError(f"{target}: cannot be written: {error}") from error


def apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor contiguous, with memory of its own: tied weights and views of larger tensors are copied."""
    apart, seen = {}, set()
    for key, tensor in tensors.items():
        storage = tensor.untyped_storage()
        is_alone = storage.nbytes() == tensor.nbytes and storage.data_ptr() not in seen
        seen.add(storage.data_ptr())
        apart[key] = tensor.contiguous() if is_alone else tensor.contiguous().clone()
    return apart


def _holds(target: Path, checkpoint: Checkpoint) -> bool:
    try:
        found = read_checkpoint_file(target)
    except MissingModelError:
        raise
    except ModelFileError:
        return False
    is_safetensors = target.suffix == ".safetensors"
    return (
        found.global_step == checkpoint.global_step
        and found.tensors.keys() == checkpoint.tensors.keys()
        and found.is_safetensors == is_safetensors
        and all(_same_bytes(tensor, checkpoint.tensors[key]) for key, tensor in found.tensors.items())
    )


def _same_bytes(first: Tensor, second: Tensor) -> bool:
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    return torch.equal(*(tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (first, second)))


def _describe(checkpoint: Checkpoint) -> list[str]:
    tensors = checkpoint.tensors.values()
    types = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})
    numbers = sum(tensor.numel() for tensor in tensors)
    step = "no global_step" if checkpoint.global_step is None else f"global_step {checkpoint.global_step}"
    lines = [f"{len(tensors)} tensors, {numbers / 1e6:,.3f} M numbers ({', '.join(types)}), {step}"]
    if layout := known_layout(checkpoint.tensors):
        lines.append(f"layout: {layout}")
    if checkpoint.left_out:
        lines.append(f"left out, as they are no weights: {', '.join(checkpoint.left_out)}")
    return lines


def known_layout(tensors: Mapping[str, Tensor]) -> str | None:
    """Name of the layout that has exactly these names and shapes, with its network; None if there is none.

    Builds networks without memory for their weights, which takes seconds.
    """
    shapes = {key: tensor.shape for key, tensor in tensors.items()}
    for typical_key, network, layouts in _NETWORKS:
        if typical_key not in shapes:
            continue
        for name, layout in _look_up(layouts).items():
            with torch.device("meta"):
                built = _look_up(network)(layout)
            if {key: tensor.shape for key, tensor in built.state_dict().items()} == shapes:
                return f"{name} ({type(built).__name__})"
    return None


_NETWORKS = (
    ("time_embedding.linear_1.weight", "denoiser.unet.UNet3D", "denoiser.layouts.LAYOUTS"),
    ("visual_encoder.conv_in.weight", "sync.stable_syncnet.StableSyncNet", "sync.stable_syncnet.LAYOUTS"),
)
"""(a tensor that each layout has, class, its layouts). Loaded when needed: they bring diffusers."""


def _look_up(place: str) -> Any:
    module, _, name = place.rpartition(".")
    return getattr(import_module(f"lipforge.model.{module}"), name)
