"""Write and read the media of a clip: its MP4 and FLAC, and its JPEG poster."""

import io
from typing import Any

import av
import av.error
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from lipforge.datasets_manifest.schema import Reason
from lipforge.model.clock import FPS, SAMPLE_RATE_HZ
from lipforge.pipeline.config import EncodeConfig
from lipforge.pipeline.media.audio import PCM_SCALE
from lipforge.pipeline.media.container import MediaError, error_text

_TO_RGB, _TO_YUV = VideoReformatter(), VideoReformatter()


def encode_mp4(frames: np.ndarray, config: EncodeConfig) -> bytes:
    """H.264 in MP4 at 25 fps, yuv420p BT.709, closed GOPs. frames: uint8 [T, H, W, 3] RGB, even sides.

    One thread, no dates and no B-frames, so the same frames give the same bytes everywhere.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        options = {
            "preset": config.preset,
            "crf": str(config.crf),
            "threads": "1",
            "x264-params": f"keyint={config.gop_frames}:min-keyint=1:scenecut=0:open-gop=0:bframes=0:threads=1:"
            "colorprim=bt709:transfer=bt709:colormatrix=bt709",
        }
        stream: Any = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height = frames.shape[2], frames.shape[1]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.colorspace = 1
        stream.codec_context.color_range = 1
        for rgb in frames:
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame = _TO_YUV.reformat(
                frame, format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def encode_flac(samples: np.ndarray) -> bytes:
    """FLAC, mono, 16 kHz, 16 bit. samples: float32 [N] in [-1, 1]."""
    buffer = io.BytesIO()
    pcm = np.clip(np.round(samples * PCM_SCALE), -PCM_SCALE, PCM_SCALE - 1).astype(np.int16)
    with av.open(buffer, "w", format="flac", options={"fflags": "+bitexact"}) as container:
        stream: Any = container.add_stream("flac", rate=SAMPLE_RATE_HZ, layout="mono", format="s16")
        for first in range(0, len(pcm), 4096):
            frame = av.AudioFrame.from_ndarray(pcm[None, first : first + 4096], format="s16", layout="mono")
            frame.sample_rate = SAMPLE_RATE_HZ
            frame.pts = first
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def decode_mp4(mp4: bytes) -> np.ndarray:
    """Frames of an MP4 from `encode_mp4`: uint8 [T, H, W, 3] RGB. Raises MediaError when it cannot be decoded."""
    try:
        with av.open(io.BytesIO(mp4), "r", format="mp4") as container:
            container.streams.video[0].codec_context.thread_count = 1
            frames = [
                _TO_RGB.reformat(frame, format="rgb24", src_colorspace=Colorspace.ITU709).to_ndarray()
                for frame in container.decode(video=0)
            ]
    except (av.error.FFmpegError, IndexError) as error:
        raise MediaError(Reason.DECODE_ERROR, f"the clip's video: {error_text(error)}") from error
    if not frames:
        raise MediaError(Reason.DECODE_ERROR, "the clip's video has no frames")
    return np.stack(frames)


def decode_flac(flac: bytes) -> np.ndarray:
    """Samples of a FLAC from `encode_flac`: float32 [N], mono, 16 kHz. Raises MediaError when it cannot be decoded."""
    try:
        with av.open(io.BytesIO(flac), "r", format="flac") as container:
            stream = container.streams.audio[0]
            if (stream.rate, stream.channels) != (SAMPLE_RATE_HZ, 1):
                found = f"{stream.channels} channels at {stream.rate} Hz"
                raise MediaError(
                    Reason.DECODE_ERROR, f"the clip's audio has {found}, expected 1 at {SAMPLE_RATE_HZ} Hz"
                )
            pieces = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
    except (av.error.FFmpegError, IndexError) as error:
        raise MediaError(Reason.DECODE_ERROR, f"the clip's audio: {error_text(error)}") from error
    if not pieces:
        raise MediaError(Reason.DECODE_ERROR, "the clip's audio has no samples")
    return np.concatenate(pieces).astype(np.float32) / PCM_SCALE


def encode_jpeg(rgb: np.ndarray, longest_side_px: int = 160) -> bytes:
    """Small JPEG of an image. rgb: uint8 [H, W, 3]."""
    scale = min(1.0, longest_side_px / max(rgb.shape[:2]))
    size = (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale)))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 80])
    assert ok
    return data.tobytes()
