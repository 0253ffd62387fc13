"""A dataset made without videos and models: what `lipforge prepare` leaves of units, then sealed and published."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from lipforge.datasets_manifest.sample import clip_members, sample_bytes
from lipforge.datasets_manifest.storage.store import Store
from lipforge.model.clock import SAMPLES_PER_FRAME
from lipforge.pipeline.clip import Source, Unit, Video
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.ledger.parts import write_part
from lipforge.pipeline.ledger.records import read_dataset, write_dataset
from lipforge.pipeline.ledger.segments import Content, Segments
from lipforge.pipeline.ledger.source_log import SourceLog
from lipforge.pipeline.media.clips import encode_flac
from lipforge.pipeline.media.probe import VideoInfo
from lipforge.pipeline.publish.accounts import Totals
from lipforge.pipeline.publish.publish import publish
from lipforge.pipeline.publish.seal import DoneContent, Sealer, SealTask, delete_parts
from lipforge.pipeline.running.local import LocalExecutor
from lipforge.pipeline.stages.probe import to_record

CLIP_FRAMES = 25
HASHES = {"config_hash": "c" * 16, "models_hash": "m" * 16}
CONFIG = PrepareConfig.model_validate(
    {
        "thresholds": {
            "min_clip_s": 1.0,
            "min_sync_confidence": 2.0,
            "sync_model": "s",
            "min_quality": 40.0,
            "quality_model": "q",
        },
        "pack": {"shard_size_mb": 0.2},
        "run": {"executor": "local"},
    }
)
MEASURES = {
    "crop_px": 256,
    "upscale_ratio": 1.0,
    "face_size_px": 200.0,
    "max_faces": 1,
    "av_offset_frames": 0,
    "lossy_generations": 1,
    "speech_ratio": 0.9,
    "sync_model": "s",
    "sync_confidence": 5.0,
    "sync_distance": 1.0,
    "quality_model": "q",
    "quality": 60.0,
}


@dataclass(frozen=True)
class MadeSource:
    """A source of one unit. clips: measures that differ from MEASURES."""

    name: str
    clips: Sequence[dict[str, Any]] = ({}, {}, {})
    language: str | None = None
    speaker: str | None = None

    @property
    def unit(self) -> Unit:
        frames = CLIP_FRAMES * len(self.clips)
        info = VideoInfo(640, 480, 0, 25.0, frames, 0.0, (0.0,), True, "h264", "aac")
        source = Source(
            f"/videos/{self.name}.mp4",
            language=self.language or "und",
            language_source="list" if self.language else "none",
            speaker=self.speaker,
            speaker_source="list" if self.speaker else "none",
        )
        return Unit(Video(source, self.name.encode().hex().ljust(64, "0"), info), 0, frames)

    @property
    def keys(self) -> list[str]:
        return [f"{self.name.encode().hex()}{number:04x}" for number in range(len(self.clips))]


def audio_of(key: str) -> np.ndarray:
    """float32: the audio of a clip."""
    seed = int(key, 16) % 2**32
    return np.random.default_rng(seed).normal(0, 0.1, CLIP_FRAMES * SAMPLES_PER_FRAME).astype(np.float32)


@cache
def _block_of(key: str) -> bytes:
    return sample_bytes(key, clip_members(key.encode() * 900, encode_flac(audio_of(key)), {"key": key}))


def record_of(source: MadeSource) -> tuple[dict[str, Any], dict[str, bytes]]:
    """A unit's record, and the tar blocks of its clips by key."""
    rows, blocks = [], {}
    for number, (key, measures) in enumerate(zip(source.keys, source.clips, strict=True)):
        blocks[key] = _block_of(key)
        span = {"start_frame": number * CLIP_FRAMES, "end_frame": (number + 1) * CLIP_FRAMES}
        row = {"key": key, "shot_index": 0, "track_index": 0, "decode_passes": 1.0}
        rows.append({**row, **span, **MEASURES, **measures})
    unit = source.unit
    spans = {"start_frame": 0, "end_frame": unit.end_frame}
    return {"unit_id": unit.unit_id, "source_id": unit.video.source_id, **spans, "rows": rows, "open_ends": []}, blocks


def add_sources(store: Store, sources: Sequence[MadeSource]) -> None:
    """Write what probe, cut and score leave; nothing is sealed yet."""
    if read_dataset(store) is None:
        write_dataset(store, {"config": CONFIG.model_dump(mode="json"), "measuring": {}, "hashes": HASHES})
    log = SourceLog(store)
    for source in sources:
        log.add(source.unit.video.source.entry_id, to_record(source.unit.video))
    log.write()
    write_parts(store, sources)
    Segments(store).plan([Content(source.unit.video, (source.unit,)) for source in sources])


def write_parts(store: Store, sources: Sequence[MadeSource]) -> None:
    for source in sources:
        write_part(store, *record_of(source))


def seal_dataset(store: Store, config: PrepareConfig = CONFIG) -> None:
    """Seal all segments whose units have parts."""
    segments = Segments(store)
    for number in segments.numbers():
        if segments.revision(number) < 0:
            contents = [
                DoneContent(index, content.video, tuple(unit.unit_id for unit in content.units))
                for index, content in enumerate(segments.contents(number))
            ]
            task = SealTask(number, contents)
            Sealer(store, config, HASHES)(task)
            delete_parts(store, [task])


def pack_dataset(store: Store, config: PrepareConfig = CONFIG) -> Totals:
    seal_dataset(store, config)
    return publish(store, config, HASHES, LocalExecutor())


def make_dataset(folder: Path | str, sources: Sequence[MadeSource]) -> Store:
    store = Store(str(folder))
    add_sources(store, sources)
    pack_dataset(store)
    return store
