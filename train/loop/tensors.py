"""A training network's tensors, whole, whatever shares them out among the ranks: DDP, FSDP2 or DeepSpeed ZeRO-2."""

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def trainable(network: nn.Module) -> dict[str, nn.Parameter]:
    """Trainable parameters by name."""
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


def whole_network(accelerator: Accelerator, network: nn.Module) -> dict[str, Tensor]:
    """Every tensor of the network's state, on the CPU. Collective; empty on ranks other than 0."""
    return whole_tensors(accelerator, accelerator.unwrap_model(network).state_dict())


def whole_optimizer(
    accelerator: Accelerator, optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """The optimizer's state as NAME_OF_PARAMETER/KEY. Collective; empty on ranks other than 0."""
    state = _inner(optimizer).state
    tensors = {
        f"{name}/{key}": torch.as_tensor(value)
        for name, parameter in parameters.items()
        for key, value in state.get(parameter, {}).items()
    }
    return whole_tensors(accelerator, tensors)


def load_optimizer(
    accelerator: Accelerator,
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    tensors: Mapping[str, Tensor],
) -> None:
    """Put back what `whole_optimizer` gave. Raises ValueError for the state of other parameters."""
    by_name: dict[str, dict[str, Tensor]] = {}
    for place, value in tensors.items():
        name, _, key = place.rpartition("/")
        by_name.setdefault(name, {})[key] = value
    if by_name.keys() - parameters.keys():
        raise ValueError(
            f"the optimizer's state is of other parameters, such as {min(by_name.keys() - parameters.keys())}"
        )
    for name, values in by_name.items():
        parameter = parameters[name]
        _inner(optimizer).state[parameter] = {key: share_of(value, parameter) for key, value in values.items()}


def share_of(value: Tensor, parameter: Tensor) -> Tensor:
    """This rank's share of a whole tensor, where it shares the parameter out; single numbers stay as they are."""
    if value.ndim == 0 and parameter.ndim != 0:
        return value.clone()
    if isinstance(parameter, DTensor) and value.shape == parameter.shape:
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return value.to(parameter.device, copy=True)


def whole(tensor: Tensor) -> Tensor:
    """Collective where the tensor is shared out."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_tensors(accelerator: Accelerator, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole copies on the CPU. Collective; empty on ranks other than 0."""
    found = {}
    for name, tensor in tensors.items():
        gathered = whole(tensor.detach())
        if accelerator.is_main_process:
            found[name] = gathered.cpu()
    return found


def _inner(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer inside accelerate's wrapper."""
    return getattr(optimizer, "optimizer", optimizer)
