"""Makes training samples of stored clips: decodes what a window needs and nothing else."""

import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import av
import av.error
import numpy as np
from av.video.reformatter import Colorspace, VideoReformatter

from lipforge.model.audio.mel import HOP, mel_spectrogram
from lipforge.model.clock import FPS, SAMPLES_PER_FRAME
from lipforge.pipeline.media.clips import decode_flac
from lipforge.pipeline.media.container import MediaError
from lipforge.train.stream.config import DecodedPart
from lipforge.train.stream.windows import Window, mel_columns

_MEL_MARGIN_COLUMNS = 3
"""A mel column hears 400 samples to each side and one more (pre-emphasis): 3 hops of 200 are more than that."""
_TO_RGB = VideoReformatter()  # setting one up for each frame would cost a fifth of the decoding
_ONE_THREAD = 1  # the scaler's own threads would not survive the fork into a DataLoader's worker, which would wait for them for ever


class DamagedSampleError(Exception):
    """The stored bytes of a sample are not what the manifest says. `key` names it, `where` is its shard, `detail` says what is wrong."""

    def __init__(self, key: str, where: str, detail: str) -> None:
        super().__init__(key, where, detail)
        self.key = key
        self.where = where
        self.detail = detail

    def __str__(self) -> str:
        return f"sample {self.key} in {self.where} is damaged: {self.detail}"


Outcome = dict[str, Any] | DamagedSampleError
"""A sample, or a part of one, by name; or what is wrong with it."""


@dataclass(frozen=True)
class ClipWindow:
    """A clip, and what a sample shows of it."""

    key: str
    clip_frames: int
    crop_px: int
    window: Window


def decode_parts(
    members: Mapping[str, bytes], clip: ClipWindow, num_frames: int, parts: Collection[DecodedPart]
) -> dict[str, np.ndarray]:
    """Those parts of a sample that are wanted, by name, as `lipforge.train.stream.stream.Batch` describes them.

    members: as `read_clip` gives them; num_frames: of a window. Raises ValueError when they are damaged.
    """
    found: dict[str, np.ndarray] = {}
    start, other_start = clip.window.start, clip.window.other_start
    pictures = [(name, first) for name, first in (("target", start), ("reference", other_start)) if name in parts]
    if pictures:
        names, starts = zip(*pictures, strict=True)
        found |= zip(
            names, decode_windows(members["mp4"], clip.clip_frames, clip.crop_px, starts, num_frames), strict=True
        )
    if {"mel", "negative_mel", "audio"} & set(parts):
        audio = decode_audio(members["flac"], clip.clip_frames)
        if "audio" in parts:
            found["audio"] = audio
        for name, first in (("mel", start), ("negative_mel", other_start)):
            if name in parts:
                found[name] = mel_window(audio, *mel_columns(first, num_frames))
    return found


def decode_windows(
    mp4: bytes, clip_frames: int, crop_px: int, starts: Sequence[int], num_frames: int
) -> list[np.ndarray]:
    """Windows of a clip's frames, each uint8 [num_frames, crop_px, crop_px, 3] RGB, decoding only from the key frames before them.

    starts: first frame of each window, in any order. Raises ValueError when the video is damaged or another one.
    """
    windows: dict[int, np.ndarray] = {}
    try:
        with av.open(io.BytesIO(mp4), "r", format="mp4") as container:
            stream = container.streams.video[0]
            if stream.frames != clip_frames:
                raise ValueError(f"{stream.frames} frames of video, {clip_frames} expected")
            if stream.codec_context is None:
                raise ValueError("the video is of a kind that no decoder knows")
            if (stream.width, stream.height) != (crop_px, crop_px):
                raise ValueError(f"a video of {stream.width} x {stream.height} pixels, {crop_px} x {crop_px} expected")
            stream.codec_context.thread_count = 1
            # FFmpeg's default is to paint over what it cannot read
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
    for picture in container.decode(stream):
        if picture.is_corrupt:
            raise ValueError(f"the video is damaged before frame {start + num_frames}")
        index = round(picture.pts / ticks_per_frame)
        if index == start + len(frames):
            if (picture.width, picture.height) != (stream.width, stream.height):
                raise ValueError(f"a picture of {picture.width} x {picture.height} pixels in the video")
            rgb = _TO_RGB.reformat(picture, format="rgb24", src_colorspace=Colorspace.ITU709, threads=_ONE_THREAD)
            frames.append(rgb.to_ndarray())
            if len(frames) == num_frames:
                return np.stack(frames)
        elif index > start:
            break
    raise ValueError(f"frame {start + len(frames)} of the video is missing")


def decode_audio(flac: bytes, clip_frames: int) -> np.ndarray:
    """Sound of a clip: float32 [clip_frames * 640] in [-1, 1]. Raises ValueError when it is damaged."""
    try:
        audio = decode_flac(flac)
    except MediaError as error:
        raise ValueError(error.detail) from error
    if len(audio) != clip_frames * SAMPLES_PER_FRAME:
        raise ValueError(f"{len(audio)} samples of sound, {clip_frames * SAMPLES_PER_FRAME} expected")
    return audio


def mel_window(audio: np.ndarray, first: int, num_columns: int) -> np.ndarray:
    """Columns first .. first + num_columns - 1 of the mel spectrogram of a whole sound, computed from just their surroundings.

    audio: float32 [N]; returns float32 [80, num_columns]. Raises ValueError when the sound ends before.
    """
    skipped = max(0, first - _MEL_MARGIN_COLUMNS)
    heard = audio[skipped * HOP : (first + num_columns + _MEL_MARGIN_COLUMNS) * HOP]
    columns = mel_spectrogram(heard)[:, first - skipped : first - skipped + num_columns]
    if columns.shape[1] != num_columns:
        raise ValueError(f"the sound has no mel columns {first} to {first + num_columns - 1}")
    return columns
