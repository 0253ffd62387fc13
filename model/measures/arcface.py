"""ArcFace: who a face is, as 512 numbers; CSIM is the cosine of two of them.

Deng et al. 2019 (arXiv 1801.07698), as InsightFace publishes it in `buffalo_l` (ResNet-50, trained on WebFace600K): for
non-commercial research only. Its alignment and its reading of pictures are those of the package `insightface`, its five
points are taken from FaceMesh instead of SCRFD, so numbers are close to those that others publish, not the same.
"""

from collections.abc import Mapping

import numpy as np

FILE = "w600k_r50.onnx"
WIDTH = 512
_SIDE_PX = 112
_FRAMES_AT_ONCE = 8
_FIVE = ((33, 133, 159, 145), (263, 362, 386, 374), (1,), (61,), (291,))
"""FaceMesh points: corners and lids of the eye at the left of the picture, of the other, nose, corners of the mouth."""


class ArcFace:
    """Identity of faces in aligned crops."""

    def __init__(self, models: Mapping[str, bytes]) -> None:
        """models: contents by file name, as `weights.load("arcface")` returns them.

        Raises ModelFileError when the file is not such a network.
        """
        raise NotImplementedError

    def embed(self, frames: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Unit vectors float32 [T, 512].

        frames: uint8 [T, R, R, 3] RGB, aligned crops; points: float [T, 468, 2 or 3] of `crop_landmarks`.
        Raises ValueError for other shapes.
        """
        raise NotImplementedError
