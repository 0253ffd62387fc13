"""CPU seconds per second of video of everything around the network, over those of the bare kernels.

    python -m benchmarks.infer_speed [VIDEO ...]

The baseline does each kernel once for each frame, with nothing around it: decode, convert to RGB, FaceMesh (and a
search for new faces once a second), warp the crop, warp the face back and mix it, encode as the result is. `lipforge
infer --model identity` does the rest, too: it decodes twice, finds shots, scores who speaks, aligns, matches colours,
mixes in the picture's own numbers, copies the sound, writes segments and the file. Without videos: one drawn here.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from lipforge.model.faces.alignment import align, to_square
from lipforge.model.weights.load import load
from lipforge.pipeline.infer.blend import Blender
from lipforge.pipeline.infer.request import IDENTITY, InferConfig
from lipforge.pipeline.infer.run import infer
from lipforge.pipeline.media.output.picture_format import read_picture_format
from lipforge.pipeline.media.output.segment import SegmentWriter
from lipforge.pipeline.media.output.to_format import ToFormat
from lipforge.pipeline.media.picture import ToRgb
from lipforge.pipeline.media.probe import probe
from lipforge.pipeline.media.video import decode_video
from lipforge.pipeline.profiles import PROFILES
from tests.talking_photo import make_talking_photo

REPEATS = 3


class Clock:
    """CPU seconds of this process, by kernel."""

    def __init__(self) -> None:
        self.cpu_s: dict[str, float] = {}

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        began_s = time.process_time()
        yield
        self.cpu_s[name] = self.cpu_s.get(name, 0.0) + time.process_time() - began_s


def bare_kernels(video: str, folder: Path) -> dict[str, float]:
    """CPU seconds by kernel, for the whole video."""
    clock, info = Clock(), probe(video)
    backend = PROFILES["builtin"].faces(load("builtin"))
    stored = read_picture_format(video, info, "x.mp4")
    to_format, to_rgb, to_stored = ToFormat(stored), ToRgb(info), VideoReformatter()
    blender = Blender(256)
    alpha = blender.alpha[..., None]
    face = None
    frames = decode_video(video, info, 0, info.num_frames)
    writer = SegmentWriter(folder / "bare.nut", stored)
    number = 0
    while True:
        with clock.running("decode"):
            frame = next(frames, None)
        if frame is None:
            break
        if frame.image is None:
            continue
        with clock.running("convert"):
            picture = to_rgb.convert(frame)
            rgb = picture.whole()
        with clock.running("find faces"):
            if face is None or number % round(info.mean_fps) == 0:
                found = backend.detect(picture)
                face = backend.landmarks(picture, found[0]) if face is None and found else face
            face = None if face is None else backend.landmarks(picture, face)
        if face is not None:
            matrix = to_square(align(backend.alignment_points(face.points)[None], 256), 256)[0]
            with clock.running("crop"):
                crop = cv2.warpAffine(rgb, matrix, (256, 256), flags=cv2.INTER_LINEAR)
            with clock.running("paste"):
                _paste(rgb, crop, matrix, alpha)
                to_stored.reformat(frame.image, format="rgb24")
        with clock.running("encode"):
            writer.write(to_format.convert(frame.image), round(frame.time_s / stored.time_base))
        number += 1
    with clock.running("encode"):
        writer.close()
    return clock.cpu_s


def _paste(rgb: np.ndarray, crop: np.ndarray, matrix: np.ndarray, alpha: np.ndarray) -> None:
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    corners = np.array([[0, 0, 1], [255, 0, 1], [255, 255, 1], [0, 255, 1]]) @ inverse.T
    low = np.clip(corners.min(axis=0).astype(int), 0, None)
    high = np.minimum(corners.max(axis=0).astype(int) + 1, rgb.shape[1::-1])
    if (high <= low).any():
        return
    inverse[:, 2] -= low
    size = int(high[0] - low[0]), int(high[1] - low[1])
    shown = cv2.warpAffine(crop, inverse, size, flags=cv2.INTER_CUBIC)
    share = cv2.warpAffine(alpha, inverse, size)[..., None]
    part = rgb[low[1] : high[1], low[0] : high[0]]
    part[:] = part + share * (shown.astype(np.float32) - part)


def main(videos: list[str]) -> None:
    """Print, for each video, CPU seconds per second, and the ratio to the bare kernels in the same run."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if not videos:
            videos = [str(make_talking_photo(folder / "talk.mp4", 8.0, size_px=640))]
        config = InferConfig(model=IDENTITY, extend="trim", overwrite=True)
        for video in videos:
            ratios, words = [], ""
            infer(video, video, str(folder / "warm.mp4"), config, limit_s=0.4)
            for _ in range(REPEATS):
                kernels = bare_kernels(video, folder)
                began_s = time.process_time()
                result = infer(video, video, str(folder / "result.mp4"), config)
                whole_s = time.process_time() - began_s
                bare_s = sum(kernels.values())
                ratios.append(bare_s / whole_s)
                parts = ", ".join(f"{name} {cpu_s / result.duration_s:.3f}" for name, cpu_s in kernels.items())
                words = (
                    f"{whole_s / result.duration_s:.3f} CPU s per second of video; bare kernels "
                    f"{bare_s / result.duration_s:.3f} ({parts})"
                )
            ratio = float(np.median(ratios))
            print(f"{Path(video).name}: kernels are {ratio:.0%} of the whole (aim 80 %); {words}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
