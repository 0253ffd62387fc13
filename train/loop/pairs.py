"""From a batch of the stream to what SyncNet compares: frames of a mouth, their sound, and sound of another moment."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lipforge.datasets_manifest.selection import read_selection
from lipforge.model.denoiser.mask import to_pixels
from lipforge.model.denoiser.vae import FrozenVae, open_vae, sample_latents
from lipforge.model.sync.stable_syncnet import StableSyncNet
from lipforge.model.sync.window import SyncNetInput, layout_for, syncnet_input
from lipforge.model.trained import read_weights
from lipforge.model.weights.state_dicts import load_strict
from lipforge.train.config import SyncNetConfig
from lipforge.train.loop import randomness, run_folder
from lipforge.train.loop.data import Data
from lipforge.train.loop.opening import data_line
from lipforge.train.loop.run import Trained
from lipforge.train.loop.together import Together
from lipforge.train.stream.batches import Batch
from lipforge.train.syncnet_accuracy import Report, measure

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pairs:
    """B samples, on the training device, float32."""

    keys: list[str]
    valid: Tensor
    """float [B]: 0 for a sample that only fills the batch."""
    frames: Tensor
    """[B, T * C, rows, columns], as the layout sees them."""
    mel: Tensor
    """[2 B, 1, 80, M]: first the sound of the frames, then that of other moments of the clips, in the same order."""

    @property
    def labels(self) -> Tensor:
        """[2 B]: 1 where frames and sound belong together."""
        return torch.cat([torch.ones_like(self.valid), torch.zeros_like(self.valid)])


class PairMaker:
    """The same sample at the same position always gives the same pairs."""

    def __init__(
        self,
        seed: int,
        resolution: int,
        sees: SyncNetInput,
        vae: FrozenVae | None,
        device: torch.device,
        autocast: Callable[..., AbstractContextManager[Any]],
    ) -> None:
        """vae: for networks that see latents."""
        self.seed, self.resolution, self.sees, self.vae = seed, resolution, sees, vae
        self.device, self.autocast = device, autocast

    @torch.no_grad()
    def make(self, batch: Batch, purpose: str = "train") -> Pairs:
        """purpose: training and validation draw different latents for one position."""
        # Frames that the network sees in another size are resized once, as bytes.
        side = self.sees.side if self.vae is None else self.resolution
        pixels = to_pixels(batch["target"].to(self.device), side)
        latents = None if self.vae is None else self._latents(self.vae, pixels, purpose, batch["position"].tolist())
        return Pairs(
            keys=batch["key"],
            valid=batch["valid"].to(self.device, torch.float32),
            frames=self.sees.frames(pixels, latents),
            mel=torch.cat([batch["mel"], batch["negative_mel"]])[:, None].to(self.device),
        )

    def _latents(self, vae: FrozenVae, pixels: Tensor, purpose: str, positions: list[int]) -> Tensor:
        with self.autocast():
            moments = vae.moments(pixels).float()
        shape = list(moments.shape[1:])
        shape[-3] //= 2
        draws = randomness.normal(self.seed, f"{purpose} target latents", positions, shape)
        return sample_latents(moments, draws.to(self.device))


def cosines_of(vision: Tensor, audio: Tensor) -> Tensor:
    """[2, B]: of the right sound and of the wrong one, 0..1. vision: [B, D]; audio: [2 B, D], as of `Pairs.mel`."""
    found = functional.cosine_similarity(vision.repeat(2, 1).float(), audio.float())
    return found.unflatten(0, (2, -1))


def labels_of(selection: str, split: str | None) -> dict[str, tuple[str | None, str]]:
    """Language and speaker of each clip, by key. Without a label, a source is a speaker, as in `select`."""
    rows = read_selection(selection, split).select(["key", "language", "speaker", "source_id"]).to_pylist()
    return {row["key"]: (row["language"], row["speaker"] or row["source_id"]) for row in rows}


def report_of(found: Sequence[tuple[str, float, float]], labels: Mapping[str, tuple[str | None, str | None]]) -> Report:
    """found: key, cosine of the right sound, of the wrong one. labels: as of `labels_of`."""
    known = [labels[key] for key, _, _ in found]
    return measure(
        [*(right for _, right, _ in found), *(wrong for _, _, wrong in found)],
        [True] * len(found) + [False] * len(found),
        [language for language, _ in known] * 2,
        [speaker for _, speaker in known] * 2,
    )


def open_syncnet(config: SyncNetConfig, together: Together) -> tuple[Trained, Data, PairMaker]:
    """Raises ValueError, ModelFileError and what streams raise."""
    accelerator = together.accelerator
    layout = layout_for(config.syncnet, config.num_frames)
    sees = syncnet_input(config.syncnet, layout, config.num_frames)
    run_folder.check_config(config.run_dir, config)
    data = Data(config, together, {}, task="syncnet", min_negative_distance_frames=config.min_negative_distance_frames)
    vae = open_vae(config.vae, str(accelerator.device)) if sees.sees == "latents" else None
    models = {} if vae is None else {"vae": vae.sha256}
    run_folder.check_facts(config.run_dir, models)
    torch.manual_seed(config.seed)
    network = StableSyncNet(layout)
    if config.init is not None:
        load_strict(network, *read_weights(config.init, "syncnet"))
    network.train().requires_grad_(True)
    for encoder in (network.audio_encoder, network.visual_encoder):
        encoder.gradient_checkpointing = config.gradient_checkpointing
    if accelerator.is_main_process:
        total = sum(parameter.numel() for parameter in network.parameters())
        log.info(
            "%s", f"SyncNet {config.syncnet}: {total / 1e6:,.3f} M parameters; it sees {sees.sees} of side {sees.side}"
        )
        log.info("%s", data_line(data))
    about = {"layout": layout, "num_frames": config.num_frames, "sees": sees.sees, "side": sees.side}
    if vae is not None:
        about["vae"] = config.vae
    maker = PairMaker(config.seed, data.resolution, sees, vae, accelerator.device, together.autocast)
    return Trained("syncnet", network, about, models), data, maker
