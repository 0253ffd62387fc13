"""Store a unit's media, then its ledger record, which makes it done."""

from typing import Any

import numpy as np

from lipforge.datasets_manifest.sample import END_OF_TAR, clip_members, sample_bytes
from lipforge.datasets_manifest.schema import SCHEMA_VERSION, Stage, Status
from lipforge.datasets_manifest.storage.store import Store
from lipforge.model.clock import FPS, SAMPLES_PER_FRAME, SYNC_MARGIN_FRAMES
from lipforge.pipeline.clip import Clip, Unit
from lipforge.pipeline.ledger.records import Ledger
from lipforge.pipeline.media.clips import encode_flac
from lipforge.pipeline.sources.seams import open_ends


def shift_audio(audio: np.ndarray, av_offset_frames: int) -> np.ndarray:
    """Trim a clip's audio to its span, shifted so that it is in sync: by whole frames, nothing is resampled.

    audio: float32 [(T + 2 * SYNC_MARGIN_FRAMES) * 640]. A positive offset (audio early) takes earlier samples, which
    delays the audio.
    """
    first = (SYNC_MARGIN_FRAMES - av_offset_frames) * SAMPLES_PER_FRAME
    length = len(audio) - 2 * SYNC_MARGIN_FRAMES * SAMPLES_PER_FRAME
    return audio[first : first + length]


def part_name(unit_id: str, key: str) -> str:
    return f"parts/{unit_id}/{key}.tar"


def poster_name(unit_id: str, key: str) -> str:
    return f"parts/{unit_id}/{key}.jpg"


class Commit:
    """Stores every measured clip, whatever the thresholds: applying new ones must not need the models."""

    name = Stage.COMMIT

    def __init__(self, store: Store, hashes: dict[str, str]) -> None:
        """hashes: config_hash and models_hash."""
        self.store = store
        self.ledger = Ledger(store)
        self.hashes = hashes

    def write_media(self, clips: list[Clip]) -> dict[str, int]:
        """Write parts, and posters of clips without media. Returns the size of each part's sample in bytes, by key."""
        for clip in clips:
            if clip.poster:
                self.store.write(poster_name(clip.unit.unit_id, clip.key), clip.poster)
        return {clip.key: self._write_part(clip) for clip in clips if clip.mp4}

    def write_record(
        self, unit: Unit, clips: list[Clip], part_sizes: dict[str, int], facts: dict[str, Any]
    ) -> dict[str, Any]:
        """Write and return the unit's record, after its media. facts: further entries of the record."""
        clips = sorted(clips, key=lambda clip: (clip.start_frame, clip.track_index, clip.end_frame))
        record = {
            "unit_id": unit.unit_id,
            "source_id": unit.video.source_id,
            "start_frame": unit.start_frame,
            "end_frame": unit.end_frame,
            "rows": [self._row(clip, facts) for clip in clips],
            "part_sizes": part_sizes,
            "open_ends": open_ends(clips),
            **facts,
        }
        self.ledger.write_unit(unit.unit_id, record)
        return record

    def _row(self, clip: Clip, facts: dict[str, Any]) -> dict[str, Any]:
        """A clip's row, with measures and no verdict if it passed every stage: thresholds decide on it later."""
        outcome = {}
        if clip.status is not Status.KEPT:
            reason = clip.reason.value if clip.reason else None
            outcome = {
                "status": clip.status.value,
                "stage": clip.stage,
                "reason": reason,
                "detail": clip.detail or None,
            }
        return {
            "clip_id": clip.key,
            "key": clip.key,
            "start_frame": clip.start_frame,
            "end_frame": clip.end_frame,
            "shot_index": clip.shot_index,
            "track_index": clip.track_index,
            "decode_passes": facts["decode_passes"],
            **outcome,
            **clip.measures,
        }

    def _write_part(self, clip: Clip) -> int:
        data = sample_bytes(clip.key, self._members(clip))
        self.store.write(part_name(clip.unit.unit_id, clip.key), data + END_OF_TAR)
        return len(data)

    def _members(self, clip: Clip) -> dict[str, bytes]:
        assert clip.audio is not None
        source = clip.unit.video.source
        about = {
            "schema_version": SCHEMA_VERSION,
            "key": clip.key,
            "source_id": clip.unit.video.source_id,
            "start_s": clip.start_frame / FPS,
            "end_s": clip.end_frame / FPS,
            "num_frames": clip.num_frames,
            "shot_index": clip.shot_index,
            "track_index": clip.track_index,
            "language": source.language,
            "speaker": source.speaker,
            **clip.measures,
            **self.hashes,
        }
        flac = encode_flac(shift_audio(clip.audio, clip.measures["av_offset_frames"]))
        return clip_members(clip.mp4, flac, about, clip.npz)
