"""Train the built-in judge of lip-sync (`model/sync/builtin.py`) on a dataset that `lipforge prepare` made.

    python -m train.scorers.lip_sync extract DATASET CACHE            kept clips -> one .npz each: points, mouths, sound
    python -m train.scorers.lip_sync train CACHE --out W --name NAME  .npz files -> weights W (safetensors)
    python -m train.scorers.lip_sync validate CACHE                   how well speakers are judged that training leaves out

Real videos are themselves off by a few frames, and a network that is taught to call that "in time" learns less. What
`prepare` corrected is a good start; what is left is estimated first, for each clip by a network that never saw the clip or
its speaker; clips that match nowhere are left out; then this is done again with the corrected clips; then the final
networks are trained. `python -m benchmarks.lip_sync` says what they are worth.
"""

import csv
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
import typer
from pydantic import BaseModel, ConfigDict
from safetensors.torch import save as save_safetensors
from scipy.cluster.vq import kmeans2
from torch import Tensor
from torch.nn import functional

from lipforge.model.clock import FPS
from lipforge.model.faces.lip_points import MOUTH_PX, NUM_SPEAKING, SYNC_LANDMARKS
from lipforge.model.sync.builtin import (
    MEL_PER_FRAME,
    MOUTH_WAVES,
    LipSync,
    SyncNetwork,
    lip_features,
    lip_motion,
    log_mel,
    mel_power,
    mouth_motion,
    peak,
    similarity_to,
    sound_features,
)
from lipforge.train.scorers.clips import Clip, extract_clips, load_clips

log = logging.getLogger(__name__)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)

_LEFT = (61, 185, 40, 39, 37, 146, 91, 181, 84, 78, 191, 80, 81, 82, 95, 88, 178, 87, 149, 176, 148, 150)
_RIGHT = (291, 409, 270, 269, 267, 375, 321, 405, 314, 308, 415, 310, 311, 312, 324, 318, 402, 317, 378, 400, 377, 379)
_LEFT_UPPER = (33, 133, 67, 109, 103, 54, 127, 162, 21)
_RIGHT_UPPER = (263, 362, 297, 338, 332, 284, 356, 389, 251)
MIRROR_IMAGE = dict(zip(_LEFT + _LEFT_UPPER, _RIGHT + _RIGHT_UPPER, strict=True))
"""FaceMesh points of the left and their mirror images."""


class TrainConfig(BaseModel):
    """What shapes the weights."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    num_networks: int = 4
    """Networks whose similarities are averaged."""
    width: int = 64
    num_outputs: int = 32
    dropout: float = 0.3
    num_steps: int = 1500
    """Optimizer steps of each final network."""
    num_offset_steps: int = 600
    """Optimizer steps of each network that estimates offsets."""
    num_offset_rounds: int = 2
    batch_size: int = 64
    clips_per_group: int = 8
    """Clips of a batch come in so many from one group at a time: other words of a speaker must not do."""
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    window_frames: int = 28
    """Frames of a training sample, before it is made faster or slower."""
    max_lag_frames: int = 12
    """Shifts that the true one must beat, either way."""
    cross_weight: float = 1.5
    """Weight of telling a clip's sound from other clips' beside telling its shift from other shifts."""
    long_clip_weight: float = 3.0
    """How much more often a frame of a clip of more than 2.5 s is drawn: such clips are few beside single words."""
    longest_s: float = 10.0
    """What a clip has beyond this does not make it drawn more often."""
    num_framings: int = 5
    """Ways in which each clip's mouth pictures are cut out."""
    offset_spread_frames: float = 1.5
    """Standard deviation of the offsets that clips have."""
    max_offset_frames: int = 3
    """Largest offset that is believed of a training clip."""
    min_offset_probability: float = 0.35
    """A clip whose offset lies within that limit with less probability is left out: its sound is not its picture's."""
    seed: int = 0


# --- clips -> features --------------------------------------------------------------------------------------------


@app.command()
def extract(
    dataset: Annotated[str, typer.Argument(help="Dataset folder or URL that `lipforge prepare` made.")],
    cache: Annotated[Path, typer.Argument(help="Folder for the .npz files; existing ones are kept.")],
) -> None:
    """Take the kept clips out of a dataset's shards: points, mouth pictures and sound."""
    extract_clips(dataset, cache)


def mean_head(shapes: np.ndarray) -> np.ndarray:
    """The upright, symmetric mean of upper faces.

    shapes: float [N, U, 3], the upper-face points of SYNC_LANDMARKS in pixels.
    Returns float64 [U, 3] with a root-mean-square size of 10: x to the right, y down, z away from the camera.
    """
    mirror = _mirror()[NUM_SPEAKING:] - NUM_SPEAKING
    shapes = shapes - shapes.mean(axis=1, keepdims=True)
    head = shapes[0].astype(np.float64)
    for _ in range(8):
        turn, scale = similarity_to(head, shapes)
        head = np.einsum("n,nij,nuj->ui", scale, turn, shapes) / len(shapes)
        right = (head[mirror] - head)[head[mirror][:, 0] > head[:, 0]].sum(axis=0)
        x = right / np.linalg.norm(right)
        down = head[_place(4)] - head[_place(10)]  # forehead to tip of the nose
        y = down - x * (down @ x)
        y /= np.linalg.norm(y)
        head = head @ np.stack([x, y, np.cross(x, y)], axis=1)
        head = (head + head[mirror] * [-1, 1, 1]) / 2
        head *= 10 / np.sqrt((head**2).sum(axis=1).mean())
    return head


def _place(landmark: int) -> int:
    return SYNC_LANDMARKS.tolist().index(landmark) - NUM_SPEAKING


def _mirror() -> np.ndarray:
    """int [len(SYNC_LANDMARKS)]: for each point the place of its mirror image."""
    other = MIRROR_IMAGE | {right: left for left, right in MIRROR_IMAGE.items()}
    places = {int(landmark): place for place, landmark in enumerate(SYNC_LANDMARKS)}
    return np.array([places[other.get(int(landmark), int(landmark))] for landmark in SYNC_LANDMARKS])


def prepare(clips: Iterable[Clip], config: TrainConfig) -> tuple[list[Clip], np.ndarray]:
    """Adds what the networks see, and who may be one speaker. Returns the clips, and the head that all are turned to."""
    long_enough = [clip for clip in clips if clip.num_frames >= config.window_frames]
    if len(long_enough) < config.batch_size:
        raise ValueError(
            f"{len(long_enough)} clips of at least {config.window_frames} frames; training needs {config.batch_size} or more"
        )
    head = mean_head(np.stack([clip.points[clip.num_frames // 2, NUM_SPEAKING:] for clip in long_enough]))
    rng = np.random.default_rng(config.seed)
    seen = [
        replace(
            clip,
            lips=lip_motion(clip.points, head),
            waves=np.stack([mouth_motion(mouths) for mouths in framings(rng, clip.mouths, config.num_framings)]),
            power=mel_power(clip.audio),
        )
        for clip in long_enough
    ]
    return group_speakers(seen, head), head


def framings(rng: np.random.Generator, mouths: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """The mouth pictures uint8 [T, 64, 64] as they are, then turned, moved and scaled a little, each time all alike."""
    yield mouths
    middle = (MOUTH_PX / 2, MOUTH_PX / 2)
    for _ in range(count - 1):
        matrix = cv2.getRotationMatrix2D(middle, rng.normal(0, 4), np.exp(rng.normal(0, 0.1)))
        matrix[:, 2] += rng.normal(0, 3, 2)
        yield np.stack(
            [cv2.warpAffine(mouth, matrix, (MOUTH_PX, MOUTH_PX), borderMode=cv2.BORDER_REPLICATE) for mouth in mouths]
        )


def group_speakers(clips: list[Clip], head: np.ndarray, num_groups: int = 40) -> list[Clip]:
    """Groups clips by speaker where that is known, else by the shape of the upper face, so that a speaker is (nearly)
    always in one group."""
    named = sorted({clip.speaker for clip in clips if clip.speaker})
    unnamed = [clip for clip in clips if not clip.speaker]
    by_shape = dict(zip((clip.name for clip in unnamed), _shape_groups(unnamed, head, num_groups), strict=True))
    return [
        replace(clip, group=named.index(clip.speaker) if clip.speaker else len(named) + by_shape[clip.name])
        for clip in clips
    ]


def _shape_groups(clips: list[Clip], head: np.ndarray, num_groups: int) -> list[int]:
    shapes = []
    for clip in clips:
        upper = clip.points[:, NUM_SPEAKING:].astype(np.float64)
        upper -= upper.mean(axis=1, keepdims=True)
        turn, scale = similarity_to(head, upper)
        shapes.append(np.median(np.einsum("t,tij,tuj->tui", scale, turn, upper), axis=0).ravel())
    if len(shapes) <= num_groups:
        return list(range(len(shapes)))
    return [int(label) for label in kmeans2(np.array(shapes), num_groups, minit="++", rng=1)[1]]


class Deck:
    """Clips to draw batches from."""

    def __init__(self, clips: list[Clip], config: TrainConfig) -> None:
        """clips: those whose offset is None are left out."""
        self.config = config
        self.clips = [clip for clip in clips if clip.offset_frames is not None]
        if not self.clips:
            raise ValueError("no clip is left whose sound fits its picture")
        frames = np.array([min(clip.num_frames, config.longest_s * FPS) for clip in self.clips])
        odds = frames * np.where(frames > 2.5 * FPS, config.long_clip_weight, 1.0)
        self.odds = odds / odds.sum()
        self.groups: dict[int, list[int]] = {}
        for index, clip in enumerate(self.clips):
            self.groups.setdefault(clip.group, []).append(index)

    def choose(self, rng: np.random.Generator) -> list[Clip]:
        """The clips of a batch: a few of one group, then a few of another."""
        chosen: list[int] = []
        while len(chosen) < self.config.batch_size:
            group = self.groups[self.clips[rng.choice(len(self.clips), p=self.odds)].group]
            odds = self.odds[group] / self.odds[group].sum()
            chosen += rng.choice(group, min(self.config.clips_per_group, len(group)), replace=False, p=odds).tolist()
        return [self.clips[index] for index in chosen[: self.config.batch_size]]

    def batch(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Windows in time with their sound, all made equally faster or slower, each varied in its own way.

        Returns lips float32 [B, n, 291] and sound float32 [B, n, 160].
        """
        speed = np.exp(rng.uniform(np.log(0.85), np.log(1.18)))
        num_frames = int((self.config.window_frames - 1) / speed)
        reach = (num_frames - 1) * speed
        lips, waves, power = [], [], []
        for clip in self.choose(rng):
            assert clip.offset_frames is not None
            first = max(0.0, clip.offset_frames)
            last = min(0.0, clip.offset_frames) + clip.num_frames - 1 - reach
            start = rng.uniform(first, max(first, last))
            shown = start + np.arange(num_frames) * speed
            lips.append(_between(clip.lips, shown))
            waves.append(_between(clip.waves[rng.integers(len(clip.waves))], shown))
            heard = (start - clip.offset_frames) * MEL_PER_FRAME
            power.append(_between(clip.power, heard + np.arange(num_frames * MEL_PER_FRAME) * speed))
        mirrored = rng.random(len(lips)) < 0.5
        seen = lip_features(
            vary_lips(rng, np.stack(lips), mirrored), vary_waves(rng, np.stack(waves).astype(np.float32), mirrored)
        )
        return torch.from_numpy(seen), torch.from_numpy(sound_features(vary_sound(rng, np.stack(power))))


def _between(rows: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Rows at fractional places, by linear interpolation; beyond the ends the last row."""
    places = np.clip(places, 0, len(rows) - 1)
    lower = np.minimum(places.astype(int), len(rows) - 2)
    share = (places - lower).astype(np.float32).reshape(-1, *[1] * (rows.ndim - 1))
    return rows[lower] * (1 - share) + rows[lower + 1] * share


def vary_lips(rng: np.random.Generator, lips: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Mirrored, turned a little, larger or smaller, flatter, noisier.

    lips: float32 [B, n, NUM_SPEAKING, 3]; mirrored: bool [B].
    """
    count, num_frames, num_points, _ = lips.shape
    lips = np.where(mirrored[:, None, None, None], lips[:, :, _mirror()[:NUM_SPEAKING]] * _FLIP, lips)
    x, y, z = rng.normal(0, 0.12, (3, count))
    zero = np.zeros(count)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=1).reshape(count, 3, 3)
    turn = np.eye(3) + cross + cross @ cross / 2
    turn *= np.exp(rng.normal(0, 0.2, (count, 1, 1)) + rng.normal(0, 0.1, (count, 3, 1)))
    turn[:, 2] *= np.where(rng.random(count) < 0.3, rng.random(count), 1.0)[:, None]
    lips = (lips.reshape(count, -1, 3) @ turn.transpose(0, 2, 1).astype(np.float32)).reshape(lips.shape)
    for shape in ((count, num_frames, num_points, 3), (count, num_frames, 1, 3)):  # each point, then all together
        strength = 0.1 * rng.random((count, 1, 1, 1), dtype=np.float32)
        lips = lips + strength * rng.standard_normal(shape, dtype=np.float32)
    return lips


_FLIP = np.array([-1, 1, 1], dtype=np.float32)


def vary_waves(rng: np.random.Generator, waves: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Mirrored, of more or less contrast, blurred, noisier. waves: float32 [B, n, 144]; mirrored: bool [B]."""
    count = len(waves)
    down, across = np.divmod(np.arange(MOUTH_WAVES**2), MOUTH_WAVES)
    waves = np.where(mirrored[:, None, None] & (across % 2 == 1), -waves, waves)
    blur = rng.uniform(0, 0.015, count) * (rng.random(count) < 0.5)
    gain = np.exp(rng.normal(0, 0.3, (count, 1, 1)) - blur[:, None, None] * (down**2 + across**2))
    noise = 0.18 * rng.random((count, 1, 1), dtype=np.float32) * rng.standard_normal(waves.shape, dtype=np.float32)
    return waves * gain.astype(np.float32) + noise


def vary_sound(rng: np.random.Generator, power: np.ndarray) -> np.ndarray:
    """Another microphone, room noise; then `log_mel`. power: float32 [B, L, 40]."""
    count, length, bands = power.shape
    place = np.linspace(0, 4, bands)
    tone, noise_tone = (
        np.stack([10 ** np.interp(place, np.arange(5), rng.normal(0, spread, 5)) for _ in range(count)])[:, None]
        for spread in (0.35, 0.4)
    )
    power = power * tone.astype(np.float32)
    loud = np.quantile(power.mean(axis=2), 0.95, axis=1)
    noise_level = np.where(rng.random(count) < 0.5, loud * 10 ** rng.uniform(-4, -1.2, count), 0)
    noise_power = (noise_level[:, None, None] * noise_tone).astype(np.float32)
    power = power + noise_power * rng.standard_exponential((count, length, bands), dtype=np.float32)
    levels = np.stack([log_mel(clip) for clip in power])
    jitter = np.where(rng.random(count) < 0.3, np.float32(0.05), np.float32(0))[:, None, None]
    return levels + jitter * rng.standard_normal(levels.shape, dtype=np.float32)


# --- training -----------------------------------------------------------------------------------------------------


def sync_losses(network: SyncNetwork, lips: Tensor, sound: Tensor, config: TrainConfig) -> dict[str, Tensor]:
    """`lag`: which shift of a clip's own sound is the true one? `cross`: which clip's sound is its own?"""
    seen, heard = network.lips(lips), network.sound(sound)
    count, num_frames = seen.shape[:2]
    scale = network.log_scale.exp()
    reach = min(config.max_lag_frames, num_frames - 5)
    similar = seen @ heard.transpose(1, 2)
    by_lag = torch.stack([similar.diagonal(lag, 1, 2).mean(dim=1) for lag in range(-reach, reach + 1)], dim=1)
    by_clip = torch.einsum("itd,jtd->ij", seen, heard) / num_frames
    clips = torch.arange(count)
    return {
        "lag": functional.cross_entropy(scale * by_lag, torch.full((count,), reach)),
        "cross": (functional.cross_entropy(scale * by_clip, clips) + functional.cross_entropy(scale * by_clip.T, clips))
        / 2,
    }


def train_network(clips: list[Clip], num_steps: int, seed: int, config: TrainConfig) -> SyncNetwork:
    """One network from the clips whose offset is not None."""
    deck = Deck(clips, config)
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    network = SyncNetwork(config.width, config.num_outputs, config.dropout)
    optimizer = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=num_steps, pct_start=0.15
    )
    started = time.perf_counter()
    for step in range(1, num_steps + 1):
        losses = sync_losses(network, *deck.batch(rng), config)
        loss = losses["lag"] + config.cross_weight * losses["cross"]
        if not torch.isfinite(loss):
            raise FloatingPointError(f"loss is {loss.item()} at step {step} of seed {seed}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == num_steps:
            values = " ".join(f"{name} {value.item():.3f}" for name, value in losses.items())
            rate = step / (time.perf_counter() - started)
            log.info(
                "  step %d of %d: %s, %.1f steps/s, %.0f s left",
                step,
                num_steps,
                values,
                rate,
                (num_steps - step) / rate,
            )
    return network.eval().requires_grad_(False)


def embed(network: SyncNetwork, clip: Clip, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """The vectors of a clip's first frames and of their sound alone: two of float32 [num_frames - 12, D]."""
    levels = log_mel(clip.power[: num_frames * MEL_PER_FRAME])
    seen = lip_features(clip.lips[None, :num_frames], clip.waves[:1, :num_frames].astype(np.float32))
    heard = sound_features(levels[None])
    return network.lips(torch.from_numpy(seen))[0].numpy(), network.sound(torch.from_numpy(heard))[0].numpy()


def own_curve(network: SyncNetwork, clip: Clip, max_lag_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean similarity of a clip with its own sound, without any margin, and the offsets that it is for."""
    seen, heard = embed(network, clip, clip.num_frames)
    reach = min(max_lag_frames, len(seen) - 5)
    offsets = np.arange(reach, -reach - 1, -1)
    similar = seen @ heard.T
    return np.array([similar.diagonal(-offset).mean() for offset in offsets]), offsets


def estimate_offset(network: SyncNetwork, clip: Clip, config: TrainConfig) -> float | None:
    """The offset of a clip from its own sound, with what is usual as prior belief; None: it fits at no usual offset."""
    curve, offsets = own_curve(network, clip, config.max_lag_frames)
    logits = curve * network.log_scale.exp().item()
    probability = np.exp(logits - logits.max())
    probability /= probability.sum()
    if probability[np.abs(offsets) <= config.max_offset_frames].sum() < config.min_offset_probability:
        return None
    posterior = probability * np.exp(-0.5 * (offsets / config.offset_spread_frames) ** 2)
    best = int(posterior.argmax())
    near = slice(max(0, best - 1), best + 2)
    return float((posterior[near] * offsets[near]).sum() / posterior[near].sum())


def two_halves(clips: list[Clip], seed: int) -> Iterator[tuple[list[Clip], list[Clip]]]:
    """(clips to learn from, clips of other groups to judge), twice: each clip is judged once.

    Raises ValueError when there is one group only.
    """
    if len({clip.group for clip in clips}) < 2:
        raise ValueError(
            "all clips are of one speaker: training needs several, to judge each by networks that learnt from others"
        )
    order = np.random.default_rng(seed).permutation(1 + max(clip.group for clip in clips))
    for half in (0, 1):
        yield (
            [clip for clip in clips if order[clip.group] % 2 != half],
            [clip for clip in clips if order[clip.group] % 2 == half],
        )


def correct_offsets(clips: list[Clip], round_: int, config: TrainConfig) -> list[Clip]:
    """Offsets of all clips, each from a network that saw neither the clip nor its group."""
    corrected = []
    for half, (learn, judge) in enumerate(two_halves(clips, config.seed + round_)):
        log.info("offsets, round %d of %d: half %d of 2", round_ + 1, config.num_offset_rounds, half + 1)
        network = train_network(learn, config.num_offset_steps, config.seed + 100 * round_ + half, config)
        corrected += [replace(clip, offset_frames=estimate_offset(network, clip, config)) for clip in judge]
    found = np.array([clip.offset_frames for clip in corrected if clip.offset_frames is not None])
    if not len(found):
        raise ValueError("no clip's sound fits its picture: is this a dataset of people who speak?")
    log.info("%d of %d clips fit their sound; offsets %.2f +- %.2f frames", len(found), len(corrected), *_spread(found))
    return sorted(corrected, key=lambda clip: clip.name)


def _spread(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(values.std())


def zero_of(networks: list[SyncNetwork], clips: list[Clip], known: Mapping[str, float]) -> float:
    """What the networks call 0 frames, by clips whose offset is known: the mean of found minus known, in frames.

    known: SyncScore.offset_frames of source videos, by file name.
    """
    errors = []
    for clip in clips:
        if clip.source in known:
            curves, offsets = zip(*(own_curve(network, clip, 6) for network in networks), strict=True)
            found = offsets[0][0] - peak(np.mean(curves, axis=0))
            errors.append(found + clip.corrected_frames - known[clip.source])
    log.info("offsets of %d clips with known ones: %s", len(errors), " ".join(f"{error:+.2f}" for error in errors))
    return float(np.mean(errors)) if errors else 0.0


@app.command()
def train(
    cache: Annotated[Path, typer.Argument(help="Folder of .npz files that `extract` wrote.")],
    out: Annotated[Path, typer.Option(help="Where to write the weights (safetensors).")],
    name: Annotated[str, typer.Option(help="Name of the scorer, as manifests will show it: one for each training.")],
    offsets: Annotated[
        Path | None,
        typer.Option(help="CSV `source,offset_frames`: file names of sources whose offset is known. They define 0."),
    ] = None,
    num_networks: Annotated[int, typer.Option(min=1)] = TrainConfig().num_networks,
) -> None:
    """Correct the clips' own offsets, then train the networks."""
    config = TrainConfig(num_networks=num_networks)
    if not out.parent.is_dir():
        raise ValueError(f"--out {out}: there is no folder {out.parent}")
    known = {} if offsets is None else read_known_offsets(offsets)
    clips, head = prepare(load_clips(cache), config)
    missing = sorted(known.keys() - {clip.source for clip in clips})
    if missing:
        raise ValueError(f"--offsets {offsets}: no clip in {cache} comes from {', '.join(missing)}")
    for round_ in range(config.num_offset_rounds):
        clips = correct_offsets(clips, round_, config)
    networks = []
    for number in range(config.num_networks):
        log.info("network %d of %d", number + 1, config.num_networks)
        networks.append(train_network(clips, config.num_steps, config.seed + 1000 + number, config))
    content = pack(name, head, zero_of(networks, clips, known), networks)
    LipSync(content)  # what cannot be read is not written
    out.write_bytes(content)
    log.info("wrote %s, %d bytes", out, out.stat().st_size)


def read_known_offsets(path: Path) -> dict[str, float]:
    """Offsets by file name of the source. Raises ValueError for a file that is not such a CSV."""
    try:
        with path.open(newline="") as stream:
            return {row["source"]: float(row["offset_frames"]) for row in csv.DictReader(stream)}
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(
            f"--offsets {path}: expected a CSV with the columns source and offset_frames: {error}"
        ) from error


def pack(name: str, head: np.ndarray, zero_frames: float, networks: list[SyncNetwork]) -> bytes:
    """The safetensors file that LipSync reads, in half precision."""
    tensors = {"reference": torch.from_numpy(head), "zero_frames": torch.tensor(zero_frames)}
    for index, network in enumerate(networks):
        tensors |= {f"{index}.{key}": tensor for key, tensor in network.state_dict().items()}
    small = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}
    return save_safetensors(small, metadata={"name": name})


@app.command()
def validate(
    cache: Annotated[Path, typer.Argument(help="Folder of .npz files that `extract` wrote.")],
    num_steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = TrainConfig().num_steps,
) -> None:
    """Train on half of the speakers and tell own sound from other sound on the other half, about one second each."""
    config = TrainConfig()
    clips, _ = prepare(load_clips(cache), config)
    for learn, judge in two_halves(clips, config.seed):
        network = train_network(learn, num_steps, config.seed, config)
        own, other, same = judged(network, judge, config.window_frames)
        refused = np.mean(other < np.quantile(own, 0.05))
        typer.echo(
            f"{len(own)} clips: AUC {area_under_curve(own, other):.4f}, of the same group {area_under_curve(own, same):.4f}; "
            f"{refused:.3f} of other sound refused where 95 % of own are kept"
        )


def judged(network: SyncNetwork, clips: list[Clip], num_frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Best similarity within 2 frames of each clip's start with its own sound, that of other groups, and that of its group."""
    vectors = [embed(network, clip, num_frames) for clip in clips]
    seen, heard = (np.stack(side) for side in zip(*vectors, strict=True))
    count = seen.shape[1]
    best = np.full((len(clips), len(clips)), -1.0)
    for lag in range(-2, 3):
        here, there = slice(max(0, lag), count + min(0, lag)), slice(max(0, -lag), count + min(0, -lag))
        best = np.maximum(best, np.einsum("itd,jtd->ij", seen[:, here], heard[:, there]) / (count - abs(lag)))
    groups = np.array([clip.group for clip in clips])
    same = groups[:, None] == groups
    return best.diagonal(), best[~same], best[same & ~np.eye(len(clips), dtype=bool)]


def area_under_curve(higher: np.ndarray, lower: np.ndarray) -> float:
    """Probability that one of `higher` exceeds one of `lower`, ties counted half."""
    ordered = np.sort(lower)
    below = np.searchsorted(ordered, higher, "left") + np.searchsorted(ordered, higher, "right")
    return float(below.mean() / 2 / len(lower))


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        app()
    except (ValueError, OSError) as error:
        sys.exit(f"train.scorers.lip_sync: {error}")


if __name__ == "__main__":
    main()
