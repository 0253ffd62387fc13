"""What kernels of a GPU need that those of a CPU do not: the rehearsal is on a CPU, its sizes are to be a GPU's.

Autocast: torch's autocast for the CPU leaves norms in half precision; the one for CUDA computes them in float32, and
keeps their inputs so for the backward pass. Without a GPU, torch refuses autocast for CUDA. What else CUDA widens
(softmax, powers, sums) is inside of fused attention or in losses, which are float32 anyway.

Convolutions: cuDNN computes them on tensor cores with channels last, so it copies inputs and outputs that have channels
first, which ours have.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._pytree import tree_leaves

_HALF = (torch.float16, torch.bfloat16)


@contextmanager
def norms_in_float32() -> Iterator[None]:
    """Within it, norms under `torch.autocast("cpu", ...)` take and give float32."""
    widen: Any = _widen  # torch's annotation forgets that a hook may return other inputs
    hook = register_module_forward_pre_hook(widen)
    try:
        yield
    finally:
        hook.remove()


def _widen(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    if not isinstance(module, nn.GroupNorm | nn.LayerNorm) or not torch.is_autocast_enabled("cpu"):
        return None
    return tuple(value.float() if isinstance(value, Tensor) and value.dtype in _HALF else value for value in inputs)


def convolution_workspace(func: Any, inputs: Any, results: Any) -> int:
    """Bytes of the copies with channels last, for a StorageTracker."""
    if func not in _CONVOLUTIONS:
        return 0
    tensors = [value for value in tree_leaves((inputs, results)) if isinstance(value, Tensor) and value.ndim >= 4]
    return sum(value.nbytes for value in tensors)


_CONVOLUTIONS = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)
