"""Draws new mouths on the frames of a dataset's clip, by the code of `lipforge infer`."""

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from lipforge.model.clock import FPS, SAMPLES_PER_FRAME, SYNC_MARGIN_FRAMES
from lipforge.model.denoiser.vae import FrozenVae
from lipforge.pipeline.infer.blend import Blender
from lipforge.pipeline.infer.lips import DiffusionLips, Networks
from lipforge.pipeline.infer.request import SamplingConfig
from lipforge.pipeline.infer.windows import OVERLAP_RATIO, MouthStream, window_starts
from lipforge.train.config import DiffusionConfig
from lipforge.train.loop.audio import AudioEncoder
from lipforge.train.loop.inputs import InputMaker
from lipforge.train.loop.run import Run


class CachedVae:
    """The latents of what is drawn are the same each time: encoded once, kept on the CPU."""

    def __init__(self, vae: FrozenVae) -> None:
        self._vae, self._found = vae, dict[bytes, Tensor]()

    def moments(self, pixels: Tensor) -> Tensor:
        key = hashlib.blake2b(pixels.numpy().tobytes(), digest_size=16).digest()
        if key not in self._found:
            self._found[key] = self._vae.moments(pixels).cpu()
        return self._found[key]

    def decode(self, latents: Tensor) -> Tensor:
        return self._vae.decode(latents)


class Asked(nn.Module):
    """The training network, in the precision of the run."""

    def __init__(self, network: nn.Module, autocast: Callable[[], AbstractContextManager[Any]]) -> None:
        super().__init__()
        self.network, self.autocast = network, autocast

    def forward(self, *inputs: Tensor) -> Tensor:
        with self.autocast():
            return self.network(*inputs)


class Artist:
    """Noise and seed are the same each time; nothing draws from torch's own generators."""

    def __init__(self, lips: DiffusionLips, encoder: AudioEncoder) -> None:
        self._lips, self._encoder = lips, encoder
        self.resolution, self._window = lips.resolution, lips.window_frames
        self._blender = Blender(self.resolution)

    @classmethod
    def of_run(cls, config: DiffusionConfig, run: Run, inputs: InputMaker) -> Self:
        """Draws with the network in training. One per process."""
        vae: Any = CachedVae(inputs.vae)
        networks = Networks(
            name="the network in training",
            sha256="",
            unet=Asked(run.network, run.together.autocast),
            vae=vae,
            audio_encoder=config.audio_encoder,
            resolution=inputs.resolution,
            window_frames=config.num_frames,
            device=inputs.device,
            dtype=torch.float32,
            offload=False,
        )
        chosen = config.generate
        sampling = SamplingConfig(steps=chosen.steps, guidance=chosen.guidance, seed=config.seed)
        return cls(DiffusionLips(networks, sampling, lambda: False), inputs.audio_encoder)

    def draw(self, frames: np.ndarray, audio: np.ndarray) -> np.ndarray:
        """The clip with new mouths. frames: uint8 [T, R, R, 3]; audio: float32 [(T + 30) * 640]; like frames."""
        voice = self._encoder.voice(audio)
        stream = MouthStream(self._lips, voice, 0, len(frames))
        for number, face in enumerate(frames):
            stream.push(face, (number + SYNC_MARGIN_FRAMES) / FPS)
        stream.finish()
        return self.blended(np.stack([face for _, face in stream.ready()]), frames)

    def blended(self, drawn: np.ndarray, frames: np.ndarray) -> np.ndarray:
        """frames with other mouths, as inference pastes them. drawn: float32 [T, R, R, 3] in 0..255, whole faces."""
        alpha = self._blender.alpha[..., None]
        mixed = [
            alpha * self._blender.matched(face, frame) + (1 - alpha) * frame
            for face, frame in zip(drawn, frames, strict=True)
        ]
        return np.stack(mixed).round().clip(0, 255).astype(np.uint8)

    def num_windows(self, num_frames: int) -> int:
        """Windows that `draw` asks the network for."""
        overlap = round(OVERLAP_RATIO * self._window)
        return len(window_starts(num_frames, self._window, self._window - overlap))

    def keep_step(self, num_windows: int) -> None:
        """Ask the network for so many windows that nobody needs."""
        faces = np.zeros((self._window, self.resolution, self.resolution, 3), np.uint8)
        voice = self._encoder.voice(np.zeros((self._window + 2 * SYNC_MARGIN_FRAMES) * SAMPLES_PER_FRAME, np.float32))
        tokens = voice.tokens((np.arange(self._window) + SYNC_MARGIN_FRAMES) / FPS)
        for _ in range(num_windows):
            self._lips.draw(faces, tokens)
