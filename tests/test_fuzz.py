"""No damaged file ends a run: each has its rows, which account for its seconds, and the sound files are kept."""

import time
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from lipforge.datasets_manifest.manifest import read_manifest
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.run import prepare
from lipforge.pipeline.running import child, local
from lipforge.pipeline.running.progress import Progress
from lipforge.pipeline.sources.inputs import Labels
from tests.fuzzed_media import make_originals, mutations

LIMITS = {"max_attempts": 2, "max_kills": 2, "stall_timeout_s": 30, "unit_timeout_s": 120}


def fuzz(folder: Path, count: int, seed: int, **run: object) -> Counter[str]:
    """Prepare `count` mutations beside their originals. Returns the number of rows of each reason."""
    videos = folder / "videos"
    videos.mkdir()
    originals = make_originals(folder)
    contents = {path.name: path.read_bytes() for path in originals}
    contents |= dict(mutations(originals, count, seed))
    for name, content in contents.items():
        (videos / name).write_bytes(content)
    config = PrepareConfig.model_validate(
        {
            "run": {**LIMITS, "max_failed_ratio": 1.0, "max_decode_error_ratio": 1.0, **run},
            "cut": {"min_run_s": 1.0, "max_clip_s": 2.0},
            "faces": {"min_height_px": 20},
            "align": {"max_upscale_ratio": 20.0},
            "encode": {"preset": "ultrafast"},
            "thresholds": {
                "min_clip_s": 0.0,
                "min_speech_ratio": 0.0,
                "min_sync_confidence": -99.0,
                "min_quality": 0.0,
                "max_av_offset_frames": 15,
            },
        }
    )
    start_s = time.monotonic()
    summary = prepare([str(videos)], str(folder / "out"), config, Labels(), Progress(Console(quiet=True)))
    rows = read_manifest(str(folder / "out")).to_pylist()
    by_name: dict[str, list[dict]] = {}
    for row in rows:
        by_name.setdefault(Path(row["source_uri"]).name, []).append(row)
    assert set(by_name) == set(contents)  # every source has a row
    assert not summary.storage_errors
    for path in originals:  # what is whole is used, or its like where mutations undid each other
        outcomes = {row["reason"] or "kept" for row in by_name[path.name]}
        assert outcomes & {"kept", "duplicate"}, (path.name, by_name[path.name])
    for row in rows:
        assert row["reason"] != "internal_error", (row["source_uri"], row["detail"])
    counts = Counter(row["reason"] or "kept" for row in rows)
    print(f"\n{len(contents)} sources, {len(rows)} rows in {time.monotonic() - start_s:.0f} s: {dict(counts)}")
    return counts


def test_mutated_files_get_rows(tmp_path: Path, models: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "Child", child.Child)
    counts = fuzz(tmp_path, 60, seed=1, executor="local")
    assert counts["kept"] >= 12 and counts["decode_error"] and counts["unreadable"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_2000_mutated_files_on_ray_get_rows(tmp_path: Path, models: dict) -> None:
    counts = fuzz(tmp_path, 2000, seed=2, executor="ray", workers=2)
    assert counts["decode_error"] > 100
