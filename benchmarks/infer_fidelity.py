"""What everything around a network costs in a picture: `lipforge infer --model identity`, compared with the source.

    python -m benchmarks.infer_fidelity FOLDER [FOLDER ...]

For the first seconds of each video: frames and their times, PSNR outside and inside of the mask, sound and length.
Pixels that a lossless result leaves as they were are outside of the mask.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lipforge.datasets_manifest.durations import human_time
from lipforge.pipeline.infer.planes import plane_arrays
from lipforge.pipeline.infer.request import IDENTITY, InferConfig, InferError
from lipforge.pipeline.infer.run import infer
from lipforge.pipeline.media.container import MediaError, open_media, video_stream
from lipforge.pipeline.media.output.containers import KINDS
from lipforge.pipeline.media.output.picture_format import read_picture_format
from lipforge.pipeline.media.output.sound import open_sound
from lipforge.pipeline.media.output.to_format import ToFormat
from lipforge.pipeline.media.probe import probe
from lipforge.pipeline.media.video import decode_video

LIMIT_S = 5.0


@dataclass
class Fidelity:
    """Of one result."""

    num_frames: int = 0
    num_source_frames: int = 0
    worst_time_s: float = 0.0
    outside_db: float = 0.0
    inside_db: float = 0.0
    drawn_ratio: float = 0.0
    sound_error_s: float = 0.0
    length_error_s: float = 0.0
    speed: float = 0.0


def frames_of(uri: str, to_format: ToFormat) -> Iterator[tuple[float, list[np.ndarray]]]:
    """(time, planes) of each frame that can be decoded, from the first on."""
    info = probe(uri)
    first_s: float | None = None
    for frame in decode_video(uri, info, 0, info.num_frames + 2):
        if frame.image is not None:
            first_s = frame.time_s if first_s is None else first_s
            yield frame.time_s - first_s, plane_arrays(to_format.convert(frame.image))


def measure(video: Path, sound: Path, folder: Path) -> Fidelity:
    """Raises InferError, MediaError where the video cannot be used."""
    suffix = video.suffix if video.suffix.lower() in KINDS else ".mkv"
    out, exact = folder / f"result{suffix}", folder / "exact.mkv"
    config = InferConfig(model=IDENTITY, extend="trim", face="all", overwrite=True)
    began_s = time.process_time()
    result = infer(str(video), str(sound), str(out), config, limit_s=LIMIT_S)
    spent_s = time.process_time() - began_s
    infer(str(video), str(sound), str(exact), config.model_copy(update={"lossless": True}), limit_s=LIMIT_S)
    found = Fidelity(num_frames=0, drawn_ratio=result.num_drawn / result.num_frames)
    found.speed = result.duration_s / spent_s
    source_format = ToFormat(read_picture_format(str(video), probe(str(video)), str(exact)))
    as_stored = ToFormat(read_picture_format(str(out), probe(str(out)), str(exact)))
    errors, counts = np.zeros(2), np.zeros(2)
    drawn = (frames_of(str(path), as_stored) for path in (out, exact))
    for (time_s, source), (out_s, made), (_, lossless) in zip(
        frames_of(str(video), source_format), *drawn, strict=False
    ):
        found.num_frames += 1
        found.worst_time_s = max(found.worst_time_s, abs(time_s - out_s))
        for was, now, unhurt in zip(source, made, lossless, strict=True):
            inside = was != unhurt
            scale = 255 / (np.iinfo(was.dtype).max if was.dtype == np.uint8 else 1023)
            squared = ((was.astype(np.float32) - now) * scale) ** 2
            for index, part in enumerate((~inside, inside)):
                errors[index] += squared[part].sum()
                counts[index] += part.sum()
    found.num_source_frames = sum(time_s < LIMIT_S - 1e-6 for time_s, _ in frames_of(str(video), source_format))
    found.outside_db, found.inside_db = (
        float(10 * np.log10(255**2 / max(error / max(count, 1), 1e-9)))
        for error, count in zip(errors, counts, strict=True)
    )
    length_s = result.duration_s
    heard = open_sound(str(out))
    found.sound_error_s = heard.duration_s - length_s
    with open_media(str(out)) as container:
        stream = video_stream(container)
        stored_s = float((stream.duration or 0) * stream.time_base) if stream.duration else length_s
    found.length_error_s = stored_s - length_s
    return found


def main(folders: list[str]) -> None:
    """Print a table, and what was refused."""
    names = "video | frames (source) | worst time, ms | outside, dB | inside, dB | drawn | sound, ms | x real time, CPU"
    print(names, flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        for path in sorted(file for folder in folders for file in Path(folder).iterdir()):
            if path.suffix.lower() in (".csv", ".py"):
                continue
            try:
                sound = path
                open_sound(str(sound))
            except MediaError:
                sound = Path(folders[0]) / "headpose_31.mp4"
            try:
                found = measure(path, sound, Path(temporary))
            except (InferError, MediaError, ValueError) as error:
                print(f"{path.name} | refused: {str(error)[:150]}", flush=True)
                continue
            print(
                f"{path.name} | {found.num_frames} ({found.num_source_frames}) | {found.worst_time_s * 1000:.2f} | "
                f"{found.outside_db:.1f} | {found.inside_db:.1f} | {found.drawn_ratio:.0%} | "
                f"{found.sound_error_s * 1000:+.1f} | {found.speed:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    began = time.monotonic()
    main(sys.argv[1:])
    print(f"took {human_time(time.monotonic() - began)}")
