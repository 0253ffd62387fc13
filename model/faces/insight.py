"""The face backend of LatentSync: InsightFace's `buffalo_l`, where SCRFD detects faces and a network places 106 points.

The package `insightface` decodes the graphs; the ONNX Runtime sessions are ours: from bytes, one core, no download.
Input size, threshold, box shapes and alignment points follow LatentSync's face detector (bytedance/LatentSync,
latentsync/utils/face_detector.py, Apache-2.0).

SCRFD: Guo et al. 2021, arXiv 2105.04714. The weights are for non-commercial research: see `lipforge models list`.
"""

import io
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from lipforge.model.faces.boxes import intersection
from lipforge.model.faces.face import DetectedFace, FaceLandmarks, Outlines
from lipforge.model.faces.picture import Picture
from lipforge.model.weights.load import ModelFileError

_LEFT_BROW = (43, 48, 49, 51, 50)
_RIGHT_BROW = (101, 102, 103, 104, 105)
_NOSE = (74, 77, 83, 86)
"""LatentSync's groups; left and right of the image."""
_OUTER_LIP = (52, 64, 63, 71, 67, 68, 61, 58, 59, 53, 56, 55)
_INNER_LIP = (65, 66, 62, 70, 69, 57, 60, 54)
"""Points 48..59 and 60..67 of the 68-point scheme, by the order in which the field maps these 106 points to it."""
_JAW = (1, *range(9, 17), *range(2, 9), 0, *range(24, 17, -1), *range(32, 24, -1), 17)
_FACE = (*_JAW, 101, 105, 104, 103, 102, 50, 51, 49, 48, 43)
"""From the image-left temple along the jaw to the other one, and back along the brows: there is no forehead."""

_WHOLE_SIZE_PX = 512
"""Side that a whole frame is scaled to for detection (LatentSync's INSIGHTFACE_DETECT_SIZE)."""
_NEAR_SIZE_PX = 192
_NEAR_SCALE = 2.0
"""A followed face is detected again in a square of twice its size, scaled to 192 px: the face is then 96 px, in the
middle of SCRFD's range, at a seventh of the cost of a whole frame."""
_MIN_SCORE = 0.5
_NMS_IOU = 0.4
"""IoU for InsightFace's non-maximum suppression."""
_MIN_ASPECT, _MAX_ASPECT = 0.2, 1.5
"""Width over height of a box that can be a face (LatentSync)."""


class InsightFaces:
    """SCRFD and the 106-point network, on one core or a GPU.

    The landmark network has no score and draws a face on anything. So each frame first runs SCRFD around the previous
    position: its score says whether there is a face, and its box places the points exactly as InsightFace does after a
    detection. Following and detecting therefore agree.
    """

    name = "insightface-buffalo_l"

    def __init__(self, models: Mapping[str, bytes], device: str = "cpu") -> None:
        """models: contents by file name, as `weights.load("latentsync")` returns them. device: cpu or cuda; that needs
        the package onnxruntime-gpu in place of onnxruntime, and is the CPU without it.

        Raises ModelFileError when one of the two files is not such a network.
        """
        # Imported here: it takes 100 MB, and only workers of this profile need it.
        from insightface.app.common import Face
        from insightface.model_zoo.landmark import Landmark
        from insightface.model_zoo.scrfd import SCRFD

        self._face = Face
        self._detector = SCRFD(session=_session(models, "det_10g.onnx", 9, device))
        self._detector.prepare(0, det_thresh=_MIN_SCORE, nms_thresh=_NMS_IOU)
        points = "2d106det.onnx"
        self._points = Landmark(io.BytesIO(models[points]), session=_session(models, points, 1, device))
        if self._points.lmk_num != 106:
            raise ModelFileError(f"{points}: expected a network for 106 points, this one gives {self._points.lmk_num}")

    def detect(self, picture: Picture) -> list[DetectedFace]:
        """Each face of a picture once, best score first."""
        return self._detect(picture.whole(), 0, 0, _WHOLE_SIZE_PX)

    def landmarks(self, picture: Picture, prior: DetectedFace | FaceLandmarks) -> FaceLandmarks | None:
        """106 points of one face, given where it is in this picture or was in the one before. None: no face there.

        Points: float32 [106, 2].
        """
        frame = picture.whole()
        x0, y0, x1, y1 = prior.box
        half = _NEAR_SCALE * max(x1 - x0, y1 - y0) / 2
        left, top = (max(0, int(middle - half)) for middle in ((x0 + x1) / 2, (y0 + y1) / 2))
        right, bottom = (max(0, int(middle + half) + 1) for middle in ((x0 + x1) / 2, (y0 + y1) / 2))
        near = frame[top:bottom, left:right]
        if near.size == 0:  # it left the frame
            return None
        found = self._detect(near, left, top, _NEAR_SIZE_PX)
        best = max(found, key=lambda face: intersection(face.box, prior.box), default=None)
        if best is None or intersection(best.box, prior.box) == 0:
            return None
        points = self._points.get(_bgr(frame), self._face(bbox=np.array(best.box)))
        return FaceLandmarks(np.asarray(points, np.float32), best.score, best.box)

    def alignment_points(self, points: np.ndarray) -> np.ndarray:
        """points [..., 106, 2] -> float32 [..., 3, 2]: mean of the left brow, of the right brow, of the nose."""
        groups = [points[..., index, :2].mean(axis=-2) for index in (_LEFT_BROW, _RIGHT_BROW, _NOSE)]
        return np.stack(groups, axis=-2).astype(np.float32)

    def sync_points(self, points: np.ndarray) -> None:
        """None: these 106 points have no depth, and are not the ones that the built-in lip-sync scorer needs."""
        return None

    def outlines(self, points: np.ndarray) -> Outlines:
        """12, 8 and 43 points; the face's begins above the brows."""
        return Outlines(*(points[:, index, :2].astype(np.float32) for index in (_OUTER_LIP, _INNER_LIP, _FACE)))

    def _detect(self, image: np.ndarray, left: int, top: int, size_px: int) -> list[DetectedFace]:
        """Faces in a part of a frame whose corner is at (left, top), in pixels of the frame."""
        boxes, keypoints = self._detector.detect(_bgr(image), input_size=(size_px, size_px))
        assert keypoints is not None
        faces = []
        for (x0, y0, x1, y1, score), five in zip(boxes.tolist(), keypoints, strict=True):
            if y1 > y0 and _MIN_ASPECT <= (x1 - x0) / (y1 - y0) <= _MAX_ASPECT:
                places = (five + np.array([left, top])).astype(np.float32)
                faces.append(DetectedFace(x0 + left, y0 + top, x1 + left, y1 + top, score, places))
        return faces


def providers_for(device: str, available: Sequence[str]) -> list[str]:
    """ONNX Runtime's execution providers for a device, of those that the installed package has."""
    wanted = ["CUDAExecutionProvider"] if device == "cuda" else []
    return [name for name in wanted if name in available] + ["CPUExecutionProvider"]


def _session(models: Mapping[str, bytes], name: str, num_outputs: int, device: str):
    """An ONNX Runtime session on one core, without its warnings about input sizes other than the graph's own."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        providers = providers_for(device, onnxruntime.get_available_providers())
        session = onnxruntime.InferenceSession(models[name], options, providers=providers)
    except Exception as error:  # ONNX Runtime's errors share no base class of their own
        raise ModelFileError(f"{name}: ONNX Runtime cannot load it: {error}") from error
    if len(session.get_outputs()) != num_outputs:
        found = len(session.get_outputs())
        raise ModelFileError(f"{name}: expected a network with {num_outputs} outputs, this one has {found}")
    return session


def _bgr(rgb: np.ndarray) -> np.ndarray:
    """InsightFace takes images in OpenCV's channel order."""
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
