"""Inputs of the built-in lip-sync scorer: landmarks and mouth images.

Apart from the scorer, so that cutting clips does not load torch.
"""

import cv2
import numpy as np

OUTER_LIP = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146)
"""FaceMesh points of the lips' outline."""
INNER_LIP = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95)
_CHIN = (149, 176, 148, 152, 377, 400, 378, 150, 379)
_EYE_CORNERS = (33, 133, 362, 263)
_NOSE = (168, 6, 197, 195, 5, 4)
_FOREHEAD = (10, 67, 109, 338, 297, 103, 332)
_TEMPLES = (54, 284, 127, 356, 162, 389, 21, 251)
SYNC_LANDMARKS = np.array(OUTER_LIP + INNER_LIP + _CHIN + _EYE_CORNERS + _NOSE + _FOREHEAD + _TEMPLES)
"""FaceMesh points that scoring needs: first lips and chin, then those that show how the head moves."""
NUM_SPEAKING = len(OUTER_LIP + INNER_LIP + _CHIN)

MOUTH_PX = 64
"""Side of the mouth images."""


def mouth_images(frames: np.ndarray) -> np.ndarray:
    """Lips, jaw and lower cheeks, cut out where alignment puts them.

    frames: uint8 [T, R, R, 3] RGB, aligned crops. Returns uint8 [T, 64, 64], grey.
    """
    size = frames.shape[1]
    top, left, side = size * 7 // 16, size // 4, size // 2
    parts = frames[:, top : top + side, left : left + side]
    grey = [cv2.cvtColor(part, cv2.COLOR_RGB2GRAY) for part in parts]
    return np.stack([cv2.resize(part, (MOUTH_PX, MOUTH_PX), interpolation=cv2.INTER_AREA) for part in grey])
