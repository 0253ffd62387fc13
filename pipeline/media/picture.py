"""Turn decoded frames into RGB as people saw them: square pixels, SDR, upright; only where somebody looks."""

from typing import Any

import av
import av.error
import numpy as np
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from lipforge.datasets_manifest.schema import Reason
from lipforge.model.faces.picture import Area, Canvases, Picture
from lipforge.pipeline.media.container import MediaError
from lipforge.pipeline.media.probe import VideoInfo
from lipforge.pipeline.media.tonemap import Light, ToSdr, light_of
from lipforge.pipeline.media.video import SourceFrame

# Shared, because VideoFrame.reformat sets up a scaler per frame, a fifth of the cost. Not thread-safe.
_TO_RGB, _PART_TO_RGB, _TO_DEEP, _DEEP_TO_RGB = (VideoReformatter() for _ in range(4))
_UNSPECIFIED = 2  # ITU-T H.273, of matrix coefficients
HD_HEIGHT_PX = 720
_IN_PARTS = ("yuv420p", "yuvj420p")
"""Formats of which a part becomes the same RGB as within the whole, as each pixel takes the chroma of its own block;
but with an odd number of rows, FFmpeg mixes the chroma of neighbours."""
_BLOCK_PX = 32
"""Parts begin and end at multiples of this, because FFmpeg's vector code handles the rest of a row in another way."""
_SIZE_STEP_PX = 128
"""Their sizes are multiples of this, so that those of a face hardly change: setting up a scaler for another size costs
more than the conversion."""
_MARGIN = 8
"""Parts have at least this fraction of their size more: the next look is nearly at the same place."""


class ToRgb:
    """Converts the frames of one video."""

    def __init__(self, info: VideoInfo) -> None:
        self.peak_nits = info.peak_nits
        self._canvases = Canvases()
        self._to_sdr: tuple[Light, tuple[int, int], ToSdr] | None = None

    def convert(self, frame: SourceFrame) -> Picture:
        """Of the size in the frame's `shape`. It raises MediaError when it is looked at and its format is unknown."""
        image, shape = frame.image, frame.shape
        assert image is not None and shape is not None
        size = shape.width_px, shape.height_px
        light = light_of(image, self.peak_nits)
        is_square = shape.square_size_px == (image.width, image.height)
        # FFmpeg takes the chroma of an interlaced frame from the rows of its own field.
        is_whole_rows = image.height % 2 == 0 and not image.interlaced_frame
        in_parts = light.is_plain and is_square and image.format.name in _IN_PARTS and is_whole_rows

        def convert(area: Area) -> tuple[Area, np.ndarray]:
            if in_parts and not _is_most_of(area, *size):
                stored = _grown(shape.orientation.stored_area(area, *size), image.width, image.height)
                rgb = _plain_rgb(_PART_TO_RGB, _cut_out(image, stored), stored.size_px, image.height)
                return shape.orientation.shown_area(stored, *size), shape.orientation.apply(rgb)
            rgb = self._whole_rgb(image, shape.square_size_px, light)
            return Area(0, 0, *size), shape.orientation.apply(rgb)

        return Picture(*size, convert, self._canvases)

    def _whole_rgb(self, image: av.VideoFrame, size_px: tuple[int, int], light: Light) -> np.ndarray:
        """Raises MediaError for pixel formats that cannot be read."""
        try:
            if light.is_plain:
                return _plain_rgb(_TO_RGB, image, size_px, image.height)
            matrix = Colorspace.BT2020 if image.colorspace == _UNSPECIFIED else None
            deep = _scaled(_TO_DEEP, image, size_px, "gbrp16le", matrix)
            return _DEEP_TO_RGB.reformat(self._tone_mapped(deep, light), format="rgb24").to_ndarray()
        except (av.error.FFmpegError, ValueError) as error:
            raise MediaError(Reason.DECODE_ERROR, f"pictures of format {image.format.name} cannot be read") from error

    def _tone_mapped(self, picture: av.VideoFrame, light: Light) -> av.VideoFrame:
        size = picture.width, picture.height
        if self._to_sdr is None or self._to_sdr[:2] != (light, size):
            self._to_sdr = light, size, ToSdr(light, *size)
        return self._to_sdr[2].apply(picture)


def _plain_rgb(
    reformatter: VideoReformatter, image: av.VideoFrame, size_px: tuple[int, int], video_height_px: int
) -> np.ndarray:
    # Untagged HD video is BT.709 by convention; swscale would assume BT.601.
    is_hd = image.colorspace == _UNSPECIFIED and video_height_px >= HD_HEIGHT_PX
    return _scaled(reformatter, image, size_px, "rgb24", Colorspace.ITU709 if is_hd else None).to_ndarray()


def _scaled(
    reformatter: VideoReformatter, image: av.VideoFrame, size_px: tuple[int, int], to: str, matrix: Colorspace | None
) -> av.VideoFrame:
    """In one step with the conversion, so square pixels cost nothing more."""
    stretched = Interpolation.BICUBIC if size_px != (image.width, image.height) else None
    return reformatter.reformat(image, *size_px, format=to, src_colorspace=matrix, interpolation=stretched)


def _is_most_of(area: Area, width: int, height: int) -> bool:
    """Whether the whole is converted as fast as this area of it."""
    return 3 * (area.right - area.left) * (area.bottom - area.top) > 2 * width * height


def _grown(area: Area, width: int, height: int) -> Area:
    """To whole blocks, and a size that is a multiple of _SIZE_STEP_PX where the picture is large enough."""
    left, right = _grown_side(area.left, area.right, width)
    top, bottom = _grown_side(area.top, area.bottom, height)
    return Area(left, top, right, bottom)


def _grown_side(first: int, end: int, length: int) -> tuple[int, int]:
    wanted = end - first
    size = -(-(wanted + wanted // _MARGIN + _BLOCK_PX) // _SIZE_STEP_PX) * _SIZE_STEP_PX
    first = max(0, first - (size - wanted - _BLOCK_PX) // 2)
    if first + size >= length:
        return max(0, length - size) // _BLOCK_PX * _BLOCK_PX, length
    first = first // _BLOCK_PX * _BLOCK_PX
    return first, first + size


def _cut_out(image: av.VideoFrame, area: Area) -> av.VideoFrame:
    """A part of a 4:2:0 picture as a picture of its own. The area begins at even places."""
    part = av.VideoFrame(*area.size_px, image.format.name)
    part.colorspace, part.color_range = image.colorspace, image.color_range
    planes: Any = zip(image.planes, part.planes, strict=True)  # its stubs do not tell that planes are buffers
    for index, (whole, cut) in enumerate(planes):
        left, top, right, bottom = (-(-edge // 2) for edge in area) if index else area
        rows, to = (np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size) for plane in (whole, cut))
        to[: bottom - top, : right - left] = rows[top:bottom, left:right]
    return part
