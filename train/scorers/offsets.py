"""AV offsets that the training clips themselves still have, estimated by networks that were not trained on them."""

import logging
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from lipforge.model.sync.builtin import SyncNetwork, peak
from lipforge.train.scorers.clip_features import split_speakers
from lipforge.train.scorers.clips import TrainingClip
from lipforge.train.scorers.config import ScorerTrainingConfig
from lipforge.train.scorers.evaluation import embed
from lipforge.train.scorers.training import train_network

log = logging.getLogger(__name__)


def correct_offsets(clips: list[TrainingClip], round_: int, config: ScorerTrainingConfig) -> list[TrainingClip]:
    """Clips with new offsets, each estimated by a network that was trained on other groups.

    round_: 0 for the first round. Raises ValueError if no clip fits.
    """
    corrected = []
    for half, (training, held_out) in enumerate(split_speakers(clips, config.seed + round_)):
        log.info("offsets, round %d of %d: half %d of 2", round_ + 1, config.num_offset_rounds, half + 1)
        network = train_network(training, config.num_offset_steps, config.seed + 100 * round_ + half, config)
        corrected += [replace(clip, offset_frames=estimate_offset(network, clip, config)) for clip in held_out]
    found = np.array([clip.offset_frames for clip in corrected if clip.offset_frames is not None])
    if not len(found):
        raise ValueError("no clip's audio matches its video: is this a dataset of speaking faces?")
    log.info(
        "%d of %d clips match their audio; offsets %.2f +- %.2f frames", len(found), len(corrected), *_spread(found)
    )
    return sorted(corrected, key=lambda clip: clip.name)


def estimate_offset(network: SyncNetwork, clip: TrainingClip, config: ScorerTrainingConfig) -> float | None:
    """Offset of a clip in frames, with the prior of the config; None if the clip matches at no plausible offset."""
    curve, offsets = offset_curve(network, clip, config.max_lag_frames)
    logits = curve * network.log_scale.exp().item()
    probability = np.exp(logits - logits.max())
    probability /= probability.sum()
    if probability[np.abs(offsets) <= config.max_offset_frames].sum() < config.min_offset_probability:
        return None
    posterior = probability * np.exp(-0.5 * (offsets / config.offset_spread_frames) ** 2)
    best = int(posterior.argmax())
    near = slice(max(0, best - 1), best + 2)
    return float((posterior[near] * offsets[near]).sum() / posterior[near].sum())


def offset_curve(network: SyncNetwork, clip: TrainingClip, max_lag_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean similarity of a clip with its own audio, without margin, by offset; and those offsets in frames."""
    lips, audio = embed(network, clip, clip.num_frames)
    reach = min(max_lag_frames, len(lips) - 5)
    offsets = np.arange(reach, -reach - 1, -1)
    similar = lips @ audio.T
    return np.array([similar.diagonal(-offset).mean() for offset in offsets]), offsets


def zero_offset(networks: list[SyncNetwork], clips: list[TrainingClip], known: Mapping[str, float]) -> float:
    """The networks' bias: the mean of found minus known offset over clips whose offset is known, in frames.

    known: SyncScore.offset_frames of source videos, by file name.
    """
    errors = []
    for clip in clips:
        if clip.source in known:
            curves, offsets = zip(*(offset_curve(network, clip, 6) for network in networks), strict=True)
            found = offsets[0][0] - peak(np.mean(curves, axis=0))
            errors.append(found + clip.corrected_frames - known[clip.source])
    log.info("offsets of %d clips with known ones: %s", len(errors), " ".join(f"{error:+.2f}" for error in errors))
    return float(np.mean(errors)) if errors else 0.0


def _spread(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(values.std())
