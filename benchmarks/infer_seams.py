"""Measure the seams between windows of drawn faces: do they change more there than the same frames within a window?

python -m benchmarks.infer_seams MODEL SHARD [--clips N] [--frames N] [--steps N]

MODEL is what `lipforge infer --model` takes and hears by mel, SHARD a .tar of a dataset, whose first clips count.
Windows of ours overlap and are mixed; the published ones follow each other. Both draw the same faces with the same
noise, once from the first frame and once from half a window later, so that each pair of frames at a seam lies within a
window the other time. Numbers are the mean |difference| of such pairs where the mouth is drawn, in steps of 255.
"""

import argparse
import os
import tarfile
from pathlib import Path
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are imported

import cv2
import numpy as np

from lipforge.model.clock import SAMPLE_RATE_HZ
from lipforge.model.denoiser.mask import mouth_mask
from lipforge.pipeline.infer import windows
from lipforge.pipeline.infer.lips import open_lip_model
from lipforge.pipeline.infer.protocols import LipModel
from lipforge.pipeline.infer.request import InferConfig, SamplingConfig
from lipforge.pipeline.infer.voice import MelVoice
from lipforge.pipeline.media.clips import decode_flac, decode_mp4


def read_clips(shard: Path, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(faces uint8 [T, H, W, 3], samples float32 [N]) of the first clips."""
    with tarfile.open(shard) as archive:
        files = {member.name: archive.extractfile(member) for member in archive.getmembers()}
        contents = {name: file.read() for name, file in files.items() if file is not None}
    keys = sorted({name.partition(".")[0] for name in contents})[:count]
    return [(decode_mp4(contents[f"{key}.mp4"]), decode_flac(contents[f"{key}.flac"])) for key in keys]


def draw(model: LipModel, faces: np.ndarray, samples: np.ndarray, step: int | None, first: int) -> np.ndarray:
    """Faces from `first` on, as a run: float32 [T, R, R, 3]."""
    voice = MelVoice(lambda low, high: padded(samples, low, high), len(samples) / SAMPLE_RATE_HZ)
    with patch.object(windows, "OVERLAP_RATIO", 0.25 if step is None else 0.0):
        stream = windows.MouthStream(model, voice, 0, len(faces) - first)
    for number in range(first, len(faces)):
        small = cv2.resize(faces[number], (model.resolution, model.resolution), interpolation=cv2.INTER_AREA)
        stream.push(small, number / 25)
    stream.finish()
    return np.stack([drawn for _, drawn in stream.ready()])


def padded(samples: np.ndarray, first: int, end: int) -> np.ndarray:
    """Samples [first, end), zeros beyond both ends."""
    return np.pad(samples[max(first, 0) : end], (max(0, -first), max(0, end - len(samples))))


def changes(drawn: np.ndarray) -> np.ndarray:
    """float [T - 1]: from each frame to the next, where the mouth is drawn."""
    mask = mouth_mask(drawn.shape[1]).numpy()[0] > 0
    return np.abs(np.diff(drawn[:, mask], axis=0)).mean(axis=(1, 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("shard", type=Path)
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--frames", type=int, default=200, help="at most, of each clip")
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_args()
    model = open_lip_model(InferConfig(model=given.model, sampling=SamplingConfig(steps=given.steps)))
    window = model.window_frames
    mixed = window // 4
    clips = read_clips(given.shard, given.clips)
    # step, and how many pairs of frames belong to a seam
    ways = {"published: one after the other": (window, 1), f"ours: {mixed} of {window} frames mixed": (None, mixed + 1)}
    for name, (step, pairs_each) in ways.items():
        apart = step or window - mixed
        shift = apart // 2
        seams: list[float] = []
        within: list[float] = []
        for faces, samples in clips:
            count = min(len(faces), given.frames)
            plain = changes(draw(model, faces[:count], samples, step, 0))
            shifted = changes(draw(model, faces[:count], samples, step, shift))
            first_pairs = np.arange(apart - 1, count - window, apart)  # each from the last frame of one window alone
            pairs = (first_pairs[:, None] + np.arange(pairs_each)).ravel()
            seams += plain[pairs].tolist()
            within += shifted[pairs - shift].tolist()
        print(
            f"{name}: at seams {np.mean(seams):.3f}, the same {len(seams)} pairs within a window "
            f"{np.mean(within):.3f}: {np.mean(seams) / np.mean(within) - 1:+.1%}"
        )


if __name__ == "__main__":
    main()
