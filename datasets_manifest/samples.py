"""Reads single samples out of shards, by the byte range that the manifest gives."""

import io
import tarfile

import av
import cv2
import fsspec


def read_sample(fs: fsspec.AbstractFileSystem, shard_path: str, offset: int, size: int) -> dict[str, bytes]:
    """The files of one sample by extension, for example {"mp4": ..., "flac": ..., "json": ...}.

    offset, size: `sample_offset` and `sample_size` of the manifest, bytes in the tar. Reads that range only.
    Raises OSError when the shard cannot be read, tarfile.TarError when the range holds no whole tar members.
    """
    data = read_bytes(fs, shard_path, offset, offset + size)
    files = {}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        for member in tar:
            content = tar.extractfile(member)
            if content is not None:
                files[member.name.partition(".")[2]] = content.read()
    return files


def read_bytes(fs: fsspec.AbstractFileSystem, path: str, start: int | None = None, end: int | None = None) -> bytes:
    """Bytes start .. end - 1 of a file; the whole file without them."""
    data = fs.cat_file(path, start=start, end=end)
    assert isinstance(data, bytes)  # fsspec also promises str, for text mode
    return data


def playable_mp4(mp4: bytes, flac: bytes) -> bytes:
    """One MP4 with a sample's picture and sound, for a player. Nothing is encoded again: FLAC is copied into the MP4.

    One file, because two media elements that a script keeps together drift by more than a lip-sync error worth seeing.
    Raises av.FFmpegError when either cannot be read.
    """
    output = io.BytesIO()
    with (
        av.open(io.BytesIO(mp4), "r") as picture,
        av.open(io.BytesIO(flac), "r") as sound,
        av.open(output, "w", format="mp4") as muxed,
    ):
        streams = (picture.streams.video[0], sound.streams.audio[0])
        copies = [muxed.add_stream_from_template(stream) for stream in streams]
        for container, stream, copy in zip((picture, sound), streams, copies, strict=True):
            for packet in container.demux(stream):
                if packet.dts is not None:  # the last packet of a demuxer is an empty flush
                    packet.stream = copy
                    muxed.mux(packet)
    return output.getvalue()


def poster_jpeg(mp4: bytes) -> bytes:
    """A JPEG of the key frame before the middle of a video.

    Raises av.FFmpegError or ValueError when it cannot be decoded.
    """
    with av.open(io.BytesIO(mp4), "r") as container:
        stream = container.streams.video[0]
        container.seek((stream.duration or 0) // 2, stream=stream)
        frame = next(container.decode(stream), None)
    if frame is None:
        raise ValueError("the video holds no frame that decodes")
    written, jpeg = cv2.imencode(".jpg", frame.to_ndarray(format="bgr24"), [cv2.IMWRITE_JPEG_QUALITY, 80])
    assert written
    return jpeg.tobytes()
