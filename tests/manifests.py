"""Small manifests with the columns that selections need."""

import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lipforge.datasets_manifest.manifest import write_manifest
from lipforge.datasets_manifest.schema import SCHEMA_VERSION


def clip(number: int, **values: Any) -> dict[str, Any]:
    """A kept clip of 6 s in a shard; `values` replace columns."""
    row = {
        "source_id": f"{number // 4:064x}",
        "source_uri": f"/videos/{number // 4}.mp4",
        "start_s": number % 4 * 6.0,
        "end_s": number % 4 * 6.0 + 6.0,
        "duration_s": 6.0,
        "accounted_s": 6.0,
        "num_frames": 150,
        "track_index": 0,
        "source_fps": 25.0,
        "face_size_px": 200.0,
        "crop_px": 256,
        "sync_confidence": 5.0,
        "sync_model": "syncnet_v2",
        "quality": 60.0,
        "quality_model": "hyperiqa",
        "language": "hi",
        "speaker": f"person-{number % 10}",
        "status": "kept",
        "stage": "commit",
        "shard": "shards/hi/hi-000000.tar",
        "key": f"{number:032x}",
        "sample_offset": number * 1000,
        "sample_size": 1000,
        "schema_version": SCHEMA_VERSION,
    }
    return {**row, **values}


def refused(number: int, reason: str, **values: Any) -> dict[str, Any]:
    """A clip that a threshold of its dataset refused: measured, and in no shard."""
    nowhere = {"shard": None, "sample_offset": None, "sample_size": None}
    return clip(number, status="rejected", reason=reason, **nowhere, **values)


def dataset(folder: Path, rows: Iterable[Mapping[str, Any]]) -> str:
    write_manifest(str(folder), rows)
    return str(folder)


def varied(count: int, seed: int = 0, **values: Any) -> list[dict[str, Any]]:
    """Clips of 5 to 9.4 s with varied scores, speakers and languages."""
    rng = random.Random(seed)
    return [
        clip(
            number,
            duration_s=rng.randrange(125, 236) / 25,
            sync_confidence=rng.uniform(1, 9),
            quality=rng.uniform(30, 90),
            face_size_px=rng.uniform(80, 400),
            speaker=f"person-{rng.randrange(60)}",
            language=rng.choice(["hi", "zh", "zh-CN", "ZH_tw", "en"]),
            **values,
        )
        for number in range(count)
    ]
