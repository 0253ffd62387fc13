"""Store all that came of a unit as one part, which makes it done.

KEY.json holds what was measured and where the clip came from. Labels (language, speaker) are the manifest's alone: they
may change, and media never does.
"""

import os
from typing import Any

import numpy as np

from lipforge.datasets_manifest.display import valid_unicode
from lipforge.datasets_manifest.sample import clip_members, sample_bytes
from lipforge.datasets_manifest.schema import SCHEMA_VERSION, Stage, Status
from lipforge.datasets_manifest.storage.store import Store
from lipforge.model.clock import FPS, SAMPLES_PER_FRAME, SYNC_MARGIN_FRAMES
from lipforge.pipeline.clip import Clip, Unit
from lipforge.pipeline.ledger.parts import write_part
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


class Commit:
    """Stores every measured clip, whatever the thresholds: applying new ones must not need the models."""

    name = Stage.COMMIT

    def __init__(self, store: Store, hashes: dict[str, str]) -> None:
        """hashes: config_hash and models_hash."""
        self.store = store
        self.hashes = hashes

    def write(self, unit: Unit, clips: list[Clip], facts: dict[str, Any]) -> dict[str, Any]:
        """Write the unit's part and return its record. facts: further entries of the record."""
        clips = sorted(clips, key=lambda clip: (clip.start_frame, clip.track_index, clip.end_frame))
        record = {
            "unit_id": unit.unit_id,
            "source_id": unit.video.source_id,
            "start_frame": unit.start_frame,
            "end_frame": unit.end_frame,
            "rows": [self._row(clip, facts) for clip in clips],
            "open_ends": open_ends(clips),
            **facts,
        }
        return write_part(self.store, record, {clip.key: blocks for clip in clips if (blocks := self._blocks(clip))})

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
            "key": clip.key,
            "start_frame": clip.start_frame,
            "end_frame": clip.end_frame,
            "shot_index": clip.shot_index,
            "track_index": clip.track_index,
            "decode_passes": facts["decode_passes"],
            **outcome,
            **clip.measures,
        }

    def _blocks(self, clip: Clip) -> bytes:
        """Tar blocks of a clip's sample, or of a still where it has no media; empty when nothing was seen."""
        if clip.mp4:
            return sample_bytes(clip.key, self._members(clip))
        return sample_bytes(clip.key, {"jpg": clip.poster}) if clip.poster else b""

    def _members(self, clip: Clip) -> dict[str, bytes]:
        assert clip.audio is not None
        video = clip.unit.video
        about = {
            "schema_version": SCHEMA_VERSION,
            "key": clip.key,
            "source_id": video.source_id,
            "source_name": valid_unicode(os.path.basename(video.source.uri)),
            "start_s": clip.start_frame / FPS,
            "end_s": clip.end_frame / FPS,
            "num_frames": clip.num_frames,
            "shot_index": clip.shot_index,
            "track_index": clip.track_index,
            **clip.measures,
            **self.hashes,
        }
        flac = encode_flac(shift_audio(clip.audio, clip.measures["av_offset_frames"]))
        return clip_members(clip.mp4, flac, about, clip.npz)
