"""Measure `lipforge select` and `lipforge languages` on a manifest of 5 million rows, against plain DuckDB.

python -m benchmarks.manifest [--rows N] [--repeats N] [--folder DATASET]

The manifest is synthetic and always the same: 10,000 hours in 60 languages by 40,000 speakers. The baseline asks DuckDB
the same question with `read_parquet` over the same files and nothing else: no caps, splits, checks or second dataset.
Each run is a process of its own, measured from start to exit with imports (wall time), and by its peak memory. Command
and baseline take turns; medians are printed and written to bench/manifest.json.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lipforge.datasets_manifest.manifest import MAX_ROWS_PER_FILE
from lipforge.datasets_manifest.schema import COLUMNS, SCHEMA_VERSION, Reason, Status

NUM_ROWS = 5_000_000
NUM_LANGUAGES = 60
NUM_SPEAKERS = 40_000
CLIPS_PER_SOURCE = 25
MEAN_S = 7.2
"""Gives 10,000 hours in 5 million rows."""
MIN_SYNC = 3.0
OUT = Path("bench/manifest.json")


def language(number: int) -> str:
    return f"{chr(97 + number // 8)}{chr(97 + number % 8)}"


def write_synthetic(folder: Path, num_rows: int) -> None:
    """Manifest files as write_manifest would make them; the same rows every time."""
    (folder / "manifest").mkdir(parents=True)
    for number, first in enumerate(range(0, num_rows, MAX_ROWS_PER_FILE)):
        rows = synthetic_rows(number, min(MAX_ROWS_PER_FILE, num_rows - first))
        pq.write_table(rows, folder / "manifest" / f"part-{number:05d}.parquet", compression="zstd")


def synthetic_rows(number: int, num_rows: int) -> pa.Table:
    rng = np.random.default_rng(number)
    num_sources = -(-num_rows // CLIPS_PER_SOURCE)
    source = np.arange(num_rows) // CLIPS_PER_SOURCE
    # A few languages have most of the hours; each speaker has one language.
    share = 1 / np.arange(1, NUM_LANGUAGES + 1) ** 1.2
    speaker_language = np.random.default_rng(0).choice(NUM_LANGUAGES, NUM_SPEAKERS, p=share / share.sum())
    speaker = rng.integers(0, NUM_SPEAKERS, num_sources)
    spoken = speaker_language[speaker][source]
    frames = rng.integers(125, 236, num_rows).astype(np.int32)  # 5 to 9.4 s
    sync = rng.normal(5.0 - spoken / 30, 1.5, num_rows).clip(0, 12).astype(np.float32)
    quality = rng.normal(60, 10, num_rows).clip(0, 100).astype(np.float32)
    no_face = rng.random(num_rows) < 0.1
    low_sync = ~no_face & (sync < MIN_SYNC)
    low_quality = ~no_face & ~low_sync & (quality < 40)
    rejected = no_face | low_sync | low_quality
    reason = np.select([no_face, low_sync, low_quality], [0, 1, 2], -1)
    keys = hex_strings(rng, num_rows, 16)
    sources = hex_strings(rng, num_sources, 32).to_numpy(zero_copy_only=False)
    sources.sort()
    starts = (np.arange(num_rows) % CLIPS_PER_SOURCE * 10).astype(np.float64)
    shards = words([f"shards/{language(i)}/{language(i)}-{number:06d}.tar" for i in range(NUM_LANGUAGES)], spoken)
    uris = [
        f"s3://raw-video/{language(i % NUM_LANGUAGES)}/channel{i % 977:03d}/{name[:11]}.mp4"
        for i, name in enumerate(sources)
    ]

    def measured(values: np.ndarray) -> pa.Array:
        return pa.array(values, mask=no_face)

    def same(value: object) -> pa.Array:
        return pa.repeat(value, num_rows)

    columns = {
        "source_id": words(sources, source),
        "source_uri": words(uris, source),
        "unit_id": words([f"{name[:32]}-00000000-00007500" for name in sources], source),
        "start_s": starts,
        "end_s": starts + frames / 25,
        "duration_s": frames / 25,
        "accounted_s": frames / 25,
        "num_frames": frames,
        "shot_index": rng.integers(0, 9, num_rows),
        "track_index": rng.integers(0, 3, num_rows),
        "source_width_px": same(1920),
        "source_height_px": same(1080),
        "source_fps": np.array([25.0, 29.97, 30.0])[source % 3],
        "face_size_px": measured(rng.normal(260, 80, num_rows).clip(80)),
        "max_faces": rng.integers(1, 4, num_rows),
        "crop_px": same(256),
        "upscale_ratio": measured(rng.normal(1.0, 0.2, num_rows)),
        "av_offset_frames": measured(rng.integers(-3, 4, num_rows)),
        "sync_confidence": measured(sync),
        "sync_distance": measured(rng.normal(8, 1, num_rows)),
        "sync_model": same("syncnet_v2"),
        "quality": measured(quality),
        "quality_model": same("hyperiqa"),
        "speech_ratio": measured(rng.random(num_rows)),
        "language": words([language(i) for i in range(NUM_LANGUAGES)], spoken),
        "language_prob": same(1.0),
        "language_source": same("list"),
        "speaker": words([f"speaker-{i:05d}" for i in range(NUM_SPEAKERS)], speaker[source]),
        "speaker_source": same("list"),
        "status": words([Status.KEPT, Status.REJECTED], rejected.astype(np.int32)),
        "stage": words(["commit", "track_faces", "measure_sync", "measure_quality"], reason + 1),
        "reason": words([Reason.NO_FACE, Reason.LOW_SYNC_CONFIDENCE, Reason.LOW_QUALITY], reason),
        "shard": words(shards.dictionary.to_pylist(), np.where(rejected, -1, spoken)),
        "key": keys,
        "sample_offset": pa.array(np.arange(num_rows) * 1_000_000, mask=rejected),
        "sample_size": pa.array(rng.integers(500_000, 1_500_000, num_rows), mask=rejected),
        "decode_passes": same(1.0),
        "lossy_generations": same(1),
        "attempt": same(1),
        "config_hash": same("9f0cfe85d145c0fe"),
        "models_hash": same("e018a15ea5566e6a"),
        "schema_version": same(SCHEMA_VERSION),
    }
    arrays = []
    for field in COLUMNS:
        values = columns.get(field.name)
        array = pa.nulls(num_rows, field.type) if values is None else pa.array(values).cast(field.type)
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=COLUMNS)


def hex_strings(rng: np.random.Generator, count: int, num_bytes: int) -> pa.StringArray:
    text = pa.py_buffer(rng.bytes(count * num_bytes).hex().encode())
    offsets = pa.py_buffer(np.arange(count + 1, dtype=np.int32) * 2 * num_bytes)
    return pa.StringArray.from_buffers(count, offsets, text)


def words(values: list[str] | np.ndarray, codes: np.ndarray) -> pa.DictionaryArray:
    """values[code] for each code; -1 is null."""
    texts = pa.array([str(value) for value in values], pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32), mask=codes < 0), texts)


WANTED = language(4)
COMMANDS = {
    "languages": ["languages"],
    "select, one language": [
        *("select", "--language", WANTED, "--hours", "20", "--min-sync", "4", "--min-quality", "50", "--seed", "7"),
        *("--max-hours-per-speaker", "0.5", "--val-hours", "1"),
    ],
    "select, all languages": ["select", "--hours", "1000", "--order", "sync", "--where", "speech_ratio > 0.3"],
}
FILES = "read_parquet('{folder}/manifest/*.parquet')"
BARE = {
    "languages": f"""
        SELECT language, sum(duration_s) FILTER (status = 'kept') / 3600, count(*) FILTER (status = 'kept'),
               count(DISTINCT coalesce(speaker, source_id)) FILTER (status = 'kept'),
               median(sync_confidence), median(quality),
               sum(duration_s) FILTER (status = 'kept') / sum(duration_s) FILTER (sync_confidence IS NOT NULL)
        FROM {FILES} GROUP BY language""",
    "select, one language": f"""
        COPY (SELECT * FROM (
            SELECT *, sum(duration_s) OVER (ORDER BY md5('7:' || key)) AS total FROM {FILES}
            WHERE status = 'kept' AND shard IS NOT NULL
            AND language = '{WANTED}' AND sync_confidence >= 4 AND quality >= 50)
        WHERE total <= 21 * 3600) TO '{{out}}'""",
    "select, all languages": f"""
        COPY (SELECT * FROM {FILES} WHERE key IN (
            SELECT key FROM (
                SELECT key, sum(duration_s) OVER (ORDER BY sync_confidence DESC, key) AS total FROM {FILES}
                WHERE status = 'kept' AND shard IS NOT NULL AND speech_ratio > 0.3)
            WHERE total <= 1000 * 3600)) TO '{{out}}'""",
}
"""The same questions, as one would ask DuckDB by hand."""


def run_one(kind: str, name: str, folder: Path, out: str) -> None:
    """In a process of its own: run the query, then print the peak memory in MB as the last line."""
    if kind == "bare":
        import duckdb

        duckdb.connect().execute(BARE[name].format(folder=folder, out=out)).fetchall()
    else:
        from lipforge.datasets_manifest.cli import app

        arguments = [*COMMANDS[name], str(folder)]
        app(arguments + (["--out", out] if arguments[0] == "select" else []), standalone_mode=False)
    # Not ru_maxrss, which includes the parent process from before exec.
    peak_kb = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(int(peak_kb.split()[1]) * 1024 / 1e6)


def measure(kind: str, name: str, folder: Path) -> tuple[float, float]:
    """(seconds, MB)."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "benchmarks.manifest", "--folder", str(folder), "--run", kind, name]
        began_s = time.perf_counter()
        done = subprocess.run(
            [*command, "--out", f"{scratch}/selection.parquet"], check=True, capture_output=True, text=True
        )
        return time.perf_counter() - began_s, float(done.stdout.splitlines()[-1])


def median_of(runs: list[tuple[float, float]], pick: Callable[[tuple[float, float]], float]) -> float:
    return statistics.median(pick(run) for run in runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=NUM_ROWS, help=f"rows of the manifest (default: {NUM_ROWS:,})")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side (default: 3)")
    parser.add_argument(
        "--folder", type=Path, help="folder for the synthetic dataset, kept and used again; default: a temporary one"
    )
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        kind, name = arguments.run
        run_one(kind, name, arguments.folder, arguments.out)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch) / "dataset"
        if not folder.exists():
            write_synthetic(folder, arguments.rows)
        size_mb = sum(path.stat().st_size for path in (folder / "manifest").iterdir()) / 1e6
        num_rows = sum(pq.read_metadata(path).num_rows for path in (folder / "manifest").iterdir())
        print(f"{num_rows:,} rows, {size_mb:,.0f} MB of Parquet; seconds from start to exit, peak MB")
        print(f"{'':24}{'lipforge':>18}{'bare DuckDB':>18}{'time ratio':>12}")
        results = {}
        for name in COMMANDS:
            runs: dict[str, list[tuple[float, float]]] = {"lipforge": [], "bare": []}
            for _ in range(arguments.repeats):
                for kind, found in runs.items():
                    found.append(measure(kind, name, folder))
            medians = {k: [median_of(found, lambda run, i=i: run[i]) for i in (0, 1)] for k, found in runs.items()}
            ours, bare = medians["lipforge"], medians["bare"]
            results[name] = {"lipforge": ours, "bare_duckdb": bare, "time_ratio": bare[0] / ours[0]}
            sides = "".join(f"{side[0]:8.2f} s{side[1]:6.0f} MB" for side in (ours, bare))
            print(f"{name:24}{sides}{bare[0] / ours[0]:12.2f}", flush=True)
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs"
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(
        json.dumps({"rows": num_rows, "unit": "[seconds, MB]", "machine": machine, "runs": results}, indent=2) + "\n"
    )
    print(f"\nwritten to {OUT}")


if __name__ == "__main__":
    main()
