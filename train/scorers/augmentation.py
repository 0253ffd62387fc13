"""Training batches for the lip-sync scorer: which clips are drawn, which windows, and how each is augmented."""

import numpy as np
import torch
from torch import Tensor

from lipforge.model.clock import FPS
from lipforge.model.faces.lip_points import NUM_SPEAKING
from lipforge.model.sync.builtin import MEL_PER_FRAME, MOUTH_WAVES, audio_features, lip_features, log_mel
from lipforge.train.scorers.clip_features import mirror_places
from lipforge.train.scorers.clips import TrainingClip
from lipforge.train.scorers.config import ScorerTrainingConfig


class BatchSampler:
    """Draws batches from clips."""

    def __init__(self, clips: list[TrainingClip], config: ScorerTrainingConfig) -> None:
        """clips: those whose offset is None are skipped. Raises ValueError if none is left."""
        self.config = config
        self.clips = [clip for clip in clips if clip.offset_frames is not None]
        if not self.clips:
            raise ValueError("no clip is left whose audio matches its video")
        frames = np.array([min(clip.num_frames, config.longest_s * FPS) for clip in self.clips])
        odds = frames * np.where(frames > 2.5 * FPS, config.long_clip_weight, 1.0)
        self.odds = odds / odds.sum()
        self.groups: dict[int, list[int]] = {}
        for index, clip in enumerate(self.clips):
            self.groups.setdefault(clip.group, []).append(index)

    def draw_clips(self, rng: np.random.Generator) -> list[TrainingClip]:
        """The clips of a batch, several from each group drawn."""
        chosen: list[int] = []
        while len(chosen) < self.config.batch_size:
            group = self.groups[self.clips[rng.choice(len(self.clips), p=self.odds)].group]
            odds = self.odds[group] / self.odds[group].sum()
            chosen += rng.choice(group, min(self.config.clips_per_group, len(group)), replace=False, p=odds).tolist()
        return [self.clips[index] for index in chosen[: self.config.batch_size]]

    def draw_batch(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Matching windows of lips and audio, at one random speed for the batch, each augmented separately.

        Returns lips float32 [B, n, 291] and audio float32 [B, n, 160].
        """
        speed = np.exp(rng.uniform(np.log(0.85), np.log(1.18)))
        num_frames = int((self.config.window_frames - 1) / speed)
        reach = (num_frames - 1) * speed
        lips, waves, power = [], [], []
        for clip in self.draw_clips(rng):
            assert clip.offset_frames is not None
            first = max(0.0, clip.offset_frames)
            last = min(0.0, clip.offset_frames) + clip.num_frames - 1 - reach
            start = rng.uniform(first, max(first, last))
            places = start + np.arange(num_frames) * speed
            lips.append(_between(clip.lips, places))
            waves.append(_between(clip.waves[rng.integers(len(clip.waves))], places))
            audio_start = (start - clip.offset_frames) * MEL_PER_FRAME
            power.append(_between(clip.power, audio_start + np.arange(num_frames * MEL_PER_FRAME) * speed))
        mirrored = rng.random(len(lips)) < 0.5
        features = lip_features(
            vary_lips(rng, np.stack(lips), mirrored), vary_waves(rng, np.stack(waves).astype(np.float32), mirrored)
        )
        return torch.from_numpy(features), torch.from_numpy(audio_features(vary_audio(rng, np.stack(power))))


def _between(rows: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Rows at fractional places, interpolated linearly; the first or last row beyond the ends."""
    places = np.clip(places, 0, len(rows) - 1)
    lower = np.minimum(places.astype(int), len(rows) - 2)
    share = (places - lower).astype(np.float32).reshape(-1, *[1] * (rows.ndim - 1))
    return rows[lower] * (1 - share) + rows[lower + 1] * share


def vary_lips(rng: np.random.Generator, lips: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Mirror, rotate a little, scale, flatten and add noise.

    lips: float32 [B, n, NUM_SPEAKING, 3]; mirrored: bool [B].
    """
    count, num_frames, num_points, _ = lips.shape
    lips = np.where(mirrored[:, None, None, None], lips[:, :, mirror_places()[:NUM_SPEAKING]] * _FLIP, lips)
    x, y, z = rng.normal(0, 0.12, (3, count))
    zero = np.zeros(count)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=1).reshape(count, 3, 3)
    turn = np.eye(3) + cross + cross @ cross / 2
    turn *= np.exp(rng.normal(0, 0.2, (count, 1, 1)) + rng.normal(0, 0.1, (count, 3, 1)))
    turn[:, 2] *= np.where(rng.random(count) < 0.3, rng.random(count), 1.0)[:, None]
    lips = (lips.reshape(count, -1, 3) @ turn.transpose(0, 2, 1).astype(np.float32)).reshape(lips.shape)
    for shape in (
        (count, num_frames, num_points, 3),
        (count, num_frames, 1, 3),
    ):  # per point, then for all points together
        strength = 0.1 * rng.random((count, 1, 1, 1), dtype=np.float32)
        lips = lips + strength * rng.standard_normal(shape, dtype=np.float32)
    return lips


_FLIP = np.array([-1, 1, 1], dtype=np.float32)


def vary_waves(rng: np.random.Generator, waves: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Mirror, change contrast, blur and add noise. waves: float32 [B, n, 144]; mirrored: bool [B]."""
    count = len(waves)
    down, across = np.divmod(np.arange(MOUTH_WAVES**2), MOUTH_WAVES)
    waves = np.where(mirrored[:, None, None] & (across % 2 == 1), -waves, waves)
    blur = rng.uniform(0, 0.015, count) * (rng.random(count) < 0.5)
    gain = np.exp(rng.normal(0, 0.3, (count, 1, 1)) - blur[:, None, None] * (down**2 + across**2))
    noise = 0.18 * rng.random((count, 1, 1), dtype=np.float32) * rng.standard_normal(waves.shape, dtype=np.float32)
    return waves * gain.astype(np.float32) + noise


def vary_audio(rng: np.random.Generator, power: np.ndarray) -> np.ndarray:
    """Vary microphone and room noise, then apply `log_mel`. power: float32 [B, L, 40]."""
    count, length, bands = power.shape
    place = np.linspace(0, 4, bands)
    tone, noise_tone = (
        np.stack([10 ** np.interp(place, np.arange(5), rng.normal(0, spread, 5)) for _ in range(count)])[:, None]
        for spread in (0.35, 0.4)
    )
    power = power * tone.astype(np.float32)
    loud = np.quantile(power.mean(axis=2), 0.95, axis=1)
    noise_level = np.where(rng.random(count) < 0.5, loud * 10 ** rng.uniform(-4, -1.2, count), 0)
    noise_power = (noise_level[:, None, None] * noise_tone).astype(np.float32)
    power = power + noise_power * rng.standard_exponential((count, length, bands), dtype=np.float32)
    levels = np.stack([log_mel(clip) for clip in power])
    jitter = np.where(rng.random(count) < 0.3, np.float32(0.05), np.float32(0))[:, None, None]
    return levels + jitter * rng.standard_normal(levels.shape, dtype=np.float32)
