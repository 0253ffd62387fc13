"""The built-in lip-sync scorer: do these lips speak this audio, and how far apart are they in time?

Two small towers each take half a second (13 frames): one the landmarks of lips and chin and the image of the mouth, the
other the log-mel spectrum of the audio. Both map matching input to similar unit vectors. The mean similarity over a
clip, for each shift between audio and video, is the curve that gives offset and confidence (after SyncNet: Chung and
Zisserman, "Out of time", 2016). `train/scorers/lip_sync.py` trains the weights; docs/models/lip_sync.md has results.
"""

import cv2
import numpy as np
import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn
from torch.nn import functional

from lipforge.model.audio.filterbank import htk_filters
from lipforge.model.clock import SAMPLES_PER_FRAME, SYNC_MARGIN_FRAMES
from lipforge.model.faces.lip_points import MOUTH_PX, NUM_SPEAKING, SYNC_LANDMARKS
from lipforge.model.sync.drift import drift_frames
from lipforge.model.sync.score import SyncScore
from lipforge.model.sync.weights_file import DEFAULT_MIN_CONFIDENCE, scorer_name
from lipforge.model.threads import one_thread

RECEPTIVE_FRAMES = 13
"""Frames that one vector depends on."""

MEL_BANDS = 40
MEL_PER_FRAME = 4
_MEL_FLOOR = 1e-5
"""Power floor relative to the clip's loud moments (-50 dB)."""


def lip_motion(points: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Positions of lips and chin with head motion removed.

    points: float [T, len(SYNC_LANDMARKS), 3] in pixels; reference: float [U, 3], upper-face points of the mean head
    that every frame is rotated and scaled to, in its own units.
    Returns float32 [T, NUM_SPEAKING, 3] in those units, relative to the clip's mean.
    """
    speaking, upper = points[:, :NUM_SPEAKING].astype(np.float64), points[:, NUM_SPEAKING:].astype(np.float64)
    middle = upper.mean(axis=1, keepdims=True)
    turn, scale = similarity_to(reference, upper - middle)
    steady = np.einsum("t,tij,tpj->tpi", scale, turn, speaking - middle)
    return (steady - steady.mean(axis=0)).astype(np.float32)


def similarity_to(target: np.ndarray, shapes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotation and scale that map each shape onto the target by least squares (Umeyama 1991).

    target: float [U, 3]; shapes: float [T, U, 3], each with its mean at 0.
    Returns float64 [T, 3, 3] and [T]: scale * turn @ point.
    """
    u, s, vt = np.linalg.svd(np.einsum("ui,tuj->tij", target - target.mean(axis=0), shapes))
    signs = np.ones_like(s)
    signs[:, 2] = np.sign(np.linalg.det(u @ vt))  # a rotation, never a reflection
    turn = (u * signs[:, None]) @ vt
    return turn, (s * signs).sum(axis=1) / np.maximum((shapes**2).sum(axis=(1, 2)), 1e-12)


MOUTH_WAVES = 12
"""Cosine waves kept in each direction of a mouth image: details finer than about 5 of 64 pixels are dropped."""


def mouth_motion(mouths: np.ndarray) -> np.ndarray:
    """Mouth images as cosine waves (the low corner of a 2-D DCT), relative to the clip's mean.

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


def log_mel(power: np.ndarray, loud: float | None = None) -> np.ndarray:
    """Log-mel independent of loudness: log10 of mel power relative to the clip's loud moments, floored, about -1..1.

    power: float [L, 40]. loud: `loudness` of the clip that it is from; None: it is the whole clip.
    Returns float32 [L, 40].
    """
    if loud is None:
        loud = loudness(power.mean(axis=1))
    level = np.log10(power / max(loud, 1e-12) + _MEL_FLOOR)
    return ((level + 2.5) / 2.5).astype(np.float32)


def loudness(means: np.ndarray) -> float:
    """Power of a clip's loud moments. means: float [L], of the bands of each row."""
    return float(np.quantile(means, 0.95))


_MEL_FILTERS = np.ascontiguousarray(htk_filters(MEL_BANDS, 60, 7600, 512).T)
"""float64 [257, 40]."""


class Tower(nn.Module):
    """Features [B, T, C] -> unit vectors [B, T - 12, D], each of 13 frames."""

    def __init__(self, num_inputs: int, width: int, num_outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.inputs = nn.Conv1d(num_inputs, width, 1)
        self.layers = nn.ModuleList(nn.Conv1d(width, width, 5) for _ in range((RECEPTIVE_FRAMES - 1) // 4))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(1 + len(self.layers)))
        self.outputs = nn.Conv1d(width, num_outputs, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        hidden = functional.relu(self.norms[0](self.inputs(features.transpose(1, 2))))
        for layer, norm in zip(self.layers, self.norms[1:], strict=True):
            hidden = functional.relu(norm(layer(self.dropout(hidden))))
        return functional.normalize(self.outputs(hidden), dim=1).transpose(1, 2)


class SyncNetwork(nn.Module):
    """A tower for lips (`lip_features`) and one for audio (`audio_features`)."""

    def __init__(self, width: int = 64, num_outputs: int = 32, dropout: float = 0.0) -> None:
        super().__init__()
        self.lips = Tower(3 * NUM_SPEAKING + MOUTH_WAVES**2, width, num_outputs, dropout)
        # Not `audio`: the name is part of the keys in weights files.
        self.sound = Tower(MEL_PER_FRAME * MEL_BANDS, width, num_outputs, dropout)
        self.log_scale = nn.Parameter(torch.tensor(2.5))


def lip_features(motion: np.ndarray, waves: np.ndarray) -> np.ndarray:
    """`lip_motion` [..., T, NUM_SPEAKING, 3] and `mouth_motion` [..., T, 144] side by side: float32 [..., T, 291]."""
    return np.concatenate([motion.reshape(*waves.shape[:-1], -1), waves], axis=-1)


def audio_features(levels: np.ndarray) -> np.ndarray:
    """`log_mel` [..., 4 * T, 40], one row per frame: float32 [..., T, 160]."""
    return levels.reshape(*levels.shape[:-2], -1, MEL_PER_FRAME * MEL_BANDS)


def similarity_by_shift(lips: np.ndarray, audio: np.ndarray) -> np.ndarray:
    """Similarity of each frame's lips with the audio around it.

    lips: unit vectors [T, E]; audio: [T + 2 * S, E], with S frames of margin on each side.
    Returns [T, 2 * S + 1]: column i compares frame t with the audio of frame t + i - S.
    """
    similar = lips @ audio.T
    num_shifts = len(audio) - len(lips) + 1
    return np.stack([similar.diagonal(shift) for shift in range(num_shifts)], axis=1)


_MIN_FRAMES = 25
_STRETCH = 100
"""Frames: a clip's confidence is that of its weakest 4 s."""


class LipSyncScorer:
    """Scores clips on one core; the same clip always gets the same numbers."""

    def __init__(self, weights: bytes) -> None:
        """weights: a safetensors file as `train/scorers/lip_sync.py` writes it."""
        tensors = {key: tensor.float() for key, tensor in load_safetensors(weights).items()}
        self.name = scorer_name(weights)
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
        audio: float32 [(T + 30) * 640] mono at 16 kHz: the clip's audio with 15 frames of margin on each side, zeros
        where the source has none. With the margin, every shift is scored on the same number of frames.
        """
        expected = (len(points) + 2 * SYNC_MARGIN_FRAMES) * SAMPLES_PER_FRAME
        if audio.shape != (expected,):
            raise ValueError(f"audio: expected [{expected}] for {len(points)} frames, got {audio.shape}")
        return self.match(self.embed_lips(points, mouths), self.embed_audio(audio))

    def embed_lips(self, points: np.ndarray, mouths: np.ndarray) -> np.ndarray:
        """Vectors of the lips: float32 unit vectors [T - 12, E]. Points and mouths as for `score`."""
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

    def embed_audio(self, audio: np.ndarray) -> np.ndarray:
        """Vectors of the audio: float32 unit vectors [T - 12, E]. audio: float32 [T * 640] mono at 16 kHz."""
        if audio.ndim != 1 or len(audio) % SAMPLES_PER_FRAME or len(audio) < RECEPTIVE_FRAMES * SAMPLES_PER_FRAME:
            expected = f"[T * {SAMPLES_PER_FRAME}] for T >= {RECEPTIVE_FRAMES} frames"
            raise ValueError(f"audio: expected {expected}, got {audio.shape}")
        if not np.isfinite(audio).all():
            raise ValueError("audio must be finite")
        return self._embed(self.audio_towers(), audio_features(log_mel(mel_power(audio))))

    def match(self, lips: np.ndarray, audio: np.ndarray) -> SyncScore:
        """Offset and confidence from vectors. lips: [T, E]; audio: [T + 30, E], with 15 frames of margin."""
        # Reversed: audio that comes after its frame is late, a negative offset.
        similar = similarity_by_shift(lips, audio)[:, ::-1]
        curve = similar.mean(axis=0)
        offset_frames = round(peak(curve) - SYNC_MARGIN_FRAMES - self._zero_frames)
        return SyncScore(
            offset_frames=int(np.clip(offset_frames, -SYNC_MARGIN_FRAMES, SYNC_MARGIN_FRAMES)),
            confidence=confidence(similar),
            distance=float(1 - curve.max()),
            curve=curve,
            drift_frames=drift_frames(similar, len(lips) + RECEPTIVE_FRAMES - 1, _is_match),
        )

    def audio_towers(self) -> list[Tower]:
        """Frozen, one of each network."""
        return [network.sound for network in self._networks]

    def _embed(self, towers: list[Tower], features: np.ndarray) -> np.ndarray:
        """The networks' vectors joined, so that a dot product is the mean of theirs."""
        with torch.inference_mode(), one_thread():
            vectors = [tower(torch.from_numpy(features)[None])[0] for tower in towers]
            return (torch.cat(vectors, dim=1) / len(vectors) ** 0.5).numpy()


def _is_match(similar: np.ndarray) -> bool:
    return confidence(similar) >= DEFAULT_MIN_CONFIDENCE


def confidence(similar: np.ndarray) -> float:
    """Confidence that the visible face speaks all of the audio: that of the clip's weakest 4 seconds.

    similar: float [T, 31], similarity of each frame at each shift. A match shows in a peak that is high and stands out
    from the curve. The mean of n noisy similarities scatters by 1 / sqrt(n), so the factor sqrt(n) makes chance read
    the same at any length below 4 s. Longer clips are scored by stretches of 4 s: length then counts no further, and a
    face that is silent for 4 s fails. Stretches must match at the offset of the whole clip, within a frame.
    """
    num_frames = min(len(similar), _STRETCH - RECEPTIVE_FRAMES + 1)
    sums = np.cumsum(np.vstack([np.zeros_like(similar[:1]), similar], dtype=np.float64), axis=0)
    curves = (sums[num_frames:] - sums[:-num_frames]) / num_frames
    best = int(sums[-1].argmax())
    if best in (0, similar.shape[1] - 1):
        return 0.0  # no peak: the curve still rises at the edge of the search, as with music
    height = curves[:, max(best - 1, 0) : best + 2].max(axis=1)
    prominence = height - np.median(curves, axis=1)
    return float(np.sqrt(np.maximum(height, 0) * np.maximum(prominence, 0) * num_frames).min())


def peak(curve: np.ndarray) -> float:
    """Position of the maximum, between samples: top of the parabola through it and its neighbours."""
    best = int(curve.argmax())
    if best in (0, len(curve) - 1):
        return float(best)
    before, top, after = (float(value) for value in curve[best - 1 : best + 2])
    return best + 0.5 * (before - after) / min(before - 2 * top + after, -1e-12)
