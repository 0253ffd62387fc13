"""What the fork server of tests/ranks.py imports before it forks."""

import accelerate  # noqa: F401
import diffusers  # noqa: F401
import torch
import torch.distributed.tensor
import torchmetrics.functional.image  # noqa: F401
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL  # noqa: F401

import lipforge.train.stage1
import lipforge.train.syncnet  # noqa: F401

torch.set_num_threads(1)
