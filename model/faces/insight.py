"""Faces by InsightFace's `buffalo_l`: SCRFD finds them, a small network places 106 points. The published LatentSync uses these two.

The graphs are read and decoded by the package `insightface` itself, with sessions of ours: from bytes, one core, no
download. What it is told follows LatentSync's face detector (bytedance/LatentSync, latentsync/utils/face_detector.py,
Apache-2.0): the size of the picture, the threshold, the shapes of boxes, and the points that alignment hangs on.

SCRFD: Guo et al. 2021, arXiv 2105.04714. The weights are for non-commercial research: see `lipforge models list`.
"""

import io
from collections.abc import Mapping

import cv2
import numpy as np

from lipforge.model.faces.mediapipe import DetectedFace, FaceLandmarks
from lipforge.model.weights.load import ModelFileError

_LEFT_BROW = (43, 48, 49, 51, 50)
_RIGHT_BROW = (101, 102, 103, 104, 105)
_NOSE = (74, 77, 83, 86)
"""LatentSync's groups; left and right as seen in the picture."""

_WHOLE_SIZE_PX = 512
"""Side that a whole picture is scaled to for detection (LatentSync's INSIGHTFACE_DETECT_SIZE)."""
_NEAR_SIZE_PX = 192
_NEAR_SCALE = 2.0
"""A followed face is looked for in a square of twice its size, scaled to 192 px: it is then 96 px there, in the middle of
what SCRFD sees, at a seventh of the cost of a whole picture."""
_MIN_SCORE = 0.5
_SAME_FACE_OVERLAP = 0.4
"""InsightFace's non-maximum suppression, shared area over joint area."""
_MIN_ASPECT, _MAX_ASPECT = 0.2, 1.5
"""Width over height of a box that can be a face (LatentSync)."""


class InsightFaces:
    """SCRFD and the 106-point network on one core.

    The point network has no score of its own and draws a face on anything. So each frame is asked for its face first, by
    SCRFD on the surroundings of where it was: its score says whether there is one, and its box places the points
    exactly as InsightFace does after a detection. Following and finding thus agree.
    """

    name = "insightface-buffalo_l"

    def __init__(self, models: Mapping[str, bytes]) -> None:
        """models: contents by file name, as `weights.load("latentsync")` returns them.

        Raises ModelFileError when one of the two files is not such a network.
        """
        # Not at the top: it loads 100 MB, and only workers of this model set need it.
        from insightface.app.common import Face
        from insightface.model_zoo.landmark import Landmark
        from insightface.model_zoo.scrfd import SCRFD

        self._face = Face
        self._detector = SCRFD(session=_session(models, "det_10g.onnx", num_outputs=9))
        self._detector.prepare(0, det_thresh=_MIN_SCORE, nms_thresh=_SAME_FACE_OVERLAP)
        points = "2d106det.onnx"
        self._points = Landmark(io.BytesIO(models[points]), session=_session(models, points, num_outputs=1))
        if self._points.lmk_num != 106:
            raise ModelFileError(f"{points}: a network for 106 points expected, this gives {self._points.lmk_num}")

    def detect(self, frame: np.ndarray) -> list[DetectedFace]:
        """Faces of a frame (uint8 [H, W, 3] RGB), each once, best score first."""
        return self._detect(frame, 0, 0, _WHOLE_SIZE_PX)

    def landmarks(self, frame: np.ndarray, prior: DetectedFace | FaceLandmarks) -> FaceLandmarks | None:
        """106 points of the face that `prior` shows, in this frame or in one just before; None: no face is there.

        frame: uint8 [H, W, 3] RGB. Points: float32 [106, 2].
        """
        x0, y0, x1, y1 = prior.box
        half = _NEAR_SCALE * max(x1 - x0, y1 - y0) / 2
        left, top = (max(0, int(middle - half)) for middle in ((x0 + x1) / 2, (y0 + y1) / 2))
        right, bottom = (max(0, int(middle + half) + 1) for middle in ((x0 + x1) / 2, (y0 + y1) / 2))
        near = frame[top:bottom, left:right]
        if near.size == 0:  # it left the picture
            return None
        found = self._detect(near, left, top, _NEAR_SIZE_PX)
        best = max(found, key=lambda face: _shared_area(face, prior), default=None)
        if best is None or _shared_area(best, prior) == 0:
            return None
        points = self._points.get(_bgr(frame), self._face(bbox=np.array(best.box)))
        return FaceLandmarks(np.asarray(points, np.float32), best.score, best.box)

    def alignment_points(self, points: np.ndarray) -> np.ndarray:
        """points [..., 106, 2] -> float32 [..., 3, 2]: mean of the left brow, of the right brow, of the nose."""
        groups = [points[..., index, :2].mean(axis=-2) for index in (_LEFT_BROW, _RIGHT_BROW, _NOSE)]
        return np.stack(groups, axis=-2).astype(np.float32)

    def sync_points(self, points: np.ndarray) -> None:
        """Two of three dimensions and other points: nothing that the judge of lip points could look at."""
        return None

    def _detect(self, picture: np.ndarray, left: int, top: int, size_px: int) -> list[DetectedFace]:
        """Faces of a part of a frame whose corner is at (left, top), in pixels of the frame."""
        boxes, keypoints = self._detector.detect(_bgr(picture), input_size=(size_px, size_px))
        assert keypoints is not None
        faces = []
        for (x0, y0, x1, y1, score), five in zip(boxes.tolist(), keypoints, strict=True):
            if y1 > y0 and _MIN_ASPECT <= (x1 - x0) / (y1 - y0) <= _MAX_ASPECT:
                places = (five + np.array([left, top])).astype(np.float32)
                faces.append(DetectedFace(x0 + left, y0 + top, x1 + left, y1 + top, score, places))
        return faces


def _session(models: Mapping[str, bytes], name: str, num_outputs: int):
    """An ONNX Runtime session on one core, without the warnings that other picture sizes than the graph's own cause."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(models[name], options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no base class of their own
        raise ModelFileError(f"{name}: ONNX Runtime cannot load it: {error}") from error
    if len(session.get_outputs()) != num_outputs:
        found = len(session.get_outputs())
        raise ModelFileError(f"{name}: a network with {num_outputs} outputs expected, this has {found}")
    return session


def _bgr(rgb: np.ndarray) -> np.ndarray:
    """InsightFace takes pictures as OpenCV reads them."""
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)


def _shared_area(a: DetectedFace, b: DetectedFace | FaceLandmarks) -> float:
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = a.box, b.box
    return max(0.0, min(ax1, bx1) - max(ax0, bx0)) * max(0.0, min(ay1, by1) - max(ay0, by0))
