"""Open what a diffusion run needs: frozen networks, the U-Net, the streams, and the run's folder in order."""

import logging
from collections.abc import Mapping

from lipforge.datasets_manifest.display import counted
from lipforge.model.denoiser.vae import open_vae
from lipforge.train.config import DiffusionConfig
from lipforge.train.loop import run_folder
from lipforge.train.loop.audio import open_audio_encoder
from lipforge.train.loop.data import Data
from lipforge.train.loop.denoiser import build_denoiser, merged
from lipforge.train.loop.inputs import InputMaker
from lipforge.train.loop.run import Trained
from lipforge.train.loop.together import Together

log = logging.getLogger(__name__)


def open_diffusion(
    config: DiffusionConfig, together: Together, decode_target: bool, judges: Mapping[str, str] | None = None
) -> tuple[Trained, Data, InputMaker]:
    """decode_target: losses compare pixels. judges: hash of each network that does, by name.

    Raises ValueError, ModelFileError and what streams raise.
    """
    accelerator = together.accelerator
    if config.lora is not None and config.init is None:
        raise ValueError("lora adapts weights that are there already: set init, or train without lora")
    run_folder.check_config(config.run_dir, config)
    audio_encoder = open_audio_encoder(config.audio_encoder)
    vae = open_vae(config.vae, str(accelerator.device))
    data = Data(
        config,
        together,
        {} if audio_encoder.kind is None else {audio_encoder.kind: audio_encoder.sha256},
        vae_sha256=vae.sha256,
        task="diffusion",
        decode_target=decode_target,
    )
    network, layout, lines = build_denoiser(config, audio_encoder.width)
    models = {"vae": vae.sha256, "audio_encoder": audio_encoder.sha256, **(judges or {})}
    run_folder.check_facts(config.run_dir, models)
    inputs = InputMaker(config, data.resolution, vae, audio_encoder, accelerator.device, together.autocast)
    about = {
        "layout": layout,
        "resolution": data.resolution,
        "num_frames": config.num_frames,
        "vae": config.vae,
        "audio_encoder": config.audio_encoder,
    }
    if accelerator.is_main_process:
        for line in (*lines, data_line(data)):
            log.info("%s", line)
    return Trained("unet", network, about, models, lambda tensors: merged(tensors, config.lora)), data, inputs


def data_line(data: Data) -> str:
    """What a run trains on, in words."""
    cached = f"cached: {', '.join(sorted(data.cached_kinds))}" if data.cached_kinds else "nothing is cached"
    validation = (
        "" if data.has_validation else "; no val split, so no validation: `lipforge select --val-hours` makes one"
    )
    return f"{counted(data.train.samples_per_epoch, 'clip')} of {data.resolution} px; {cached}{validation}"
