"""A frame of which only the parts that are looked at are converted to RGB.

A face covers a tenth of a picture, and converting all of a picture costs a third of what decoding it does. Whoever
looks at one says where, so that nobody can see pixels that are not there yet.
"""

import sys
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np


class Area(NamedTuple):
    """Pixels [left, right) x [top, bottom) of a picture."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size_px(self) -> tuple[int, int]:
        """(width, height)"""
        return self.right - self.left, self.bottom - self.top

    def holds(self, other: "Area") -> bool:
        return (
            self.left <= other.left
            and self.top <= other.top
            and self.right >= other.right
            and self.bottom >= other.bottom
        )


Convert = Callable[[Area], tuple[Area, np.ndarray]]
"""From an area to one that holds it, and its pixels: uint8 [h, w, 3] RGB."""


class Canvases:
    """Memory for pictures, used again once nobody looks at the picture: new memory costs as much as converting."""

    def __init__(self) -> None:
        self._known: list[np.ndarray] = []

    def take(self, width_px: int, height_px: int) -> np.ndarray:
        """uint8 [H, W, 3], of any content."""
        self._known = [canvas for canvas in self._known if canvas.shape == (height_px, width_px, 3)]
        for canvas, held in zip(self._known, _references(self._known), strict=True):
            if held == _HELD_HERE:
                return canvas
        canvas = np.empty((height_px, width_px, 3), np.uint8)
        if len(self._known) < _MAX_CANVASES:
            self._known.append(canvas)
        return canvas


def _references(canvases: list[np.ndarray]) -> list[int]:
    """To each of these, views included."""
    return [sys.getrefcount(canvas) for canvas in canvases]


_MAX_CANVASES = 8
(_HELD_HERE,) = _references([np.empty(0)])
"""References to a canvas that only a list holds: how many the count itself adds depends on the version of Python."""


class Picture:
    """RGB pixels, uint8 [H, W, 3], upright. The same picture is the same object: compare with `is`."""

    def __init__(self, width_px: int, height_px: int, convert: Convert, canvases: "Canvases | None" = None) -> None:
        self.width_px, self.height_px = width_px, height_px
        self._convert: Convert | None = convert
        self._canvases = canvases or Canvases()
        self._rgb: np.ndarray | None = None
        self._converted: list[Area] = []

    @classmethod
    def of(cls, rgb: np.ndarray) -> "Picture":
        """Of pixels that are there already. rgb: uint8 [H, W, 3]."""
        height, width = rgb.shape[:2]
        all_of_it = Area(0, 0, width, height)
        return cls(width, height, lambda area: (all_of_it, rgb))

    @property
    def size_px(self) -> tuple[int, int]:
        """(width, height)"""
        return self.width_px, self.height_px

    def whole(self) -> np.ndarray:
        """uint8 [H, W, 3], not to be written to."""
        return self.part(Area(0, 0, *self.size_px))

    def part(self, area: Area) -> np.ndarray:
        """uint8 [h, w, 3], not to be written to: the pixels of an area inside the picture."""
        left, top, right, bottom = area
        return self._with(area)[top:bottom, left:right]

    def warp(self, matrix: np.ndarray, side_px: int, *, inverse: bool = False, border: int) -> np.ndarray:
        """uint8 [side, side, 3]: cv2.warpAffine with linear interpolation.

        matrix: float [2, 3], from pixels of this picture to those of the result; with `inverse`, the other way round.
        border: OpenCV's border mode, for what lies outside the picture.
        """
        to_picture = matrix if inverse else cv2.invertAffineTransform(np.asarray(matrix, np.float64))
        last = side_px - 1.0
        corners = np.array([[0.0, 0.0], [last, 0.0], [0.0, last], [last, last]]) @ to_picture[:, :2].T
        corners += to_picture[:, 2]
        # Two pixels more: for the neighbours that are mixed, and for rounding.
        low = np.floor(corners.min(axis=0)) - 2
        high = np.ceil(corners.max(axis=0)) + 3
        size = np.array(self.size_px)
        left, top = np.clip(low, 0, size - 1).astype(int).tolist()
        right, bottom = np.clip(high, 1, size).astype(int).tolist()
        flags = cv2.INTER_LINEAR | (cv2.WARP_INVERSE_MAP if inverse else 0)
        rgb = self._with(Area(left, top, right, bottom))
        return cv2.warpAffine(rgb, matrix, (side_px, side_px), flags=flags, borderMode=border)

    def _with(self, area: Area) -> np.ndarray:
        """The pixels of the whole picture, of which at least this area is converted."""
        if not any(known.holds(area) for known in self._converted):
            assert self._convert is not None
            found, rgb = self._convert(area)
            assert found.holds(area)
            self._converted.append(found)
            if found == (0, 0, *self.size_px):
                self._rgb, self._convert = rgb, None  # and with it goes the decoder's picture
            else:
                if self._rgb is None:
                    self._rgb = self._canvases.take(self.width_px, self.height_px)
                self._rgb[found.top : found.bottom, found.left : found.right] = rgb
        assert self._rgb is not None
        return self._rgb
