"""Measure stage 1 training: the trainer's loop, cached latents, and waiting for data.

python -m benchmarks.training [--selection SELECTION] [--presets tiny_stage1 faces_stage1] [--vae PATH] [--steps N]
                              [--repeats N]

- `loop`: a step of train/stage1.py with its batches in memory, against a bare PyTorch loop: the same network, optimizer
  and batches, plain `torch.randn` and `torch.randint`, no checks, no log. Both take turns after every step. Steps that
  log are part of the mean.
- `cached`: a step of stage 1 that encodes frames with a VAE, against one that reads the latents of `lipforge features`
  with the same VAE. Encoding is most of a step with a real VAE; `--vae` names one (a folder with the files of TAESD, or
  of Stable Diffusion's VAE). Without it, TAESD has random weights, which cost as much as the published ones.
- `waiting`: the share of a step that the trainer waits for its stream, with and without workers, decoded and cached:
  as RUN/metrics.jsonl says it.

Without `--selection` the clips are the talking photograph, 2 s at 128 px. One thread; medians over repeats that take
turns, in wall and in CPU seconds, which a busy machine disturbs less. Results are also written to bench/training.json.
"""

import argparse
import itertools
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch are imported

import numpy as np
import torch

from lipforge.datasets_manifest.sample import clip_members, sample_bytes
from lipforge.datasets_manifest.selection import read_selection, write_selection
from lipforge.model.denoiser.diffusion import NUM_TIMESTEPS, add_noise, mixed_noise, network_input
from lipforge.model.denoiser.mask import mouth_mask
from lipforge.model.denoiser.vae import PIXELS_PER_LATENT, read_vae_files, sample_latents
from lipforge.pipeline.config import EncodeConfig
from lipforge.pipeline.media.clips import encode_flac, encode_mp4
from lipforge.train.config import Stage1Config, load_preset
from lipforge.train.features.command import compute_features
from lipforge.train.features.extract import ModelFiles
from lipforge.train.loop import data
from lipforge.train.loop.audio import open_audio_encoder
from lipforge.train.loop.denoiser import build_denoiser
from lipforge.train.loop.metrics import read_metrics
from lipforge.train.loop.optimizer import make_optimizer, set_learning_rate
from lipforge.train.loop.start import start
from lipforge.train.loop.together import Together
from lipforge.train.stage1 import train
from lipforge.train.stream.batches import Batch
from lipforge.train.stream.stream import SampleStream

CLIP_S = 2.0
NUM_CLIPS = 6
BATCHES_IN_MEMORY = 4
FIRST_STEPS = 2
"""Steps of each turn that do not count: allocators and caches are cold."""
OUT = Path("bench/training.json")

Cost = dict[str, float]
"""Seconds a step: `wall` and `cpu`."""


def make_selection(folder: Path) -> str:
    """Clips of the talking photograph at 128 px, in one shard; returns the path of their selection."""
    from tests.stream_clips import SIDE_PX, key_of, write_shards
    from tests.talking_photo import perform

    samples, num_frames = [], []
    for clip in range(NUM_CLIPS):
        frames, audio = perform(CLIP_S, av_offset_frames=0, seed=clip, size_px=SIDE_PX)
        pixels = np.stack(list(frames))
        key = key_of(clip)
        members = clip_members(encode_mp4(pixels, EncodeConfig()), encode_flac(audio), {"key": key})
        samples.append(sample_bytes(key, members))
        num_frames.append(len(pixels))
    path = str(folder / "selection.parquet")
    write_selection(path, write_shards(folder / "dataset", [samples], num_frames), {})
    return path


class Clock:
    """Seconds of work between `begin` and `end`, wall and CPU of this process."""

    def __init__(self) -> None:
        self.costs: list[Cost] = []
        self._began: tuple[float, float] | None = None

    def begin(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def end(self) -> None:
        if self._began is not None:
            wall_s, cpu_s = self._began
            self.costs.append({"wall": time.perf_counter() - wall_s, "cpu": time.process_time() - cpu_s})
            self._began = None

    def mean(self) -> Cost:
        counted = self.costs[FIRST_STEPS:]
        return {name: statistics.mean(cost[name] for cost in counted) for name in counted[0]}


def clocked_stream(clock: Clock, in_memory: bool, between: Callable[[Batch], None] | None = None) -> type[SampleStream]:
    """A stream that times each step: from handing out a batch to being asked for the next one.

    With `in_memory`, its first batches come again and again. between: called outside the clock before each batch.
    Otherwise reading is part of the step.
    """

    class ClockedStream(SampleStream):
        def __iter__(self) -> Iterator[Batch]:
            source = super().__iter__()
            if self.config.split != "train":
                yield from source
                return
            if in_memory:
                source = itertools.cycle(list(itertools.islice(source, BATCHES_IN_MEMORY)))
            while True:
                clock.end()
                if not in_memory:
                    clock.begin()
                batch = next(source)
                if between is not None:
                    between(batch)
                if in_memory:
                    clock.begin()
                yield batch

    return ClockedStream


def use_stream(kind: type[SampleStream]) -> AbstractContextManager[Any]:
    return mock.patch.object(data, "SampleStream", kind)


class BareLoop:
    """What a step cannot do without: inputs from a batch of moments, forward, backward, clip, step."""

    def __init__(self, config: Stage1Config) -> None:
        self.audio = open_audio_encoder(config.audio_encoder)
        self.network, _, _ = build_denoiser(config, self.audio.width)
        self.optimizer = make_optimizer(config.optimizer, self.network.parameters())
        set_learning_rate(self.optimizer, config.optimizer.learning_rate)
        self.max_grad_norm = config.optimizer.max_grad_norm
        self.clock = Clock()

    def step(self, batch: Batch) -> None:
        self.clock.begin()
        moments = [batch[f"{name}_moments"].float() for name in ("target", "masked", "reference")]
        target, masked, reference = (
            sample_latents(each, torch.randn_like(each[:, :, :4])).transpose(1, 2) for each in moments
        )
        size, channels, frames, *side = target.shape
        noise = mixed_noise(torch.randn(size, channels, 1, *side), torch.randn(size, channels, frames, *side), 1.0)
        timesteps = torch.randint(NUM_TIMESTEPS, (size,))
        kept = 1 - mouth_mask(side[0] * PIXELS_PER_LATENT)[:, ::PIXELS_PER_LATENT, ::PIXELS_PER_LATENT]
        mask = kept[None, :, None].expand(size, 1, frames, *side)
        sample = network_input(add_noise(target, noise, timesteps), mask, masked, reference)
        prediction = self.network(sample, timesteps, self.audio.tokens(batch))
        torch.nn.functional.mse_loss(prediction.float(), noise).backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.clock.end()


def config_of(preset: str, selection: str, run_dir: Path, num_steps: int, *more: str) -> Stage1Config:
    """The preset, on this selection, with one save and one validation at the end."""
    ends = [f"{name}={num_steps}" for name in ("num_steps", "save_every", "validate_every")]
    settings = [f"selection={selection}", f"run_dir={run_dir}", *ends, "log_every=10", "num_workers=0", "device=cpu"]
    return load_preset(Stage1Config, preset, [*settings, "num_validation_samples=1", *more])


def train_once(config: Stage1Config) -> None:
    train(config, Together(start(config), config.mixed_precision))


def measure_loop(preset: str, selection: str, features: str, vae: str, steps: int, folder: Path) -> dict[str, Cost]:
    """Mean cost of a step by loop; they take turns after every step."""
    config = config_of(
        preset, selection, folder / "loop", steps, f"features={features}", f"vae={vae}", "ema.decay=null"
    )
    bare, clock = BareLoop(config), Clock()
    with use_stream(clocked_stream(clock, True, bare.step)):
        train_once(config)
    return {"trainer": clock.mean(), "bare loop": bare.clock.mean()}


def measure_cached(preset: str, selection: str, features: str, vae: str, steps: int, folder: Path) -> dict[str, Cost]:
    """Mean cost of a step, reading included, with latents from the cache and with the same VAE at each step."""
    found = {}
    for name, num_steps, more in (("cached", steps, [f"features={features}"]), ("encoding", steps // 3, [])):
        clock = Clock()
        config = config_of(preset, selection, folder / name, num_steps, f"vae={vae}", *more)
        with use_stream(clocked_stream(clock, False)):
            train_once(config)
        found[name] = clock.mean()
    return found


def measure_waiting(preset: str, selection: str, features: str, vae: str, steps: int, folder: Path) -> dict[str, float]:
    """Share of the time waiting for data, by stream, without the first line of the log: workers start then.

    The frames that are decoded are encoded by `blocks`, which takes no time: the trainer asks as fast as it can.
    """
    found = {}
    for name, reads in {"decoded": ["vae=blocks"], "cached": [f"vae={vae}", f"features={features}"]}.items():
        for workers in (0, 2):
            run_dir = folder / f"{name}{workers}"
            more = [*reads, f"num_workers={workers}", f"log_every={steps // 3}"]
            train_once(config_of(preset, selection, run_dir, steps, *more))
            rows = [row for row in read_metrics(run_dir) if "loss" in row][1:]
            found[f"{name}, {workers} workers"] = statistics.mean(row["data_wait_share"] for row in rows)
    return found


def make_features(selection: str, preset: str, vae: str, folder: Path) -> str:
    """What `lipforge features --mel --vae VAE` makes, at the side that the preset trains at; returns the folder."""
    config = config_of(preset, selection, folder, 1)
    side = read_selection(selection)["crop_px"][0].as_py()
    shrinks = config.resize and config.resolution is not None and config.resolution < side
    models = ModelFiles(None, True, (vae, *read_vae_files(vae)), config.resolution if shrinks else None)
    place = folder / f"features{config.resolution if shrinks else side}"
    compute_features(selection, str(place), models, "local", None)
    return str(place)


MEASURES: dict[str, Callable[..., Any]] = {
    "loop": measure_loop,
    "cached": measure_cached,
    "waiting": measure_waiting,
}


def measure(selection: str, presets: Sequence[str], vae: str, steps: int, repeats: int, folder: Path) -> dict[str, Any]:
    """Medians over repeats by preset and measure. All measures of all presets take turns."""
    turns: dict[tuple[str, str], list[Any]] = {}
    features = {preset: make_features(selection, preset, vae, folder) for preset in presets}
    for _ in range(repeats):
        for preset, (name, work) in itertools.product(presets, MEASURES.items()):
            with tempfile.TemporaryDirectory(dir=folder) as runs:
                found = work(preset, selection, features[preset], vae, steps, Path(runs))
            turns.setdefault((preset, name), []).append(found)
    results: dict[str, Any] = {preset: {} for preset in presets}
    for (preset, name), found in turns.items():
        results[preset][name] = medians(found)
    return results


def medians(turns: Sequence[Any]) -> Any:
    """The median of each number, in the shape of one turn."""
    if isinstance(turns[0], dict):
        return {name: medians([turn[name] for turn in turns]) for name in turns[0]}
    return statistics.median(turns)


def show(results: dict[str, Any]) -> None:
    for preset, found in results.items():
        print(f"\n{preset}: milliseconds a step, wall and CPU")
        for title, name, baseline in (("loop", "trainer", "bare loop"), ("cached", "encoding", "cached")):
            for row, cost in found[title].items():
                print(f"  {row:24}{cost['wall'] * 1000:10.1f}{cost['cpu'] * 1000:10.1f}")
            ratios = (found[title][name][kind] / found[title][baseline][kind] for kind in ("wall", "cpu"))
            print(f"  {f'{name} over {baseline}':24}" + "".join(f"{ratio:10.3f}" for ratio in ratios))
        print("  share of the time waiting for data: " + ", ".join(f"{n} {s:.1%}" for n, s in found["waiting"].items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--selection")
    parser.add_argument("--presets", nargs="+", default=["tiny_stage1", "faces_stage1"])
    parser.add_argument("--vae")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        selection = arguments.selection or make_selection(folder)
        vae = arguments.vae or random_taesd(folder)
        results = measure(selection, arguments.presets, vae, arguments.steps, arguments.repeats, folder)
    show(results)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(results, indent=2))


def random_taesd(folder: Path) -> str:
    from tests.tiny_vae import save_taesd

    (folder / "taesd").mkdir()
    save_taesd(folder / "taesd")
    return str(folder / "taesd")


if __name__ == "__main__":
    main()
