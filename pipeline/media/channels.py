"""The channels of decoded audio frames as arrays, whatever their format and layout, and one channel made of them."""

import ctypes
from collections.abc import Iterable
from typing import Any

import av
import numpy as np
from av.audio.plane import AudioPlane

from lipforge.pipeline.media.downmix import Downmix

_LOUDEST = 16.0
"""24 dB above full scale. More is damage."""
_DTYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}
"""NumPy's name of each sample format, without the `p` of planar ones."""


def plain_layout(context: Any) -> None:
    """Keep labels that say nothing ("unused") from the decoder: only their number matters. Before it opens.

    PyAV 18 frees the list of such labels once with the layout and once with its owner, which ends the process.
    """
    layout = context.layout
    if layout.nb_channels == 0:  # the decoder will know
        return
    _never_free(layout)
    context.layout = f"{layout.nb_channels} channels" if _has_labels(layout.name) else layout.name


def keep_labels(frames: Iterable[Any]) -> None:
    """The same for decoders that set labels themselves, on every frame. Call it before the frames are let go."""
    for frame in frames:
        if _has_labels(frame.layout.name):
            _never_free(frame.layout)


def _has_labels(layout_name: str) -> bool:
    """True for layouts with a list of labels; others are `stereo`, `5.1(side)` or, without labels, `9 channels`."""
    return "channels (" in layout_name or layout_name.startswith("ambisonic")


def _never_free(layout: Any) -> None:
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(layout))


def front_centre(layout: Any) -> int | None:
    """Index of the front centre channel, where the layout tells."""
    names = [channel.name for channel in layout.channels]
    return names.index("FC") if "FC" in names else None


def channels_of(frame: Any) -> np.ndarray:
    """[C, N] in the frame's own sample format: u8, s16, s32, s64, flt or dbl; planar or packed.

    `AudioFrame.to_ndarray` knows no s64, and counts the planes of more than 8 channels beyond the end of their list.
    """
    num_channels, planar = frame.layout.nb_channels, frame.format.is_planar
    dtype = np.dtype(_DTYPES[frame.format.name.removesuffix("p")])
    planes: list[Any] = [AudioPlane(frame, index) for index in range(num_channels if planar else 1)]
    num_values = frame.samples if planar else frame.samples * num_channels  # planes are longer
    values = np.stack([np.frombuffer(plane, dtype)[:num_values] for plane in planes])
    return values if planar else values.reshape(-1, num_channels).T


def floats_of(channels: np.ndarray) -> np.ndarray:
    """`channels_of` as float32, full scale 1. What is not a number becomes 0."""
    if channels.dtype.kind == "f":
        if not np.abs(channels).max(initial=0.0) <= _LOUDEST:  # also where something is not a number
            channels = np.nan_to_num(channels, posinf=0.0, neginf=0.0).clip(-_LOUDEST, _LOUDEST)
        return channels.astype(np.float32)
    if channels.dtype == np.uint8:
        return (channels.astype(np.float32) - 128) / 128
    return channels.astype(np.float32) / np.float32(-float(np.iinfo(channels.dtype).min))


def one_channel(frame: Any, downmix: Downmix) -> av.AudioFrame:
    """A mono frame: one channel, unchanged, or the sum of several or the mean of all, as floats."""
    channels = channels_of(frame)
    if len(channels) == 1 or (downmix.channels and not downmix.adds_up):
        samples, name = channels[downmix.channels[0] if downmix.channels else 0], frame.format.name
        if samples.dtype == np.int64:
            samples, name = (samples >> 32).astype(np.int32), "s32"
    elif downmix.channels is None:
        samples, name = floats_of(channels).mean(axis=0), "flt"
    else:
        samples, name = floats_of(channels[list(downmix.channels)]).sum(axis=0) * np.float32(downmix.gain), "flt"
    mono = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples)[None], format=name, layout="mono")
    mono.sample_rate = frame.sample_rate
    return mono
