"""Held-out clips that validations generate: the same ones each time, of many speakers, with their sound."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lipforge.datasets_manifest.sample import read_clip_at
from lipforge.datasets_manifest.selection import read_selection
from lipforge.datasets_manifest.storage.files import open_place
from lipforge.model.clock import FPS, SAMPLES_PER_FRAME, SYNC_MARGIN_FRAMES
from lipforge.pipeline.evaluate.judge import MIN_SYNC_FRAMES
from lipforge.pipeline.media.clips import decode_flac, decode_mp4
from lipforge.pipeline.media.container import MediaError
from lipforge.train.stream.decode import DamagedSampleError
from lipforge.train.stream.order import refuse_other_templates

Row = Mapping[str, Any]
_COLUMNS = ["key", "language", "speaker", "source_id", "num_frames", "dataset", "shard", "sample_offset", "sample_size"]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """A clip, in the middle of a stored one."""

    key: str
    language: str
    """`und` where it is not known."""
    speaker: str
    """Without a label, a source is a speaker, as in `select`."""
    num_frames: int
    """T"""
    first: int
    """First frame, in the stored clip."""
    mp4: bytes
    """Of the stored clip."""
    audio: np.ndarray
    """float32 [(T + 30) * 640], with 15 frames of margin on each side; zeros beyond the stored clip."""

    def frames(self) -> np.ndarray:
        """uint8 [T, H, W, 3], as stored."""
        return decode_mp4(self.mp4)[self.first : self.first + self.num_frames]


def read_held_out(selection: str, num_clips: int, seconds: float) -> tuple[list[HeldOut], int]:
    """(clips of the val split that are generated, number of its clips that are too short to be judged).

    Fewer than num_clips, or none, when there are no more. Raises what `read_selection` raises, UnreadableError, and
    DamagedSampleError.
    """
    clips = read_selection(selection, "val")
    refuse_other_templates(clips, "the mask of the trainers")
    rows = clips.select(_COLUMNS).to_pylist()
    long = [row for row in rows if row["num_frames"] >= MIN_SYNC_FRAMES]
    return [_read(row, seconds) for row in choose(long, num_clips)], len(rows) - len(long)


def choose(rows: Sequence[Row], num_clips: int) -> list[Row]:
    """Of each language in turn a clip of its next speaker, in an order that neither depends on the file's nor on time.

    rows: with key, language, speaker, source_id.
    """
    by_language: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in sorted(rows, key=lambda row: _shuffled(row["key"])):
        by_language[row["language"] or ""][_speaker(row)].append(row)
    turns = [_in_turn(list(speakers.values())) for _, speakers in sorted(by_language.items())]
    return _in_turn(turns)[:num_clips]


def foreign_of(clips: Sequence[HeldOut]) -> list[int | None]:
    """For each clip, the number of the one whose sound it gets: the next one of another speaker.

    None: there is no other speaker.
    """
    found: list[int | None] = []
    for number, clip in enumerate(clips):
        others = [(number + step) % len(clips) for step in range(1, len(clips))]
        found.append(next((other for other in others if clips[other].speaker != clip.speaker), None))
    return found


def fitted(audio: np.ndarray, num_frames: int) -> np.ndarray:
    """Another clip's sound for a clip of num_frames: cut, or followed by silence. float32 [(num_frames + 30) * 640]."""
    size = (num_frames + 2 * SYNC_MARGIN_FRAMES) * SAMPLES_PER_FRAME
    return np.pad(audio[:size], (0, max(0, size - len(audio))))


def _in_turn(lists: Sequence[Sequence[Row]]) -> list[Row]:
    """The first of each list, then the second of each, and so on."""
    longest = max((len(rows) for rows in lists), default=0)
    return [rows[place] for place in range(longest) for rows in lists if place < len(rows)]


def _read(row: Row, seconds: float) -> HeldOut:
    fs, root = open_place(row["dataset"])
    place = f"{root}/{row['shard']}"
    try:
        members = read_clip_at(fs, place, row["sample_offset"], row["sample_size"], row["key"])
        stored, sound = len(decode_mp4(members["mp4"])), decode_flac(members["flac"])
        if (stored, len(sound)) != (row["num_frames"], row["num_frames"] * SAMPLES_PER_FRAME):
            raise ValueError(f"{stored} frames and {len(sound)} samples, {row['num_frames']} frames expected")
    except (ValueError, MediaError) as error:
        raise DamagedSampleError(row["key"], row["shard"], str(error)) from error
    num_frames = min(stored, round(seconds * FPS))
    first = (stored - num_frames) // 2
    margin = SYNC_MARGIN_FRAMES * SAMPLES_PER_FRAME
    begin = first * SAMPLES_PER_FRAME  # of the margin, in the padded sound
    audio = np.pad(sound, margin)[begin : begin + num_frames * SAMPLES_PER_FRAME + 2 * margin]
    return HeldOut(row["key"], row["language"] or "und", _speaker(row), num_frames, first, members["mp4"], audio)


def _speaker(row: Row) -> str:
    return row["speaker"] or row["source_id"] or row["key"]


def _shuffled(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=8).digest()
