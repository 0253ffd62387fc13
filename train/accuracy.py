"""SyncNet accuracy of a checkpoint: the pairs and the counting of the trainer's validation, on any selection."""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lipforge.model.denoiser.vae import open_vae
from lipforge.model.faces.templates import Template
from lipforge.model.sync.stable_syncnet import LAYOUTS, StableSyncNet
from lipforge.model.sync.window import syncnet_input
from lipforge.model.trained import read_about, read_weights
from lipforge.model.weights.load import ModelFileError
from lipforge.model.weights.state_dicts import load_strict
from lipforge.train.loop.pairs import PairMaker, cosines_of, labels_of, report_of
from lipforge.train.stream.config import StreamConfig
from lipforge.train.stream.stream import SampleStream
from lipforge.train.syncnet_accuracy import Report

_PUBLISHED, _PUBLISHED_FRAMES = "syncnet_16_pixel_attn", 16
_BATCH = 8
_SPLITS = {"val": "val", "train": "train", "all": None}


@dataclass(frozen=True)
class Found:
    name: str
    num_clips: int
    num_frames: int
    """Of a window."""
    fixed: Report
    """One window of each clip, the same each time: what a trainer's validation sees."""
    random: Report
    """Several windows of each clip, by the seed: as published."""


def measure_accuracy(
    model: str, selection: str, split: str, rounds: int, seed: int, vae: str = "sd-vae-ft-mse", device: str = "auto"
) -> Found:
    """model: RUN/model, a file of weights, or a fetched file by name. split: val, train or all. rounds: windows of each
    clip. vae: for a network on latents whose folder does not name its own.

    Raises ValueError for what does not fit, ModelFileError, and what streams raise.
    """
    if split not in _SPLITS:
        raise ValueError(f"--split {split}: expected val, train or all")
    if device not in ("auto", "cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise ValueError(f"--device {device}: expected auto, cpu, or cuda where torch sees a GPU")
    place = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    about = _about(model)
    num_frames = about["num_frames"]
    sees = syncnet_input(model, about["layout"], num_frames)
    tensors, name = read_weights(model, "syncnet")
    network = StableSyncNet(about["layout"])
    load_strict(network, tensors, name)
    network.to(place)
    encoder = open_vae(about.get("vae", vae), str(place)) if sees.sees == "latents" else None
    labels = labels_of(selection, _SPLITS[split])

    def heard(stream_seed: int, num_epochs: int) -> list[tuple[str, float, float]]:
        config = StreamConfig.model_validate(
            {
                "selection": selection,
                "split": _SPLITS[split],
                "task": "syncnet",
                "num_frames": num_frames,
                "batch_size": _BATCH,
                "num_workers": 0,
                "seed": stream_seed,
            }
        )
        stream = SampleStream(config, num_epochs=num_epochs)
        if stream.template != Template.LATENTSYNC:
            raise ValueError(f"crops of template {stream.template}: a SyncNet of ours sees those of latentsync only")
        maker = PairMaker(stream_seed, stream.crop_px, sees, encoder, place, nullcontext)
        found = []
        for batch in stream:
            pairs = maker.make(batch, "val")
            cosines = cosines_of(*network(pairs.frames, pairs.mel))
            rows = zip(pairs.keys, *cosines.tolist(), batch["valid"].tolist(), strict=True)
            found += [(key, right, wrong) for key, right, wrong, is_valid in rows if is_valid]
        return found

    with torch.no_grad():
        fixed, random = heard(0, 1), heard(seed, rounds)
    return Found(name, len(labels), num_frames, report_of(fixed, labels), report_of(random, labels))


def _about(model: str) -> dict[str, Any]:
    """Layout and window of the network."""
    if not Path(model).is_dir():
        return {"layout": LAYOUTS[_PUBLISHED], "num_frames": _PUBLISHED_FRAMES}
    about = read_about(Path(model))
    if about["kind"] != "syncnet":
        raise ModelFileError(f"{model}: the model there is a {about['kind']}; the accuracy is that of a SyncNet")
    return about
