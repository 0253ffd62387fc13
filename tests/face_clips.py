"""Selections of clips that show a talking face: the talking photograph, cropped as `prepare` crops, in a second."""

import functools
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa

from lipforge.datasets_manifest.selection import SELECTION_COLUMNS
from lipforge.model.faces.alignment import align, to_square
from lipforge.model.faces.mediapipe import MediaPipeFaces, alignment_points
from lipforge.model.faces.picture import Picture
from lipforge.model.weights import load as weights
from tests.made_speakers import make_speaker
from tests.stream_clips import SIDE_PX, coded_sample, select, write_shards
from tests.talking_photo import perform


@functools.cache
def _to_crop(size_px: int) -> np.ndarray:
    """From the photograph to the aligned crop: float [2, 3]."""
    frame = next(iter(perform(0.2, 0, 0, size_px)[0]))
    faces = MediaPipeFaces(weights.load("builtin"))
    picture = Picture.of(frame)
    found = faces.landmarks(picture, faces.detect(picture)[0])
    assert found is not None
    points = alignment_points(found.points)[None]
    return to_square(align(points, SIDE_PX), SIDE_PX)[0]


def face_clip(number: int, num_frames: int, size_px: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Frames uint8 [T, 128, 128, 3] and audio float32 [T * 640] of a speaker of that number, in sync."""
    speaker = make_speaker(number)
    frames, audio = perform(num_frames / 25, 0, number, size_px, speaker.voice)
    matrix = _to_crop(size_px)
    crops = [cv2.warpAffine(frame, matrix, (SIDE_PX, SIDE_PX), flags=cv2.INTER_LINEAR) for frame in frames]
    return np.stack(crops)[:num_frames], audio[: num_frames * 640]


def face_selection(folder: Path, num_train: int = 2, num_val: int = 3, num_frames: int = 40, first: int = 0) -> str:
    """Path of a selection: each clip by a speaker of its own; the last ones are held out. first: of the speakers."""
    count = num_train + num_val
    samples = [coded_sample(first + n, num_frames, *face_clip(first + n, num_frames)) for n in range(count)]
    rows = write_shards(folder / "dataset", [samples], [num_frames] * count).to_pylist()
    for number, row in enumerate(rows):
        row["split"] = "train" if number < num_train else "val"
        row["speaker"], row["language"] = f"speaker {first + number}", "en"
    return select(folder / "selection.parquet", pa.Table.from_pylist(rows, SELECTION_COLUMNS))
