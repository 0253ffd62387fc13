"""The geometry of a clip, packed for the page's script: outlines in the crop, and the crop in the source's frame."""

import base64
import zlib
from typing import Any

import numpy as np

from lipforge.datasets_manifest.geometry import ClipGeometry

_CROP_STEPS = 255
"""Of the crop's side: finer than a pixel at 256 px."""
_FRAME_RANGE = (-0.5, 1.5)
"""Of the frame's sides, that corners of crops are told apart in: they may lie outside."""


def pack_overlay(geometry: ClipGeometry) -> dict[str, Any]:
    """What the script draws.

    `points`: base64 of deflated uint8 [T, P, 2], each frame as the difference to the one before. The first
    sum(`counts`) points are outlines of mouth, opening and face, and the alignment points, 0..255 across the crop; the
    last 6 are the crop's corners and the face's box in the frame, 0..255 for -0.5 to 1.5 of its sides.
    `aspect`: width of the first frame by its height.
    """
    shapes = [geometry.mouth_outer, geometry.mouth_inner, geometry.face_outline, geometry.alignment_points]
    in_crop = np.concatenate([geometry.in_crop(shape) for shape in shapes], axis=1) / max(geometry.crop_px - 1, 1)
    low, high = _FRAME_RANGE
    steps = [_steps(in_crop), _steps((_in_frame(geometry) - low) / (high - low))]
    whole = np.concatenate(steps, axis=1)
    differences = np.diff(whole, axis=0, prepend=np.uint8(0))  # wraps around, as does the sum
    width, height = geometry.frame_size_px[0].tolist()
    return {
        "counts": [shape.shape[1] for shape in shapes],
        "aspect": round(width / height, 4),
        "points": base64.b64encode(zlib.compress(differences.tobytes(), 9)).decode(),
    }


def _in_frame(geometry: ClipGeometry) -> np.ndarray:
    """float [T, 6, 2]: corners of the crop, then those of the face's box, in shares of the frame's sides."""
    side = geometry.crop_px - 1
    corners = np.array([[0, 0, 1], [side, 0, 1], [side, side, 1], [0, side, 1]], np.float64)
    crop = corners @ geometry.to_source().transpose(0, 2, 1)
    return np.concatenate([crop, geometry.face_box], axis=1) / geometry.frame_size_px[:, None, :]


def _steps(shares: np.ndarray) -> np.ndarray:
    """uint8 of shares of 0 to 1; what lies beyond, lies on the edge."""
    return np.round(np.clip(np.nan_to_num(shares), 0, 1) * _CROP_STEPS).astype(np.uint8)
