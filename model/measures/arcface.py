"""ArcFace: who a face is, as 512 numbers; CSIM is the cosine of two of them.

Deng et al. 2019 (arXiv 1801.07698), as InsightFace publishes it in `buffalo_l` (ResNet-50, trained on WebFace600K): for
non-commercial research only. The crop and the reading of pictures are those of the package `insightface`. The five
points come from FaceMesh instead of SCRFD, and an aligned crop ends at the forehead, which is black here: numbers
compare among crops of this project, not with those that others publish.
"""

import io
import warnings
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from lipforge.model.faces.crop_points import upright_transform
from lipforge.model.measures.frames import check_frames
from lipforge.model.weights.load import ModelFileError

FILE = "w600k_r50.onnx"
WIDTH = 512
_SIDE_PX = 112
_FRAMES_AT_ONCE = 8
_FIVE = ((33, 133, 159, 145), (263, 362, 386, 374), (1,), (61,), (291,))
"""FaceMesh points: corners and lids of the eye at the left of the picture, of the other, nose, corners of the mouth."""


class ArcFace:
    """Identity of faces in aligned crops, on one core."""

    def __init__(self, models: Mapping[str, bytes]) -> None:
        """models: contents by file name, as `weights.load("arcface")` returns them.

        Raises ModelFileError when the file is not such a network.
        """
        import onnxruntime
        from insightface.model_zoo.arcface_onnx import ArcFaceONNX

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(models[FILE], options, providers=["CPUExecutionProvider"])
            self._network: Any = ArcFaceONNX(io.BytesIO(models[FILE]), session=session)
        except Exception as error:  # ONNX Runtime's errors share no base class of their own
            raise ModelFileError(f"{FILE}: ONNX Runtime cannot load it: {error}") from error
        size, width = tuple(self._network.input_size), self._network.output_shape[-1]
        if size != (_SIDE_PX, _SIDE_PX) or width != WIDTH:
            raise ModelFileError(f"{FILE}: expected 112 x 112 px and {WIDTH} numbers, this network has {size}, {width}")

    def embed(self, frames: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Unit vectors float32 [T, 512]: the cosine of two is their product.

        frames: uint8 [T, R, R, 3] RGB, aligned crops; points: float [T, 468, 2 or 3] as `crop_landmarks` gives them.
        Raises ValueError for other shapes.
        """
        faces = identity_crops(frames, points)
        found = [
            self._network.get_feat([cv2.cvtColor(face, cv2.COLOR_RGB2BGR) for face in faces[at : at + _FRAMES_AT_ONCE]])
            for at in range(0, len(faces), _FRAMES_AT_ONCE)
        ]
        vectors = np.concatenate(found).astype(np.float32) if found else np.zeros((0, WIDTH), np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def identity_crops(frames: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Faces as ArcFace is trained on: uint8 [T, 112, 112, 3]. Arguments and errors as in `ArcFace.embed`."""
    from insightface.utils.face_align import estimate_norm

    check_frames(frames)
    if points.shape[:2] != (len(frames), 468):
        raise ValueError(f"expected points [{len(frames)}, 468, 2 or 3], got {list(points.shape)}")
    upright = np.vstack([upright_transform(frames.shape[1]), [0, 0, 1]])  # of the crop, to where points are
    faces = np.empty((len(frames), _SIDE_PX, _SIDE_PX, 3), np.uint8)
    for face, frame, mesh in zip(faces, frames, points, strict=True):
        five = np.stack([mesh[list(group), :2].mean(axis=0) for group in _FIVE])
        with warnings.catch_warnings():  # it calls scikit-image by a name that goes out of use
            warnings.simplefilter("ignore", FutureWarning)
            matrix = estimate_norm(five.astype(np.float64), _SIDE_PX) @ upright
        face[:] = cv2.warpAffine(frame, matrix, (_SIDE_PX, _SIDE_PX), flags=cv2.INTER_LINEAR)
    return faces
