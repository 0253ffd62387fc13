"""The aligned face of a picture, and a face put back: between the pixels of a frame and those of a crop.

The crop is the one that training sees (stages/align.py). Both ways are one interpolation each, from and to the stored
picture: turned, mirrored or stretched pictures cost nothing more.
"""

from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from lipforge.model.faces.alignment import crop_corners
from lipforge.pipeline.infer.planes import Colours, blend_into, even_region, region_of
from lipforge.pipeline.media.geometry import PictureShape
from lipforge.pipeline.media.tonemap import Light, ToSdr

_MARGIN_PX = 4
"""Around the region that is converted: what the kernels reach beyond it."""
_MIN_ALPHA = 1 / 512
"""A share that changes no 8-bit value by more than half a step."""
# Shared: setting one up costs more than the conversion. Not thread-safe.
_TO_RGB, _TO_DEEP, _DEEP_TO_RGB = VideoReformatter(), VideoReformatter(), VideoReformatter()


def stored_to_shown(shape: PictureShape, width_px: int, height_px: int) -> np.ndarray:
    """float64 [2, 3]: pixels of the stored picture of width_px by height_px to pixels of the picture as it is shown."""
    across, down = shape.square_size_px[0] / width_px, shape.square_size_px[1] / height_px
    matrix = np.array([[across, 0, (across - 1) / 2], [0, down, (down - 1) / 2]])
    width, height = shape.square_size_px
    if shape.orientation.mirrored:
        matrix = _after(np.array([[-1.0, 0, width - 1], [0, 1, 0]]), matrix)
    for _ in range(shape.orientation.quarter_turns):
        matrix = _after(np.array([[0.0, -1, height - 1], [1, 0, 0]]), matrix)
        width, height = height, width
    return matrix


def _after(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The affine map that applies `first`, then `second`; each [2, 3]."""
    return np.column_stack([second[:, :2] @ first[:, :2], second[:, :2] @ first[:, 2] + second[:, 2]])


class Cropper:
    """Crops of one size. Keeps the tables that HDR needs."""

    def __init__(self, resolution: int) -> None:
        self.resolution = resolution
        self._to_sdr: dict[Light, ToSdr] = {}

    def take(self, image: av.VideoFrame, to_crop: np.ndarray, colours: Colours) -> np.ndarray:
        """The aligned face: uint8 [R, R, 3] RGB. to_crop: [2, 3], pixels of the stored picture to those of the crop."""
        size = self.resolution
        corners = crop_corners(to_crop, size)
        low, high = corners.min(axis=0) - _MARGIN_PX, corners.max(axis=0) + _MARGIN_PX
        left, top, right, bottom = even_region(image, *low, *high)
        if right <= left or bottom <= top:
            left, top, right, bottom = even_region(image, 0, 0, 8, 8)  # the face is outside: repeat the corner
        part = region_of(image, left, top, right, bottom)
        plain = colours.light.is_plain
        converter, to = (_TO_RGB, "rgb24") if plain else (_TO_DEEP, "gbrp16le")
        rgb = converter.reformat(part, format=to, src_colorspace=colours.source_matrix, threads=1).to_ndarray()
        # As in training: large faces are averaged down first, then one linear interpolation.
        step = max(1, int(1 / np.sqrt(abs(np.linalg.det(to_crop[:, :2])))))
        if step > 1:
            columns, rows = max(1, rgb.shape[1] // step), max(1, rgb.shape[0] // step)
            inner = rgb[: rows * step, : columns * step]
            rgb = cv2.resize(inner, (columns, rows), interpolation=cv2.INTER_AREA)
        offset = np.array([left, top]) + (step - 1) / 2
        from_part = np.column_stack([to_crop[:, :2] * step, to_crop[:, :2] @ offset + to_crop[:, 2]])
        crop = cv2.warpAffine(rgb, from_part, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return crop if plain else self._tone_mapped(crop, colours.light)

    def _tone_mapped(self, deep: np.ndarray, light: Light) -> np.ndarray:
        if light not in self._to_sdr:
            self._to_sdr[light] = ToSdr(light, self.resolution, self.resolution)
        picture = av.VideoFrame.from_ndarray(deep, format="gbrp16le")
        return _DEEP_TO_RGB.reformat(self._to_sdr[light].apply(picture), format="rgb24", threads=1).to_ndarray()


def paste(image: av.VideoFrame, to_crop: np.ndarray, face: np.ndarray, alpha: np.ndarray, colours: Colours) -> None:
    """Put a face into a picture, in the picture's own numbers. Where alpha is 0 nothing changes, to the bit.

    image: writable; to_crop: as for `Cropper.take`; face: float32 [R, R, 3] RGB in 0..255; alpha: float32 [R, R] in
    0..1, the share of the face.
    """
    rows, columns = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
    if not len(rows):
        return
    box = np.array([[columns[0], rows[0]], [columns[-1], rows[0]], [columns[-1], rows[-1]], [columns[0], rows[-1]]])
    corners = (box - to_crop[:, 2]) @ np.linalg.inv(to_crop[:, :2]).T
    left, top, right, bottom = even_region(image, *(corners.min(axis=0) - 1), *(corners.max(axis=0) + 2))
    if right <= left or bottom <= top:
        return
    scale = np.sqrt(abs(np.linalg.det(to_crop[:, :2])))
    if scale > 1:  # the crop is larger than the face: averaged down, so that nothing aliases
        size = max(8, round(len(alpha) / scale))
        shrink = size / len(alpha)
        face = cv2.resize(face, (size, size), interpolation=cv2.INTER_AREA)
        alpha = cv2.resize(alpha, (size, size), interpolation=cv2.INTER_AREA)
        to_crop = np.column_stack([to_crop[:, :2] * shrink, (to_crop[:, 2] + 0.5) * shrink - 0.5])
    from_region = np.column_stack([to_crop[:, :2], to_crop[:, :2] @ [left, top] + to_crop[:, 2]])
    size_px = right - left, bottom - top
    inverse: Any = cv2.WARP_INVERSE_MAP
    shown = cv2.warpAffine(face, from_region, size_px, flags=cv2.INTER_CUBIC | inverse, borderMode=cv2.BORDER_REPLICATE)
    share = cv2.warpAffine(alpha, from_region, size_px, flags=cv2.INTER_LINEAR | inverse)
    share[share < _MIN_ALPHA] = 0
    blend_into(image, left, top, np.clip(shown, 0, 255), share, colours)
