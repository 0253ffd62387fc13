"""Measure the published scorers on a GPU, against the same scorers on one core.

python -m benchmarks.gpu [--device cuda] [--repeats N] [--ray]

SyncNet v2 and HyperIQA have random weights, which cost as much as the published ones. A clip is 5 s of noise; of
hyperIQA, the three frames that the pipeline scores, and all 125. Times are medians of wall-clock seconds, with the way
of the frames to the GPU and of the score back.
"""

import argparse
import io
import os
import statistics
import time
from collections.abc import Callable
from functools import partial

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch are imported

import numpy as np
import torch

from lipforge.model.clock import FPS, SAMPLES_PER_FRAME, SYNC_MARGIN_FRAMES
from lipforge.model.quality.hyperiqa import HyperIQA, HyperIQAQuality
from lipforge.model.sync.syncnet_v2 import SyncNetScorer, SyncNetV2

NUM_FRAMES = 5 * FPS
SHARE = 0.25
"""Of a GPU, for one score worker."""


def content(network: torch.nn.Module) -> bytes:
    """A file of its weights."""
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    return buffer.getvalue()


def median_s(work: Callable[[], object], repeats: int) -> float:
    work()
    times = []
    for _ in range(repeats):
        start_s = time.perf_counter()
        work()
        times.append(time.perf_counter() - start_s)
    return statistics.median(times)


def scorers(device: str) -> dict[str, Callable[[], float]]:
    """What is measured; each gives one number of the score."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (NUM_FRAMES, 256, 256, 3), np.uint8)
    audio = rng.uniform(-0.5, 0.5, (NUM_FRAMES + 2 * SYNC_MARGIN_FRAMES) * SAMPLES_PER_FRAME).astype(np.float32)
    sync = SyncNetScorer(content(SyncNetV2()), device)
    quality = HyperIQAQuality(content(HyperIQA()), device)
    return {
        "SyncNet v2, 5 s": lambda: sync.score(frames, audio).distance,
        "hyperIQA, 3 frames": lambda: quality.score(frames[:3]),
        "hyperIQA, 125 frames": lambda: quality.score(frames),
    }


def seen(share: float, number: int) -> tuple[int, bool, str]:
    """What a worker sees of the GPU."""
    time.sleep(1.0)  # so that each worker gets one
    return os.getpid(), torch.cuda.is_available(), os.environ.get("CUDA_VISIBLE_DEVICES", "")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ray", action="store_true", help="ask workers that share the GPU what they see")
    options = parser.parse_args()
    print(torch.cuda.get_device_name() if options.device == "cuda" else options.device)
    on_cpu, on_device = scorers("cpu"), scorers(options.device)
    print(f"{'':<24}{'one core, s':>14}{'device, s':>14}{'ratio':>8}{'difference of the score':>26}")
    for name, work in on_cpu.items():
        cpu_s, device_s = median_s(work, options.repeats), median_s(on_device[name], 4 * options.repeats)
        there, here = on_device[name](), work()
        print(
            f"{name:<24}{cpu_s:>14.4f}{device_s:>14.4f}{cpu_s / device_s:>8.1f}{abs(there - here) / abs(here):>26.1e}"
        )
    if options.ray:
        from lipforge.pipeline.config import RunConfig
        from lipforge.pipeline.running.on_ray import RayExecutor

        executor = RayExecutor(RunConfig())
        workers = set(executor.map(partial(seen, SHARE), list(range(8)), num_gpus=SHARE))
        executor.close()
        print(f"workers with {SHARE} of the GPU each: {sorted(workers)}")


if __name__ == "__main__":
    main()
