"""Pictures of an output, encoded in segments: files of their own, written whole or not at all."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import av.error
import av.filter

from lipforge.datasets_manifest.schema import Reason
from lipforge.pipeline.media.container import MediaError, error_text
from lipforge.pipeline.media.output.encoder import add_encoder
from lipforge.pipeline.media.output.picture_format import PictureFormat
from lipforge.pipeline.media.output.whole_file import WholeFile


class SegmentWriter:
    """Encodes frames into a file that appears under its name when it is complete. The same frames, the same bytes.

    NUT holds times in any unit, and little memory is needed to write it. A segment begins with a key frame and needs
    none of its neighbours.
    """

    def __init__(self, path: Path, picture_format: PictureFormat) -> None:
        """Raises StorageError when the file cannot be written."""
        self.format = picture_format
        self.num_frames = 0
        self._file = WholeFile(path)
        with self._file.errors():
            self._container = av.open(self._file.url, "w", format="nut", options={"fflags": "+bitexact"})
            self._stream: Any = add_encoder(self._container, picture_format)
        self._fields = _FieldMarks(picture_format) if picture_format.interlaced else None

    def write(self, frame: av.VideoFrame, pts: int) -> None:
        """frame: of the format's pix_fmt and size. pts: in the format's time_base, growing; 0 is the video's start.

        Raises StorageError when the disk does.
        """
        wanted = self.format
        if frame.format.name != wanted.pix_fmt or (frame.width, frame.height) != (wanted.width_px, wanted.height_px):
            found = f"{frame.format.name} {frame.width}x{frame.height}"
            raise ValueError(f"a frame of {found} for {wanted.pix_fmt} {wanted.width_px}x{wanted.height_px}")
        if self._fields is not None:
            frame = self._fields.mark(frame)
        kept = frame.pts, frame.time_base, frame.pict_type
        frame.pts, frame.time_base, frame.pict_type = pts, wanted.time_base, 0
        with self._file.errors():
            self._container.mux(self._stream.encode(frame))
        frame.pts, frame.pict_type = kept[0], kept[2]
        if kept[1] is not None:
            frame.time_base = kept[1]
        self.num_frames += 1

    def close(self) -> None:
        """Finish the file. Raises StorageError, and then there is none."""
        with self._file.errors():
            self._container.mux(self._stream.encode(None))
            self._container.close()
        self._file.keep()

    def discard(self) -> None:
        """Leave nothing."""
        self._file.discard()
        with suppress(av.error.FFmpegError):
            self._container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


class _FieldMarks:
    """Says of frames that they are interlaced, which frames made from planes do not."""

    def __init__(self, picture_format: PictureFormat) -> None:
        self.graph = av.filter.Graph()
        self.graph.threads = 1
        source = self.graph.add_buffer(
            width=picture_format.width_px,
            height=picture_format.height_px,
            format=av.VideoFormat(picture_format.pix_fmt),
            time_base=picture_format.time_base,
        )
        order = "tff" if picture_format.top_field_first else "bff"
        self.graph.link_nodes(source, self.graph.add("setfield", order), self.graph.add("buffersink")).configure()

    def mark(self, frame: av.VideoFrame) -> av.VideoFrame:
        self.graph.push(frame)
        return self.graph.vpull()


def is_whole(path: Path, num_frames: int) -> bool:
    """Whether a segment is there with all its frames. One that was not finished has another name."""
    if not path.is_file():
        return False
    try:
        return sum(1 for _ in read_segment(path)) == num_frames
    except MediaError:
        return False


def read_segment(path: Path) -> Iterator[Any]:
    """Packets of a segment in order, their times in the time_base that each packet names.

    Raises MediaError when it is damaged.
    """
    try:
        with av.open(f"file:{path.absolute()}", format="nut") as container:
            for packet in container.demux(container.streams.video[0]):
                if packet.size:
                    yield packet
    except (av.error.FFmpegError, IndexError) as error:
        raise MediaError(Reason.DECODE_ERROR, f"the segment {path.name}: {error_text(error)}") from error


def segment_headers(path: Path) -> bytes:
    """What a decoder needs before a segment's packets. Raises MediaError when it is damaged."""
    try:
        with av.open(f"file:{path.absolute()}", format="nut") as container:
            return container.streams.video[0].codec_context.extradata or b""
    except (av.error.FFmpegError, IndexError) as error:
        raise MediaError(Reason.DECODE_ERROR, f"the segment {path.name}: {error_text(error)}") from error
