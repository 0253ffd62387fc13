"""Planted offsets through all of `lipforge prepare`, and what remains of them in the stored clips."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
from rich.console import Console

from benchmarks.lip_sync import media as made
from benchmarks.lip_sync.clips import Track
from benchmarks.lip_sync.measures import Scorer
from lipforge.datasets_manifest.manifest import read_manifest
from lipforge.datasets_manifest.sample import read_clip_at
from lipforge.datasets_manifest.storage.files import open_place
from lipforge.model.clock import FPS, SYNC_MARGIN_FRAMES
from lipforge.model.faces.crop_points import crop_points
from lipforge.model.faces.lip_points import mouth_images
from lipforge.model.faces.mediapipe import MediaPipeFaces
from lipforge.model.weights import load as weights
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.media.clips import decode_flac, decode_mp4
from lipforge.pipeline.run import prepare
from lipforge.pipeline.running.progress import Progress
from lipforge.pipeline.sources.inputs import Labels

PLANTED = (-10, -6, -3, -1, 0, 1, 3, 6, 10)
AGAIN = (-10, -3, 0, 3, 10)
"""Planted offsets whose stored clips are scored again."""
SOURCE_S = 6.2
"""The start of each video: enough for one clip."""
WAYS = {"samples": made.shift_samples, "time stamps": made.shift_container}


@dataclass(frozen=True)
class Found:
    """One clip of a video whose audio was shifted."""

    file: str
    way: str
    planted: int
    """Frames; positive: the audio was made early."""
    reference: int
    """The video's own offset."""
    trainable: bool
    outcome: str
    """`kept`, or the reason."""
    offset: int | None
    """Measured by `prepare`; None if it made no clip."""
    left: int | None
    """Offset of the stored clip, scored again; None if it was not."""

    @property
    def residual(self) -> int | None:
        return None if self.offset is None else self.offset - self.reference - self.planted


@dataclass(frozen=True)
class EngineRun:
    found: list[Found]
    stage_cpu_s: dict[str, float]
    seconds: float
    """Of input video."""


def usable(tracks: Sequence[Track]) -> list[Track]:
    """One track of each video of natural speech that has a reference and is long enough for a clip."""
    chosen = {
        track.file: track
        for track in tracks
        if track.about["natural_sync"] == "yes" and track.reference is not None and track.num_frames >= 5 * FPS
    }
    return [chosen[file] for file in sorted(chosen)]


def run_engine(scorer: Scorer, content: bytes, tracks: Sequence[Track], sources: Path, scratch: Path) -> EngineRun:
    """Plant offsets, prepare all videos, and score the stored clips again. content: the scorer's weights."""
    planted: dict[str, tuple[Track, str, int]] = {}
    folder = scratch / "planted"
    folder.mkdir()
    for track in tracks:
        stem = Path(track.file).stem
        base = made.base_file(sources / track.file, scratch / f"{stem}.mkv", SOURCE_S)
        for way, shift in WAYS.items():
            for frames in PLANTED:
                if frames or way == "samples":
                    path = folder / f"{stem} {way} {frames:+d}.mkv"
                    planted[str(shift(base, path, frames))] = (track, way, frames)
    out = str(scratch / "dataset")
    config = PrepareConfig.model_validate(
        {"run": {"executor": "local"}, "thresholds": {"max_av_offset_frames": SYNC_MARGIN_FRAMES}}
    )
    models = {
        **weights.load("builtin"),
        "lip_sync.safetensors": content,
    }  # the weights may differ from the shipped ones
    with open(os.devnull, "w") as nowhere, patch.object(weights, "load", return_value=models):
        summary = prepare([str(folder)], out, config, Labels(), Progress(Console(file=nowhere)))
    faces = MediaPipeFaces(models)
    fs, root = open_place(out)
    found = []
    for row in sorted(read_manifest(out).to_pylist(), key=lambda row: (row["source_uri"], row["start_s"])):
        track, way, frames = planted[row["source_uri"]]
        left = None
        if row["status"] == "kept" and frames in AGAIN:
            sample = read_clip_at(fs, f"{root}/{row['shard']}", row["sample_offset"], row["sample_size"], row["key"])
            left = _score_delivered(scorer, sample, faces)
        if row["av_offset_frames"] is None and row["end_s"] - row["start_s"] < 5:
            continue  # a tail too short for a clip
        reference = track.reference
        assert reference is not None
        found.append(
            Found(
                track.file,
                way,
                frames,
                reference,
                track.about["trainable"] == "yes",
                row["reason"] or row["status"],
                row["av_offset_frames"],
                left,
            )
        )
    return EngineRun(found, summary.stage_cpu_s, summary.seconds_in)


def _score_delivered(scorer: Scorer, sample: dict[str, bytes], faces: MediaPipeFaces) -> int | None:
    """Offset of a clip as training reads it: lips and mouth from its stored frames, and its stored audio.

    Stored audio has no margin, so only frames at least 0.6 s from both ends are scored. None if no face is found in the
    crop.
    """
    frames = decode_mp4(sample["mp4"])
    points = crop_points(frames, faces)
    if points is None:
        return None
    inner = slice(SYNC_MARGIN_FRAMES, -SYNC_MARGIN_FRAMES)
    lips = scorer.model.embed_lips(points[inner], mouth_images(frames[inner]))
    return scorer.match(lips, scorer.embed_audio(decode_flac(sample["flac"]))).offset_frames


def residuals(run: EngineRun) -> np.ndarray:
    return np.array([found.residual for found in run.found if found.residual is not None])
