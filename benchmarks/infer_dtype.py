"""Measure what smaller numbers and a guidance band cost and change: error against float32, and time of a window.

python -m benchmarks.infer_dtype [--model MODEL] [--steps N] [--device auto|cpu|cuda|mps]

MODEL is what `lipforge infer --model` takes and hears by mel. Without one, a small U-Net with random weights stands in:
its times compare, and its errors say how far numbers stray in such a network, not how a trained one looks.
Errors are of latents: the deviation of the difference over that of float32's. Results also go to
bench/infer_dtype.json.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "2")  # before numpy and torch are imported

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from lipforge.model.denoiser.layouts import LAYOUTS
from lipforge.model.denoiser.unet import UNet3D
from lipforge.pipeline.infer.lips import open_lip_model
from lipforge.pipeline.infer.request import InferConfig, InferError
from lipforge.pipeline.infer.voice import MelVoice

OUT = Path("bench/infer_dtype.json")
BANDS = ((0, 1000), (100, 800), (200, 600))
REPEATS = 3


def stand_in(folder: Path) -> Path:
    """A run's model folder: the layout of small real faces at 128 px, random weights."""
    torch.manual_seed(0)
    network = UNet3D({**LAYOUTS["faces_stage2"], "cross_attention_dim": 80})
    save_file(network.state_dict(), folder / "unet.safetensors")
    about = {"kind": "unet", "layout": network.config, "resolution": 128, "num_frames": 16}
    (folder / "config.json").write_text(json.dumps({**about, "vae": "blocks", "audio_encoder": "mel"}))
    return folder


def measure(settings: dict[str, Any]) -> tuple[Tensor, float]:
    """(latents of one window, median seconds to draw it)"""
    model = open_lip_model(InferConfig.model_validate(settings))
    rng = np.random.default_rng(0)
    side = model.resolution
    coarse = rng.integers(0, 256, (1, side // 16, side // 16, 3), dtype=np.uint8)
    faces = np.repeat(coarse.repeat(16, axis=1).repeat(16, axis=2), model.window_frames, axis=0)
    sound = (0.1 * rng.standard_normal(32_000)).astype(np.float32)
    voice = MelVoice(lambda first, end: np.pad(sound, (1000, 0))[first + 1000 : end + 1000], 2.0)
    tokens = voice.tokens(np.arange(model.window_frames) / 25)
    drawn = model.draw(faces, tokens)  # kernels are chosen, and memory is taken
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        drawn = model.draw(faces, tokens)  # it comes back to the CPU, so the device has finished
        seconds.append(time.perf_counter() - started)
    return drawn, statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        model = given.model or str(stand_in(Path(folder)))
        asked = {"model": model, "device": given.device}
        sampling: dict[str, Any] = {"steps": given.steps}
        base, base_s = measure({**asked, "dtype": "fp32", "sampling": sampling})
        cases = [(dtype, (0, 1000)) for dtype in ("fp32", "bf16", "fp16", "int8")]
        cases += [("fp32", band) for band in BANDS[1:]]
        for dtype, band in cases:
            try:
                drawn, window_s = measure({**asked, "dtype": dtype, "sampling": {**sampling, "guidance_band": band}})
            except InferError as error:
                print(f"{dtype}: {error}")
                continue
            error_share = float((drawn - base).std() / base.std())
            rows.append({"dtype": dtype, "band": band, "window_s": window_s, "error": error_share})
            print(
                f"{dtype}, guided at {band[0]} to {band[1]}: {window_s:.2f} s a window ({window_s / base_s:.2f} of "
                f"fp32), error {error_share:.2%}"
            )
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"machine": platform.processor(), "model": given.model, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
