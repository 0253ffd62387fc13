"""A training network's tensors, whole, whatever shares them out among the ranks: DDP, FSDP2 or DeepSpeed ZeRO-2."""

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def trainable(network: nn.Module) -> dict[str, nn.Parameter]:
    """Trainable parameters by name."""
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


def plain_network(accelerator: Accelerator, network: Any) -> nn.Module:
    """The network inside accelerate's wrappers."""
    plain: Any = accelerator.unwrap_model(network)
    return plain


def whole_network(accelerator: Accelerator, network: nn.Module) -> dict[str, Tensor]:
    """Every tensor of the network's state, on the CPU. Collective; empty on ranks other than 0."""
    plain = plain_network(accelerator, network)
    tensors = plain.state_dict()
    if _is_zero(accelerator):
        from deepspeed.utils import safe_get_full_fp32_param

        tensors |= {name: safe_get_full_fp32_param(parameter) for name, parameter in trainable(plain).items()}
    return whole_tensors(accelerator, tensors)


def whole_optimizer(
    accelerator: Accelerator, optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """The optimizer's state as NAME_OF_PARAMETER/KEY. Collective; empty on ranks other than 0."""
    if _is_zero(accelerator):
        return whole_tensors(accelerator, _zero_state(optimizer, parameters))
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
    """Put back what `whole_optimizer` gave; without tensors, begin anew. Raises ValueError for other parameters."""
    by_name: dict[str, dict[str, Tensor]] = {}
    for place, value in tensors.items():
        name, _, key = place.rpartition("/")
        by_name.setdefault(name, {})[key] = value
    if unknown := sorted(by_name.keys() - parameters.keys()):
        raise ValueError(f"the optimizer's state is of other parameters, such as {unknown[0]}")
    if _is_zero(accelerator):
        _load_zero_state(optimizer, parameters, by_name)
        return
    for name, values in by_name.items():
        state = {key: _restored(value, parameters[name]) for key, value in values.items()}
        _inner(optimizer).state[parameters[name]] = state


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


def _restored(value: Tensor, parameter: Tensor) -> Any:
    if value.ndim == 0 and value.dtype == torch.int64:  # bitsandbytes counts its steps in an int
        return int(value)
    return share_of(value, parameter)


def _inner(optimizer: Any) -> Any:
    """The optimizer inside the wrappers of accelerate, and of DeepSpeed."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


def _is_zero(accelerator: Accelerator) -> bool:
    return accelerator.distributed_type is DistributedType.DEEPSPEED


_ZERO_KEYS = ("exp_avg", "exp_avg_sq")


def _zero_state(optimizer: Any, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    from deepspeed.utils import safe_get_full_optimizer_state

    tensors: dict[str, Any] = {}
    if not _inner(optimizer).state:  # before the first step
        return tensors
    for name, parameter in parameters.items():
        tensors |= {f"{name}/{key}": safe_get_full_optimizer_state(parameter, key) for key in _ZERO_KEYS}
        tensors[f"{name}/step"] = _zero_steps(optimizer)
    return tensors


def _load_zero_state(
    optimizer: Any, parameters: Mapping[str, nn.Parameter], by_name: Mapping[str, Mapping[str, Tensor]]
) -> None:
    from deepspeed.utils import safe_set_full_optimizer_state

    if not by_name:
        return
    adamw = _inner(optimizer)
    steps = next(iter(by_name.values()))["step"]
    for flat in (flat for group in adamw.param_groups for flat in group["params"]):
        adamw.state[flat] = {"step": steps.clone()} | {key: torch.zeros_like(flat) for key in _ZERO_KEYS}
    # DeepSpeed links its views of this state at its first step, and has no public call for it.
    optimizer.optimizer._lazy_init_hp_params_optimizer_state()
    for name, values in by_name.items():
        for key in _ZERO_KEYS:
            safe_set_full_optimizer_state(parameters[name], values[key].to(parameters[name].device), key)


def _zero_steps(optimizer: Any) -> Tensor:
    """Steps made, as AdamW counts them for each of DeepSpeed's flat parameters, all alike."""
    return next(iter(_inner(optimizer).state.values()))["step"].clone()
