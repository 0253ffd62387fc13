"""Train the built-in judge of lip-sync (`model/lip_sync.py`) on videos of people who speak.

    python -m train.lip_sync extract CACHE VIDEOS...          videos, folders or tars of videos -> one .npz per face
    python -m train.lip_sync train CACHE --out WEIGHTS        .npz files -> weights (safetensors)
    python -m train.lip_sync evaluate WEIGHTS CACHE           the numbers of docs/models/lip_sync.md

Real videos are themselves off by a few frames, and a network that is taught to call that "in time" learns less. So the
offsets of the training clips are estimated first, each by a network that never saw the clip or its speaker; clips
that match nowhere are left out; then this is done again with the corrected clips; then the final networks are trained.
"""

import csv
import logging
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from pydantic import BaseModel, ConfigDict
from safetensors.torch import save as save_safetensors
from scipy.cluster.vq import kmeans2
from torch import Tensor
from torch.nn import functional

from model import weights
from model.faces import FaceLandmarks, MediaPipeFaces
from model.lip_points import NUM_SPEAKING, SYNC_LANDMARKS
from model.lip_sync import (
    MEL_BANDS,
    MEL_PER_FRAME,
    LipSync,
    SyncNetwork,
    lip_motion,
    log_mel,
    mel_power,
    similarity_to,
)
from model.sync_score import MAX_SHIFT, SAMPLES_PER_FRAME
from pipeline import media

log = logging.getLogger(__name__)
app = typer.Typer(add_completion=False, help=__doc__)

MARGIN = 40
"""Frames of sound kept on each side of a face track."""
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
    """Networks whose curves are averaged."""
    width: int = 64
    num_outputs: int = 32
    dropout: float = 0.1
    num_steps: int = 1200
    """Optimizer steps of each final network."""
    num_offset_steps: int = 800
    """Optimizer steps of each network that estimates offsets."""
    num_offset_rounds: int = 2
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    window_frames: int = 28
    """Frames of a training sample, before it is made faster or slower."""
    max_lag_frames: int = 12
    """Shifts that the true one must beat, either way."""
    cross_weight: float = 0.5
    """Weight of telling a clip's sound from other clips' beside telling its shift from other shifts."""
    known_offset_weight: float = 3.0
    """How much more often a clip is drawn whose offset is given: such clips are few, long and of other cameras."""
    offset_spread_frames: float = 1.5
    """Standard deviation of the offsets that real videos have."""
    max_offset_frames: int = 3
    """Largest offset that is believed of a training clip."""
    min_offset_probability: float = 0.35
    """A clip whose offset lies within that limit with less probability is left out: its sound is not its picture's."""
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Clip:
    """One face track with its sound."""

    name: str
    points: np.ndarray
    """float32 [T, len(SYNC_LANDMARKS), 3], pixels."""
    audio: np.ndarray
    """float32 [(T + 2 * MARGIN) * 640]."""
    frames_before: int
    """Frames of real sound before the track, up to MARGIN; the rest is zeros."""
    frames_after: int
    lips: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """float32 [T, NUM_SPEAKING, 3]: `lip_motion`."""
    power: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """float32 [(T + 2 * MARGIN) * 4, 40]: `mel_power`."""
    offset_frames: float | None = 0.0
    """As SyncScore.offset_frames; None: the sound is not the picture's."""
    is_known: bool = False
    """The offset was given, not estimated."""
    group: int = 0
    """Clips of one group may show one speaker; clips of different groups do not."""

    @property
    def num_frames(self) -> int:
        return len(self.points)


# --- videos -> features -------------------------------------------------------------------------------------------


@app.command()
def extract(
    cache: Annotated[Path, typer.Argument(help="Folder for the .npz files; existing ones are kept.")],
    videos: Annotated[list[Path], typer.Argument(help="Video files, folders of them, or tars of them.")],
) -> None:
    """Follow the largest face of each video and store its points and sound."""
    faces = MediaPipeFaces(weights.load("builtin"))
    cache.mkdir(parents=True, exist_ok=True)
    for name, video in _each_video(videos):
        target = cache / f"{name}.npz"
        if target.exists():
            continue
        try:
            clip = _extract_clip(name, str(video), faces)
        except media.MediaError as error:
            log.warning("%s: %s", video, error)
            continue
        if clip is None:
            log.warning("%s: no face that stays for a second", video)
            continue
        save_clip(clip, target)
        log.info("%s: %d frames", name, clip.num_frames)


def save_clip(clip: Clip, path: Path) -> None:
    """Plain arrays only, so that reading them can run no code."""
    edges = np.array([clip.frames_before, clip.frames_after])
    with path.open("wb") as stream:
        np.savez(stream, points=clip.points, audio=clip.audio, edges=edges)


def load_clips(cache: Path, offsets: Path | None = None) -> list[Clip]:
    """The clips of a folder; with a CSV of `clip,offset_frames` the offsets that are known (empty: unknown)."""
    known: dict[str, float] = {}
    if offsets is not None:
        with offsets.open(newline="") as stream:
            known = {row["clip"]: float(row["offset_frames"]) for row in csv.DictReader(stream) if row["offset_frames"]}
    clips = []
    for path in sorted(cache.glob("*.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            before, after = arrays["edges"].tolist()
            clip = Clip(path.stem, arrays["points"], arrays["audio"], before, after)
        clips.append(replace(clip, offset_frames=known.get(path.stem, 0.0), is_known=path.stem in known))
    if not clips:
        raise ValueError(f"no .npz files in {cache}")
    return clips


def _each_video(paths: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    for path in paths:
        if path.is_dir():
            yield from ((inner.stem, inner) for inner in sorted(path.rglob("*")) if inner.is_file())
        elif path.suffix == ".tar":
            with tarfile.open(path) as archive:
                for member in sorted((m for m in archive if m.isfile()), key=lambda m: m.name):
                    content = archive.extractfile(member)
                    assert content is not None
                    with tempfile.NamedTemporaryFile(suffix=Path(member.name).suffix) as video:
                        video.write(content.read())
                        video.flush()
                        yield Path(member.name).stem, Path(video.name)
        else:
            yield path.stem, path


def _extract_clip(name: str, uri: str, faces: MediaPipeFaces) -> Clip | None:
    info = media.probe(uri)
    tracks: list[tuple[int, list[np.ndarray]]] = []  # first frame, points of each frame
    current: FaceLandmarks | None = None
    for index, frame in _frames(uri, info):
        followed = faces.landmarks(frame, current) if frame is not None and current is not None else None
        if followed is None and frame is not None:
            found = max(faces.detect(frame), key=lambda face: face.y1 - face.y0, default=None)
            followed = faces.landmarks(frame, found) if found is not None else None
            if followed is not None:
                tracks.append((index, []))
        if followed is not None:
            tracks[-1][1].append(followed.points[SYNC_LANDMARKS])
        current = followed
    start, rows = max(tracks, key=lambda track: len(track[1]), default=(0, []))
    if len(rows) < 25:
        return None
    end = start + len(rows)
    audio = media.read_audio(uri, info, start - MARGIN, end + MARGIN)
    return Clip(name, np.stack(rows), audio, min(start, MARGIN), min(info.num_frames - end, MARGIN))


def _frames(uri: str, info: media.VideoInfo) -> Iterator[tuple[int, np.ndarray | None]]:
    """uint8 [H, W, 3] RGB for each 1/25 s; None where the video cannot be decoded."""
    source = ((frame.time_s, frame.picture) for frame in media.decode_video(uri, info, 0, info.num_frames))
    for index, picture in media.to_grid(source, 0, info.num_frames):
        yield index, None if picture is None else media.upright_rgb(picture, info)


# --- features -> training samples ---------------------------------------------------------------------------------


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


def prepare(clips: list[Clip], head: np.ndarray) -> list[Clip]:
    """Adds what the networks see."""
    return [replace(clip, lips=lip_motion(clip.points, head), power=mel_power(clip.audio)) for clip in clips]


def group_by_face(clips: list[Clip], head: np.ndarray, num_groups: int = 40) -> list[Clip]:
    """Groups clips by the shape of the upper face, so that a speaker is (nearly) always in one group."""
    shapes = []
    for clip in clips:
        upper = clip.points[:, NUM_SPEAKING:].astype(np.float64)
        upper -= upper.mean(axis=1, keepdims=True)
        turn, scale = similarity_to(head, upper)
        shapes.append(np.median(np.einsum("t,tij,tuj->tui", scale, turn, upper), axis=0).ravel())
    labels = kmeans2(np.array(shapes), min(num_groups, len(clips)), minit="++", rng=1)[1]
    return [replace(clip, group=int(label)) for clip, label in zip(clips, labels, strict=True)]


def draw_batch(
    rng: np.random.Generator, clips: list[Clip], odds: np.ndarray, config: TrainConfig
) -> tuple[Tensor, Tensor]:
    """Windows in time with their sound, all made equally faster or slower, each varied in its own way.

    Returns lips float32 [B, n, 3 * NUM_SPEAKING] and sound float32 [B, n, 160].
    """
    speed = np.exp(rng.uniform(np.log(0.85), np.log(1.18)))
    num_frames = int((config.window_frames - 1) / speed)
    reach = (num_frames - 1) * speed
    lips, power = [], []
    for index in rng.choice(len(clips), config.batch_size, p=odds):
        clip = clips[index]
        assert clip.offset_frames is not None
        first = max(0.0, clip.offset_frames - clip.frames_before)
        last = min(0.0, clip.offset_frames + clip.frames_after) + clip.num_frames - 1 - reach
        start = rng.uniform(first, max(first, last))
        lips.append(_between(clip.lips, start + np.arange(num_frames) * speed))
        heard = (start - clip.offset_frames + MARGIN) * MEL_PER_FRAME
        power.append(_between(clip.power, heard + np.arange(num_frames * MEL_PER_FRAME) * speed))
    varied_lips = vary_lips(rng, np.stack(lips))
    varied_sound = vary_sound(rng, np.stack(power))
    return (
        torch.from_numpy(varied_lips.reshape(config.batch_size, num_frames, -1)),
        torch.from_numpy(varied_sound.reshape(config.batch_size, num_frames, MEL_PER_FRAME * MEL_BANDS)),
    )


def _between(rows: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Rows at fractional places, by linear interpolation; beyond the ends the last row."""
    places = np.clip(places, 0, len(rows) - 1)
    lower = np.minimum(places.astype(int), len(rows) - 2)
    share = (places - lower).astype(np.float32).reshape(-1, *[1] * (rows.ndim - 1))
    return rows[lower] * (1 - share) + rows[lower + 1] * share


def vary_lips(rng: np.random.Generator, lips: np.ndarray) -> np.ndarray:
    """Mirrored, turned a little, larger or smaller, flatter, noisier. lips: float32 [B, n, NUM_SPEAKING, 3]."""
    count, num_frames, num_points, _ = lips.shape
    lips = np.where(rng.random((count, 1, 1, 1)) < 0.5, lips[:, :, _mirror()[:NUM_SPEAKING]] * _FLIP, lips)
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
    usable = [clip for clip in clips if clip.offset_frames is not None]
    odds = np.array([clip.num_frames * (config.known_offset_weight if clip.is_known else 1) for clip in usable])
    odds = odds / odds.sum()
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    network = SyncNetwork(config.width, config.num_outputs, config.dropout)
    optimizer = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=num_steps, pct_start=0.15
    )
    started = time.perf_counter()
    for step in range(1, num_steps + 1):
        losses = sync_losses(network, *draw_batch(rng, usable, odds, config), config)
        loss = losses["lag"] + config.cross_weight * losses["cross"]
        if not torch.isfinite(loss):
            raise FloatingPointError(f"loss is {loss.item()} at step {step} of seed {seed}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 250 == 0 or step == num_steps:
            values = " ".join(f"{name} {value.item():.3f}" for name, value in losses.items())
            log.info("step %d: %s, %.1f steps/s", step, values, step / (time.perf_counter() - started))
    return network.eval().requires_grad_(False)


def estimate_offset(network: SyncNetwork, clip: Clip, config: TrainConfig) -> float | None:
    """The offset of a short clip from its own sound alone (no margin), with what is usual as prior belief."""
    begin = MARGIN * MEL_PER_FRAME
    levels = log_mel(clip.power[begin : begin + clip.num_frames * MEL_PER_FRAME])
    seen = network.lips(torch.from_numpy(clip.lips.reshape(1, clip.num_frames, -1)))[0]
    heard = network.sound(torch.from_numpy(levels.reshape(1, clip.num_frames, -1)))[0]
    reach = min(config.max_lag_frames, len(seen) - 5)
    offsets = torch.arange(reach, -reach - 1, -1)
    logits = torch.stack([(seen @ heard.T).diagonal(-int(offset)).mean() for offset in offsets])
    probability = torch.softmax(network.log_scale.exp() * logits, dim=0)
    if probability[offsets.abs() <= config.max_offset_frames].sum() < config.min_offset_probability:
        return None
    posterior = probability * torch.exp(-0.5 * (offsets / config.offset_spread_frames) ** 2)
    best = int(posterior.argmax())
    near = slice(max(0, best - 1), best + 2)
    return float((posterior[near] * offsets[near]).sum() / posterior[near].sum())


def correct_offsets(clips: list[Clip], round_: int, config: TrainConfig) -> list[Clip]:
    """Offsets of all clips that are not known, each from a network that saw neither the clip nor its group."""
    groups = np.random.default_rng(config.seed + round_).permutation(1 + max(clip.group for clip in clips))
    corrected = []
    for half in (0, 1):
        learn = [clip for clip in clips if clip.is_known or groups[clip.group] % 2 != half]
        network = train_network(learn, config.num_offset_steps, config.seed + 100 * round_ + half, config)
        for clip in clips:
            if not clip.is_known and groups[clip.group] % 2 == half:
                corrected.append(replace(clip, offset_frames=estimate_offset(network, clip, config)))
    found = np.array([clip.offset_frames for clip in corrected if clip.offset_frames is not None])
    log.info("round %d: %d of %d clips fit their sound", round_, len(found), len(corrected))
    log.info("round %d: their offsets are %.2f +- %.2f frames", round_, found.mean(), found.std())
    return sorted([*corrected, *(clip for clip in clips if clip.is_known)], key=lambda clip: clip.name)


@app.command()
def train(
    cache: Annotated[Path, typer.Argument(help="Folder of .npz files that `extract` wrote.")],
    out: Annotated[Path, typer.Option(help="Where to write the weights (safetensors).")],
    offsets: Annotated[Path | None, typer.Option(help="CSV `clip,offset_frames`: offsets that are known.")] = None,
    name: Annotated[str, typer.Option(help="Name of the scorer, as manifests will show it.")] = "lipforge-lipsync-1",
    num_networks: Annotated[int, typer.Option(min=1)] = TrainConfig().num_networks,
) -> None:
    """Correct the clips' own offsets, then train the networks."""
    config = TrainConfig(num_networks=num_networks)
    clips = [clip for clip in load_clips(cache, offsets) if clip.num_frames >= config.window_frames]
    middles = np.stack([clip.points[clip.num_frames // 2, NUM_SPEAKING:] for clip in clips])
    head = mean_head(middles)
    clips = group_by_face(prepare(clips, head), head)
    for round_ in range(config.num_offset_rounds):
        clips = correct_offsets(clips, round_, config)
    seeds = range(config.seed + 1000, config.seed + 1000 + config.num_networks)
    networks = [train_network(clips, config.num_steps, seed, config) for seed in seeds]
    out.write_bytes(pack(name, head, networks))
    log.info("wrote %s, %d bytes", out, out.stat().st_size)


def pack(name: str, head: np.ndarray, networks: list[SyncNetwork]) -> bytes:
    """The safetensors file that LipSync reads, in half precision."""
    tensors = {"reference": torch.from_numpy(head)}
    for index, network in enumerate(networks):
        tensors |= {f"{index}.{key}": tensor for key, tensor in network.state_dict().items()}
    small = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}
    return save_safetensors(small, metadata={"name": name})


# --- evaluation ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Window:
    """A part of a clip, with enough sound around it to shift it."""

    clip: Clip
    start: int
    num_frames: int

    @property
    def points(self) -> np.ndarray:
        return self.clip.points[self.start : self.start + self.num_frames]

    def audio(self, late_by: int = 0) -> np.ndarray:
        """Its sound with MAX_SHIFT frames of margin, heard `late_by` frames later than in the clip."""
        first = self.start + MARGIN - MAX_SHIFT - late_by
        return self.clip.audio[
            first * SAMPLES_PER_FRAME : (first + self.num_frames + 2 * MAX_SHIFT) * SAMPLES_PER_FRAME
        ]


def windows(clips: list[Clip], num_frames: int) -> list[Window]:
    """Windows of one length, half overlapping, over all clips that are long enough."""
    found = []
    for clip in clips:
        free = clip.num_frames - num_frames
        if free >= 0:
            starts = np.linspace(0, free, 1 + int(np.ceil(free / (num_frames / 2))))
            found += [Window(clip, round(start), num_frames) for start in starts]
    return found


@app.command()
def evaluate(
    weights_file: Annotated[Path, typer.Argument(help="Weights to judge.")],
    cache: Annotated[Path, typer.Argument(help="Folder of .npz files of clips that training never saw.")],
    offsets: Annotated[Path | None, typer.Option(help="CSV `clip,offset_frames`: offsets that are known.")] = None,
    seconds: Annotated[tuple[float, float, float], typer.Option(help="Lengths of the windows.")] = (3.0, 4.7, 10.0),
) -> None:
    """Planted shifts found; own sound told from other sound, of other clips and of other times of the same clip."""
    scorer = LipSync(weights_file.read_bytes())
    clips = load_clips(cache, offsets)
    for length_s in seconds:
        parts = windows(clips, round(length_s * 25))
        if not parts:
            typer.echo(f"{length_s} s: no clip is that long")
            continue
        own = {part: scorer.score(part.points, part.audio()) for part in parts}
        errors: list[int] = []
        for part in parts:
            if part.clip.is_known:
                assert part.clip.offset_frames is not None
                for late in range(-10, 11):
                    expected = part.clip.offset_frames - late
                    if abs(expected) <= MAX_SHIFT:
                        found = scorer.score(part.points, part.audio(late)).offset_frames
                        errors.append(round(abs(found - expected)))
        foreign, other_time = [], []
        for part in parts:
            for other in parts:
                if other.clip is not part.clip:
                    foreign.append(scorer.score(part.points, other.audio()).confidence)
                elif abs(other.start - part.start) >= part.num_frames + MAX_SHIFT:
                    other_time.append(scorer.score(part.points, other.audio()).confidence)
        kept = np.array([score.confidence for score in own.values()])
        typer.echo(f"{length_s} s: {len(parts)} windows of {len({part.clip.name for part in parts})} clips")
        if errors:
            shares = ", ".join(f"{np.mean(np.array(errors) <= limit):.3f} within {limit}" for limit in (0, 1, 2))
            typer.echo(f"  offsets, {len(errors)} planted: {shares} frames")
        others = {"other clips": np.array(foreign), "same clip, other time": np.array(other_time)}
        others = {what: confidences for what, confidences in others.items() if len(confidences)}
        for what, confidences in others.items():
            area = _area_under_curve(kept, confidences)
            refused = np.mean(confidences < np.quantile(kept, 0.05))
            typer.echo(f"  {what}: {len(confidences)}, AUC {area:.3f}, {refused:.3f} refused where 95 % are kept")
        for limit in np.arange(1.2, 2.7, 0.2):
            shares = [f"{np.mean(confidences < limit):.3f} of {what} refused" for what, confidences in others.items()]
            typer.echo(f"  at {limit:.1f}: {np.mean(kept >= limit):.3f} kept, " + ", ".join(shares))


def _area_under_curve(higher: np.ndarray, lower: np.ndarray) -> float:
    """Probability that one of `higher` exceeds one of `lower`."""
    return float((higher[:, None] > lower[None]).mean() + 0.5 * (higher[:, None] == lower[None]).mean())


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    app()
