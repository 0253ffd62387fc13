"""What the index of cached features costs a process that reads them: bytes, time to open, memory, look-ups.

    python -m benchmarks.feature_index --clips 200000            # the index of this version
    python -m benchmarks.feature_index --clips 200000 --earlier  # as earlier versions wrote it

The index is made: clips of 5 to 10 s with all kinds at 256 px. It is opened in a process of its own.
"""

import argparse
import hashlib
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lipforge.datasets_manifest.storage.store import Store
from lipforge.train.features.index import CHECK_BYTES, INDEX, INDEX_COLUMNS, OLD_INDEX_COLUMNS, ROWS_OF
from lipforge.train.features.store import FeatureStore
from lipforge.train.features.write import write_index

ROW_SHAPES = {"mel": (80,), "vae_masked": (8, 32, 32), "vae_target": (8, 32, 32), "whisper": (5, 384)}
CLIPS_PER_SHARD = 22
MODELS = {kind: hashlib.sha256(kind[:3].encode()).hexdigest() for kind in ROW_SHAPES}
LOOK_UPS = 2000


def made_index(num_clips: int, first: int, rng: np.random.Generator) -> pa.Table:
    """Clips first .. first + num_clips - 1, with checksums of both versions."""
    frames = rng.integers(125, 251, num_clips)
    kinds, num_kinds = list(ROW_SHAPES), len(ROW_SHAPES)
    num_rows = np.stack([ROWS_OF[kind](frames) for kind in kinds], axis=1).ravel()
    row_shapes = list(ROW_SHAPES.values()) * num_clips
    row_bytes = np.array([2 * int(np.prod(shape)) for shape in row_shapes])
    ends = np.cumsum(CHECK_BYTES * num_rows)
    checks = rng.bytes(int(ends[-1]))
    shards = [hashlib.sha256(str((first + n) // CLIPS_PER_SHARD).encode()).hexdigest()[:24] for n in range(num_clips)]
    return pa.table(
        {
            "key": np.repeat([key_of(first + number) for number in range(num_clips)], num_kinds),
            "kind": kinds * num_clips,
            "model": [MODELS[kind] for kind in kinds] * num_clips,
            "num_frames": np.repeat(frames, num_kinds).astype(np.int32),
            "config_hash": [MODELS["mel"]] * len(num_rows),
            "shard": np.repeat([f"shards/{name}.tar" for name in shards], num_kinds),
            "offset": np.cumsum(num_rows * row_bytes) - num_rows * row_bytes,
            "size": num_rows * row_bytes,
            "dtype": ["<f2"] * len(num_rows),
            "shape": [[int(count), *shape] for count, shape in zip(num_rows, row_shapes, strict=True)],
            "checks_offset": 10**6 + ends,
            "row_crc32": [
                checks[end - CHECK_BYTES * count : end] for end, count in zip(ends, num_rows.tolist(), strict=True)
            ],
        }
    )


def key_of(clip: int) -> str:
    return hashlib.blake2b(str(clip).encode(), digest_size=16).hexdigest()


def write(folder: Path, num_clips: int, earlier: bool) -> None:
    rng = np.random.default_rng(0)
    columns = OLD_INDEX_COLUMNS if earlier else INDEX_COLUMNS
    parts = [
        made_index(min(10_000, num_clips - first), first, rng).select(columns.names).cast(columns)
        for first in range(0, num_clips, 10_000)
    ]
    table = pa.concat_tables(parts)
    if earlier:
        folder.mkdir(parents=True)
        pq.write_table(table, folder / INDEX, compression="zstd", write_page_checksum=True)
    else:
        write_index(Store(str(folder)), table)


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(folder: Path, num_clips: int) -> None:
    before = rss_bytes()
    start = time.perf_counter()
    store = FeatureStore(str(folder), MODELS)
    opened_s, held = time.perf_counter() - start, rss_bytes() - before
    start = time.perf_counter()
    for clip in range(LOOK_UPS):
        for kind in MODELS:
            store.num_rows(key_of(clip * num_clips // LOOK_UPS), kind)
    look_up_s = (time.perf_counter() - start) / LOOK_UPS / len(MODELS)
    print(f"{(folder / INDEX).stat().st_size / 1e6:.1f} MB on disk, opened in {opened_s:.2f} s")
    print(f"{held / num_clips:.0f} bytes of memory a clip, {1e6 * look_up_s:.0f} us a look-up")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=200_000)
    parser.add_argument("--earlier", action="store_true", help="an index as earlier versions wrote it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "features"
        context = multiprocessing.get_context("spawn")
        for work, args in ((write, (folder, arguments.clips, arguments.earlier)), (measure, (folder, arguments.clips))):
            process = context.Process(target=work, args=args)
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(process.exitcode)


if __name__ == "__main__":
    main()
