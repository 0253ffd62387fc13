"""Turn decoded frames into RGB as people saw them: square pixels, SDR, upright."""

import av
import av.error
import numpy as np
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from lipforge.datasets_manifest.schema import Reason
from lipforge.pipeline.media.container import MediaError
from lipforge.pipeline.media.probe import VideoInfo
from lipforge.pipeline.media.tonemap import Light, ToSdr, light_of
from lipforge.pipeline.media.video import SourceFrame

# Shared, because VideoFrame.reformat sets up a scaler per frame, a fifth of the cost. Not thread-safe.
_TO_RGB, _TO_DEEP, _DEEP_TO_RGB = VideoReformatter(), VideoReformatter(), VideoReformatter()
_UNSPECIFIED = 2  # ITU-T H.273, of matrix coefficients
HD_HEIGHT_PX = 720


class ToRgb:
    """Converts the frames of one video."""

    def __init__(self, info: VideoInfo) -> None:
        self.peak_nits = info.peak_nits
        self._to_sdr: tuple[Light, tuple[int, int], ToSdr] | None = None

    def convert(self, frame: SourceFrame) -> np.ndarray:
        """uint8 [H, W, 3] RGB, of the size in the frame's `shape`.

        Raises MediaError for pixel formats that cannot be read.
        """
        image, shape = frame.image, frame.shape
        assert image is not None and shape is not None
        light = light_of(image, self.peak_nits)
        untagged = image.colorspace == _UNSPECIFIED
        try:
            if light.is_plain:
                # Untagged HD video is BT.709 by convention; swscale would assume BT.601.
                matrix = Colorspace.ITU709 if untagged and image.height >= HD_HEIGHT_PX else None
                picture = _scaled(_TO_RGB, image, shape.square_size_px, "rgb24", matrix)
            else:
                matrix = Colorspace.BT2020 if untagged else None
                deep = _scaled(_TO_DEEP, image, shape.square_size_px, "gbrp16le", matrix)
                picture = _DEEP_TO_RGB.reformat(self._tone_mapped(deep, light), format="rgb24")
            rgb = picture.to_ndarray()
        except (av.error.FFmpegError, ValueError) as error:
            raise MediaError(Reason.DECODE_ERROR, f"pictures of format {image.format.name} cannot be read") from error
        return shape.orientation.apply(rgb)

    def _tone_mapped(self, picture: av.VideoFrame, light: Light) -> av.VideoFrame:
        size = picture.width, picture.height
        if self._to_sdr is None or self._to_sdr[:2] != (light, size):
            self._to_sdr = light, size, ToSdr(light, *size)
        return self._to_sdr[2].apply(picture)


def _scaled(
    reformatter: VideoReformatter, image: av.VideoFrame, size_px: tuple[int, int], to: str, matrix: Colorspace | None
) -> av.VideoFrame:
    """In one step with the conversion, so square pixels cost nothing more."""
    stretched = Interpolation.BICUBIC if size_px != (image.width, image.height) else None
    return reformatter.reformat(image, *size_px, format=to, src_colorspace=matrix, interpolation=stretched)
