"""The built-in face backend: BlazeFace detects faces, FaceMesh places 468 landmarks, both run by LiteRT on one core.

Detection is only needed to find new or lost faces. In between, a face is followed by passing the landmarks of the
previous frame to `landmarks`.

Published by Google: BlazeFace (Bazarevsky et al. 2019, arXiv 1907.05047), FaceMesh (Kartynnik et al. 2019,
arXiv 1907.06724). Anchor layout, box decoding and crop conventions follow MediaPipe (Apache-2.0).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from ai_edge_litert.interpreter import Interpreter

from lipforge.model.faces.boxes import overlap_of_smaller
from lipforge.model.faces.face import DetectedFace, FaceLandmarks, Outlines
from lipforge.model.faces.lip_points import INNER_LIP, OUTER_LIP, SYNC_LANDMARKS
from lipforge.model.faces.picture import Picture

# FaceMesh point indices. "Left" is always the left of the image.
_LEFT_EYE_CORNER, _RIGHT_EYE_CORNER = 33, 263
_LEFT_BROW = (70, 63, 105, 66, 107)
_RIGHT_BROW = (300, 293, 334, 296, 336)
"""Upper edges of the brows: points 17..21 and 22..26 of the 68-point scheme."""
_NOSE = (168, 197, 5, 4, 129, 98, 2, 327, 358)
"""Bridge, wings and base of the nose: points 27..35 of the 68-point scheme."""
_OVAL = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)
"""The outline of the face, clockwise from the top of the forehead (MediaPipe's FACEMESH_FACE_OVAL)."""


def alignment_points(points: np.ndarray) -> np.ndarray:
    """The three points that define the aligned crop.

    points: float [..., 468, 3] FaceMesh points.
    Returns float32 [..., 3, 2]: means of the image-left brow, of the image-right brow and of the nose.
    """
    groups = [points[..., index, :2].mean(axis=-2) for index in (_LEFT_BROW, _RIGHT_BROW, _NOSE)]
    return np.stack(groups, axis=-2).astype(np.float32)


def outlines(points: np.ndarray) -> Outlines:
    """points: float [T, 468, 3] FaceMesh points."""
    return Outlines(*(points[:, index, :2].astype(np.float32) for index in (OUTER_LIP, INNER_LIP, _OVAL)))


class MediaPipeFaces:
    """BlazeFace and FaceMesh on one core."""

    name = "mediapipe-blazeface-facemesh"

    def __init__(self, models: Mapping[str, bytes]) -> None:
        """models: contents by file name, as `weights.load("builtin")` returns them."""
        self._close_up = _BlazeFace(models["face_detection_short_range.tflite"], strides=(8, 16, 16, 16))
        self._general = _BlazeFace(models["face_detection_back.tflite"], strides=(16, 32, 32, 32))
        self._mesh = _Network(models["face_landmark.tflite"])

    def detect(self, picture: Picture) -> list[DetectedFace]:
        """Each face once, best score first, from a height of about 35 px in 1080 lines up to the whole picture.

        None in a picture of less than 32 px across or down: covering a thin strip takes hundreds of tiles.
        """
        if min(picture.size_px) < _MIN_SIDE_PX:
            return []
        frame = picture.whole()
        full_height, full_width = frame.shape[:2]
        shrink = min(1.0, self._general.size_px / min(full_height, full_width))
        if shrink < 1:  # one resize; tiles then match the network input pixel for pixel
            small = max(1, round(full_width * shrink)), max(1, round(full_height * shrink))
            frame = cv2.resize(frame, small, interpolation=cv2.INTER_AREA)
        height, width = frame.shape[:2]
        short, long = sorted((height, width))
        whole = _Square((width - long) // 2, (height - long) // 2, long)
        found = self._close_up.detect(frame, whole) + self._general.detect(frame, whole)
        if long > short:
            for tile in _cover(width, height, short):
                found += _whole_faces(self._general.detect(frame, tile), tile, width, height)
        return [_scaled(face, full_width / width, full_height / height) for face in _suppress(found)]

    def landmarks(self, picture: Picture, prior: DetectedFace | FaceLandmarks) -> FaceLandmarks | None:
        """FaceMesh on a square of the picture, rotated so that the eyes are level.

        A detected box is rough, so its landmarks are refined from their own result.
        """
        if isinstance(prior, FaceLandmarks):
            return self._mesh_points(picture, _roi_of_landmarks(prior))
        placed = self._mesh_points(picture, _roi_of_detection(prior))
        for _ in range(_NUM_REFINEMENTS):
            if placed is None:
                return None
            placed = self._mesh_points(picture, _roi_of_landmarks(placed))
        return placed

    def alignment_points(self, points: np.ndarray) -> np.ndarray:
        return alignment_points(points)

    def sync_points(self, points: np.ndarray) -> np.ndarray:
        return points[:, SYNC_LANDMARKS]

    def outlines(self, points: np.ndarray) -> Outlines:
        """20, 20 and 36 points."""
        return outlines(points)

    def _mesh_points(self, picture: Picture, to_frame: np.ndarray) -> FaceLandmarks | None:
        """to_frame: float64 [2, 3], maps pixels of the network's input to pixels of the picture."""
        crop = picture.warp(to_frame, self._mesh.size_px, inverse=True, border=cv2.BORDER_CONSTANT)
        raw_points, raw_score = self._mesh(crop.astype(np.float32) / 255)
        score = float(_sigmoid(raw_score.ravel()[0]))
        if score < _MIN_FACE_PRESENCE:
            return None
        in_crop = raw_points.reshape(468, 3).astype(np.float64)
        points = np.empty_like(in_crop)
        points[:, :2] = in_crop[:, :2] @ to_frame[:, :2].T + to_frame[:, 2]
        points[:, 2] = in_crop[:, 2] * np.hypot(to_frame[0, 0], to_frame[1, 0])
        return FaceLandmarks(points.astype(np.float32), score)


_NUM_REFINEMENTS = 2
_MIN_FACE_PRESENCE = 0.5
"""FaceMesh's own score, as MediaPipe uses it."""
_MIN_DETECTION_SCORE = 0.5
_MIN_SIDE_PX = 32
_TILE_OVERLAP = 0.2
"""Share of a tile's side. A face up to this size is whole in some tile; larger ones are found in the full frame."""


class _Network:
    """A TFLite model with one square image as input."""

    def __init__(self, content: bytes) -> None:
        self._interpreter = Interpreter(model_content=content, num_threads=1)
        self._interpreter.allocate_tensors()
        (detail,) = self._interpreter.get_input_details()
        self._input = detail["index"]
        self._outputs = [detail["index"] for detail in self._interpreter.get_output_details()]
        self.size_px = int(detail["shape"][1])

    def __call__(self, image: np.ndarray) -> list[np.ndarray]:
        self._interpreter.set_tensor(self._input, image[None])
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]


@dataclass(frozen=True)
class _Square:
    """A square in pixels of the frame; may extend beyond it."""

    x0: int
    y0: int
    side: int


class _BlazeFace:
    """One of the BlazeFace detectors."""

    def __init__(self, content: bytes, strides: Sequence[int]) -> None:
        self._network = _Network(content)
        self.size_px = self._network.size_px
        self._anchors = _anchor_centres(self.size_px, strides)

    def detect(self, frame: np.ndarray, square: _Square) -> list[DetectedFace]:
        """Candidates in a square of the frame, several per face."""
        size = self.size_px
        image = _resample(frame, square, size)
        raw_boxes, raw_scores = self._network(image.astype(np.float32) / 127.5 - 1)
        scores = _sigmoid(raw_scores.reshape(-1).astype(np.float64))
        chosen = np.flatnonzero(scores >= _MIN_DETECTION_SCORE)
        # per anchor: centre, size, then six keypoints, in pixels of the input, relative to the anchor
        values = raw_boxes.reshape(-1, 8, 2)[chosen].astype(np.float64)
        values[:, 0] += self._anchors[chosen]
        values[:, 2:] += self._anchors[chosen, None]
        values *= square.side / size
        origin = np.array([square.x0, square.y0])
        faces = []
        for value, score in zip(values, scores[chosen], strict=True):
            x0, y0 = value[0] - value[1] / 2 + origin
            x1, y1 = value[0] + value[1] / 2 + origin
            faces.append(DetectedFace(x0, y0, x1, y1, float(score), (value[2:] + origin).astype(np.float32)))
        return faces


def _anchor_centres(size_px: int, strides: Sequence[int]) -> np.ndarray:
    """float64 [A, 2]: x, y of each anchor in pixels of the input, in the order of the network's output.

    Each layer has two anchors per cell; layers of equal stride are interleaved (MediaPipe's SsdAnchorsCalculator).
    """
    anchors = []
    for stride in dict.fromkeys(strides):
        count = size_px // stride
        centres = (np.arange(count) + 0.5) * stride
        cells = np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2)
        anchors.append(np.repeat(cells, 2 * strides.count(stride), axis=0))
    return np.concatenate(anchors)


def _resample(frame: np.ndarray, square: _Square, size_px: int) -> np.ndarray:
    """uint8 [size, size, 3]: the square scaled to the network's input, black outside the frame."""
    height, width = frame.shape[:2]
    scale = size_px / square.side
    x0, y0 = max(0, square.x0), max(0, square.y0)
    x1, y1 = min(width, square.x0 + square.side), min(height, square.y0 + square.side)
    part = frame[y0:y1, x0:x1]
    inside = max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale))
    image = np.zeros((size_px, size_px, 3), np.uint8)
    left, top = round((x0 - square.x0) * scale), round((y0 - square.y0) * scale)
    inside = min(inside[0], size_px - left), min(inside[1], size_px - top)
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    image[top : top + inside[1], left : left + inside[0]] = cv2.resize(part, inside, interpolation=interpolation)
    return image


def _cover(width: int, height: int, side: int) -> list[_Square]:
    """Overlapping squares that cover the frame."""

    def starts(length: int) -> list[int]:
        if length <= side:
            return [0]
        count = int(np.ceil((length - side) / (side * (1 - _TILE_OVERLAP)))) + 1
        return [round(start) for start in np.linspace(0, length - side, count)]

    return [_Square(x0, y0, side) for y0 in starts(height) for x0 in starts(width)]


def _whole_faces(faces: list[DetectedFace], square: _Square, width: int, height: int) -> list[DetectedFace]:
    """Drop faces cut by a tile's inner border: another tile shows them whole."""

    def is_whole(face: DetectedFace) -> bool:
        return (
            (face.x0 > square.x0 or square.x0 <= 0)
            and (face.y0 > square.y0 or square.y0 <= 0)
            and (face.x1 < square.x0 + square.side or square.x0 + square.side >= width)
            and (face.y1 < square.y0 + square.side or square.y0 + square.side >= height)
        )

    return [face for face in faces if is_whole(face)]


def _suppress(faces: list[DetectedFace]) -> list[DetectedFace]:
    """One face per group of overlapping candidates: their mean, weighted by score (BlazeFace's blending).

    Candidates come from several scales, so a small box inside a large one counts as the same face.
    """
    rest = sorted(faces, key=lambda face: face.score, reverse=True)
    merged = []
    while rest:
        best = rest[0]
        same = [face for face in rest if overlap_of_smaller(best.box, face.box) > 0.4]
        weights = np.array([face.score for face in same])
        x0, y0, x1, y1 = np.average([face.box for face in same], axis=0, weights=weights).tolist()
        keypoints = np.average([face.keypoints for face in same], axis=0, weights=weights).astype(np.float32)
        merged.append(DetectedFace(x0, y0, x1, y1, best.score, keypoints))
        rest = [face for face in rest if overlap_of_smaller(best.box, face.box) <= 0.4]
    return merged


def _scaled(face: DetectedFace, across: float, down: float) -> DetectedFace:
    keypoints = (face.keypoints * [across, down]).astype(np.float32)
    return DetectedFace(face.x0 * across, face.y0 * down, face.x1 * across, face.y1 * down, face.score, keypoints)


_ROI_SCALE = 1.5
_ROI_SIZE_PX = 192


def _roi_of_detection(face: DetectedFace) -> np.ndarray:
    centre = np.array([face.x0 + face.x1, face.y0 + face.y1]) / 2
    side = _ROI_SCALE * max(face.x1 - face.x0, face.y1 - face.y0)
    left_eye, right_eye = face.keypoints[:2].astype(np.float64)
    return _crop_to_frame(centre, side, right_eye - left_eye)


def _roi_of_landmarks(face: FaceLandmarks) -> np.ndarray:
    points = face.points[:, :2].astype(np.float64)
    eye_line = points[_RIGHT_EYE_CORNER] - points[_LEFT_EYE_CORNER]
    # Extent along and across the eye line, so that a tilted head does not get a larger square.
    along = eye_line / max(float(np.hypot(*eye_line)), 1e-6)
    axes = np.array([along, [-along[1], along[0]]])
    turned = points @ axes.T
    low, high = turned.min(axis=0), turned.max(axis=0)
    return _crop_to_frame((low + high) / 2 @ axes, _ROI_SCALE * float((high - low).max()), eye_line)


def _crop_to_frame(centre: np.ndarray, side: float, eye_line: np.ndarray) -> np.ndarray:
    """float64 [2, 3]: maps pixels of the upright square crop to pixels of the frame."""
    angle = np.arctan2(eye_line[1], eye_line[0])
    scale = side / _ROI_SIZE_PX
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]])
    return np.column_stack([turn, centre - turn @ np.array([_ROI_SIZE_PX / 2, _ROI_SIZE_PX / 2])])


def _sigmoid(value):
    return 1 / (1 + np.exp(-np.clip(value, -80, 80)))
