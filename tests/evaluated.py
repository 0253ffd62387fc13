"""Aligned crops, and videos of mouths that copy, freeze or speak, for tests of evaluation."""

from pathlib import Path

import cv2
import numpy as np

from lipforge.model.faces.alignment import align, steady, to_square
from lipforge.model.faces.picture import Picture
from lipforge.pipeline.evaluate.judge import Judge
from lipforge.pipeline.media.shown import write_shown
from tests.talking_photo import render

SECONDS, SIZE_PX = 2.56, 192
_MOUTH = (0.5, 0.57, 0.22, 0.16)
"""Of the talking photograph: centre and half axes of the area that is held, as shares of the frame."""


def crops_of(frames: np.ndarray, judge: Judge, size: int) -> np.ndarray:
    """Aligned crops uint8 [T, size, size, 3] of frames with one face."""
    prior = judge.faces.detect(Picture.of(frames[0]))[0]
    found = []
    for frame in frames:
        prior = judge.faces.landmarks(Picture.of(frame), prior)
        assert prior is not None
        found.append(prior.points)
    points = steady(judge.faces.alignment_points(np.stack(found)), 0.7)
    matrices = to_square(align(points, size), size)
    return np.stack([cv2.warpAffine(frame, at, (size, size)) for frame, at in zip(frames, matrices, strict=True)])


def held(frames: np.ndarray, index: int = 0) -> np.ndarray:
    """The mouth of one frame in all of them."""
    height, width = frames.shape[1:3]
    mask = np.zeros((height, width), np.float32)
    x, y, across, down = _MOUTH
    cv2.ellipse(
        mask, (round(x * width), round(y * height)), (round(across * width), round(down * height)), 0, 0, 360, 1.0, -1
    )
    share = cv2.GaussianBlur(mask, (0, 0), width / 64)[..., None]
    return np.stack([(frame * (1 - share) + frames[index] * share).round().astype(np.uint8) for frame in frames])


def write_cases(folder: Path) -> dict[str, dict[str, Path]]:
    """case -> sound (own, silent, foreign) -> video. `original` has own alone, `frozen` none with silence."""
    frames, audio = render(SECONDS, 0, 1, SIZE_PX)
    others, foreign = render(SECONDS, 0, 2, SIZE_PX)
    silence = np.zeros_like(audio)
    still = held(frames, 5)
    shut = held(frames, _most_shut(frames))
    cases = {
        "original": {"own": (frames, audio)},
        "copied": {"own": (frames, audio), "silent": (frames, silence), "foreign": (frames, foreign)},
        "frozen": {"own": (still, audio), "foreign": (still, foreign)},
        "true": {"own": (frames, audio), "silent": (shut, silence), "foreign": (others, foreign)},
    }
    return {
        case: {sound: _write(folder / case / sound / "talk me.mp4", *made) for sound, made in videos.items()}
        for case, videos in cases.items()
    }


def _most_shut(frames: np.ndarray) -> int:
    """The frame whose mouth shows the least dark."""
    height, width = frames.shape[1:3]
    part = frames[:, height // 2 : height * 2 // 3, width * 2 // 5 : width * 3 // 5].mean(axis=-1)
    return int((part < 60).sum(axis=(1, 2)).argmin())


def _write(path: Path, frames: np.ndarray, audio: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_shown(path, frames, audio)
    return path
