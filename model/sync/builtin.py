"""The built-in judge of lip-sync: do these lips say this sound, and how far apart are they in time?

Two small towers look at half a second (13 frames) each: one at the points of lips and chin and at the picture of the
mouth, one at the log-mel spectrum of the sound. What belongs together gets similar unit vectors. The mean similarity
over a clip, for each shift between sound and picture, is the curve from which offset and confidence are read (after
SyncNet: Chung and Zisserman, "Out of time", 2016). `train/scorers/lip_sync.py` makes the weights; docs/models/lip_sync.md says what they are worth.
"""

import json

import cv2
import numpy as np
import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn
from torch.nn import functional

from lipforge.model.audio.filterbank import htk_filters
from lipforge.model.clock import SAMPLES_PER_FRAME, SYNC_MARGIN_FRAMES
from lipforge.model.faces.lip_points import MOUTH_PX, NUM_SPEAKING, SYNC_LANDMARKS
from lipforge.model.sync.score import SyncScore
from lipforge.model.threads import one_thread

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


MOUTH_WAVES = 12
"""Waves across and down of the mouth pictures that count: details finer than about 5 of 64 pixels do not."""


def mouth_motion(mouths: np.ndarray) -> np.ndarray:
    """How the mouth looks, as cosine waves (the low corner of a 2-D DCT), relative to the clip's mean.

    mouths: uint8 or float [T, 64, 64], grey. Returns float32 [T, 144], about -1..1.
    """
    waves = [cv2.dct(mouth.astype(np.float32))[:MOUTH_WAVES, :MOUTH_WAVES].ravel() for mouth in mouths]
    return ((np.stack(waves) - np.mean(waves, axis=0)) / _MOUTH_SCALE).astype(np.float32)


_MOUTH_SCALE = 512.0


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


_MEL_FILTERS = np.ascontiguousarray(htk_filters(MEL_BANDS, 60, 7600, 512).T)
"""float64 [257, 40]."""


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
    """A tower for lips (`lip_features`) and one for sound (`sound_features`)."""

    def __init__(self, width: int = 64, num_outputs: int = 32, dropout: float = 0.0) -> None:
        super().__init__()
        self.lips = Tower(3 * NUM_SPEAKING + MOUTH_WAVES**2, width, num_outputs, dropout)
        self.sound = Tower(MEL_PER_FRAME * MEL_BANDS, width, num_outputs, dropout)
        self.log_scale = nn.Parameter(torch.tensor(2.5))


def lip_features(motion: np.ndarray, waves: np.ndarray) -> np.ndarray:
    """`lip_motion` [..., T, NUM_SPEAKING, 3] and `mouth_motion` [..., T, 144] side by side: float32 [..., T, 291]."""
    return np.concatenate([motion.reshape(*waves.shape[:-1], -1), waves], axis=-1)


def sound_features(levels: np.ndarray) -> np.ndarray:
    """`log_mel` [..., 4 * T, 40], one row for each frame: float32 [..., T, 160]."""
    return levels.reshape(*levels.shape[:-2], -1, MEL_PER_FRAME * MEL_BANDS)


def similarity_by_shift(seen: np.ndarray, heard: np.ndarray) -> np.ndarray:
    """Similarity of each frame's picture with the sound around it.

    seen: unit vectors [T, E]; heard: [T + 2 * S, E], with S frames of margin on each side.
    Returns [T, 2 * S + 1]: place i compares frame t with the sound of frame t + i - S.
    """
    similar = seen @ heard.T
    num_shifts = len(heard) - len(seen) + 1
    return np.stack([similar.diagonal(shift) for shift in range(num_shifts)], axis=1)


DEFAULT_MIN_CONFIDENCE = 2.2
"""What it keeps and refuses: docs/models/lip_sync_results.md."""
_MIN_FRAMES = 25
_STRETCH = 100
"""Frames: a clip is as sure as its weakest 4 s."""


class LipSync:
    """Scores clips on one core; the same clip gets the same numbers on every call."""

    def __init__(self, weights: bytes) -> None:
        """weights: a safetensors file as `train/scorers/lip_sync.py` writes it."""
        tensors = {key: tensor.float() for key, tensor in load_safetensors(weights).items()}
        header_size = int.from_bytes(weights[:8], "little")
        self.name: str = json.loads(weights[8 : 8 + header_size])["__metadata__"]["name"]
        self.reference = tensors.pop("reference").numpy().astype(np.float64)
        self._zero_frames = float(tensors.pop("zero_frames"))
        num_networks = 1 + max(int(key.split(".")[0]) for key in tensors)
        width, num_outputs = (tensors[f"0.lips.{key}.weight"].shape[0] for key in ("inputs", "outputs"))
        self._networks = [SyncNetwork(width, num_outputs).eval().requires_grad_(False) for _ in range(num_networks)]
        nn.ModuleList(self._networks).load_state_dict(tensors, strict=True)

    def score(self, points: np.ndarray, mouths: np.ndarray, audio: np.ndarray) -> SyncScore:
        """Offset and confidence of one clip.

        points: float32 [T, len(SYNC_LANDMARKS), 3] in pixels at 25 fps, T >= 25.
        mouths: uint8 [T, 64, 64], `mouth_images` of the aligned clip.
        audio: float32 [(T + 30) * 640] mono at 16 kHz: the clip's sound with 15 frames of margin on each side, zeros
        where the source has none. The margin lets every shift be judged on the same number of frames.
        """
        expected = (len(points) + 2 * SYNC_MARGIN_FRAMES) * SAMPLES_PER_FRAME
        if audio.shape != (expected,):
            raise ValueError(f"audio: expected [{expected}] for {len(points)} frames, got {audio.shape}")
        return self.match(self.see(points, mouths), self.hear(audio))

    def see(self, points: np.ndarray, mouths: np.ndarray) -> np.ndarray:
        """What the lips do: float32 unit vectors [T - 12, E]. Points and mouths as for `score`."""
        num_frames = len(points)
        if points.shape != (num_frames, len(SYNC_LANDMARKS), 3) or num_frames < _MIN_FRAMES:
            raise ValueError(f"points: expected [T >= {_MIN_FRAMES}, {len(SYNC_LANDMARKS)}, 3], got {points.shape}")
        if mouths.shape != (num_frames, MOUTH_PX, MOUTH_PX) or mouths.dtype != np.uint8:
            expected = (num_frames, MOUTH_PX, MOUTH_PX)
            raise ValueError(f"mouths: expected uint8 {expected}, got {mouths.dtype} {mouths.shape}")
        if not np.isfinite(points).all():
            raise ValueError("points must be finite")
        features = lip_features(lip_motion(points, self.reference), mouth_motion(mouths))
        return self._embed([network.lips for network in self._networks], features)

    def hear(self, audio: np.ndarray) -> np.ndarray:
        """What the sound says: float32 unit vectors [T - 12, E]. audio: float32 [T * 640] mono at 16 kHz."""
        if audio.ndim != 1 or len(audio) % SAMPLES_PER_FRAME or len(audio) < VIEW * SAMPLES_PER_FRAME:
            raise ValueError(f"audio: expected [T * {SAMPLES_PER_FRAME}] for T >= {VIEW} frames, got {audio.shape}")
        if not np.isfinite(audio).all():
            raise ValueError("audio must be finite")
        return self._embed([network.sound for network in self._networks], sound_features(log_mel(mel_power(audio))))

    def match(self, seen: np.ndarray, heard: np.ndarray) -> SyncScore:
        """Which shift fits best, and how sure that is. seen: [T, E]; heard: [T + 30, E], with 15 frames of margin."""
        # turned round: sound that comes later than its picture is late, a negative offset
        similar = similarity_by_shift(seen, heard)[:, ::-1]
        curve = similar.mean(axis=0)
        offset_frames = round(peak(curve) - SYNC_MARGIN_FRAMES - self._zero_frames)
        return SyncScore(
            offset_frames=int(np.clip(offset_frames, -SYNC_MARGIN_FRAMES, SYNC_MARGIN_FRAMES)),
            confidence=confidence(similar),
            distance=float(1 - curve.max()),
            curve=curve,
        )

    def _embed(self, towers: list[Tower], features: np.ndarray) -> np.ndarray:
        """The networks' vectors as one: its dot products are the mean of theirs."""
        with torch.inference_mode(), one_thread():
            vectors = [tower(torch.from_numpy(features)[None])[0] for tower in towers]
            return (torch.cat(vectors, dim=1) / len(vectors) ** 0.5).numpy()


def confidence(similar: np.ndarray) -> float:
    """How surely somebody who is seen says all of what is heard: that of the clip's weakest 4 seconds.

    similar: float [T, 31], similarity of each frame for each shift. Two signs of a match: the curve's peak is high, and it
    stands out. A mean of n noisy similarities scatters by 1 / sqrt(n), so the root of n makes chance look the same at any
    length below 4 s; longer clips are judged by stretches of 4 s, so that length counts no further and nobody passes who
    only listens for so long. Stretches must match where the whole clip does, give or take a frame.
    """
    num_frames = min(len(similar), _STRETCH - VIEW + 1)
    sums = np.cumsum(np.vstack([np.zeros_like(similar[:1]), similar], dtype=np.float64), axis=0)
    curves = (sums[num_frames:] - sums[:-num_frames]) / num_frames
    best = int(sums[-1].argmax())
    if best in (0, similar.shape[1] - 1):
        return 0.0  # no peak: the curve still rises where the search ends, as it does with music
    height = curves[:, max(best - 1, 0) : best + 2].max(axis=1)
    prominence = height - np.median(curves, axis=1)
    return float(np.sqrt(np.maximum(height, 0) * np.maximum(prominence, 0) * num_frames).min())


def peak(curve: np.ndarray) -> float:
    """Place of the largest value, between samples: top of the parabola through it and its neighbours."""
    best = int(curve.argmax())
    if best in (0, len(curve) - 1):
        return float(best)
    before, top, after = (float(value) for value in curve[best - 1 : best + 2])
    return best + 0.5 * (before - after) / min(before - 2 * top + after, -1e-12)
