"""Take a video apart and put it together again, without a change to its pictures."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from lipforge.pipeline.media.channels import channels_of
from lipforge.pipeline.media.container import video_stream
from lipforge.pipeline.media.output.picture_format import PictureFormat, read_picture_format
from lipforge.pipeline.media.output.segment import SegmentWriter
from lipforge.pipeline.media.output.sound import open_sound
from lipforge.pipeline.media.output.to_format import ToFormat
from lipforge.pipeline.media.output.write import write_file
from lipforge.pipeline.media.probe import probe


@dataclass
class Passed:
    """What went in and what came out."""

    source: list[Any]
    """Decoded, in the format that was encoded."""
    out: list[Any]
    format: PictureFormat
    notes: list[str]
    length_s: float


def pass_through(
    source: Path,
    out: Path,
    sound: Path | None = None,
    *,
    lossless: bool = False,
    length_s: float | None = None,
    segment_s: float = 0.5,
    most_frames: int = 10_000,
) -> Passed:
    """length_s: of the output; unset: of the source's frames, the last shown as long as the file says."""
    info = probe(str(source))
    picture_format = read_picture_format(str(source), info, str(out), lossless=lossless)
    to_format = ToFormat(picture_format)
    frames, segments, writer = [], [], None
    last_s = 0.0
    for frame in decoded(source, most_frames):
        pts = frame.pts - picture_format.first_pts
        if writer is None or pts * picture_format.time_base >= segment_s * len(segments):
            if writer is not None:
                writer.close()
            segments.append(out.parent / f"{out.stem}-{len(segments)}.nut")
            writer = SegmentWriter(segments[-1], picture_format)
        shown = float(frame.duration * frame.time_base) if frame.duration else float(1 / picture_format.rate)
        last_s = float(pts * picture_format.time_base) + shown
        frames.append(to_format.convert(frame))
        writer.write(frames[-1], pts)
    assert writer is not None
    writer.close()
    length_s = length_s or last_s
    track = None if sound is None else open_sound(str(sound))
    notes = write_file(str(out), segments, picture_format, str(source), info, track, length_s)
    for segment in segments:
        segment.unlink()
    return Passed(frames, decoded(out, most_frames), picture_format, notes, length_s)


def decoded(path: Path, most_frames: int = 10_000) -> list[Any]:
    frames = []
    with av.open(str(path)) as container:
        stream = video_stream(container)
        stream.thread_count = 1
        for frame in container.decode(stream):
            frames.append(frame)
            if len(frames) == most_frames:
                break
    return frames


def times_s(frames: list[Any]) -> list[Fraction]:
    """From the first on, exact."""
    stamps = [frame.pts * Fraction(frame.time_base) for frame in frames]
    return [stamp - stamps[0] for stamp in stamps]


def psnr_db(left: list[Any], right: list[Any]) -> float:
    """Over all values of all planes; infinity when all are equal."""
    assert len(left) == len(right)
    squares, count = 0.0, 0
    for first, second in zip(left, right, strict=True):
        for a, b in zip(planes(first), planes(second), strict=True):
            squares += float(((a.astype(np.float64) - b) ** 2).sum())
            count += a.size
    peak = 2 ** left[0].format.components[0].bits - 1
    return float("inf") if squares == 0 else 10 * np.log10(peak**2 * count / squares)


def planes(frame: Any) -> list[np.ndarray]:
    kind = np.uint8 if frame.format.components[0].bits <= 8 else np.uint16
    return [np.frombuffer(plane, kind).reshape(plane.height, -1)[:, : plane.width] for plane in frame.planes]


def sound_of(path: Path, number: int = 0) -> tuple[np.ndarray, int, float]:
    """(samples [C, N] as stored, rate in Hz, seconds from the first picture to the first)."""
    with av.open(str(path)) as container:
        stream: Any = container.streams.audio[number]
        frames = list(container.decode(stream))
        rate_hz, start_s = stream.rate, frames[0].pts * stream.time_base
        has_pictures, is_avi = bool(container.streams.video), container.format.name == "avi"
        samples = np.concatenate([channels_of(frame) for frame in frames], axis=1)
    if not has_pictures or is_avi:  # whose pictures begin at 0; decoders guess when
        return samples, rate_hz, float(start_s) if is_avi else 0.0
    first = decoded(path, 1)[0]
    return samples, rate_hz, float(start_s - first.pts * first.time_base)
