"""Turn a decoded frame into the pixel format and size that its output is blended and encoded in."""

import av
import av.error
import av.filter
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from lipforge.datasets_manifest.schema import Reason
from lipforge.pipeline.media.container import MediaError, error_text
from lipforge.pipeline.media.output.picture_format import PictureFormat, is_rgb

_LIMITED, _FULL = 1, 2


class ToFormat:
    """Converts the frames of one video. Frames that are in the format already come back as they are."""

    def __init__(self, picture_format: PictureFormat) -> None:
        self.format = picture_format
        self.num_scaled = 0
        """Frames whose size was not that of the first."""
        self._reformatter = VideoReformatter()
        self._fits: dict[tuple[int, int, str], av.filter.Graph] = {}

    def convert(self, frame: av.VideoFrame) -> av.VideoFrame:
        """A frame of another size is scaled with its proportions kept, on black.

        Raises MediaError for pixel formats that cannot be read.
        """
        wanted = self.format
        same_size = (frame.width, frame.height) == (wanted.width_px, wanted.height_px)
        if same_size and frame.format.name == wanted.pix_fmt:
            return frame
        try:
            if not same_size:
                self.num_scaled += 1
                frame = self._fitted(frame)
            return self._repacked(frame)
        except (av.error.FFmpegError, ValueError) as error:
            detail = f"pictures of format {frame.format.name} cannot be read: {error_text(error)}"
            raise MediaError(Reason.DECODE_ERROR, detail) from error

    def _repacked(self, frame: av.VideoFrame) -> av.VideoFrame:
        """The same values in another format: the range stays, so nothing is squeezed."""
        wanted = self.format
        if frame.format.name == wanted.pix_fmt:
            return frame
        used = ColorRange.JPEG if _is_full(frame) else ColorRange.MPEG
        to_yuv = is_rgb(frame.format) and not wanted.pix_fmt.startswith("gbr")
        converted = self._reformatter.reformat(
            frame,
            format=wanted.pix_fmt,
            src_color_range=used,
            dst_color_range=ColorRange.MPEG if to_yuv else used,
            dst_colorspace=Colorspace.ITU601 if to_yuv else None,
            interpolation=Interpolation.BICUBIC,
        )
        converted.pts, converted.time_base = frame.pts, frame.time_base
        return converted

    def _fitted(self, frame: av.VideoFrame) -> av.VideoFrame:
        key = frame.width, frame.height, frame.format.name
        if key not in self._fits:
            wanted = self.format
            graph = av.filter.Graph()
            graph.threads = 1
            source = graph.add_buffer(width=key[0], height=key[1], format=frame.format, time_base=wanted.time_base)
            size = f"{wanted.width_px}:{wanted.height_px}"
            scale = graph.add("scale", f"{size}:force_original_aspect_ratio=decrease:flags=bicubic")
            pad = graph.add("pad", f"{size}:-1:-1")
            graph.link_nodes(source, scale, pad, graph.add("buffersink")).configure()
            self._fits[key] = graph
        pts, time_base = frame.pts, frame.time_base
        self._fits[key].push(frame)
        fitted = self._fits[key].vpull()
        fitted.pts, fitted.time_base = pts, time_base
        return fitted


def _is_full(frame: av.VideoFrame) -> bool:
    """True where values fill the whole range, as RGB does; and for grey, which is never taken for anything else."""
    if frame.format.name.startswith("gray"):
        return True
    if frame.color_range in (_LIMITED, _FULL):
        return frame.color_range == _FULL
    return is_rgb(frame.format) or frame.format.name.startswith("yuvj")
