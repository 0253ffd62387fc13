"""The processes of a training run, and what they run on.

`accelerate launch` (and torchrun) starts the processes; the files in infra/accelerate say how they share the work. Some
combinations fall back to one process or to plain data parallelism without a word: here they are refused.
"""

import os

import torch
from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import DistributedType

from lipforge.train.config import TrainerConfig

_STRATEGIES = {
    "ACCELERATE_USE_DEEPSPEED": DistributedType.DEEPSPEED,
    "ACCELERATE_USE_FSDP": DistributedType.FSDP,
}


def start(config: TrainerConfig) -> Accelerator:
    """Join this process to the run's others. Raises ValueError when they would not run as asked for."""
    _refuse_lost_processes()
    wanted = next((kind for name, kind in _STRATEGIES.items() if _is_on(name)), None)
    if wanted is not None and int(os.environ.get("WORLD_SIZE", "1")) < 2:
        raise ValueError(
            f"{wanted.value} was asked for, but this is the only process: it shares a network out among several. Set "
            "num_processes, or launch without that file"
        )
    if wanted is DistributedType.DEEPSPEED and config.mixed_precision == "fp16":
        raise ValueError("mixed_precision=fp16 does not go with DeepSpeed here: take bf16")
    if wanted is not None and config.optimizer.name == "adamw8bit":
        raise ValueError(
            f"optimizer.name=adamw8bit does not go with {wanted.value}, which shares the optimizer out itself"
        )
    on_cpu = _on_cpu(config)
    if on_cpu:
        if config.mixed_precision == "fp16":
            raise ValueError("mixed_precision=fp16 needs a GPU: on a CPU take bf16 or no")
        # What `--cpu` or `use_cpu` of a launch file set: with it, accelerate ignores FSDP and DeepSpeed.
        os.environ.pop("ACCELERATE_USE_CPU", None)
        PartialState(cpu=True)
        if wanted is DistributedType.FSDP:
            # accelerate offers FSDP where its processes are MULTI_GPU alone; on a CPU it would run DDP in silence.
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # accelerate imports DeepSpeed where it is installed
        if wanted is DistributedType.DEEPSPEED:
            from deepspeed import ops

            # Otherwise it compiles a kernel for shared memory first, for a minute; gloo does without.
            ops.__compatible_ops__["deepspeed_shm_comm"] = False
    accelerator = Accelerator(
        cpu=on_cpu and wanted is None,
        # With a precision, DeepSpeed would turn the weights themselves into it; ours stay float32 (Together.autocast).
        mixed_precision="no" if wanted is DistributedType.DEEPSPEED else config.mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
    )
    if wanted is DistributedType.DEEPSPEED and accelerator.state.deepspeed_plugin is not None:
        # accelerate takes these from a loader that it prepares; ours stays out of it.
        accelerator.state.deepspeed_plugin.deepspeed_config |= {
            "train_micro_batch_size_per_gpu": config.batch_size,
            "gradient_accumulation_steps": config.gradient_accumulation_steps,
            "gradient_clipping": config.optimizer.max_grad_norm,
        }
    if wanted is not None and accelerator.distributed_type is not wanted:
        raise ValueError(
            f"{wanted.value} was asked for, but accelerate runs {accelerator.distributed_type.value}: start two or "
            "more processes (`accelerate launch --config_file infra/accelerate/...`, or torchrun), without --cpu"
        )
    return accelerator


def is_main_process() -> bool:
    """Whether this process is rank 0, also before `start`."""
    return int(os.environ.get("RANK", "0")) == 0


def _on_cpu(config: TrainerConfig) -> bool:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda, but torch sees no GPU here: set device=cpu, or look at `nvidia-smi`")
    return config.device == "cpu" or not torch.cuda.is_available()


def _refuse_lost_processes() -> None:
    """`accelerate launch --cpu --num_processes 2` starts one process, with an address for others that never come."""
    if "MASTER_ADDR" in os.environ and "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
        raise ValueError(
            "several processes were asked for and one was started: `accelerate launch --cpu` does that. Use "
            "`torchrun --nproc_per_node 2 -m ...`, or `accelerate launch --multi_gpu --num_processes 2 "
            "--num_machines 1 -m ... --set device=cpu`"
        )


def _is_on(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes")
