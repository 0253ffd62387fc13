"""Trains the network that tells covered mouths from free ones (`model/faces/covered.py`).

    python -m train.scorers.covered extract FOLDER [FOLDER ...] --out faces.npz
    python -m train.scorers.covered train faces.npz --out model/weights/files/mouth_cover.safetensors

FOLDER: videos of people whose mouths are free. Covers are drawn on their faces (`covers.py`), so nothing is labelled by
hand. Each folder counts the same, however many videos it has, and so does each video within its folder.
"""

import logging
import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from safetensors.torch import save as save_safetensors
from torch.nn import functional

from lipforge.model.faces.covered import (
    PATCH,
    PATCH_PX,
    CoveredMouths,
    CoverNetwork,
    normalised,
    small_face,
    small_face_matrix,
)
from lipforge.model.faces.lip_points import OUTER_LIP
from lipforge.model.one_core import use_one_core
from lipforge.model.weights import load as weights
from lipforge.pipeline.media.container import MediaError
from lipforge.pipeline.media.picture import ToRgb
from lipforge.pipeline.media.probe import probe
from lipforge.pipeline.media.video import decode_video
from lipforge.pipeline.profiles import PROFILES
from lipforge.train.scorers.covers import COVERED, FREE, Covers

log = logging.getLogger(__name__)
app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)

_MIN_HEIGHT_PX = 60
_KEPT = 60_000
"""Examples in memory; the oldest are dropped."""
_FIRST, _MORE, _CHECKED = 4000, 1500, 4000
"""Examples at the start, every 40 steps, and at the end, to see what was learned."""
_BATCH = 128
_SOFT = 0.02
"""Labels are 0.02 and 0.98, so that no example counts for everything."""


@app.command()
def extract(
    folders: Annotated[list[Path], typer.Argument(help="Folders of videos.")],
    out: Annotated[Path, typer.Option(help="The .npz file to write.")],
    every: Annotated[int, typer.Option(min=1, help="Take one of this many frames.")] = 10,
) -> None:
    """Cut out small aligned faces."""
    backend = PROFILES["builtin"].faces(weights.load("builtin"))
    faces, lips, videos, sources = [], [], [], []
    for number, folder in enumerate(folders):
        for path in sorted(one for one in folder.rglob("*") if one.is_file()):
            try:
                info = probe(str(path))
                to_rgb = ToRgb(info)
                for index, frame in enumerate(decode_video(str(path), info, 0, info.num_frames)):
                    if index % every != every // 2 or frame.image is None:
                        continue
                    picture = to_rgb.convert(frame)
                    for found in backend.detect(picture):
                        face = backend.landmarks(picture, found)
                        if face is None or face.height_px < _MIN_HEIGHT_PX:
                            continue
                        matrix = small_face_matrix(backend.alignment_points(face.points))
                        outline = face.points[list(OUTER_LIP), :2] @ matrix[:, :2].T + matrix[:, 2]
                        faces.append(small_face(picture, matrix))
                        lips.append((outline - 0.5) / 2)
                        videos.append(str(path.relative_to(folder)))
                        sources.append(number)
            except MediaError as error:
                log.warning("%s: %s", path, error)
    if not faces:
        raise ValueError(f"no face of {_MIN_HEIGHT_PX} px in the videos of {', '.join(map(str, folders))}")
    np.savez_compressed(out, faces=np.stack(faces), lips=np.stack(lips), videos=videos, sources=sources)
    log.info("wrote %s: %d faces of %d videos", out, len(faces), len(set(zip(sources, videos, strict=True))))


class Examples:
    """Draws examples from faces with free mouths: half of them covered."""

    def __init__(self, path: Path, seed: int) -> None:
        with np.load(path) as file:
            self.faces, self.lips = file["faces"], file["lips"]
            videos, sources = file["videos"], file["sources"]
        self.rng = np.random.default_rng(seed)
        self.covers = Covers(self.rng, list(self.faces))
        self.of = [
            [np.flatnonzero((sources == source) & (videos == video)) for video in np.unique(videos[sources == source])]
            for source in np.unique(sources)
        ]

    def draw(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [count, 40, 40, 3]; float32 [count], 1 where the mouth is covered."""
        patches = np.empty((count, PATCH_PX, PATCH_PX, 3), np.uint8)
        labels = np.empty(count, np.float32)
        done = 0
        while done < count:
            videos = self.of[self.rng.integers(len(self.of))]
            index = self.rng.choice(videos[self.rng.integers(len(videos))])
            face, lips, share = self.faces[index].astype(np.float32), self.lips[index], 0.0
            wants_covered = self.rng.random() < 0.5
            if wants_covered or self.rng.random() < 0.5:
                face, share = self.covers.cover(face, lips, beside=not wants_covered)
            if FREE < share < COVERED or wants_covered != (share >= COVERED):
                continue
            patches[done] = self.covers.photographed(face)[PATCH]
            labels[done] = wants_covered
            done += 1
        return patches, labels


@app.command()
def train(
    faces: Annotated[Path, typer.Argument(help="File that `extract` wrote.")],
    out: Annotated[Path, typer.Option(help="The safetensors file to write.")],
    num_steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 6000,
    seed: Annotated[int, typer.Option(help="Of weights and examples.")] = 0,
) -> None:
    """Train the network, with new examples all the while."""
    torch.manual_seed(seed)
    examples = Examples(faces, seed)
    patches, labels = examples.draw(_FIRST)
    network = CoverNetwork()
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=num_steps, pct_start=0.05)
    began_s = time.monotonic()
    for step in range(num_steps):
        if step % 40 == 0:
            more, their = examples.draw(_MORE)
            patches, labels = np.concatenate([patches, more])[-_KEPT:], np.concatenate([labels, their])[-_KEPT:]
        chosen = examples.rng.integers(0, len(patches), _BATCH)
        wanted = torch.from_numpy(labels[chosen]) * (1 - 2 * _SOFT) + _SOFT
        loss = functional.binary_cross_entropy_with_logits(network(normalised(patches[chosen])), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 400 == 399:
            log.info("step %d, %.0f s: loss %.3f", step + 1, time.monotonic() - began_s, loss.item())
    tensors = {key: value.half() for key, value in network.state_dict().items() if value.is_floating_point()}
    content = save_safetensors(tensors)
    scores = CoveredMouths(content)
    patches, labels = Examples(faces, seed + 1).draw(_CHECKED)
    found = np.concatenate([scores.scores(patches[at : at + 500]) for at in range(0, len(patches), 500)])
    log.info("of new examples of these faces, %.3f are told right", np.mean((found > 0) == (labels > 0)))
    out.write_bytes(content)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1)
    use_one_core()
    try:
        app()
    except (ValueError, OSError) as error:
        sys.exit(f"train.scorers.covered: {error}")


if __name__ == "__main__":
    main()
