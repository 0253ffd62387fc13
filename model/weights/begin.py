"""Begin the training of a network with the weights of another one, where each difference is meant and has a name."""

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn

from lipforge.model.weights.load import ModelFileError
from lipforge.model.weights.state_dicts import check_fit, misfits

Difference = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], tuple[dict[str, Tensor], str]]
"""(tensors of the network, tensors of the file) -> (tensors that replace those of the file or are new, what they are).
"""


def begin(network: nn.Module, tensors: Mapping[str, Tensor], differences: Collection[str], name: str) -> list[str]:
    """Loads a file's tensors into a network. Returns lines for the log: what was loaded, and what begins anew.

    differences: names in `DIFFERENCES` of what may differ. Everything else must be equal: a tensor that is missing, not
    needed, or of another shape is an error, and so are numbers that are not finite. Floats of another precision are
    converted to the network's. name: of the file, for messages.
    Raises ModelFileError, which names the tensors and leaves the network unchanged, or ValueError for a difference that
    does not exist.
    """
    if unknown := sorted(set(differences) - set(DIFFERENCES)):
        raise ValueError(f"unknown difference {unknown[0]!r}; known: {', '.join(DIFFERENCES)}")
    own = network.state_dict()
    given, notes = dict(tensors), []
    for difference in differences:
        made, note = DIFFERENCES[difference](own, given)
        given |= made
        numbers = sum(tensor.numel() for tensor in made.values())
        notes.append(
            f"{difference}: {len(made)} tensors ({numbers / 1e6:,.3f} M numbers), {note}"
            if made
            else f"{difference}: nothing differs"
        )
    try:
        check_fit(own, given, name, type(network).__name__)
    except ModelFileError as error:
        raise ModelFileError(f"{error}{_hint(own, given, differences)}") from error
    with torch.no_grad():
        for key, tensor in given.items():
            own[key].copy_(tensor)
    unchanged = sum(given[key] is tensor for key, tensor in tensors.items())
    return [f"{name}: {unchanged} of {len(own)} tensors loaded", *notes]


_MOTION = "motion_modules."
_SD_CHANNELS = 4
"""Noisy latents. The U-Net for inpainting has 9, whose mask has the opposite meaning of ours."""


def _adds_motion_modules(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Stage 1 to stage 2: motion modules keep their initial values, with which they change nothing.

    For a file without any: one that has some of them is of another layout, or lacks tensors.
    """
    if any(_MOTION in key for key in given):
        return {}, ""
    return {key: tensor for key, tensor in own.items() if _MOTION in key}, "motion modules that begin anew"


def _stable_diffusion_1_5(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Stable Diffusion's U-Net to stage 1, which has the same names.

    The first layer sees 13 channels instead of 4: the nine new ones come after those of the noisy latents and begin
    with zero weights. Keys and values of cross-attention read audio instead of text, of another width: they begin anew.
    """
    made = {}
    for key, tensor in own.items():
        if key not in given or given[key].shape == tensor.shape or given[key].ndim != tensor.ndim:
            continue
        if key == "conv_in.weight" and _equal_but_for(1, given[key], tensor) and given[key].shape[1] == _SD_CHANNELS:
            made[key] = torch.zeros_like(tensor, device="cpu")
            made[key][:, :_SD_CHANNELS] = given[key]
        elif key.endswith((".attn2.to_k.weight", ".attn2.to_v.weight")) and _equal_but_for(1, given[key], tensor):
            made[key] = tensor
    return made, "keys and values of attention to audio, which begin anew, and new input channels, whose weights are 0"


DIFFERENCES: dict[str, Difference] = {
    "adds_motion_modules": _adds_motion_modules,
    "stable_diffusion_1_5": _stable_diffusion_1_5,
}


def _equal_but_for(axis: int, first: Tensor, second: Tensor) -> bool:
    return all(a == b for at, (a, b) in enumerate(zip(first.shape, second.shape, strict=True)) if at != axis)


def _hint(own: Mapping[str, Tensor], given: Mapping[str, Tensor], differences: Collection[str]) -> str:
    """Names the difference that would make the file fit."""
    for name, difference in DIFFERENCES.items():
        made, _ = difference(own, given)
        if made and name not in differences and not misfits(own, {**given, **made}):
            return f". If that is meant, name it: init_differences: [{', '.join([*differences, name])}]"
    return ""
