"""Measure samples per second of one worker, against LatentSync's way of reading and stock webdataset.

python -m benchmarks.stream [--dataset DATASET] [--copies N] [--repeats N]

A sample is 16 target frames, 16 reference frames and the mel of the target. All readers read the same clips in the same
run, take turns, and use one process. Each pass reads every clip once, in random order. The clips of the dataset are
stored several times, because a pass over a handful would be too short to measure.

- `stream`: train/stream/stream.py on shards.
- `stream, cached features`: train/stream/stream.py on feature shards, as stage 1 uses them: posterior moments of
  target, masked target and reference, Whisper states, mel. They are random numbers of the sizes of sd-vae-ft-mse and
  whisper-tiny, because only reading is measured. With the other readers, the trainer must compute them from frames and
  audio, which is not counted.
- `latentsync`: an MP4 file per clip as LatentSync's pipeline writes it (H.264 with x264's default key frame interval,
  AAC), opened by decord with random access; the mel of a clip is computed on first use and kept in a file.
- `decord, our key frames`: the same on files with the key frame interval of our shards.
- `webdataset`: stock webdataset reads whole shards; selected clips are decoded as the stream decodes them.

Cold: the files are dropped from the page cache, no mel is kept. Warm: a second pass, also given per CPU second, which a
busy machine disturbs less. Results are also written to bench/stream.json.
"""

import argparse
import io
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch are imported

import av
import decord
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import webdataset.compat as wds
from rich.console import Console

from benchmarks.sources import find_videos
from lipforge.datasets_manifest.manifest import read_manifest
from lipforge.datasets_manifest.sample import END_OF_TAR, clip_members, read_clip_at, sample_bytes
from lipforge.datasets_manifest.selection import SELECTION_COLUMNS, write_selection
from lipforge.datasets_manifest.storage.files import open_place
from lipforge.datasets_manifest.storage.store import Store
from lipforge.model.audio.mel import HOP, MEL_RECIPE, NUM_BANDS, mel_spectrogram
from lipforge.model.clock import FPS, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.media.clips import decode_flac, decode_mp4
from lipforge.pipeline.run import prepare
from lipforge.pipeline.running.progress import Progress
from lipforge.pipeline.sources.inputs import Labels
from lipforge.train.features.write import ClipFeatures, write_index, write_shard
from lipforge.train.stream.config import DecodedField, FeatureKind, FeaturesConfig, StreamConfig
from lipforge.train.stream.decode import decode_fields, decode_windows, mel_columns
from lipforge.train.stream.fetch import Fetcher
from lipforge.train.stream.order import COLUMNS, ClipWindow, StoredSamples, draw_starts
from lipforge.train.stream.stream import SampleStream

NUM_FRAMES = 16
FIELDS: tuple[DecodedField, ...] = ("target", "reference", "mel")
SAMPLES_PER_SHARD = 100
CLIPS_PER_FEATURE_SHARD = 22
FEATURE_MODELS: dict[FeatureKind, str] = {"whisper": "w", "mel": MEL_RECIPE, "vae_target": "v", "vae_masked": "v"}
SPARSE_SHARE = 0.05
SUBSET_SHARE = 0.02
OUT = Path("bench/stream.json")


@dataclass(frozen=True)
class StoredClip:
    """A clip in every form that a reader needs."""

    row: dict[str, Any]
    """Its row in the selection."""
    published_mp4: Path
    gop_mp4: Path


def clips_of(dataset: str, scratch: Path, copies: int) -> list[StoredClip]:
    """Shards and MP4 files of all kept clips that are long enough, each stored `copies` times."""
    columns = ["key", "num_frames", "crop_px", "config_hash", "shard", "sample_offset", "sample_size"]
    rows = read_manifest(dataset, columns, pc.field("status") == "kept").to_pylist()
    rows = [row for row in rows if row["num_frames"] >= 3 * NUM_FRAMES]
    if not rows:
        sys.exit(f"{dataset} has no kept clip of at least {3 * NUM_FRAMES} frames")
    fs, root = open_place(dataset)
    stored = []
    for row in rows:
        members = read_clip_at(fs, f"{root}/{row['shard']}", row["sample_offset"], row["sample_size"], row["key"])
        frames, audio = decode_mp4(members["mp4"]), decode_flac(members["flac"])
        stored.append((row, members, mp4_file(frames, audio, {}), mp4_file(frames, audio, {"g": "12", "bf": "0"})))
    clips: list[StoredClip] = []
    shards: dict[str, list[bytes]] = {}
    offset = 0
    for number in range(copies * len(stored)):
        row, members, published, gop = stored[number % len(stored)]
        key = f"{number:032x}"
        shard = f"shards/und/und-{number // SAMPLES_PER_SHARD:06d}.tar"
        data = sample_bytes(key, clip_members(members["mp4"], members["flac"], {"key": key}))
        offset = sum(len(other) for other in shards.setdefault(shard, []))
        shards[shard].append(data)
        place = {"key": key, "shard": shard, "sample_offset": offset, "sample_size": len(data)}
        paths = scratch / "published" / f"{key}.mp4", scratch / "gop" / f"{key}.mp4"
        for path, content in zip(paths, (published, gop), strict=True):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        clips.append(StoredClip({**row, **place, "dataset": str(scratch), "split": "train"}, *paths))
    for shard, samples in shards.items():
        path = scratch / shard
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(samples) + END_OF_TAR)
    return clips


def mp4_file(frames: np.ndarray, audio: np.ndarray, options: dict[str, str]) -> bytes:
    """H.264 and AAC in MP4, with x264's defaults except for `options`."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        video: Any = container.add_stream("libx264", rate=FPS, options={"crf": "18", **options})
        video.height, video.width, video.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        aac: Any = container.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono")
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode(None))
        for first in range(0, len(audio), 1024):
            block = av.AudioFrame.from_ndarray(audio[None, first : first + 1024], format="fltp", layout="mono")
            block.sample_rate, block.pts = SAMPLE_RATE_HZ, first
            container.mux(aac.encode(block))
        container.mux(aac.encode(None))
    return buffer.getvalue()


class DecordReader:
    """Reads an MP4 file per clip with decord."""

    def __init__(self, clips: list[StoredClip], paths: list[Path]) -> None:
        self.clips, self.paths = clips, paths

    def files(self) -> list[Path]:
        return [*self.paths, *(self.mel_path(path) for path in self.paths)]

    def forget(self) -> None:
        for path in self.paths:
            self.mel_path(path).unlink(missing_ok=True)

    def samples(self, epoch: int) -> Iterator[Any]:
        order = list(range(len(self.clips)))
        random.Random(epoch).shuffle(order)
        for index in order:
            path = self.paths[index]
            reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
            start, other_start = draw_starts(0, epoch, path.stem, len(reader) - NUM_FRAMES + 1, NUM_FRAMES)
            target = reader.get_batch(range(start, start + NUM_FRAMES)).asnumpy()
            reference = reader.get_batch(range(other_start, other_start + NUM_FRAMES)).asnumpy()
            first, count = mel_columns(start, NUM_FRAMES)
            yield target, reference, self.mel(path)[:, first : first + count]

    def mel(self, path: Path) -> np.ndarray:
        kept = self.mel_path(path)
        if not kept.exists():
            audio = decord.AudioReader(str(path), ctx=decord.cpu(0), sample_rate=SAMPLE_RATE_HZ, mono=True)
            np.save(kept, mel_spectrogram(audio[:].asnumpy()[0]))
        return np.load(kept)

    def mel_path(self, path: Path) -> Path:
        return path.with_suffix(".npy")


class StreamReader:
    """Reads our shards with the stream."""

    def __init__(self, clips: list[StoredClip], scratch: Path, name: str, features: Path | None = None) -> None:
        self.clips = clips
        self.folder = scratch
        self.selection = str(scratch / f"{name}.parquet")
        write_selection(self.selection, pa.Table.from_pylist([clip.row for clip in clips], SELECTION_COLUMNS), {})
        self.features = features

    def files(self) -> list[Path]:
        if self.features is not None:
            return sorted(self.features.rglob("*.tar"))
        return sorted({self.folder / clip.row["shard"] for clip in self.clips})

    def forget(self) -> None:
        pass

    def samples(self, epoch: int) -> Iterator[Any]:
        cached = None if self.features is None else FeaturesConfig(folder=str(self.features), models=FEATURE_MODELS)
        config = StreamConfig(selection=self.selection, num_workers=0, seed=epoch, features=cached)
        yield from SampleStream(config, num_epochs=1)


def write_features(clips: list[StoredClip], folder: Path) -> Path:
    """Random features of all kinds for each clip."""
    rng = np.random.default_rng(0)
    store = Store(str(folder))
    models = {str(kind): model for kind, model in FEATURE_MODELS.items()}

    def features_of(clip: StoredClip) -> ClipFeatures:
        num_frames, latents = clip.row["num_frames"], (8, clip.row["crop_px"] // 8, clip.row["crop_px"] // 8)
        shapes = {
            "whisper": (2 * num_frames, 5, 384),
            "mel": (1 + num_frames * SAMPLES_PER_FRAME // HOP, NUM_BANDS),
            "vae_target": (num_frames, *latents),
            "vae_masked": (num_frames, *latents),
        }
        arrays = {kind: rng.standard_normal(shape, np.float32).astype(np.float16) for kind, shape in shapes.items()}
        return ClipFeatures(clip.row["key"], num_frames, clip.row["config_hash"], arrays)

    shards = []
    for first in range(0, len(clips), CLIPS_PER_FEATURE_SHARD):
        members = (features_of(clip) for clip in clips[first : first + CLIPS_PER_FEATURE_SHARD])
        shards.append(write_shard(store, f"{first:024x}", members, models))
    write_index(store, pa.concat_tables(shards))
    return folder


class WebDatasetReader:
    """Reads whole shards with webdataset and uses the selected clips."""

    def __init__(self, clips: list[StoredClip], shards: list[Path]) -> None:
        self.rows = {clip.row["key"]: clip.row for clip in clips}
        self.shards = shards

    def files(self) -> list[Path]:
        return self.shards

    def forget(self) -> None:
        pass

    def samples(self, epoch: int) -> Iterator[Any]:
        for stored in wds.WebDataset([str(path) for path in self.shards], shardshuffle=False, empty_check=False):
            row = self.rows.get(stored["__key__"])
            if row is not None:
                num_frames = row["num_frames"]
                starts = draw_starts(0, epoch, row["key"], num_frames - NUM_FRAMES + 1, NUM_FRAMES)
                yield decode_fields(
                    stored, ClipWindow(row["key"], num_frames, row["crop_px"], *starts), NUM_FRAMES, FIELDS
                )


Reader = DecordReader | StreamReader | WebDatasetReader
Rates = dict[str, float]
"""Samples per second, by state of the caches."""


def drop_from_page_cache(paths: list[Path]) -> None:
    for path in paths:
        if path.exists():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def rates(reader: Reader, epoch: int) -> Rates:
    reader.forget()
    drop_from_page_cache(reader.files())
    cold, _ = rate(reader, epoch)
    warm, warm_cpu = rate(reader, epoch + 1)
    return {"cold": cold, "warm": warm, "warm, CPU": warm_cpu}


def rate(reader: Reader, epoch: int) -> tuple[float, float]:
    """Samples per second, and per CPU second of this process."""
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    num_samples = sum(1 for _ in reader.samples(epoch))
    return num_samples / (time.perf_counter() - began_s), num_samples / (time.process_time() - began_cpu_s)


def measure(readers: dict[str, Reader], repeats: int) -> dict[str, Rates]:
    """Median rates of all readers, which take turns."""
    found: dict[str, list[Rates]] = {name: [] for name in readers}
    for repeat in range(repeats):
        for name, reader in readers.items():
            found[name].append(rates(reader, 2 * repeat))
    return {
        name: {state: statistics.median(run[state] for run in runs) for state in runs[0]}
        for name, runs in found.items()
    }


def show(title: str, results: dict[str, Rates]) -> None:
    baseline_name = next(name for name in ("latentsync", "webdataset") if name in results)
    baseline = results[baseline_name]
    print(f"\n{title}: samples per second (and ratio to {baseline_name})")
    print(f"{'':26}" + "".join(f"{state:>18}" for state in baseline))
    for name, rate_of in results.items():
        cells = (f"{rate_of[state]:.1f} ({rate_of[state] / baseline[state]:.2f})" for state in baseline)
        print(f"{name:26}" + "".join(f"{cell:>18}" for cell in cells))


def decoding_ms(clips: list[StoredClip], repeats: int) -> dict[str, float]:
    """Milliseconds to decode two windows of a clip from memory, by method: medians over clips and repeats."""
    times_ms: dict[str, list[float]] = {}
    for _ in range(repeats):
        for clip in clips[:40]:
            row = clip.row
            fs, root = open_place(row["dataset"])
            mp4 = read_clip_at(fs, f"{root}/{row['shard']}", row["sample_offset"], row["sample_size"], row["key"])[
                "mp4"
            ]
            num_frames = row["num_frames"]
            starts = draw_starts(0, 0, row["key"], num_frames - NUM_FRAMES + 1, NUM_FRAMES)
            methods: dict[str, Callable[[], object]] = {
                "PyAV, from the key frames before": partial(
                    decode_windows, mp4, num_frames, row["crop_px"], starts, NUM_FRAMES
                ),
                "PyAV, whole clip": partial(decode_mp4, mp4),
                "decord, random access": partial(decord_windows, mp4, starts),
            }
            for name, work in methods.items():
                began_s = time.perf_counter()
                work()
                times_ms.setdefault(name, []).append((time.perf_counter() - began_s) * 1000)
    return {name: statistics.median(times) for name, times in times_ms.items()}


def decord_windows(mp4: bytes, starts: tuple[int, int]) -> list[np.ndarray]:
    reader = decord.VideoReader(io.BytesIO(mp4), num_threads=1)
    return [reader.get_batch(range(start, start + NUM_FRAMES)).asnumpy() for start in starts]


def bytes_ratio(clips: list[StoredClip]) -> float:
    """Bytes that the stream reads for a subset, relative to the bytes of its samples."""
    subset = random.Random(0).sample(clips, max(1, round(SUBSET_SHARE * len(clips))))
    table = pa.Table.from_pylist([clip.row for clip in subset], SELECTION_COLUMNS)
    fetcher = Fetcher(StoredSamples(table.select(COLUMNS)), None, 0)
    fetcher.fetch(range(len(subset)), list)
    return fetcher.ranges.num_bytes / sum(clip.row["sample_size"] for clip in subset)


def prepared(scratch: Path) -> str:
    """Prepare a dataset from real clips or, without them, from a synthetic one."""
    videos = [video.source.uri for video in find_videos(None, 12, scratch)]
    config = PrepareConfig.model_validate({"run": {"executor": "local"}})
    prepare(videos, str(scratch / "prepared"), config, Labels(), Progress(Console(quiet=True)))
    return str(scratch / "prepared")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", help="made by `lipforge prepare`; default: prepare a few clips")
    parser.add_argument("--copies", type=int, default=10, help="how often each clip is stored (default: 10)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each reader (default: 3)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:  # on disk: /tmp may be in memory
        scratch = Path(folder)
        clips = clips_of(arguments.dataset or prepared(scratch), scratch, arguments.copies)
        sparse = sorted(random.Random(1).sample(range(len(clips)), max(1, round(SPARSE_SHARE * len(clips)))))
        few = [clips[index] for index in sparse]
        shards = sorted((scratch / "shards").rglob("*.tar"))
        every: dict[str, Reader] = {
            "stream": StreamReader(clips, scratch, "all"),
            "stream, cached features": StreamReader(
                clips, scratch, "cached", write_features(clips, scratch / "features")
            ),
            "latentsync": DecordReader(clips, [clip.published_mp4 for clip in clips]),
            "decord, our key frames": DecordReader(clips, [clip.gop_mp4 for clip in clips]),
            "webdataset": WebDatasetReader(clips, shards),
        }
        some: dict[str, Reader] = {
            "stream": StreamReader(few, scratch, "few"),
            "webdataset": WebDatasetReader(few, shards),
        }
        results = {
            "num_clips": len(clips),
            "all": measure(every, arguments.repeats),
            "sparse": measure(some, arguments.repeats),
            "decoding_ms": decoding_ms(clips, arguments.repeats),
            "bytes_ratio": bytes_ratio(clips),
        }
    show(f"all {len(clips)} clips", results["all"])
    show(f"{len(few)} of {len(clips)} clips", results["sparse"])
    print("\ntwo windows of a clip, decoding only, ms")
    for name, time_ms in results["decoding_ms"].items():
        print(f"{name:40}{time_ms:8.1f}")
    ratio = f"{results['bytes_ratio']:.3f}"
    print(f"\nbytes read for {SUBSET_SHARE:.0%} of the clips, relative to the bytes of their samples: {ratio}")
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
