"""Set up the encoder of an output's pictures: the same for every segment, and for the file they are joined in."""

from typing import Any

import av.container

from lipforge.pipeline.media.output.picture_format import PictureFormat

THREADS = 2
"""Part of what decides the bytes."""
KEY_EVERY_S = 2
_RANGES = {1: "limited", 2: "full"}
_INTERLACED_DCT, _INTERLACED_ME = 1 << 18, 1 << 29
"""FFmpeg's AV_CODEC_FLAG_INTERLACED_DCT and AV_CODEC_FLAG_INTERLACED_ME."""
_TOP_FIRST, _BOTTOM_FIRST = 2, 3

X264_QP, X265_QP, VP9_Q = 10, 10, 3
"""Each frame of 67 real clips has a PSNR of 50 dB. Constant steps, because a constant rate factor gives busy pictures
fewer bits, and so does adaptive quantization with busy places."""


def add_encoder(container: av.container.OutputContainer, picture_format: PictureFormat) -> Any:
    """A video stream that encodes frames of the format: no B-frames, key frames every KEY_EVERY_S, closed."""
    wanted = picture_format
    options = {**_OPTIONS[wanted.encoder](wanted), "g": str(max(1, round(wanted.rate * KEY_EVERY_S)))}
    stream: Any = container.add_stream(
        wanted.encoder, rate=wanted.rate.limit_denominator(100_000), options=options, time_base=wanted.time_base
    )
    stream.width, stream.height, stream.pix_fmt = wanted.width_px, wanted.height_px, wanted.pix_fmt
    context = stream.codec_context
    context.thread_count = 1 if wanted.interlaced else THREADS  # with several, x264's interlaced bytes vary
    context.color_range, context.colorspace = wanted.color_range, wanted.matrix
    context.color_primaries, context.color_trc = wanted.primaries, wanted.transfer
    if wanted.pixel_ratio is not None:
        context.sample_aspect_ratio = wanted.pixel_ratio
    if wanted.interlaced and wanted.encoder == "libx264":
        context.flags |= _INTERLACED_DCT | _INTERLACED_ME
        context.field_order = _TOP_FIRST if wanted.top_field_first else _BOTTOM_FIRST
    if wanted.encoder == "libvpx-vp9" and not wanted.lossless:
        context.qmin = context.qmax = VP9_Q
    return stream


def _x264(wanted: PictureFormat) -> dict[str, str]:
    # Each bit more adds 6 steps below those of 8 bit. 0 is without loss.
    step = 0 if wanted.lossless else X264_QP + 6 * (wanted.bits - 8)
    options = {"preset": "superfast", "tune": "psnr", "qp": str(step), "bf": "0"}
    if wanted.interlaced and not wanted.top_field_first:
        options["x264-params"] = "bff=1"  # else it is told at the first frame, and is no longer without loss
    return options


def _x265(wanted: PictureFormat) -> dict[str, str]:
    settings = ["log-level=error", "bframes=0", "open-gop=0", "aq-mode=0", "psy-rd=0", "frame-threads=1"]
    settings += [f"pools={THREADS}", "lossless=1" if wanted.lossless else f"qp={X265_QP}"]
    if wanted.mastering is not None:
        settings += ["hdr10=1", f"master-display={wanted.mastering}"]
    if wanted.light_level is not None:
        settings += ["hdr10=1", f"max-cll={wanted.light_level[0]},{wanted.light_level[1]}"]
    if wanted.mastering is not None or wanted.light_level is not None:
        settings.append("repeat-headers=1")  # these are among the headers, and containers keep only some of those
    if wanted.color_range in _RANGES:
        settings.append(f"range={_RANGES[wanted.color_range]}")
    return {"preset": "ultrafast", "x265-params": ":".join(settings)}


def _vp9(wanted: PictureFormat) -> dict[str, str]:
    speed = {"deadline": "realtime", "cpu-used": "7", "tile-columns": "1", "lag-in-frames": "0", "auto-alt-ref": "0"}
    return speed | ({"lossless": "1"} if wanted.lossless else {"crf": str(VP9_Q), "b": "0"})


_OPTIONS = {"libx264": _x264, "libx265": _x265, "libvpx-vp9": _vp9}
