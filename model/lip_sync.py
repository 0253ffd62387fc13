"""The built-in judge of lip-sync: do these lips say this sound, and how far apart are they in time?

Two small towers look at half a second (13 frames) each: one at the points of lips and chin, one at the log-mel
spectrum of the sound. What belongs together gets similar unit vectors. The mean similarity over a clip, for each shift
between sound and picture, is the curve from which offset and confidence are read (after SyncNet: Chung and Zisserman,
"Out of time", 2016). `train/lip_sync.py` makes the weights; docs/models/lip_sync.md says what they are worth.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn
from torch.nn import functional

from model.lip_points import NUM_SPEAKING, SYNC_LANDMARKS
from model.sync_score import MAX_SHIFT, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME, SyncScore

VIEW = 13
"""Frames that one vector sees."""

MEL_BANDS = 40
MEL_PER_FRAME = 4
_MEL_FLOOR = 1e-5
"""Power below the clip's loud moments that still counts (-50 dB)."""


def lip_motion(points: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Where lips and chin are, as if the head never moved.

    points: float [T, len(SYNC_LANDMARKS), 3] in pixels; reference: float [U, 3], upper-face points of the head that all
    are turned and scaled to, in units of its own.
    Returns float32 [T, NUM_SPEAKING, 3] in those units, relative to the clip's mean.
    """
    speaking, upper = points[:, :NUM_SPEAKING].astype(np.float64), points[:, NUM_SPEAKING:].astype(np.float64)
    middle = upper.mean(axis=1, keepdims=True)
    turn, scale = similarity_to(reference, upper - middle)
    steady = np.einsum("t,tij,tpj->tpi", scale, turn, speaking - middle)
    return (steady - steady.mean(axis=0)).astype(np.float32)


def similarity_to(target: np.ndarray, shapes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotation and scale that take each shape closest to the target (Umeyama 1991, least squares).

    target: float [U, 3]; shapes: float [T, U, 3], each with its mean at 0.
    Returns float64 [T, 3, 3] and [T]: scale * turn @ point.
    """
    u, s, vt = np.linalg.svd(np.einsum("ui,tuj->tij", target - target.mean(axis=0), shapes))
    signs = np.ones_like(s)
    signs[:, 2] = np.sign(np.linalg.det(u @ vt))  # a turn, never a mirror image
    turn = (u * signs[:, None]) @ vt
    return turn, (s * signs).sum(axis=1) / np.maximum((shapes**2).sum(axis=(1, 2)), 1e-12)


def mel_power(audio: np.ndarray) -> np.ndarray:
    """Power in 40 mel bands every 10 ms.

    audio: float [N] mono at 16 kHz, N a multiple of 160.
    Returns float32 [N // 160, 40]; row i is centred on 10 * i + 5 ms; 25 ms Hann window, zeros beyond the ends.
    """
    hop, window, size = SAMPLES_PER_FRAME // MEL_PER_FRAME, 400, 512
    edge = (window - hop) // 2
    padded = np.pad(audio.astype(np.float32), edge)
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    spectrum = np.fft.rfft(frames * np.hanning(window + 1)[:-1], size)
    return (np.abs(spectrum) ** 2 @ _MEL_FILTERS).astype(np.float32)


def log_mel(power: np.ndarray) -> np.ndarray:
    """The same clip at any loudness: log10 of mel power relative to its loud moments, floored, about -1..1.

    power: float [L, 40] for one clip. Returns float32 [L, 40].
    """
    loud = np.quantile(power.mean(axis=1), 0.95)
    level = np.log10(power / max(float(loud), 1e-12) + _MEL_FLOOR)
    return ((level + 2.5) / 2.5).astype(np.float32)


def _mel_filters() -> np.ndarray:
    """float64 [257, 40]: triangles between 60 and 7600 Hz, evenly spaced on the mel scale 2595 log10(1 + f / 700)."""
    low, high = (2595 * np.log10(1 + f / 700) for f in (60, 7600))
    edges = 700 * (10 ** (np.linspace(low, high, MEL_BANDS + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(512, 1 / SAMPLE_RATE_HZ)[:, None]
    rise = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.clip(np.minimum(rise, fall), 0, None)


_MEL_FILTERS = _mel_filters()


class Tower(nn.Module):
    """[B, T, C] of one kind of feature -> unit vectors [B, T - 12, D], each seeing 13 frames."""

    def __init__(self, num_inputs: int, width: int, num_outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.inputs = nn.Conv1d(num_inputs, width, 1)
        self.layers = nn.ModuleList(nn.Conv1d(width, width, 5) for _ in range((VIEW - 1) // 4))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(1 + len(self.layers)))
        self.outputs = nn.Conv1d(width, num_outputs, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        hidden = functional.relu(self.norms[0](self.inputs(features.transpose(1, 2))))
        for layer, norm in zip(self.layers, self.norms[1:], strict=True):
            hidden = functional.relu(norm(layer(self.dropout(hidden))))
        return functional.normalize(self.outputs(hidden), dim=1).transpose(1, 2)


class SyncNetwork(nn.Module):
    """A tower for lips and one for sound."""

    def __init__(self, width: int = 64, num_outputs: int = 32, dropout: float = 0.0) -> None:
        super().__init__()
        self.lips = Tower(3 * NUM_SPEAKING, width, num_outputs, dropout)
        self.sound = Tower(MEL_PER_FRAME * MEL_BANDS, width, num_outputs, dropout)
        self.log_scale = nn.Parameter(torch.tensor(3.0))


def shift_curve(lips: Tensor, sound: Tensor) -> Tensor:
    """Mean similarity for each shift, over the same number of frames.

    lips: unit vectors [T, D]; sound: [T + 2 * S, D], with S frames of margin on each side.
    Returns [2 * S + 1]: shift i means that the sound of frame t + i - S goes with the picture of frame t.
    """
    similar = lips @ sound.T
    return torch.stack([similar.diagonal(shift).mean() for shift in range(len(sound) - len(lips) + 1)])


DEFAULT_MIN_CONFIDENCE = 2.0
"""Keeps 97 % of natural speech and refuses 95 % of mismatches at 4.7 s: docs/models/lip_sync.md."""
_MIN_FRAMES = 25


class LipSync:
    """Scores clips on one core; the same clip gets the same numbers on every call."""

    def __init__(self, weights: bytes) -> None:
        """weights: a safetensors file as `train/lip_sync.py` writes it."""
        tensors = {key: tensor.float() for key, tensor in load_safetensors(weights).items()}
        header_size = int.from_bytes(weights[:8], "little")
        self.name: str = json.loads(weights[8 : 8 + header_size])["__metadata__"]["name"]
        self.reference = tensors.pop("reference").numpy().astype(np.float64)
        num_networks = 1 + max(int(key.split(".")[0]) for key in tensors)
        width, num_outputs = (tensors[f"0.lips.{key}.weight"].shape[0] for key in ("inputs", "outputs"))
        self._networks = [SyncNetwork(width, num_outputs).eval().requires_grad_(False) for _ in range(num_networks)]
        nn.ModuleList(self._networks).load_state_dict(tensors, strict=True)

    def score(self, points: np.ndarray, audio: np.ndarray) -> SyncScore:
        """Offset and confidence of one clip.

        points: float32 [T, len(SYNC_LANDMARKS), 3] in pixels at 25 fps, T >= 25.
        audio: float32 [(T + 30) * 640] mono at 16 kHz: the clip's sound with 15 frames of margin on each side, zeros
        where the source has none. The margin lets every shift be judged on the same number of frames.
        """
        num_frames = len(points)
        if points.shape != (num_frames, len(SYNC_LANDMARKS), 3) or num_frames < _MIN_FRAMES:
            raise ValueError(f"points: expected [T >= {_MIN_FRAMES}, {len(SYNC_LANDMARKS)}, 3], got {points.shape}")
        if audio.shape != ((num_frames + 2 * MAX_SHIFT) * SAMPLES_PER_FRAME,):
            expected = (num_frames + 2 * MAX_SHIFT) * SAMPLES_PER_FRAME
            raise ValueError(f"audio: expected [{expected}] for {num_frames} frames, got {audio.shape}")
        if not (np.isfinite(points).all() and np.isfinite(audio).all()):
            raise ValueError("points and audio must be finite")
        lips = torch.from_numpy(lip_motion(points, self.reference).reshape(1, num_frames, -1))
        levels = log_mel(mel_power(audio))
        sound = torch.from_numpy(levels.reshape(1, -1, MEL_PER_FRAME * MEL_BANDS))
        with torch.inference_mode(), _one_thread():
            curves = [shift_curve(network.lips(lips)[0], network.sound(sound)[0]) for network in self._networks]
            by_shift = torch.stack(curves).mean(dim=0).numpy()
        curve = by_shift[::-1].copy()  # sound that comes later than its picture is late: a negative offset
        best = int(curve.argmax())
        # Two signs of a match: the peak stands out, and it is high. A mean of n noisy similarities scatters by
        # 1 / sqrt(n), so the root of n makes chance look the same at any length.
        height, prominence = max(float(curve[best]), 0.0), float(curve[best] - np.median(curve))
        confidence = float(np.sqrt(height * prominence * (num_frames - VIEW + 1)))
        return SyncScore(best - MAX_SHIFT, confidence, float(1 - curve[best]), curve)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in the same order on every machine, and a worker that keeps to its core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
