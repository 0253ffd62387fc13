"""What storing latents changes in the loss of stage 1: in half precision, and as the mean alone.

    python -m benchmarks.stored_latents SELECTION

The U-Net that ships (preset builtin_stage1, not trained further) sees the same windows, noise and timesteps each time;
TAESD's latents are the mean in float32, or stored. TAESD has no log-variance, so made ones stand in for that of another
autoencoder: latents are drawn as a trainer draws them, against the mean alone. No option of `lipforge features` makes
these. The numbers are of the loss: its mean over the windows, and how far a window's moves, as root mean square.
"""

import argparse
import itertools
import tempfile
from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor

from lipforge.model.denoiser.diffusion import add_noise
from lipforge.model.denoiser.losses import min_snr_weights, noise_loss
from lipforge.model.denoiser.mask import mouth_mask
from lipforge.model.denoiser.packed import unpacked
from lipforge.model.denoiser.vae import LATENT_CHANNELS
from lipforge.model.weights.load import checked_path, list_models
from lipforge.train.config import Stage1Config, load_preset
from lipforge.train.loop.opening import open_diffusion
from lipforge.train.loop.together import Together

MADE_LOGVARS = (-12.0, -6.0, -3.0)
KINDS = ("target_moments", "masked_moments", "reference_moments")


def with_logvar(value: float) -> Callable[[Tensor], Tensor]:
    def made(moments: Tensor) -> Tensor:
        moments = moments.clone()
        moments[:, :, LATENT_CHANNELS:] = value
        return moments

    return made


VARIANTS: dict[str, Callable[[Tensor], Tensor]] = {
    "float32": lambda moments: moments,
    "float16": lambda moments: moments.half(),
    **{f"drawn, log-variance {value:g}": with_logvar(value) for value in MADE_LOGVARS},
}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("selection")
    parser.add_argument("--windows", type=int, default=16)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        weights, _ = unpacked(checked_path(list_models("builtin-lips")[0]).read_bytes(), "builtin")
        settings = [f"selection={arguments.selection}", f"run_dir={folder}/run", "batch_size=1"]
        config = load_preset(Stage1Config, "builtin_stage1", [*settings, "num_workers=0", "device=cpu"])
        network, data, maker = open_diffusion(config, Together(Accelerator(cpu=True)), decode_target=False)
        network.network.load_state_dict(weights)
        losses: dict[str, list[float]] = {name: [] for name in VARIANTS}
        deviations = []
        mask = mouth_mask(maker.resolution)
        for batch in itertools.islice(data.train, arguments.windows):
            _, moments = maker._moments(batch, mask)
            deviations.append(float(moments[0][:, :, :LATENT_CHANNELS].std()))
            for name, store in VARIANTS.items():
                stored = {kind: store(one) for kind, one in zip(KINDS, moments, strict=True)}
                made = maker.make({**batch, **stored})
                noisy = add_noise(made.latents, made.noise, made.timesteps)
                found = network.network(made.network_input(noisy), made.timesteps, made.audio)
                scale = min_snr_weights(made.timesteps, config.min_snr_gamma)
                losses[name].append(float(noise_loss(found, made.noise, scale)))
    exact = torch.tensor(losses["float32"])
    print(f"{len(exact)} windows; deviation of TAESD's means before scaling: {sum(deviations) / len(deviations):.2f}")
    for name, values in losses.items():
        moved = torch.tensor(values) - exact
        print(f"{name:<28} loss {sum(values) / len(values):.6f}, moved by {float(moved.square().mean().sqrt()):.2e}")


if __name__ == "__main__":
    main()
