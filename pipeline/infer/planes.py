"""The planes of a decoded picture as arrays, and colours as the numbers in them.

Only planar formats are known here: YUV, gray and GBR of 8 to 16 bits. Formats of other kinds are converted before
(media/output).
"""

from dataclasses import dataclass
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import Colorspace

from lipforge.pipeline.media.picture import HD_HEIGHT_PX
from lipforge.pipeline.media.tonemap import Light, from_sdr, light_of

_FULL_RANGE = 2  # AVCOL_RANGE_JPEG
_RGB, _UNSPECIFIED = 0, 2  # ITU-T H.273, matrix coefficients
_LUMA_WEIGHTS = {  # of red and blue, by matrix coefficients (H.273)
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
    10: (0.2627, 0.0593),
}


@dataclass(frozen=True)
class Colours:
    """How the numbers of a picture mean colours."""

    bits: int
    is_full_range: bool
    matrix: int
    """H.273 matrix coefficients; 0: red, green and blue are stored."""
    light: Light

    @property
    def source_matrix(self) -> Colorspace | None:
        """For the conversion to RGB, where a picture does not say: HD is BT.709, smaller is BT.601."""
        return {1: Colorspace.ITU709, 9: Colorspace.BT2020}.get(self.matrix)

    def codes(self, rgb: np.ndarray, is_gray: bool) -> list[np.ndarray]:
        """SDR colours as the values of each component, not rounded: Y, Cb, Cr; or G, B, R; or Y.

        rgb: float32 [H, W, 3] in 0..255.
        """
        values = rgb / np.float32(255)
        if not self.light.is_plain:
            values = from_sdr(values, self.light).astype(np.float32)
        full = np.float32((1 << self.bits) - 1)
        red, green, blue = values[..., 0], values[..., 1], values[..., 2]
        if self.matrix == _RGB and not is_gray:
            return [channel * full for channel in (green, blue, red)]
        of_red, of_blue = _LUMA_WEIGHTS.get(self.matrix, _LUMA_WEIGHTS[6])
        luma = of_red * red + (1 - of_red - of_blue) * green + of_blue * blue
        unit = np.float32(1 << (self.bits - 8))
        scale, offset, chroma_scale = (full, 0.0, full) if self.is_full_range else (219 * unit, 16 * unit, 224 * unit)
        found = [luma * scale + offset]
        if not is_gray:
            middle = np.float32(1 << (self.bits - 1))
            for channel, weight in ((blue, of_blue), (red, of_red)):
                found.append((channel - luma) * (chroma_scale / (2 - 2 * weight)) + middle)
        return [np.asarray(part, np.float32) for part in found]


def colours_of(image: av.VideoFrame, peak_nits: float) -> Colours:
    """peak_nits: VideoInfo's."""
    matrix = int(image.colorspace)
    light = light_of(image, peak_nits)
    if image.format.is_rgb:
        matrix = _RGB
    elif matrix == _UNSPECIFIED:
        wide = not light.is_plain
        matrix = 9 if wide else 1 if image.height >= HD_HEIGHT_PX else 6
    # swscale, with which crops are taken, knows gray as full range only.
    always_full = image.format.name.startswith(("yuvj", "gray")) or image.format.is_rgb
    is_full = always_full or int(image.color_range) == _FULL_RANGE
    return Colours(image.format.components[0].bits, is_full, matrix, light)


def is_planar(format_: Any) -> bool:
    """Whether each component of a picture of this format has a plane of its own, and none is an alpha channel."""
    planes = [component.plane for component in format_.components]
    return len(set(planes)) == len(planes) and len(planes) in (1, 3) and not format_.has_palette


def plane_arrays(image: av.VideoFrame) -> list[np.ndarray]:
    """Views of the components' planes, in the order of `Colours.codes`: uint8 or uint16 [h, w].

    They can be written to after `image.make_writable()`.
    """
    found = []
    for component in image.format.components if not image.format.is_rgb else _green_first(image.format.components):
        plane: Any = image.planes[component.plane]
        dtype = np.uint8 if component.bits <= 8 else np.uint16
        rows = np.frombuffer(plane, dtype).reshape(plane.height, -1)
        found.append(rows[:, : plane.width])
    return found


def _green_first(components: Any) -> list[Any]:
    red, green, blue = components  # FFmpeg lists the components of GBR formats as R, G, B
    return [green, blue, red]


def region_of(image: av.VideoFrame, left: int, top: int, right: int, bottom: int) -> av.VideoFrame:
    """A copy of a part of a picture. The sides must be multiples of what chroma is shared by (see `even_region`)."""
    part = av.VideoFrame(right - left, bottom - top, image.format.name)
    for source, target in zip(plane_arrays(image), plane_arrays(part), strict=True):
        across, down = _shared_by(image, source)
        target[:] = source[top // down : -(-bottom // down), left // across : -(-right // across)]
    part.colorspace, part.color_range = image.colorspace, image.color_range
    return part


def even_region(
    image: av.VideoFrame, left: float, top: float, right: float, bottom: float
) -> tuple[int, int, int, int]:
    """The smallest region around a box that lies in the picture and cuts no chroma sample.

    May be empty: right <= left or bottom <= top.
    """
    step = 4  # no format shares chroma by more
    x0, y0 = max(0, int(left) // step * step), max(0, int(top) // step * step)
    x1, y1 = -int(-right // step) * step, -int(-bottom // step) * step
    return x0, y0, min(x1, image.width), min(y1, image.height)


def _shared_by(image: av.VideoFrame, plane: np.ndarray) -> tuple[int, int]:
    """Pixels across and down that share a sample of this plane."""
    return round(image.width / plane.shape[1]), round(image.height / plane.shape[0])


def blend_into(image: av.VideoFrame, left: int, top: int, rgb: np.ndarray, alpha: np.ndarray, colours: Colours) -> None:
    """Mix colours into a picture, in its own numbers. Where alpha is 0 it stays as it is, to the bit.

    image: writable. rgb: float32 [h, w, 3] in 0..255; alpha: float32 [h, w] in 0..1; both for the region that begins at
    (left, top), as `even_region` gives it.
    """
    arrays = plane_arrays(image)
    height, width = alpha.shape
    codes = colours.codes(rgb, len(arrays) == 1)
    for plane, full_size in zip(arrays, codes, strict=True):
        across, down = _shared_by(image, plane)
        x0, y0 = left // across, top // down
        size = min(-(-width // across), plane.shape[1] - x0), min(-(-height // down), plane.shape[0] - y0)
        code, share = full_size, alpha
        if (across, down) != (1, 1):
            code = cv2.resize(full_size, size, interpolation=cv2.INTER_AREA)
            share = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA)
        part = plane[y0 : y0 + size[1], x0 : x0 + size[0]]
        mixed = part + share * (code - part)
        highest = (1 << colours.bits) - 1
        part[:] = np.where(share > 0, np.clip(np.rint(mixed), 0, highest), part)
