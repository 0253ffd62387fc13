"""Measure the cost of a sync or quality score on one core, against a baseline.

python -m benchmarks.scorers [--repeats N] [--folder VIDEOS]

The pipeline cuts a clip of 5 s and hands it to each scorer. SyncNet v2 and HyperIQA have random weights, which cost as
much as the published ones. Baselines: for SyncNet v2, the loop of the published evaluation on the same crops (20
windows at a time, copied out of the video, in the plain memory layout), in turn with ours; for the others, real time.
All times are median CPU seconds on one thread. Results are also written to bench/scorers.json.
"""

import argparse
import io
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch are imported

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.sources import find_videos
from lipforge.model.audio.mfcc import mfcc
from lipforge.model.clock import FPS, SAMPLES_PER_FRAME, SYNC_MARGIN_FRAMES
from lipforge.model.quality.hyperiqa import HyperIQA
from lipforge.model.sync.stable_syncnet import LAYOUTS, StableSyncNet
from lipforge.model.sync.syncnet_v2 import SyncNetScorer, SyncNetV2, lip_crops
from lipforge.model.weights import load as weights
from lipforge.pipeline.clip import Clip
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.media.clips import decode_mp4
from lipforge.pipeline.profiles import PROFILES
from lipforge.pipeline.recipe import CutOperator
from lipforge.pipeline.sources.plan import plan_units

CLIP_S = 5.0
REAL_TIME = "real time"
OUT = Path("bench/scorers.json")


@dataclass(frozen=True)
class Cost:
    """Cost of one score."""

    name: str
    scored: str
    seconds_scored: float
    cpu_s: float
    baseline: str
    baseline_s: float

    @property
    def times_real_time(self) -> float:
        return self.seconds_scored / self.cpu_s

    @property
    def ratio(self) -> float:
        """How many times faster than the baseline."""
        return self.baseline_s / self.cpu_s


def cut_clip(folder: Path | None) -> Clip:
    """The first clip of exactly 5 s that the pipeline cuts."""
    config = PrepareConfig.model_validate({"cut": {"min_run_s": CLIP_S / 2, "max_clip_s": CLIP_S}})
    cut = CutOperator(config, weights.load("builtin"))
    with tempfile.TemporaryDirectory() as scratch:
        for video in find_videos(folder, 6, Path(scratch)):
            for unit in plan_units(video, config.resample.max_span_s):
                for clip in cut.process(unit).clips:
                    if clip.mp4 and clip.num_frames == CLIP_S * FPS:
                        return clip
    raise SystemExit("no video has 5 s of one face")


def as_file(network: nn.Module) -> bytes:
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    return file.getvalue()


@torch.inference_mode()
def published_syncnet(network: SyncNetV2, frames: np.ndarray, audio: np.ndarray) -> None:
    """The loop of `SyncNetInstance.evaluate` (GitHub, joonson/syncnet_python), without its files."""
    margin = SYNC_MARGIN_FRAMES * SAMPLES_PER_FRAME
    rows = mfcc((audio[margin:-margin] * 32767).astype(np.int16))
    audio_rows = torch.from_numpy(rows).float().T[None, None]
    video = torch.from_numpy(np.ascontiguousarray(lip_crops(frames).transpose(3, 0, 1, 2))).float()[None]
    lips_vectors, audio_vectors = [], []
    for first in range(0, len(frames) - 5, 20):
        batch = range(first, min(len(frames) - 5, first + 20))
        lips_vectors.append(network.embed_lips(torch.cat([video[:, :, i : i + 5] for i in batch])))
        audio_vectors.append(network.embed_audio(torch.cat([audio_rows[..., 4 * i : 4 * i + 20] for i in batch])))
    lips, padded = (
        torch.cat(lips_vectors),
        functional.pad(torch.cat(audio_vectors), (0, 0, SYNC_MARGIN_FRAMES, SYNC_MARGIN_FRAMES)),
    )
    for i, vector in enumerate(lips):
        functional.pairwise_distance(
            vector.repeat(2 * SYNC_MARGIN_FRAMES + 1, 1), padded[i : i + 2 * SYNC_MARGIN_FRAMES + 1]
        )


def cpu_s(call: Callable[[], object]) -> float:
    began_s = time.process_time()
    call()
    return time.process_time() - began_s


def medians(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median CPU seconds by name. The calls take turns, after one warm-up turn."""
    rounds = [{name: cpu_s(call) for name, call in calls.items()} for _ in range(1 + repeats)][1:]
    return {name: statistics.median(times[name] for times in rounds) for name in calls}


def measure(clip: Clip, repeats: int) -> list[Cost]:
    assert clip.audio is not None and clip.quality_frames is not None
    models = weights.load("builtin")
    frames, audio = decode_mp4(clip.mp4), clip.audio
    three = clip.quality_frames
    lip_sync, quality = PROFILES["builtin"].sync(models), PROFILES["builtin"].quality(models)
    network = SyncNetV2().eval().requires_grad_(False)
    syncnet = SyncNetScorer(as_file(network))
    hyperiqa = PROFILES["latentsync"].quality({"koniq_pretrained.pkl": as_file(HyperIQA())})
    stable, inputs = StableSyncNet(LAYOUTS["syncnet_16_pixel_attn"]).eval().requires_grad_(False), stable_inputs()
    seconds = len(frames) / FPS
    window_s = 16 / FPS
    times = medians(
        {
            "lip_sync": lambda: lip_sync.score(clip),
            "syncnet_v2": lambda: syncnet.score(frames, audio),
            "published": lambda: published_syncnet(network, frames, audio),
            "quality": lambda: quality.score(three),
            "hyperiqa": lambda: hyperiqa.score(three),
            "stable_syncnet": lambda: stable(*inputs),
        },
        repeats,
    )
    whole, three_of_it = f"clip of {seconds:g} s", f"3 frames of {seconds:g} s"
    return [
        Cost(lip_sync.name, whole, seconds, times["lip_sync"], REAL_TIME, seconds),
        Cost(syncnet.name, whole, seconds, times["syncnet_v2"], "published loop", times["published"]),
        Cost(quality.name, three_of_it, seconds, times["quality"], REAL_TIME, seconds),
        Cost(hyperiqa.name, three_of_it, seconds, times["hyperiqa"], REAL_TIME, seconds),
        Cost("stable_syncnet", "one pass, 16 frames", window_s, times["stable_syncnet"], REAL_TIME, window_s),
    ]


def stable_inputs() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(1, 48, 128, 256) * 2 - 1, torch.rand(1, 1, 80, 52) * 8 - 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="timed scores (default: 3)")
    parser.add_argument(
        "--folder", type=Path, help="folder of videos; default: real clips, if present, or a synthetic one"
    )
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    costs = measure(cut_clip(arguments.folder), arguments.repeats)
    print(f"{'scorer':22}{'scored':20}{'CPU s':>8}{'per s':>8}{'x real time':>13}  {'baseline':16}{'s':>8}{'ratio':>8}")
    for cost in costs:
        print(
            f"{cost.name:22}{cost.scored:20}{cost.cpu_s:8.3f}{1 / cost.cpu_s:8.2f}{cost.times_real_time:13.2f}"
            f"  {cost.baseline:16}{cost.baseline_s:8.3f}{cost.ratio:8.2f}"
        )
    result = {
        "unit": "CPU seconds per score, one thread",
        "scorers": [asdict(cost) for cost in costs],
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
    }
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\nwritten to {OUT}")


if __name__ == "__main__":
    main()
