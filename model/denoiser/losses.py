"""What the denoiser is trained on: the four losses of LatentSync (Li et al. 2024, arXiv 2412.09262).

Each returns one value per sample, float32 [B], so that a trainer can weigh samples; the published number is their mean.
Each computes in float32 whatever autocast says: float16 overflows in features and rounds cosines beyond 1.
Networks come ready to use: frozen, in evaluation mode, in float32.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from lipforge.model.denoiser.diffusion import signal_to_noise

_TREPA_SIDE = 224
_COSINE_MARGIN = 1e-6
"""Cosines stay this far from 0 and 1, where the cross-entropy is infinite; it is 13.8 there."""


def noise_loss(prediction: Tensor, noise: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean squared error of the predicted noise, 0 or more; about 1 for a prediction of zeros. [B].

    prediction, noise: [B, ...] of one shape; weights: [B], factors of the samples (1 if None). Ho et al. 2020.
    """
    errors = (prediction.float() - noise.float()).square().flatten(1).mean(1)
    return errors if weights is None else weights * errors


def lpips_loss(lpips: Callable[[Tensor, Tensor], Tensor], fake: Tensor, real: Tensor) -> Tensor:
    """LPIPS of the lower halves of frames (Zhang et al. 2018, arXiv 1801.03924), mean over frames; 0 or more. [B].

    lpips: takes two batches of pixels [N, 3, H, W] and returns one value for each pair. fake, real: pixels
    [B, T, 3, H, W] in -1..1; rows H // 2 and below count.
    """
    first = fake.shape[-2] // 2
    with _float32(fake):
        distances = lpips(*(pixels[..., first:, :].flatten(0, 1).float() for pixels in (fake, real)))
    return distances.reshape(len(fake), -1).mean(1)


def trepa_loss(encoder: Callable[[Tensor], Tensor], fake: Tensor, real: Tensor) -> Tensor:
    """TREPA: distance of two videos as a video encoder sees them; LatentSync, section 3.3. [B].

    encoder: video [B, 3, T, 224, 224] in 0..1 -> features [B, D] (VideoMAE v2). fake, real: pixels [B, 3, T, H, W] in
    -1..1. Features are scaled to unit length; the mean squared difference over D lies in 0..4 / D.
    """
    with _float32(fake):
        features = [functional.normalize(encoder(_for_encoder(pixels))) for pixels in (fake, real)]
    return (features[0] - features[1]).square().mean(1)


def sync_loss(vision: Tensor, audio: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of the cosine, taken as the probability that frames and sound belong together. [B].

    vision, audio: embeddings [B, D] of StableSyncNet, none of whose components is negative; labels: [B] or [B, 1],
    1 for pairs that belong together, 0 for others. Between 0 and 13.8. From SyncNet's trainer in Wav2Lip (Prajwal et
    al. 2020).
    """
    with _float32(vision):
        cosine = functional.cosine_similarity(vision.float(), audio.float())
        probability = cosine.clamp(_COSINE_MARGIN, 1 - _COSINE_MARGIN)
        return functional.binary_cross_entropy(probability, labels.reshape(-1).float(), reduction="none")


def _for_encoder(pixels: Tensor) -> Tensor:
    """[B, 3, T, H, W] in -1..1 -> [B, 3, T, 224, 224] in 0..1."""
    frames = pixels.float().transpose(1, 2).flatten(0, 1)
    frames = functional.interpolate(frames, (_TREPA_SIDE, _TREPA_SIDE), mode="bicubic")
    scaled = (frames / 2 + 0.5).clamp(0, 1)
    return scaled.unflatten(0, (pixels.shape[0], pixels.shape[2])).transpose(1, 2)


def _float32(tensor: Tensor) -> torch.autocast:
    return torch.autocast(tensor.device.type, enabled=False)


def min_snr_weights(timesteps: Tensor, gamma: float | None) -> Tensor | None:
    """min(SNR, gamma) / SNR for each timestep, [B]; None for gamma None: all count alike.

    Hang et al. 2023 (arXiv 2303.09556), for a network that predicts noise.
    """
    if gamma is None:
        return None
    ratio = signal_to_noise(timesteps)
    return ratio.clamp(max=gamma) / ratio
