"""How well a network of the lip-sync scorer tells a clip's own audio from other audio."""

import numpy as np
import torch

from lipforge.model.sync.builtin import MEL_PER_FRAME, SyncNetwork, audio_features, lip_features, log_mel
from lipforge.train.scorers.clips import TrainingClip


def similarities(
    network: SyncNetwork, clips: list[TrainingClip], num_frames: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Similarities of clips with their own audio, with that of other groups, and with that of their group.

    Each is the best within a shift of 2 frames, over the first num_frames of the clips.
    """
    vectors = [embed(network, clip, num_frames) for clip in clips]
    lips, audio = (np.stack(side) for side in zip(*vectors, strict=True))
    count = lips.shape[1]
    best = np.full((len(clips), len(clips)), -1.0)
    for lag in range(-2, 3):
        here, there = slice(max(0, lag), count + min(0, lag)), slice(max(0, -lag), count + min(0, -lag))
        best = np.maximum(best, np.einsum("itd,jtd->ij", lips[:, here], audio[:, there]) / (count - abs(lag)))
    groups = np.array([clip.group for clip in clips])
    same = groups[:, None] == groups
    return best.diagonal(), best[~same], best[same & ~np.eye(len(clips), dtype=bool)]


def embed(network: SyncNetwork, clip: TrainingClip, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of a clip's first frames and of their audio without margin: two of float32 [num_frames - 12, D]."""
    levels = log_mel(clip.power[: num_frames * MEL_PER_FRAME])
    lips = lip_features(clip.lips[None, :num_frames], clip.waves[:1, :num_frames].astype(np.float32))
    audio = audio_features(levels[None])
    return network.lips(torch.from_numpy(lips))[0].numpy(), network.sound(torch.from_numpy(audio))[0].numpy()


def area_under_curve(higher: np.ndarray, lower: np.ndarray) -> float:
    """Probability that one of `higher` exceeds one of `lower`; ties count half."""
    ordered = np.sort(lower)
    below = np.searchsorted(ordered, higher, "left") + np.searchsorted(ordered, higher, "right")
    return float(below.mean() / 2 / len(lower))
