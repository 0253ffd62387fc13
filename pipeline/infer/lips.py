"""Open the model that draws lips: one of ours, a published one, or none at all."""

import contextlib
import functools
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lipforge.model.audio.tokens import MEL_WIDTH
from lipforge.model.denoiser.diffusion import check_solver, sample
from lipforge.model.denoiser.layouts import LAYOUTS, read_config
from lipforge.model.denoiser.mask import hide_mouth, mouth_mask, to_pixels
from lipforge.model.denoiser.packed import load_packed
from lipforge.model.denoiser.unet import UNet3D
from lipforge.model.denoiser.vae import LATENT_SCALE, PIXELS_PER_LATENT, FrozenVae, open_vae
from lipforge.model.trained import load_trained, read_about, weights_name
from lipforge.model.weights.load import MissingModelError, checked_path, path_of, sha256_of
from lipforge.model.weights.state_dicts import load_strict, read_checkpoint_file
from lipforge.model.weights.table import list_models
from lipforge.pipeline.infer.protocols import Cancelled, LipModel, Stopped
from lipforge.pipeline.infer.request import IDENTITY, InferConfig, InferError, SamplingConfig
from lipforge.pipeline.infer.voice import LIP_SYNC, MEL, open_hearing, open_whisper
from lipforge.pipeline.running.quiet import off_terminal

PUBLISHED = {"latentsync-unet-1.6": 512, "latentsync-unet-1.5": 256}
"""Bundles of published U-Nets with their resolution, the best first."""
BUILTIN = "builtin"
"""The U-Net that ships."""
_PUBLISHED_FRAMES = 16
_VAE_BATCH = 4
"""Pictures that the autoencoder takes at once."""
_loading = threading.Lock()
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.float32}


class Identity:
    """Draws the mouth that is there: what remains is what everything around a network costs."""

    name, sha256, audio_encoder = IDENTITY, IDENTITY, ""
    resolution, window_frames = 256, 16

    def draw(self, faces: np.ndarray, tokens: Tensor | None) -> Tensor:
        return torch.from_numpy(faces.astype(np.float32))

    def show(self, drawn: Tensor) -> np.ndarray:
        return drawn.numpy()


@dataclass(frozen=True)
class Networks:
    """What was loaded, once for all runs of a process."""

    name: str
    sha256: str
    unet: nn.Module
    vae: FrozenVae
    audio_encoder: str
    resolution: int
    window_frames: int
    device: torch.device
    dtype: torch.dtype
    offload: bool


class DiffusionLips:
    """A diffusion U-Net with its autoencoder, as LatentSync samples it.

    Noise of one frame serves all frames of all windows. The reference is the face itself, unmasked, and latents are the
    means of their posteriors, where the published code draws samples.
    """

    def __init__(self, networks: Networks, sampling: SamplingConfig, stopped: Stopped) -> None:
        self.networks, self.sampling, self.stopped = networks, sampling, stopped
        self.name, self.sha256 = networks.name, networks.sha256
        self.resolution, self.window_frames = networks.resolution, networks.window_frames
        self.audio_encoder = networks.audio_encoder

    @torch.no_grad()
    def draw(self, faces: np.ndarray, tokens: Tensor | None) -> Tensor:
        assert tokens is not None
        nets, chosen = self.networks, self.sampling
        pixels = to_pixels(torch.from_numpy(faces), nets.resolution)
        hidden = mouth_mask(nets.resolution)
        with self._on_device(nets.vae):
            reference, masked = self._latents(pixels), self._latents(hide_mouth(pixels, hidden))
        side = nets.resolution // PIXELS_PER_LATENT
        # On the CPU, so that all devices begin with the same noise.
        generator = torch.Generator().manual_seed(chosen.seed)
        noise = torch.randn((1, 4, 1, side, side), generator=generator)
        kept = torch.nn.functional.interpolate(1 - hidden[None], scale_factor=1 / PIXELS_PER_LATENT)
        kept = kept[:, :, None].expand(1, 1, len(faces), side, side)
        with self._on_device(nets.unet):
            drawn = sample(
                self._predict,
                noise.to(nets.device),
                kept.to(nets.device),
                masked.to(nets.device),
                reference.to(nets.device),
                tokens[None].to(nets.device),
                chosen.steps,
                chosen.guidance,
                chosen.solver,
                torch.Generator(nets.device).manual_seed(chosen.seed),
                chosen.guidance_band,
            )
        return drawn[0].transpose(0, 1).float().cpu()

    @torch.no_grad()
    def show(self, drawn: Tensor) -> np.ndarray:
        vae = self.networks.vae
        with self._on_device(vae):
            pixels = torch.cat([vae.decode(part).float().cpu() for part in drawn.split(_VAE_BATCH)])
        return ((pixels.clamp(-1, 1) + 1) * 127.5).movedim(1, -1).contiguous().numpy()

    def _predict(self, seen: Tensor, timesteps: Tensor, audio: Tensor) -> Tensor:
        if self.stopped():  # a window takes minutes on a CPU
            raise Cancelled
        dtype = self.networks.dtype
        return self.networks.unet(seen.to(dtype), timesteps, audio.to(dtype)).float()

    def _latents(self, pixels: Tensor) -> Tensor:
        """[1, 4, T, r, r], scaled. pixels: [T, 3, R, R]."""
        means = [self.networks.vae.moments(part).chunk(2, dim=1)[0] for part in pixels.split(_VAE_BATCH)]
        return (torch.cat(means).float() * LATENT_SCALE).transpose(0, 1)[None]

    @contextlib.contextmanager
    def _on_device(self, network: Any) -> Iterator[None]:
        """With `offload`, the network is on the device only now."""
        if self.networks.offload:
            network.to(self.networks.device)
        try:
            yield
        finally:
            if self.networks.offload:
                network.to("cpu")


def open_lip_model(config: InferConfig, stopped: Stopped = lambda: False) -> LipModel:
    """The model that a request names. Networks are loaded once in a process.

    stopped: asked at each step of drawing; True ends it with Cancelled.

    Raises InferError for a device or precision that is not there; MissingModelError and
    ModelFileError for files that are missing, damaged, or of another kind.
    """
    if config.model == IDENTITY:
        return Identity()
    try:
        check_solver(config.sampling.solver, config.sampling.steps)
    except ValueError as error:
        raise InferError(f"{error}: change --steps or --solver") from error
    place = config.model or best_at_hand()
    device = choose_device(config.device)
    dtype = _choose_dtype(config.dtype, device)
    path = _weights_path(place)
    if not path.exists():
        raise MissingModelError(f"no file of weights at {path}")
    version = path.stat().st_size, path.stat().st_mtime_ns
    # The lock: else two users of one process would load it twice. Off the terminal: packages warn about each other.
    with _loading, off_terminal(2):
        networks = _load(
            place, version, str(device), dtype, config.offload, config.vae or "", config.audio_encoder or ""
        )
    return DiffusionLips(networks, config.sampling, stopped)


def choose_device(wanted: str) -> torch.device:
    """Raises InferError for one that this machine lacks."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return torch.device(next(name for name in ("cuda", "mps", "cpu") if there[name]))
    if not there[wanted]:
        raise InferError(f"--device {wanted}: this machine has none that PyTorch can use; take --device auto or cpu")
    return torch.device(wanted)


def _choose_dtype(wanted: str, device: torch.device) -> str:
    if wanted == "auto":
        return "fp16" if device.type == "cuda" else "fp32"
    if wanted == "fp16" and device.type == "cpu":
        raise InferError("--dtype fp16 needs a GPU; on a CPU take fp32, bf16 or int8")
    return wanted


def best_at_hand() -> str:
    """What draws when no model is named: the best published U-Net that was fetched, else the one that ships."""
    fetched = (bundle for bundle in PUBLISHED if all(path_of(file).is_file() for file in list_models(bundle)))
    return next(fetched, BUILTIN)


def _weights_path(place: str) -> Path:
    """The file of weights behind a name or a path. Raises ModelFileError."""
    if place == BUILTIN:
        return checked_path(list_models("builtin-lips")[0])
    path = Path(place)
    if path.is_dir():
        kind = read_about(path)["kind"]
        if kind != "unet":
            raise InferError(f"--model {place}: the model there is a {kind}; a U-Net draws lips")
        return path / weights_name("unet")
    if place in {file.bundle for file in list_models()}:
        files = list_models(place)
        if place not in PUBLISHED:
            raise InferError(f"--model {place}: not a U-Net; those are {BUILTIN}, {', '.join(PUBLISHED)}")
        return checked_path(files[0])
    if not path.exists():
        known = ", ".join((BUILTIN, *PUBLISHED))
        raise InferError(
            f"--model {place}: no such file or folder; expected RUN/model, a file of weights, {known}, or {IDENTITY}"
        )
    return path


@functools.lru_cache(maxsize=1)
def _load(
    place: str, version: tuple[int, int], device: str, dtype: str, offload: bool, vae: str, audio_encoder: str
) -> Networks:
    """version: of the file, so that a newer one is loaded anew."""
    path = _weights_path(place)
    if place == BUILTIN or Path(place).is_dir():
        network, about = load_packed(path) if place == BUILTIN else load_trained(place)
        resolution, num_frames = about["resolution"], about["num_frames"]
        vae, audio_encoder = vae or about["vae"], audio_encoder or about["audio_encoder"]
        if audio_encoder != about["audio_encoder"] and LIP_SYNC in (audio_encoder, about["audio_encoder"]):
            # As wide as Whisper tiny, so that the width below does not tell them apart.
            raise InferError(
                f"{place} hears by {about['audio_encoder']}, and --audio-encoder is {audio_encoder}: leave it out"
            )
    else:
        tensors = read_checkpoint_file(path).tensors
        network = UNet3D(LAYOUTS[layout_of(tensors)])
        load_strict(network, tensors, str(path))
        resolution, num_frames = _published_resolution(place, path), _PUBLISHED_FRAMES
        vae, audio_encoder = vae or "sd-vae-ft-mse", audio_encoder or "tiny"
    _check_hearing(place, _width_heard(network), audio_encoder)
    network.eval().requires_grad_(False)
    if dtype == "int8":
        _to_int8(network)
    home = "cpu" if offload else device
    return Networks(
        name=place,
        sha256=sha256_of(path),
        unet=network.to(home, _DTYPES[dtype]),
        vae=open_vae(vae, home),
        audio_encoder=audio_encoder,
        resolution=resolution,
        window_frames=num_frames,
        device=torch.device(device),
        dtype=_DTYPES[dtype],
        offload=offload,
    )


def _width_heard(network: nn.Module) -> int:
    assert isinstance(network, UNet3D)
    return read_config(network.config).cross_attention_dim


def _check_hearing(place: str, wanted: int, audio_encoder: str) -> None:
    """Raises InferError when an audio encoder gives another width than a U-Net takes; ModelFileError for its file."""
    if audio_encoder == MEL:
        width = MEL_WIDTH
    else:
        width = (open_hearing() if audio_encoder == LIP_SYNC else open_whisper(audio_encoder)).width
    if width != wanted:
        raise InferError(
            f"{place} hears features of width {wanted}, and {audio_encoder} gives {width}: Whisper tiny has 384, base "
            f"512, small 768, {LIP_SYNC} 384, {MEL} {MEL_WIDTH}; set --audio-encoder to what it was trained with"
        )


def layout_of(tensors: dict[str, Tensor]) -> str:
    """Name of the published layout of a U-Net's tensors, from where it has motion modules."""
    motion = {key.split(".")[0] for key in tensors if "motion_modules." in key}
    if not motion:
        return "stage1"
    return "stage2" if "down_blocks" in motion else "stage2_efficient"


def _published_resolution(place: str, path: Path) -> int:
    sizes = {list_models(bundle)[0].size_bytes: resolution for bundle, resolution in PUBLISHED.items()}
    return PUBLISHED.get(place) or sizes.get(path.stat().st_size, 256)


def _to_int8(network: nn.Module) -> None:
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise InferError("--dtype int8 needs the package torchao: pip install torchao") from error
    quantize_(network, Int8WeightOnlyConfig())
