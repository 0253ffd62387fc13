"""A sample for others to read: one MP4 with its audio, for players and trainers, and a still image."""

import io

import av
import cv2


def playable_mp4(mp4: bytes, flac: bytes) -> bytes:
    """One MP4 with a sample's video and audio, for a player or a trainer. Both are copied, not encoded again.

    One file, because two media elements kept in step by a script drift by more than a visible lip-sync error. Equal
    samples give equal bytes. Raises av.FFmpegError or ValueError when either cannot be read.
    """
    output = io.BytesIO()
    with (  # named formats, or a hostile file may be a playlist of others
        av.open(io.BytesIO(mp4), "r", format="mp4") as video,
        av.open(io.BytesIO(flac), "r", format="flac") as audio,
        av.open(output, "w", format="mp4", options={"fflags": "+bitexact"}) as muxed,
    ):
        if not video.streams.video or not audio.streams.audio:
            raise ValueError("it has no video or no audio")
        streams = (video.streams.video[0], audio.streams.audio[0])
        copies = [muxed.add_stream_from_template(stream) for stream in streams]
        packets = []
        for container, stream, copy in zip((video, audio), streams, copies, strict=True):
            for packet in container.demux(stream):
                if packet.dts is not None:  # the last packet of a demuxer is an empty flush
                    packets.append((packet.dts * packet.time_base, packet))
                    packet.stream = copy
        for _, packet in sorted(packets, key=lambda timed: timed[0]):  # side by side, so that a player reads ahead
            muxed.mux(packet)
    return output.getvalue()


def poster_jpeg(mp4: bytes) -> bytes:
    """A JPEG of the key frame before the middle of a video.

    Raises av.FFmpegError or ValueError when it cannot be decoded.
    """
    return poster_and_time(mp4)[0]


def poster_and_time(mp4: bytes) -> tuple[bytes, float]:
    """The poster, and its time in the video in seconds. Raises as `poster_jpeg`."""
    with av.open(io.BytesIO(mp4), "r", format="mp4") as container:
        stream = container.streams.video[0]
        container.seek((stream.duration or 0) // 2, stream=stream)
        frame = next(container.decode(stream), None)
    if frame is None:
        raise ValueError("the video holds no frame that decodes")
    written, jpeg = cv2.imencode(".jpg", frame.to_ndarray(format="bgr24"), [cv2.IMWRITE_JPEG_QUALITY, 80])
    assert written
    return jpeg.tobytes(), float(frame.time or 0.0)
