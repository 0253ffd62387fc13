"""A training step and a validation, rehearsed: the trainers' networks, losses and order, on tensors without memory.

The peak of each phase comes out. What a GPU's kernels do otherwise than a CPU's is set so here: norms under autocast,
and AdamW over all parameters at once.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lipforge.model.denoiser.diffusion import add_noise, clean_latents, signal_to_noise
from lipforge.model.denoiser.losses import noise_loss, sync_loss
from lipforge.model.denoiser.mask import hide_mouth, to_pixels
from lipforge.model.denoiser.vae import PIXELS_PER_LATENT
from lipforge.model.sync.stable_syncnet import StableSyncNet
from lipforge.model.sync.window import layout_for, mel_columns_of, syncnet_input
from lipforge.train.config import DiffusionConfig, LoraConfig, Stage2Config, SyncNetConfig, TrainerConfig
from lipforge.train.loop.denoiser import build_denoiser
from lipforge.train.loop.ema import Ema
from lipforge.train.loop.inputs import DiffusionInputs
from lipforge.train.loop.judges import Judges
from lipforge.train.loop.tensors import trainable
from lipforge.train.plan.kernels import convolution_workspace, norms_in_float32
from lipforge.train.plan.networks import PlannedVae, audio_shape, planned_judges
from lipforge.train.plan.tracker import Peak, StorageTracker

PARAMETERS, GRADIENTS, OPTIMIZER, EMA = "parameters", "gradients", "optimizer", "EMA"
BUCKETS, INPUTS, ACTIVATIONS, TEMPORARY = "buckets of DDP", "inputs", "activations", "temporary of AdamW"
FROZEN = ("VAE", "LPIPS", "VideoMAE", "SyncNet")
STEP_PHASES = ("encode", "forward", "pixels", "backward", "optimizer")
VALIDATION = "validation"

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
_BLOCK = 256
"""Numbers that share a scale in 8-bit AdamW of bitsandbytes."""
_SMALLEST_8BIT = 4096
"""Tensors with fewer numbers keep 32 bits there."""


@dataclass(frozen=True)
class Rehearsal:
    peaks: dict[str, Peak]
    """By phase, in order: of a step in the middle of a run, and of a validation."""
    reserved_bytes: int
    """What torch's allocator takes for the tensors, with gaps between them."""
    trainable_numbers: int
    parameter_numbers: int
    lora_numbers: int
    """Trained numbers if `lora` were on, with its default settings; 0 for networks without such layers."""
    largest_layer: int
    """Bytes of the largest part of the network that FSDP gathers at once."""


class Rehearser:
    """One configuration on one of `gpus` GPUs."""

    def __init__(self, config: TrainerConfig, resolution: int, gpus: int, fake: bool = True) -> None:
        """fake: False takes real tensors, to prove that the numbers are the same."""
        self._config, self._resolution, self._gpus = config, resolution, gpus
        self._fake = fake
        self._tracker = StorageTracker(convolution_workspace)
        self._half = _HALF.get(config.mixed_precision)

    def rehearse(self) -> Rehearsal:
        """Raises ValueError for settings that do not fit each other."""
        signal_to_noise(torch.zeros(1, dtype=torch.int64))  # it keeps a table, which must not be one without memory
        with ExitStack() as stack:
            stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True) if self._fake else nullcontext())
            stack.enter_context(norms_in_float32())
            stack.enter_context(self._tracker)
            if isinstance(self._config, SyncNetConfig):
                network = self._rehearse_syncnet(self._config)
            else:
                assert isinstance(self._config, DiffusionConfig)
                network = self._rehearse_denoiser(self._config)
            parameters = list(network.parameters())
            return Rehearsal(
                peaks=self._tracker.peaks,
                reserved_bytes=self._tracker.allocator.reserved_bytes,
                trainable_numbers=sum(value.numel() for value in parameters if value.requires_grad),
                parameter_numbers=sum(value.numel() for value in parameters),
                lora_numbers=_lora_numbers(network, LoraConfig()),
                largest_layer=max(_gathered(network)),
            )

    def _rehearse_denoiser(self, config: DiffusionConfig) -> nn.Module:
        tracker = self._tracker
        # What changes no sizes, or cannot run on tensors without memory.
        config = config.model_copy(update={"init": None, "compile": False, "channels_last": False})
        tokens = audio_shape(config)
        vae = PlannedVae(config.vae)
        tracker.mark([*vae.network.parameters(), *vae.network.buffers()], "VAE")
        judges = planned_judges(config) if isinstance(config, Stage2Config) else Judges()
        for name, judge in zip(FROZEN[1:], (judges.lpips, judges.videomae, judges.syncnet), strict=True):
            if judge is not None:
                tracker.mark([*judge.parameters(), *judge.buffers()], name)
        with _modules_stay():
            network, _, _ = build_denoiser(config, tokens[1])
        weights = config.losses.model_dump() if isinstance(config, Stage2Config) else {"noise": 1.0}

        def make(batch_size: int, draws: bool = False) -> DiffusionInputs:
            return _inputs(config, self._resolution, batch_size, vae, judges.see_pixels, tokens, self._autocast)

        def losses_of(made: DiffusionInputs, phase: Callable[[str], AbstractContextManager[None]]) -> _Losses:
            with phase("forward"):
                noisy = add_noise(made.latents, made.noise, made.timesteps)
                seen = made.network_input(noisy)
                with self._autocast():
                    prediction = network(seen, made.timesteps, made.audio)
                losses = {"noise": noise_loss(prediction, made.noise)}
                estimate = clean_latents(noisy, prediction, made.timesteps)
            if judges.see_pixels:
                with phase("pixels"), self._autocast():
                    pixels = vae.decode(estimate.transpose(1, 2), checkpoint=config.gradient_checkpointing)
                    losses |= judges.losses(made, estimate, pixels)
            return losses, estimate

        def step() -> Tensor:
            with tracker.phase("encode", INPUTS):
                made = make(config.batch_size)
            losses, _ = losses_of(made, self._phase)
            return _total(losses, weights)

        def validate() -> None:
            made = make(1)
            _, estimate = losses_of(made, lambda _: nullcontext())
            for latents in (made.latents, made.masked, estimate, made.reference):
                vae.decode(latents.float().transpose(1, 2))
            if config.generate.num_clips:  # a step of denoising: the silent and the sounding window at once
                seen = made.network_input(made.noise).repeat(1 + (config.generate.guidance > 1), 1, 1, 1, 1)
                with self._autocast():
                    network(seen, made.timesteps.expand(len(seen)), made.audio.expand(len(seen), -1, -1, -1))

        self._go(network, step, validate)
        return network

    def _rehearse_syncnet(self, config: SyncNetConfig) -> nn.Module:
        layout = layout_for(config.syncnet, config.num_frames)
        sees = syncnet_input(config.syncnet, layout, config.num_frames)
        vae = PlannedVae(config.vae) if sees.sees == "latents" else None
        if vae is not None:
            self._tracker.mark([*vae.network.parameters(), *vae.network.buffers()], "VAE")
        network = StableSyncNet(layout)

        def losses_of(batch_size: int) -> Tensor:
            with self._tracker.phase("encode", INPUTS), torch.no_grad():
                side = sees.side if vae is None else self._resolution
                pixels = to_pixels(_frames(batch_size, config.num_frames, side), side)
                latents = None
                if vae is not None:
                    with self._autocast():
                        latents = vae.moments(pixels).float()[..., :4, :, :].contiguous()
                frames = sees.frames(pixels, latents)
                mel = torch.zeros(2 * batch_size, 1, 80, mel_columns_of(config.num_frames))
            with self._phase("forward"):
                with self._autocast():
                    vision, audio = network(frames, mel)
                return sync_loss(vision.repeat(2, 1), audio, torch.zeros(2 * batch_size)).mean()

        self._go(network, lambda: losses_of(config.batch_size), lambda: losses_of(1))
        return network

    def _go(self, network: nn.Module, step: Callable[[], Tensor], validate: Callable[[], object]) -> None:
        """A step when the optimizer has its state, and a validation."""
        tracker, config = self._tracker, self._config
        tracker.mark([*network.parameters(), *network.buffers()], PARAMETERS)
        parameters = trainable(network)
        ema = Ema(config.ema.model_copy(update={"on_cpu": False}), parameters)
        if not config.ema.on_cpu:
            tracker.mark(ema.averages.values(), EMA)
        else:
            ema.averages.clear()
        state = optimizer_state(config.optimizer.name, list(parameters.values()))
        tracker.mark(state, OPTIMIZER)
        buckets = [torch.empty_like(value) for value in parameters.values()] if self._gpus > 1 else []
        tracker.mark(buckets, BUCKETS)
        for parameter in parameters.values():
            if config.gradient_accumulation_steps > 1:
                parameter.grad = torch.zeros_like(parameter)
                tracker.mark([parameter.grad], GRADIENTS)
            parameter.register_post_accumulate_grad_hook(self._mark_gradient)
        loss = step()
        with tracker.phase("backward", ACTIVATIONS):
            loss.backward()
        del loss
        with tracker.phase("optimizer", TEMPORARY):
            temporary = optimizer_temporary(config.optimizer.name, list(parameters.values()))
            del temporary
        for parameter in parameters.values():
            parameter.grad = None
        network.eval()
        with tracker.phase(VALIDATION, ACTIVATIONS), torch.no_grad():
            kept = [value.detach().clone() for value in parameters.values()] if config.ema.decay is not None else []
            tracker.mark(kept, EMA)
            with self._all_in(VALIDATION):
                validate()
        del state, buckets, kept

    def _phase(self, name: str) -> AbstractContextManager[None]:
        return self._tracker.phase(name, ACTIVATIONS)

    @contextmanager
    def _all_in(self, name: str) -> Iterator[None]:
        """Phases that begin inside belong to this one."""
        self._tracker.only_phase = name
        try:
            yield
        finally:
            self._tracker.only_phase = None

    def _mark_gradient(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self._tracker.mark([parameter.grad], GRADIENTS)

    def _autocast(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._half is None else torch.autocast("cpu", self._half)


_Losses = tuple[dict[str, Tensor], Tensor]


def _inputs(
    config: DiffusionConfig,
    resolution: int,
    batch_size: int,
    vae: PlannedVae,
    see_pixels: bool,
    tokens: tuple[int, int],
    autocast: Callable[[], AbstractContextManager[Any]],
) -> DiffusionInputs:
    """What `InputMaker.make` puts on the GPU, in its order. With cached features, latents come as they are."""
    num_frames, side = config.num_frames, resolution // PIXELS_PER_LATENT
    with torch.no_grad():
        target = None
        if see_pixels or config.features is None:
            target = to_pixels(_frames(batch_size, num_frames, resolution), resolution)
        if config.features is None:
            assert target is not None
            reference = to_pixels(_frames(batch_size, num_frames, resolution), resolution)
            mask = torch.zeros(1, resolution, resolution)
            with autocast():
                moments = [vae.moments(pixels) for pixels in (target, hide_mouth(target, mask), reference)]
        else:
            moments = [torch.zeros(batch_size, num_frames, 8, side, side) for _ in range(3)]
        latents = [posterior.float()[..., :4, :, :].transpose(1, 2).contiguous() for posterior in moments]
        shape = (batch_size, 4, num_frames, side, side)
        return DiffusionInputs(
            keys=[""] * batch_size,
            valid=torch.ones(batch_size),
            latents=latents[0],
            masked=latents[1],
            reference=latents[2],
            mask=torch.zeros(batch_size, 1, num_frames, side, side),
            audio=torch.zeros(batch_size, num_frames, *tokens),
            noise=torch.zeros(shape),
            timesteps=torch.zeros(batch_size, dtype=torch.int64),
            target=target,
            mel=torch.zeros(batch_size, 1, 80, mel_columns_of(num_frames)),
        )


def _frames(batch_size: int, num_frames: int, side: int) -> Tensor:
    return torch.zeros(batch_size, num_frames, side, side, 3, dtype=torch.uint8)


def _total(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    return torch.stack([weights[name] * values.float() for name, values in losses.items()]).sum(0).mean()


def optimizer_state(name: str, parameters: list[nn.Parameter]) -> list[Tensor]:
    """Two moments of each parameter; in 8 bits with scales of blocks, where the tensor is large enough."""
    state = []
    for parameter in parameters:
        for _ in range(2):
            if name == "adamw8bit" and parameter.numel() >= _SMALLEST_8BIT:
                state.append(torch.zeros(parameter.shape, dtype=torch.uint8))
                state.append(torch.zeros(-(-parameter.numel() // _BLOCK)))
            else:
                state.append(torch.zeros_like(parameter))
    return state


def optimizer_temporary(name: str, parameters: list[nn.Parameter]) -> list[Tensor]:
    """AdamW on a GPU handles all parameters at once, and holds the root of all second moments for a moment."""
    return [torch.empty_like(parameter) for parameter in parameters] if name == "adamw" else []


@contextmanager
def _modules_stay() -> Iterator[None]:
    """peft moves adapters to the device and precision of their layer, which they have; fake tensors refuse to move."""
    moves = nn.Module.to
    nn.Module.to = lambda self, *_, **__: self
    try:
        yield
    finally:
        nn.Module.to = moves


def _lora_numbers(network: nn.Module, lora: LoraConfig) -> int:
    layers = [layer for name, layer in network.named_modules() if name.endswith(lora.modules)]
    return sum(lora.rank * (layer.in_features + layer.out_features) for layer in layers if isinstance(layer, nn.Linear))


def _gathered(network: nn.Module, least: int = 5_000_000) -> Iterator[int]:
    """Bytes of what infra/accelerate/fsdp2.yaml gathers one by one: the smallest modules that are so large."""
    for module in network.modules():
        own = sum(value.numel() for value in module.parameters())
        children = [sum(value.numel() for value in child.parameters()) for child in module.children()]
        if own >= least and not any(number >= least for number in children):
            yield 4 * own
    yield 0
