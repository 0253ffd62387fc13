"""The frozen networks that judge stage 2's one-step estimates as pixels: LPIPS, VideoMAE, SyncNet."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lipforge.model.denoiser import lpips, videomae
from lipforge.model.denoiser.losses import lpips_loss, sync_loss, trepa_loss
from lipforge.model.denoiser.lpips import Lpips
from lipforge.model.denoiser.videomae import VideoMae
from lipforge.model.sync import stable_syncnet
from lipforge.model.sync.stable_syncnet import StableSyncNet
from lipforge.model.sync.window import SyncNetInput, syncnet_input
from lipforge.model.trained import hash_of_tensors, read_about, read_weights
from lipforge.model.weights.state_dicts import load_strict
from lipforge.train.config import Stage2Config
from lipforge.train.loop.inputs import DiffusionInputs

RANDOM = "random"
"""In the place of a file: a tiny network with random weights, to see the way work. It teaches nothing."""
_PUBLISHED_SYNCNET = "syncnet_16_pixel_attn"
_LPIPS_FILES = ("vgg16-397923af.pth", "lpips_vgg.pth")
_PUBLISHED_VIDEOMAE = "vit_g_hybrid_pt_1200e_ssv2_ft.pth"


@dataclass(frozen=True)
class Judges:
    """None: its loss has weight 0."""

    lpips: Lpips | None = None
    videomae: VideoMae | None = None
    syncnet: StableSyncNet | None = None
    syncnet_sees: SyncNetInput | None = None
    sha256: dict[str, str] = field(default_factory=dict)
    """Of the tensors of each, by name."""

    @property
    def see_pixels(self) -> bool:
        return any(judge is not None for judge in (self.lpips, self.videomae, self.syncnet))

    def losses(self, made: DiffusionInputs, estimate: Tensor, pixels: Tensor) -> dict[str, Tensor]:
        """[B] by name. estimate: clean latents [B, 4, T, r, r]; pixels: the same decoded, [B, T, 3, R, R] in -1..1."""
        assert made.target is not None
        found = {}
        if self.lpips is not None:
            found["lpips"] = lpips_loss(self.lpips, pixels, made.target)
        if self.videomae is not None:
            found["trepa"] = trepa_loss(self.videomae, pixels.transpose(1, 2), made.target.transpose(1, 2))
        if self.syncnet is not None and self.syncnet_sees is not None:
            frames = self.syncnet_sees.frames(pixels, estimate.transpose(1, 2))
            vision, audio = self.syncnet(frames, made.mel)
            found["sync"] = sync_loss(vision, audio, torch.ones_like(made.valid))
        return found


def check_windows(config: Stage2Config) -> None:
    """Raises ValueError, before anything is loaded, when a judge cannot take windows of `num_frames`."""
    if config.losses.trepa:
        layout = videomae.LAYOUTS[_videomae_layout(config)]
        frames, tubelet = layout["all_frames"], layout["tubelet_size"]
        if config.num_frames % tubelet or config.num_frames > frames:
            raise ValueError(
                f"num_frames={config.num_frames}: VideoMAE, which TREPA needs, takes a multiple of {tubelet} frames up "
                f"to {frames}: set num_frames=16, or losses.trepa=0"
            )
    if config.losses.sync:
        syncnet_input(config.syncnet, _syncnet_layout(config), config.num_frames)


def open_judges(config: Stage2Config, device: torch.device) -> Judges:
    """The networks of the losses whose weight is not 0, on the device.

    Raises ValueError for a window that does not fit one, MissingModelError and ModelFileError for its file.
    """
    check_windows(config)
    perceptual = temporal = sync = sees = None
    hashes = {}
    if config.losses.lpips:
        perceptual = Lpips(lpips.LAYOUTS["tiny" if config.lpips == RANDOM else "vgg16"])
        hashes["lpips"] = _fill(perceptual, config.lpips, _lpips_tensors)
    if config.losses.trepa:
        temporal = VideoMae(videomae.LAYOUTS[_videomae_layout(config)])
        temporal.gradient_checkpointing = config.gradient_checkpointing
        hashes["videomae"] = _fill(temporal, config.videomae, _videomae_tensors)
    if config.losses.sync:
        layout = _syncnet_layout(config)
        sees = syncnet_input(config.syncnet, layout, config.num_frames)
        sync = StableSyncNet(layout)
        hashes["syncnet"] = _fill(sync, config.syncnet, lambda place: read_weights(place, "syncnet")[0])
    for network in (perceptual, temporal, sync):
        if network is not None:
            network.to(device)
    return Judges(perceptual, temporal, sync, sees, hashes)


def _videomae_layout(config: Stage2Config) -> str:
    return "tiny" if config.videomae == RANDOM else "giant"


def _syncnet_layout(config: Stage2Config) -> Mapping[str, Mapping[str, Any]]:
    if config.syncnet == RANDOM:
        name = f"tiny_{config.num_frames}_pixel"
        if name not in stable_syncnet.LAYOUTS:
            raise ValueError(f"num_frames={config.num_frames}: syncnet=random takes 16 or 5 frames")
        return stable_syncnet.LAYOUTS[name]
    if Path(config.syncnet).is_dir():
        return read_about(Path(config.syncnet))["layout"]
    return stable_syncnet.LAYOUTS[_PUBLISHED_SYNCNET]


def _lpips_tensors(place: str) -> dict[str, Tensor]:
    """place: `vgg16`, or a folder with the two files."""
    names = [name if place == "vgg16" else str(Path(place) / name) for name in _LPIPS_FILES]
    tensors = {key: value for name in names for key, value in read_weights(name, "lpips")[0].items()}
    # torchvision's file has VGG16's classifier, too
    return {key: value for key, value in tensors.items() if not key.startswith("classifier.")}


def _videomae_tensors(place: str) -> dict[str, Tensor]:
    return read_weights(_PUBLISHED_VIDEOMAE if place == "giant" else place, "videomae")[0]


def _fill(network: nn.Module, place: str, read: Callable[[str], dict[str, Tensor]]) -> str:
    """Load and freeze; returns a hash of the weights."""
    if place == RANDOM:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.ndim > 1:
                    drawn = torch.randn(parameter.shape, generator=generator)
                    parameter.copy_(drawn.abs() if parameter.shape[0] == 1 else drawn / parameter[0].numel() ** 0.5)
        network.eval().requires_grad_(False)
    else:
        load_strict(network, read(place), place)
    return hash_of_tensors(network.state_dict())
