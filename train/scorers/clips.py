"""Training clips of the lip-sync scorer, extracted from a dataset that `lipforge prepare` made.

Each kept clip becomes one small file of plain arrays: landmarks of the face, images of the mouth, audio.
"""

import logging
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from lipforge.datasets_manifest.manifest import read_manifest
from lipforge.datasets_manifest.sample import read_clip_at
from lipforge.datasets_manifest.storage.files import open_place
from lipforge.model.faces.crop_points import crop_points
from lipforge.model.faces.lip_points import mouth_images
from lipforge.model.faces.mediapipe import MediaPipeFaces
from lipforge.model.weights import load as weights
from lipforge.pipeline.media.clips import decode_flac, decode_mp4
from lipforge.train.stream.order import refuse_other_templates

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class TrainingClip:
    """One clip as stored in its shard: `num_frames` of video with exactly their audio."""

    name: str
    source: str
    """File name of the source video."""
    speaker: str | None
    corrected_frames: int
    """The clip's `av_offset_frames`, by which `prepare` shifted the audio."""
    points: np.ndarray
    """float32 [T, len(SYNC_LANDMARKS), 3], pixels of the upright crop."""
    mouths: np.ndarray
    """uint8 [T, 64, 64]: `mouth_images`."""
    audio: np.ndarray
    """float32 [T * 640]."""
    lips: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """float32 [T, NUM_SPEAKING, 3]: `lip_motion`."""
    waves: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """float32 [V, T, 144]: `mouth_motion` of V framings, the first one unchanged."""
    power: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """float32 [T * 4, 40]: `mel_power`."""
    offset_frames: float | None = 0.0
    """As SyncScore.offset_frames, left after the correction by `prepare`. None: audio and video do not match."""
    group: int = 0
    """Clips of different groups show different speakers."""

    @property
    def num_frames(self) -> int:
        return len(self.points)


def extract_clips(dataset: str, cache: Path) -> None:
    """Write one .npz for each kept clip of the dataset; existing ones are kept.

    Raises ValueError if no clip was kept or a sample is damaged.
    """
    faces = MediaPipeFaces(weights.load("builtin"))
    cache.mkdir(parents=True, exist_ok=True)
    columns = ["key", "source_uri", "speaker", "av_offset_frames", "align_template"]
    columns += ["shard", "sample_offset", "sample_size"]
    table = read_manifest(dataset, columns, pc.field("status") == "kept").sort_by("key")
    refuse_other_templates(table, "the scorer of lip-sync")
    rows = table.to_pylist()
    if not rows:
        raise ValueError(f"{dataset} has no kept clips: `lipforge report {dataset}` shows why")
    fs, root = open_place(dataset)
    for number, row in enumerate(rows, start=1):
        target = cache / f"{row['key']}.npz"
        if target.exists():
            continue
        place = f"{root}/{row['shard']}", row["sample_offset"], row["sample_size"]
        sample = read_clip_at(fs, *place, row["key"])
        frames = decode_mp4(sample["mp4"])
        points = crop_points(frames, faces)
        if points is None:
            log.warning("%s: no face found in the crop", row["key"])
            continue
        clip = TrainingClip(
            name=row["key"],
            source=row["source_uri"].rsplit("/", 1)[-1],
            speaker=row["speaker"],
            corrected_frames=row["av_offset_frames"],
            points=points,
            mouths=mouth_images(frames),
            audio=decode_flac(sample["flac"]),
        )
        save_clip(clip, target)
        if number % 100 == 0 or number == len(rows):
            log.info("%d of %d clips", number, len(rows))


def save_clip(clip: TrainingClip, path: Path) -> None:
    """Write plain arrays only, so that reading them cannot run code."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as stream:
        np.savez(
            stream,
            source=clip.source,
            speaker=clip.speaker or "",
            corrected_frames=clip.corrected_frames,
            points=clip.points,
            mouths=clip.mouths,
            audio=clip.audio,
        )
    temporary.replace(path)


def load_clips(cache: Path) -> Iterator[TrainingClip]:
    """The clips of a folder that `extract_clips` wrote. Raises ValueError if there is none, or a broken one."""
    paths = sorted(cache.glob("*.npz"))
    if not paths:
        raise ValueError(
            f"no .npz files in {cache}: run `python -m train.scorers.lip_sync extract DATASET {cache}` first"
        )
    for path in paths:
        try:
            clip = _read_clip(path)
        except (KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{path}: not a clip written by `extract`. Remove it and run `extract` again.") from error
        yield clip


def _read_clip(path: Path) -> TrainingClip:
    with np.load(path, allow_pickle=False) as arrays:
        return TrainingClip(
            name=path.stem,
            source=str(arrays["source"]),
            speaker=str(arrays["speaker"]) or None,
            corrected_frames=int(arrays["corrected_frames"]),
            points=arrays["points"],
            mouths=arrays["mouths"],
            audio=arrays["audio"],
        )
