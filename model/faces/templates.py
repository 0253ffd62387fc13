"""Templates: which part of a picture becomes the square crop.

latentsync  LatentSync's three-point alignment: 75 x 100 units, 3:4, stretched to a square (alignment.py).
square      The same three points at natural proportions: 100 x 100 units, with the face in the middle.
musetalk    The upright box of MuseTalk 1.5's training data: what the detector's box and the landmarks cover together,
            and 10 px below the chin, cut off at the edges of the picture, stretched to a square (TMElyralab/MuseTalk on
            GitHub: process_bbox_musetalk in musetalk/data/sample_method.py; dynamic_margin_crop in dataset.py there;
            configs/training/stage2.yaml, cropping_jaw2edge_margin_mean; its training draws the margin anew each time).
wav2lip     The upright box of Wav2Lip's training data: the detector's box, cut off at the edges of the picture,
            stretched to a square (Rudrabha/Wav2Lip on GitHub: preprocess.py; face_detection/api.py; wav2lip_train.py:
            96 px).

Published code detects faces with S3FD and rounds boxes to whole pixels in each frame. Here boxes are those of our face
backend, smoothed over time and not rounded, so that the crop does not shake.
"""

from enum import StrEnum

import numpy as np

from lipforge.model.faces.alignment import TEMPLATE_SIZE, align, steady, template_size_px, to_square

MUSETALK_MARGIN_PX = 10


class Template(StrEnum):
    LATENTSYNC = "latentsync"
    SQUARE = "square"
    MUSETALK = "musetalk"
    WAV2LIP = "wav2lip"


def crop_matrices(
    template: Template,
    points: np.ndarray,
    landmarks: np.ndarray,
    boxes: np.ndarray,
    sizes: np.ndarray,
    resolution: int,
    smoothing_frames: float,
) -> np.ndarray:
    """float64 [T, 2, 3]: pixels of a clip's frames to pixels of the crop of resolution x resolution.

    points: float [T, 3, 2], the alignment points, smoothed already; landmarks: float [T, K, 2 or 3]; boxes: float
    [T, 2, 2], corners of the face; sizes: float [T, 2], width and height of the frames. All in the same pixels.
    """
    if template is Template.LATENTSYNC:
        return to_square(align(points, resolution), resolution)
    if template is Template.SQUARE:
        return _natural_proportions(align(points, resolution), resolution)
    margin = 0.0
    if template is Template.MUSETALK:
        places = landmarks[:, :, :2]
        low, high = places.min(axis=1), places.max(axis=1)
        boxes = np.stack([np.minimum(boxes[:, 0], low), np.maximum(boxes[:, 1], high)], axis=1)
        margin = MUSETALK_MARGIN_PX
    return _from_boxes(steady(boxes, smoothing_frames), sizes, margin, resolution)


def _natural_proportions(matrices: np.ndarray, resolution: int) -> np.ndarray:
    """Compose template matrices with an equal scaling of both sides; the template's height fills the crop."""
    _, height = template_size_px(resolution)
    scale = resolution / height
    square = matrices * scale
    square[:, :, 2] += (scale - 1) / 2
    square[:, 0, 2] += resolution * (1 - TEMPLATE_SIZE[0] / TEMPLATE_SIZE[1]) / 2
    return square


def _from_boxes(boxes: np.ndarray, sizes: np.ndarray, margin: float, resolution: int) -> np.ndarray:
    """As slices of an array: a box begins at the edge of the pixel of its first coordinate, not at its centre."""
    low = np.clip(boxes[:, 0], 0, sizes - 1)
    high = boxes[:, 1] + (0, margin)
    high = np.clip(high, low + 1, sizes)
    scale = resolution / (high - low)
    matrices = np.zeros((len(boxes), 2, 3))
    matrices[:, 0, 0], matrices[:, 1, 1] = scale.T
    matrices[:, :, 2] = (0.5 - low) * scale - 0.5
    return matrices
