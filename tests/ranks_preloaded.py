"""What the fork server of tests/ranks.py imports before it forks."""

import contextlib
import gc
import os

import accelerate  # noqa: F401
import diffusers  # noqa: F401
import torch
import torch.distributed.tensor
import torch.utils.tensorboard
import torchmetrics.functional.image  # noqa: F401
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL  # noqa: F401

import lipforge.train.stage1
import lipforge.train.syncnet  # noqa: F401

os.environ["DS_ACCELERATOR"] = "cpu"  # as the trainers set it before accelerate imports DeepSpeed
with contextlib.suppress(ImportError):
    import deepspeed  # noqa: F401
torch.set_num_threads(1)
gc.collect()
gc.freeze()  # or each process copies what a collection of garbage looks at
