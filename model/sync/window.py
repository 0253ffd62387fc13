"""What a layout of StableSyncNet sees: how many frames, of which kind and size. Found by trying, without memory."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from lipforge.model.sync.stable_syncnet import LAYOUTS, Encoder

_MEL_BANDS = 80
_Sees = Literal["pixels", "latents"]
_CHANNELS: dict[_Sees, int] = {"pixels": 3, "latents": 4}
_SIDES: dict[_Sees, tuple[int, ...]] = {
    "pixels": (256, 512, 128, 64, 192, 96),
    "latents": (32, 64, 16, 8, 24, 12),
}
"""Sides of whole frames that are tried, the usual ones first."""


@dataclass(frozen=True)
class SyncNetInput:
    """The visual input of a network: channels of the frames side by side, as [B, T * C, rows, columns]."""

    sees: _Sees
    """pixels: lower halves of RGB faces; latents: whole latents of the VAE."""
    num_frames: int
    side: int
    """Of whole frames, in pixels or in latents."""

    def frames(self, pixels: Tensor | None, latents: Tensor | None) -> Tensor:
        """From pixels [B, T, 3, R, R] in -1..1, or latents [B, T, 4, r, r], of any side: they are resized if needed."""
        whole = pixels if self.sees == "pixels" else latents
        assert whole is not None
        flat = whole.flatten(0, 1)
        if flat.shape[-1] != self.side:
            shrinks = flat.shape[-1] > self.side
            flat = functional.interpolate(flat, (self.side, self.side), mode="bicubic", antialias=shrinks)
        if self.sees == "pixels":
            flat = flat[..., self.side // 2 :, :].clamp(-1, 1)  # bicubic goes beyond at edges
        return flat.unflatten(0, whole.shape[:2]).flatten(1, 2)


def mel_columns_of(num_frames: int) -> int:
    """Columns of the mel spectrogram that go with a window, as LatentSync rounds: 52 for 16 frames, 16 for 5."""
    return -(-num_frames * 16 // 5)


def syncnet_input(name: str, layout: Mapping[str, Mapping[str, Any]], num_frames: int) -> SyncNetInput:
    """What the layout sees in windows of `num_frames`. name: for the message.

    Raises ValueError when it takes other windows, naming those that fit, and layouts that fit num_frames.
    """
    text = _as_text(layout)
    found = _input(text, num_frames)
    if found is None:
        others = [count for count in range(1, 33) if _input(text, count) is not None]
        takes = f"takes windows of {' or '.join(map(str, others))} frames" if others else "takes no window"
        fitting = [name for name in LAYOUTS if _input(_as_text(LAYOUTS[name]), num_frames) is not None]
        or_take = f"layouts for {num_frames}: {', '.join(fitting)}" if fitting else f"no layout takes {num_frames}"
        raise ValueError(f"num_frames={num_frames}: the SyncNet {name} {takes}: set num_frames so; {or_take}")
    return found


def layout_for(name: str, num_frames: int) -> dict[str, dict[str, Any]]:
    """The named layout for a network that is trained anew: its channels follow num_frames, if its sound does.

    Raises ValueError for an unknown name, and when the audio encoder does not take the mel columns of num_frames.
    """
    if name not in LAYOUTS:
        raise ValueError(f"syncnet={name}: no such layout; known: {', '.join(LAYOUTS)}")
    layout = LAYOUTS[name]
    made_for = next(count for count in range(1, 33) if _input(_as_text(layout), count) is not None)
    channels = layout["visual_encoder"]["in_channels"] // made_for * num_frames
    followed = {**layout, "visual_encoder": {**layout["visual_encoder"], "in_channels": channels}}
    if _input(_as_text(followed), num_frames) is None:
        syncnet_input(name, layout, num_frames)
    return followed


def _as_text(layout: Mapping[str, Mapping[str, Any]]) -> str:
    return json.dumps({part: dict(layout[part]) for part in ("audio_encoder", "visual_encoder")}, sort_keys=True)


@functools.cache
def _input(layout: str, num_frames: int) -> SyncNetInput | None:
    settings = json.loads(layout)
    channels = settings["visual_encoder"]["in_channels"]
    kinds: list[_Sees] = [sees for sees, per_frame in _CHANNELS.items() if channels == per_frame * num_frames]
    audio = _width(settings["audio_encoder"], 1, _MEL_BANDS, mel_columns_of(num_frames)) if kinds else None
    if audio is None:
        return None
    for sees in kinds:
        for side in _SIDES[sees]:
            rows = side // 2 if sees == "pixels" else side
            if _width(settings["visual_encoder"], channels, rows, side) == audio:
                return SyncNetInput(sees, num_frames, side)
    return None


def _width(encoder: Mapping[str, Any], channels: int, rows: int, columns: int) -> int | None:
    """Width of the embedding; None if the encoder does not shrink this input to one point."""
    with torch.device("meta"):
        try:
            found = Encoder(**encoder)(torch.empty(1, channels, rows, columns))
        except RuntimeError:  # smaller than a kernel
            return None
    return found.shape[1] if found.shape[2:] == (1, 1) else None
