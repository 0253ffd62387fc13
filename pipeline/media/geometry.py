"""How stored pictures are shown: stretched to square pixels, then mirrored and turned upright."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np

from lipforge.model.faces.picture import Area
from lipforge.pipeline.media.side_data import side_data

SAME_SHAPE = 0.01
"""Proportions that differ by less are one shape: encoders round the sides of a scaled picture to even numbers."""
WIDEST_PIXEL = 4
"""A pixel wider or taller than this many times its other side is a fault of the header."""
LONGEST_SIDE_PX = 16_384

_TURN = np.array([[0, -1], [1, 0]])  # a quarter turn clockwise; x points right, y down
_MIRROR = np.array([[-1, 0], [0, 1]])
_TURNS = {1: cv2.ROTATE_90_CLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_COUNTERCLOCKWISE}


@dataclass(frozen=True)
class Orientation:
    """What makes a stored picture upright: first mirrored from left to right, then turned."""

    quarter_turns: int = 0
    """Clockwise, 0 to 3."""
    mirrored: bool = False

    def apply(self, rgb: np.ndarray) -> np.ndarray:
        """rgb: uint8 [H, W, 3] -> the same picture upright."""
        if self.mirrored:
            rgb = cv2.flip(rgb, 1)
        return cv2.rotate(rgb, _TURNS[self.quarter_turns]) if self.quarter_turns else rgb

    def shown_area(self, stored: Area, width_px: int, height_px: int) -> Area:
        """Where an area of the stored picture is in the upright one. width_px, height_px: of the upright picture."""
        left, top, right, bottom = stored
        turned = bool(self.quarter_turns % 2)
        width, height = (height_px, width_px) if turned else (width_px, height_px)
        if self.mirrored:
            left, right = width - right, width - left
        for _ in range(self.quarter_turns):
            left, top, right, bottom = height - bottom, left, height - top, right
            width, height = height, width
        return Area(left, top, right, bottom)

    def stored_area(self, shown: Area, width_px: int, height_px: int) -> Area:
        """The inverse of `shown_area`."""
        left, top, right, bottom = shown
        width, height = width_px, height_px
        for _ in range(self.quarter_turns):
            left, top, right, bottom = top, width - right, bottom, width - left
            width, height = height, width
        if self.mirrored:
            left, right = width - right, width - left
        return Area(left, top, right, bottom)


UPRIGHT = Orientation()
_ORIENTATIONS = [Orientation(turns, mirrored) for mirrored in (False, True) for turns in range(4)]


@dataclass(frozen=True)
class PictureShape:
    """Of one stored picture."""

    width_px: int
    """As displayed: square pixels, upright."""
    height_px: int
    square_size_px: tuple[int, int]
    """Width and height in square pixels, before it is turned."""
    orientation: Orientation = UPRIGHT

    def is_like(self, width_px: float, height_px: float) -> bool:
        """True when it has about the proportions of width_px by height_px."""
        return abs(self.width_px * height_px / (self.height_px * width_px) - 1) <= SAME_SHAPE


class ShapeReader:
    """Reads the shape of each decoded frame of a stream, in presentation order."""

    def __init__(self, stream: Any) -> None:
        self._codec = stream.codec_context
        self._of_container = stream.sample_aspect_ratio  # of the codec, where the container says nothing
        self._first_of_codec: Fraction | None = self._codec.sample_aspect_ratio
        self._ratio: Fraction | None = None
        self._matrix: bytes | None = None
        self._known: dict[tuple[Any, ...], PictureShape] = {}

    def shape_of(self, frame: av.VideoFrame) -> PictureShape:
        matrix = side_data(frame, "DISPLAYMATRIX")
        if self._ratio is None or frame.key_frame:
            # Decoders hold pictures back, so theirs may already be the ratio of a later one: it changes at key frames.
            self._ratio = self._pixel_ratio()
            self._matrix = None  # one in the video stream holds until the next key frame (H.264, display orientation)
        if matrix is not None:
            self._matrix = bytes(matrix)
        key = (frame.width, frame.height, self._ratio, self._matrix)
        if key not in self._known:
            self._known[key] = picture_shape(*key)
        return self._known[key]

    def _pixel_ratio(self) -> Fraction:
        """The container's ratio, unless the stream itself changes its own in the middle."""
        now = self._codec.sample_aspect_ratio
        self._first_of_codec = self._first_of_codec or now
        changed = bool(now) and now != self._first_of_codec
        return (now if changed else self._of_container or now) or Fraction(1)


def picture_shape(width_px: int, height_px: int, pixel_ratio: Fraction, matrix: bytes | None) -> PictureShape:
    """Shape of a stored picture. pixel_ratio: width over height of a pixel. matrix: as in `orientation_of`."""
    square = square_size(width_px, height_px, pixel_ratio)
    orientation = UPRIGHT if matrix is None else orientation_of(matrix)
    width_px, height_px = square[::-1] if orientation.quarter_turns % 2 else square
    return PictureShape(width_px, height_px, square, orientation)


def square_size(width_px: int, height_px: int, pixel_ratio: Fraction) -> tuple[int, int]:
    """Width and height in square pixels: the coarser direction is stretched, so no detail is lost.

    pixel_ratio: width over height of a pixel. One that cannot be meant leaves the size as it is.
    """
    believable = Fraction(1, WIDEST_PIXEL) <= pixel_ratio <= WIDEST_PIXEL
    if not believable or abs(pixel_ratio - 1) <= SAME_SHAPE:
        return width_px, height_px
    if pixel_ratio > 1:
        square = round(width_px * pixel_ratio), height_px
    else:
        square = width_px, round(height_px / pixel_ratio)
    return square if max(square) <= LONGEST_SIDE_PX else (width_px, height_px)


def orientation_of(matrix: bytes) -> Orientation:
    """The orientation nearest to a display matrix; upright for one that shows no picture.

    matrix: nine native int32, rows (a b u) (c d v) (x y w): the stored point (p, q) is shown at (a p + c q, b p + d q)
    (ISO/IEC 14496-12, tkhd; FFmpeg attaches what other containers and codecs say in the same form).
    """
    a, b, _, c, d, *_ = np.frombuffer(matrix, np.int32, 9).astype(np.float64)
    shown = np.array([[a, c], [b, d]])
    size = np.linalg.norm(shown)
    if size == 0 or abs(np.linalg.det(shown)) < 1e-3 * size**2:
        return UPRIGHT
    return max(_ORIENTATIONS, key=lambda orientation: float((shown * _as_matrix(orientation)).sum()))


def _as_matrix(orientation: Orientation) -> np.ndarray:
    turned = np.linalg.matrix_power(_TURN, orientation.quarter_turns)
    return turned @ _MIRROR if orientation.mirrored else turned
