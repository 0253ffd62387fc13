"""What a large dataset costs the driver: a resume with nothing to do, `status`, new thresholds, one more source.

    python -m benchmarks.scale --units 1200000 --folder /data/scale

Makes a dataset with that many units of 5 minutes and 8 or 9 kept clips each, in its ledger alone: no media, and sources
that are empty files. Prints seconds, peak memory and requests to storage of each command, and the ratio to the first.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from lipforge.datasets_manifest.schema import Stage, Status
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.clip import Source, Unit, Video
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.ledger.records import read_dataset
from lipforge.pipeline.ledger.segments import SEALED_COLUMNS, Content, Sealed, Segments
from lipforge.pipeline.ledger.settings import load_models, open_dataset, resolve
from lipforge.pipeline.ledger.source_log import MAX_ROWS_WAITING, SourceLog
from lipforge.pipeline.media.probe import VideoInfo
from lipforge.pipeline.stages.probe import fingerprint, to_record

UNIT_FRAMES = 7500
UNITS_PER_SEGMENT = 600
CLIP_FRAMES = 225
CLIPS_PER_UNIT = 10
"""The last two of ten are refused: one by a threshold, one by an earlier stage. The rest of the unit shows no face."""
LANGUAGES = ("en", "hi", "zh", "de", "fr")


def sources(folder: Path, num_units: int) -> Iterator[Video]:
    """One video of one unit each. Their files are made, and empty."""
    info = VideoInfo(1920, 1080, 0, 25.0, UNIT_FRAMES, 0.0, tuple(np.arange(0, 300, 2.0)), True, "h264", "aac")
    for number in range(num_units):
        path = folder / f"{number // 1000:05d}" / f"{number:08d}.mp4"
        if number % 1000 == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        source = Source(str(path), language=LANGUAGES[number % 5], language_source="flag", speaker=f"p{number // 20}")
        video = Video(replace(source, speaker_source="list"), f"{number:064x}", info)
        yield replace(video, fingerprint=fingerprint(str(path)))


def sealed_rows(videos: list[Video], first_unit: int, hashes: dict[str, str]) -> pa.Table:
    """Rows of a segment of these videos: eight kept clips, one refused, one rejected and a rest of each."""
    per_unit = CLIPS_PER_UNIT + 1
    count = len(videos) * per_unit
    rng = np.random.default_rng(first_unit)
    place = np.tile(np.arange(per_unit), len(videos))
    unit = np.repeat(np.arange(len(videos)), per_unit)
    measured = place < CLIPS_PER_UNIT - 1
    end = np.where(place == CLIPS_PER_UNIT, UNIT_FRAMES, (place + 1) * CLIP_FRAMES)
    key = [f"{(first_unit + u) * 16 + p:032x}" for u, p in zip(unit.tolist(), place.tolist(), strict=True)]
    shard = [f"shards/{videos[u].source.language}/{videos[u].source.language}-{first_unit:016x}.tar" for u in unit]

    def where(values: object, kind: pa.DataType, mask: np.ndarray = measured) -> pa.Array:
        return pa.array(values, kind, mask=~mask)

    def each(values: list[object]) -> pa.Array:
        return pa.array(values, pa.string()).take(pa.array(unit))

    known = {
        "content": pa.array(unit, pa.int32()),
        "entry_id": each([video.source.entry_id for video in videos]),
        "video_first_frame": pa.repeat(pa.scalar(0, pa.int64()), count),
        "video_end_frame": pa.repeat(pa.scalar(UNIT_FRAMES, pa.int64()), count),
        "start_frame": pa.array(place * CLIP_FRAMES),
        "end_frame": pa.array(end),
        "key": pa.array(key),
        "source_id": each([video.source_id for video in videos]),
        "source_uri": each([video.source.uri for video in videos]),
        "unit_id": each([f"{video.source_id[:32]}-00000000-{UNIT_FRAMES:08d}" for video in videos]),
        "shot_index": pa.array(place, pa.int32()),
        "track_index": pa.array(np.where(measured, 0, -1), pa.int32()),
        "crop_px": where(np.full(count, 256), pa.int32()),
        "face_size_px": where(rng.uniform(90, 400, count), pa.float32()),
        "av_offset_frames": where(rng.integers(-3, 4, count), pa.int32()),
        "sync_confidence": where(np.where(place < 8, rng.uniform(2.3, 9, count), 1.0), pa.float32()),
        "sync_distance": where(rng.uniform(1, 3, count), pa.float32()),
        "speech_ratio": where(rng.uniform(0.5, 1, count), pa.float32()),
        "quality": where(rng.uniform(41, 90, count), pa.float32()),
        "sync_model": where(np.full(count, hashes["sync_model"]), pa.string()),
        "quality_model": where(np.full(count, hashes["quality_model"]), pa.string()),
        "language": each([video.source.language for video in videos]),
        "language_source": each(["flag"] * len(videos)),
        "speaker": each([video.source.speaker for video in videos]),
        "speaker_source": each(["list"] * len(videos)),
        "status": where(np.full(count, Status.REJECTED.value), pa.string(), ~measured),
        "stage": where(np.full(count, Stage.TRACK_FACES.value), pa.string(), ~measured),
        "reason": where(np.full(count, "no_face"), pa.string(), ~measured),
        "shard": where(shard, pa.string()),
        "sample_offset": where(np.arange(count) * 1_000_000, pa.int64()),
        "sample_size": where(np.full(count, 1_000_000), pa.int64()),
        "config_hash": pa.repeat(hashes["config_hash"], count),
        "models_hash": pa.repeat(hashes["models_hash"], count),
    }
    columns = [known.get(field.name, pa.nulls(count, field.type)) for field in SEALED_COLUMNS]
    return pa.table(columns, names=SEALED_COLUMNS.names)


def make(store: Store, videos_folder: Path, num_units: int) -> None:
    """The ledger of a finished dataset; continues one that is not complete."""
    config = PrepareConfig()
    config, hashes = resolve(config, load_models(config))
    if read_dataset(store) is None:
        open_dataset(store, config, hashes)
    models = {"sync_model": config.thresholds.sync_model or "", "quality_model": config.thresholds.quality_model or ""}
    log, segments = SourceLog(store), Segments(store)
    group: list[Video] = []
    for number, video in enumerate(sources(videos_folder, num_units)):
        log.add(video.source.entry_id, to_record(video))
        group.append(video)
        if len(group) == UNITS_PER_SEGMENT or number == num_units - 1:
            contents = [Content(video, (Unit(video, 0, UNIT_FRAMES),)) for video in group]
            segment = segments.plan(contents)
            rows = sealed_rows(group, number + 1 - len(group), {**hashes, **models})
            segments.seal(Sealed(segment, 0, rows, {}))
            group = []
        if number % MAX_ROWS_WAITING == 0:
            print(f"{number:,} units made", file=sys.stderr, flush=True)
    log.write()


_RUN = """
import sys
from pathlib import Path
from lipforge.__main__ import main
try:
    main()
finally:
    print(Path("/proc/self/status").read_text(), file=sys.stderr)
"""


def measured(*command: str) -> dict[str, float]:
    """Runs a command of lipforge; seconds and peak memory in 10^9 bytes."""
    start_s = time.monotonic()
    done = subprocess.run([sys.executable, "-c", _RUN, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    peak_kb = next(int(line.split()[1]) for line in done.stderr.splitlines() if line.startswith("VmHWM:"))
    return {"seconds": time.monotonic() - start_s, "peak_gb": peak_kb * 1024 / 1e9}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, required=True, help="Where to make sources and dataset; kept.")
    arguments = parser.parse_args()
    videos, dataset = arguments.folder / "videos", arguments.folder / "dataset"
    store = Store(str(dataset))
    if not Segments(store).numbers():
        make(store, videos, arguments.units)
    speaker = ("--language", "en")
    commands = {
        "first manifest": ("pack", str(dataset)),
        "pack, nothing to do": ("pack", str(dataset)),
        "new thresholds": ("pack", str(dataset), "--set", f"min_quality={45 + time.time() % 1:.4f}"),
        "prepare, all done": ("prepare", str(videos), "--out", str(dataset), "--executor", "local", *speaker),
        "status": ("status", str(dataset)),
    }
    results = {}
    for name, command in commands.items():
        results[name] = measured(*command)
        print(f"{name:24} {results[name]['seconds']:8.1f} s  {results[name]['peak_gb']:6.2f} GB", flush=True)
    print(json.dumps({"units": arguments.units, **results}))


if __name__ == "__main__":
    main()
