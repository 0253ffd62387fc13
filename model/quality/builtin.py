"""The built-in quality scorer: natural-scene statistics of a face crop, mapped to 0..100 without a reference.

The statistics are those of BRISQUE (Mittal, Moorthy, Bovik: No-Reference Image Quality Assessment in the Spatial
Domain, IEEE TIP 2012) plus the energy of neighbouring frequency bands; a small network fitted by
`train/scorers/quality.py` maps them to a score. docs/models/quality.md describes its training data and results.
"""

import json
import math

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SCORED_SIZE_PX = 256
_MARGIN = 1 / 8  # of each side is ignored: background, hair, and fill beyond the edge of the source
_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))  # right, below and both diagonals: (dy, dx)
_NUM_BANDS = 4

# E[x^2] / E[|x|]^2 of a generalised Gaussian falls with its shape; a table inverts it (BRISQUE's moment matching).
_SHAPES = np.geomspace(0.15, 12.0, 1000)
_RATIOS = np.array([math.exp(math.lgamma(1 / a) + math.lgamma(3 / a) - 2 * math.lgamma(2 / a)) for a in _SHAPES])


class ImageQuality:
    """Scores clips of aligned faces. Below 40, a person would call a face too bad to train on."""

    name = "lipforge_nss"

    def __init__(self, content: bytes) -> None:
        """content: the bytes of `quality.json`, as `train/scorers/quality.py` writes it."""
        weights = json.loads(content)
        self._mean, self._scale, self._hidden, self._hidden_bias, self._output, self._output_bias = (
            np.array(weights[key]) for key in ("mean", "scale", "hidden", "hidden_bias", "output", "output_bias")
        )

    def score(self, frames: np.ndarray) -> float:
        """Mean quality of some frames of one clip, 0..100, 100 is best.

        frames: uint8 [N, S, S, 3] RGB, S = 256 or 512, aligned faces. Larger images are shrunk to 256 px, so that the
        threshold means the same for a dataset of 512 px.
        """
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or len(frames) == 0:
            raise ValueError(f"expected uint8 frames [N, S, S, 3], got {frames.dtype} {frames.shape}")
        features = np.stack([image_statistics(frame) for frame in frames])
        standard = np.clip((features - self._mean) / self._scale, -4, 4)  # bounded far from the fitted data
        logits = np.tanh(standard @ self._hidden + self._hidden_bias) @ self._output + self._output_bias
        return float(np.mean(100 / (1 + np.exp(-logits))))


def image_statistics(image: np.ndarray) -> Floats:
    """Features for the score, float64 [41]: BRISQUE's 18 at two scales, then 5 of energy by frequency.

    image: uint8 [H, W, 3] RGB; shrunk to 256 px if wider. Only the inner three quarters count.
    """
    luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    if luma.shape[1] > SCORED_SIZE_PX:
        luma = cv2.resize(luma, (SCORED_SIZE_PX, SCORED_SIZE_PX), interpolation=cv2.INTER_AREA)
    top, left = (round(side * _MARGIN) for side in luma.shape)
    luma = luma[top : luma.shape[0] - top, left : luma.shape[1] - left]
    half = cv2.resize(luma, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return np.concatenate([_brisque(luma), _brisque(half), _band_energies(luma)])


def _brisque(luma: np.ndarray) -> Floats:
    """18 numbers: shape and size of the normalised luminance, and of its products with four neighbours."""
    mean = _smooth(luma)
    deviation = np.sqrt(np.maximum(_smooth(luma * luma) - mean * mean, 0))
    normal = (luma - mean) / (deviation + 1)

    numbers = [_shape(float(np.mean(normal**2)), float(np.mean(np.abs(normal)))), _log(float(np.mean(normal**2)))]
    height, width = normal.shape
    for down, right in _NEIGHBOURS:
        first = normal[: height - down, max(0, -right) : width - max(0, right)]
        second = normal[down:, max(0, right) : width - max(0, -right)]
        numbers += _asymmetric(first * second)
    return np.array(numbers)


def _smooth(image: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(image, (7, 7), 7 / 6)


def _asymmetric(values: np.ndarray) -> list[float]:
    """Asymmetric generalised Gaussian (BRISQUE eq. 8 to 12): shape, mean, log of left and of right variance."""
    negative, positive = np.minimum(values, 0), np.maximum(values, 0)
    share = np.count_nonzero(negative) / values.size
    left = float(np.mean(negative**2)) / max(share, 1e-6)
    right = float(np.mean(positive**2)) / max(1 - share, 1e-6)
    gamma = np.sqrt((left + 1e-12) / (right + 1e-12))
    squares, size = float(np.mean(values**2)), float(np.mean(np.abs(values)))
    correction = (gamma**2 + 1) ** 2 / ((gamma**3 + 1) * (gamma + 1))
    return [_shape(squares, size * np.sqrt(correction)), float(np.mean(values)), _log(left), _log(right)]


def _shape(mean_square: float, mean_size: float) -> float:
    """Log of the shape of a generalised Gaussian with these moments (0.69 = Gaussian)."""
    ratio = (mean_square + 1e-12) / (mean_size**2 + 1e-12)
    return float(np.log(np.interp(ratio, _RATIOS[::-1], _SHAPES[::-1])))


def _band_energies(luma: np.ndarray) -> Floats:
    """5 numbers: log size of each octave relative to the next coarser one, and of the coarsest itself.

    Blur and enlargement empty the finest octaves, noise fills them.
    """
    sizes = []
    for _ in range(_NUM_BANDS + 1):
        smaller = cv2.pyrDown(luma)
        sizes.append(_log(float(np.mean(np.abs(luma - cv2.pyrUp(smaller, dstsize=luma.shape[::-1]))))))
        luma = smaller
    return np.append(-np.diff(sizes), sizes[-1])


def _log(value: float) -> float:
    return float(np.log(value + 1e-2))  # the floor keeps blank images in range
