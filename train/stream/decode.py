"""Tensors from bytes: decodes what a window of a stored clip needs and nothing else."""

import io
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import av
import av.error
import numpy as np
from av.video.reformatter import Colorspace, VideoReformatter

from lipforge.model.audio.mel import HOP, mel_spectrogram
from lipforge.model.clock import FPS, SAMPLES_PER_FRAME
from lipforge.pipeline.media.clips import decode_flac
from lipforge.pipeline.media.container import MediaError
from lipforge.train.stream.config import DecodedField
from lipforge.train.stream.order import ClipWindow

MEL_COLUMNS_PER_S = 80
_MEL_MARGIN_COLUMNS = 3
"""A mel column depends on 400 samples to each side and one more (pre-emphasis): less than 3 hops of 200."""
_TO_RGB = VideoReformatter()  # one for each frame would cost a fifth of the decoding time
_ONE_THREAD = (
    1  # threads of the scaler do not survive the fork into a DataLoader worker, which would wait for them forever
)


class DamagedSampleError(Exception):
    """The stored bytes of a sample are not what was written. `key` names it, `where` is its shard, `detail` says what
    is wrong.
    """

    def __init__(self, key: str, where: str, detail: str) -> None:
        super().__init__(key, where, detail)
        self.key = key
        self.where = where
        self.detail = detail

    def __str__(self) -> str:
        return f"sample {self.key} in {self.where} is damaged: {self.detail}"


Outcome = dict[str, Any] | DamagedSampleError
"""Fields of a sample by name, or what is wrong with it."""


def decode_fields(
    members: Mapping[str, bytes], clip: ClipWindow, num_frames: int, fields: Collection[DecodedField]
) -> dict[str, np.ndarray]:
    """The wanted fields of a sample, by name, as `batches.Batch` describes them.

    members: as `read_clip` gives them; num_frames: of a window. Raises ValueError when they are damaged.
    """
    found: dict[str, np.ndarray] = {}
    start, other_start = clip.start, clip.other_start
    windows = [(name, first) for name, first in (("target", start), ("reference", other_start)) if name in fields]
    if windows:
        names, starts = zip(*windows, strict=True)
        found |= zip(
            names, decode_windows(members["mp4"], clip.clip_frames, clip.crop_px, starts, num_frames), strict=True
        )
    if {"mel", "negative_mel", "audio"} & set(fields):
        audio = decode_audio(members["flac"], clip.clip_frames)
        if "audio" in fields:
            found["audio"] = audio
        for name, first in (("mel", start), ("negative_mel", other_start)):
            if name in fields:
                found[name] = mel_window(audio, *mel_columns(first, num_frames))
    return found


def decode_windows(
    mp4: bytes, clip_frames: int, crop_px: int, starts: Sequence[int], num_frames: int
) -> list[np.ndarray]:
    """Windows of a clip's frames, each uint8 [num_frames, crop_px, crop_px, 3] RGB, decoded from the key frames before
    them.

    starts: first frame of each window, in any order. Raises ValueError when the video is damaged or has another size or
    length.
    """
    windows: dict[int, np.ndarray] = {}
    try:
        with av.open(io.BytesIO(mp4), "r", format="mp4") as container:
            stream = container.streams.video[0]
            if stream.frames != clip_frames:
                raise ValueError(f"{stream.frames} frames of video, {clip_frames} expected")
            if stream.codec_context is None:
                raise ValueError("no decoder for the codec of the video")
            if (stream.width, stream.height) != (crop_px, crop_px):
                raise ValueError(f"a video of {stream.width} x {stream.height} pixels, {crop_px} x {crop_px} expected")
            stream.codec_context.thread_count = 1
            # by default FFmpeg conceals what it cannot read
            stream.codec_context.options = {"err_detect": "explode+crccheck+bitstream+buffer"}
            for start in sorted(starts):
                windows[start] = _decode_window(container, stream, start, num_frames)
    except (av.error.FFmpegError, IndexError) as error:
        raise ValueError(f"the video cannot be decoded: {error}") from error
    return [windows[start] for start in starts]


def _decode_window(container: Any, stream: Any, start: int, num_frames: int) -> np.ndarray:
    ticks_per_frame = 1 / (FPS * stream.time_base)
    container.seek(round(start * ticks_per_frame), stream=stream, backward=True)
    frames = []
    for frame in container.decode(stream):
        if frame.is_corrupt:
            raise ValueError(f"the video is damaged before frame {start + num_frames}")
        index = round(frame.pts / ticks_per_frame)
        if index == start + len(frames):
            if (frame.width, frame.height) != (stream.width, stream.height):
                raise ValueError(f"a frame of {frame.width} x {frame.height} pixels in the video")
            rgb = _TO_RGB.reformat(frame, format="rgb24", src_colorspace=Colorspace.ITU709, threads=_ONE_THREAD)
            frames.append(rgb.to_ndarray())
            if len(frames) == num_frames:
                return np.stack(frames)
        elif index > start:
            break
    raise ValueError(f"frame {start + len(frames)} of the video is missing")


def decode_audio(flac: bytes, clip_frames: int) -> np.ndarray:
    """Audio of a clip: float32 [clip_frames * 640] in [-1, 1]. Raises ValueError when it is damaged."""
    try:
        audio = decode_flac(flac)
    except MediaError as error:
        raise ValueError(error.detail) from error
    if len(audio) != clip_frames * SAMPLES_PER_FRAME:
        raise ValueError(f"{len(audio)} audio samples, {clip_frames * SAMPLES_PER_FRAME} expected")
    return audio


def mel_columns(start: int, num_frames: int) -> tuple[int, int]:
    """First mel column of a window, and how many: LatentSync's int(80 * start / 25), ceil(num_frames / 5 * 16)."""
    return MEL_COLUMNS_PER_S * start // FPS, -(-num_frames * 16 // 5)


def mel_window(audio: np.ndarray, first: int, num_columns: int) -> np.ndarray:
    """Columns first .. first + num_columns - 1 of the mel spectrogram of a clip, computed from just their surroundings.

    audio: float32 [N], the whole clip; returns float32 [80, num_columns]. Raises ValueError when the audio ends
    earlier.
    """
    skipped = max(0, first - _MEL_MARGIN_COLUMNS)
    nearby = audio[skipped * HOP : (first + num_columns + _MEL_MARGIN_COLUMNS) * HOP]
    columns = mel_spectrogram(nearby)[:, first - skipped : first - skipped + num_columns]
    if columns.shape[1] != num_columns:
        raise ValueError(f"the audio has no mel columns {first} to {first + num_columns - 1}")
    return columns
