"""Datasets for tests of the stream: clips whose frames and audio tell the clip and the moment."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from lipforge.datasets_manifest.sample import END_OF_TAR, clip_members, sample_bytes
from lipforge.datasets_manifest.selection import SELECTION_COLUMNS, write_selection
from lipforge.model.clock import SAMPLES_PER_FRAME
from lipforge.pipeline.config import EncodeConfig
from lipforge.pipeline.media.clips import encode_flac, encode_mp4
from tests.coded import code_of, coded_image

SIDE_PX = 128
_FAST = EncodeConfig(preset="ultrafast")


@dataclass(frozen=True)
class Moment:
    """What a coded frame shows."""

    clip: int
    """Number of the clip, modulo 16."""
    frame: int


def coded_frame(clip: int, frame: int) -> np.ndarray:
    """uint8 [128, 128, 3]."""
    return np.pad(coded_image((clip % 16) << 8 | frame), ((0, 32), (0, 0), (0, 0)))


def moment_of(rgb: np.ndarray) -> Moment:
    return Moment(*divmod(code_of(rgb[:96]), 256))


def key_of(clip: int) -> str:
    return f"{clip * 2654435761 % 2**32:08x}{clip:024x}"


def coded_sample(
    clip: int, num_frames: int, frames: np.ndarray | None = None, audio: np.ndarray | None = None
) -> bytes:
    """The bytes of a sample in a shard. By default coded frames, and audio that gets louder with time."""
    if frames is None:
        frames = np.stack([coded_frame(clip, frame) for frame in range(num_frames)])
    if audio is None:
        noise = np.random.default_rng(clip).uniform(-1, 1, num_frames * SAMPLES_PER_FRAME)
        audio = (noise * np.linspace(0.01, 0.5, len(noise))).astype(np.float32)
    key = key_of(clip)
    return sample_bytes(key, clip_members(encode_mp4(frames, _FAST), encode_flac(audio), {"key": key}))


def write_shards(root: Path, shards: list[list[bytes]], num_frames: list[int], dataset: str | None = None) -> pa.Table:
    """A dataset with these samples in this order; returns the rows of its selection.

    dataset: its URL, if it is not `root`.
    """
    rows = []
    for number, samples in enumerate(shards):
        shard = f"shards/en/en-{number:06d}.tar"
        path = root / shard
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(samples) + END_OF_TAR)
        offset = 0
        for sample in samples:
            clip = len(rows)
            where = {"shard": shard, "key": key_of(clip), "sample_offset": offset, "sample_size": len(sample)}
            about = {"key": key_of(clip), "num_frames": num_frames[clip], "crop_px": SIDE_PX, "status": "kept"}
            rows.append({**where, **about, "dataset": dataset or str(root), "split": "train"})
            offset += len(sample)
    return pa.Table.from_pylist(rows, SELECTION_COLUMNS)


def coded_dataset(root: Path, clips_per_shard: list[int], num_frames: int = 40, dataset: str | None = None) -> pa.Table:
    """Shards of coded clips, numbered as they lie there; returns the rows of its selection."""
    numbers = iter(range(sum(clips_per_shard)))
    shards = [[coded_sample(next(numbers), num_frames) for _ in range(count)] for count in clips_per_shard]
    return write_shards(root, shards, [num_frames] * sum(clips_per_shard), dataset)


def select(path: Path, rows: pa.Table) -> str:
    """Write the rows as a selection; returns its path."""
    write_selection(str(path), rows, {})
    return str(path)
