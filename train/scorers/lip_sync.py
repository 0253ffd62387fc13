"""Train the built-in lip-sync scorer (`model/sync/builtin.py`) on a dataset that `lipforge prepare` made.

    python -m train.scorers.lip_sync extract DATASET CACHE            kept clips -> one .npz each
    python -m train.scorers.lip_sync train CACHE --out W --name NAME  .npz files -> weights W (safetensors)
    python -m train.scorers.lip_sync validate CACHE                   accuracy on speakers that training leaves out

Real videos are off by a few frames themselves, and a network trained to call that "in time" learns less. So training
first estimates the offset that `prepare` left in each clip, by a network that never saw the clip or its speaker, and
drops clips that match at no offset. It repeats this with the corrected clips, and then trains the final networks.
`python -m benchmarks.lip_sync` evaluates them.
"""

import csv
import logging
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from safetensors.torch import save as save_safetensors

from lipforge.datasets_manifest.display import counted
from lipforge.model.one_core import use_one_core
from lipforge.model.sync.builtin import LipSyncScorer, SyncNetwork
from lipforge.train.scorers.clip_features import add_features, split_speakers
from lipforge.train.scorers.clips import extract_clips, load_clips
from lipforge.train.scorers.config import ScorerTrainingConfig
from lipforge.train.scorers.evaluation import area_under_curve, similarities
from lipforge.train.scorers.offsets import correct_offsets, zero_offset
from lipforge.train.scorers.training import train_network

log = logging.getLogger(__name__)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.command()
def extract(
    dataset: Annotated[str, typer.Argument(help="Dataset folder or URL that `lipforge prepare` made.")],
    cache: Annotated[Path, typer.Argument(help="Folder for the .npz files. Existing ones are kept.")],
) -> None:
    """Read the kept clips from a dataset's shards: landmarks, mouth images and audio."""
    extract_clips(dataset, cache)


@app.command("train")
def train_scorer(
    cache: Annotated[Path, typer.Argument(help="Folder of .npz files that `extract` wrote.")],
    out: Annotated[Path, typer.Option(help="File for the weights (safetensors).")],
    name: Annotated[str, typer.Option(help="Name of the scorer in manifests. Use a new one for each training.")],
    offsets: Annotated[
        Path | None,
        typer.Option(help="CSV `source,offset_frames`: source files whose offset is known. They define 0."),
    ] = None,
    num_networks: Annotated[int, typer.Option(min=1)] = ScorerTrainingConfig().num_networks,
) -> None:
    """Correct the clips' own offsets, then train the networks."""
    config = ScorerTrainingConfig(num_networks=num_networks)
    if not out.parent.is_dir():
        raise ValueError(f"--out {out}: there is no folder {out.parent}")
    known = {} if offsets is None else read_known_offsets(offsets)
    clips, head = add_features(load_clips(cache), config)
    missing = sorted(known.keys() - {clip.source for clip in clips})
    if missing:
        raise ValueError(f"--offsets {offsets}: no clip in {cache} comes from {', '.join(missing)}")
    for round_ in range(config.num_offset_rounds):
        clips = correct_offsets(clips, round_, config)
    networks = []
    for number in range(config.num_networks):
        log.info("network %d of %d", number + 1, config.num_networks)
        networks.append(train_network(clips, config.num_steps, config.seed + 1000 + number, config))
    content = pack_weights(name, head, zero_offset(networks, clips, known), networks)
    LipSyncScorer(content)  # fail before writing weights that cannot be read
    out.write_bytes(content)
    log.info("wrote %s, %d bytes", out, out.stat().st_size)


@app.command()
def validate(
    cache: Annotated[Path, typer.Argument(help="Folder of .npz files that `extract` wrote.")],
    num_steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = ScorerTrainingConfig().num_steps,
) -> None:
    """Train on half of the speakers; on the other half, measure how well own and other audio are told apart.

    About one second of each clip counts.
    """
    config = ScorerTrainingConfig()
    clips, _ = add_features(load_clips(cache), config)
    for training, held_out in split_speakers(clips, config.seed):
        network = train_network(training, num_steps, config.seed, config)
        own, other, same = similarities(network, held_out, config.window_frames)
        rejected = np.mean(other < np.quantile(own, 0.05))
        typer.echo(
            f"{counted(len(own), 'clip')}: AUC {area_under_curve(own, other):.4f}, "
            f"within a group {area_under_curve(own, same):.4f}; "
            f"{rejected:.3f} of other audio rejected where 95 % of own is kept"
        )


def read_known_offsets(path: Path) -> dict[str, float]:
    """Offsets by file name of the source. Raises ValueError for a file of another layout."""
    try:
        with path.open(newline="") as stream:
            return {row["source"]: float(row["offset_frames"]) for row in csv.DictReader(stream)}
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(
            f"--offsets {path}: expected a CSV with the columns source and offset_frames: {error}"
        ) from error


def pack_weights(name: str, head: np.ndarray, zero_frames: float, networks: list[SyncNetwork]) -> bytes:
    """The safetensors file that LipSyncScorer reads, in half precision."""
    tensors = {"reference": torch.from_numpy(head), "zero_frames": torch.tensor(zero_frames)}
    for index, network in enumerate(networks):
        tensors |= {f"{index}.{key}": tensor for key, tensor in network.state_dict().items()}
    small = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}
    return save_safetensors(small, metadata={"name": name})


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1)
    use_one_core()
    try:
        app()
    except (ValueError, OSError) as error:
        sys.exit(f"train.scorers.lip_sync: {error}")


if __name__ == "__main__":
    main()
