"""Fits the weights of the built-in quality scorer (`model/quality/builtin.py`).

    python -m train.scorers.quality REFERENCES --out model/weights/files/quality.json

REFERENCES: a folder of PNG images of faces that are clean at their own size (96 to 256 px). Each is damaged in known
ways and strengths; `LEVELS` says what score a person would give. The network learns to predict it without the
reference.
"""

import argparse
import io
import json
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import torch

from lipforge.model.quality.builtin import image_statistics

BEST = 86.0
"""Score of an undamaged image: sharp ones reach 90 and more, soft ones stay a little below."""

LEVELS: dict[str, list[tuple[float, float]]] = {
    # (strength, score): set by eye on 256 px faces; below 40 one would rather not train on the face.
    "blur": [
        (0, 86),
        (0.5, 82),
        (0.8, 74),
        (1.2, 62),
        (1.6, 52),
        (2.2, 40),
        (3, 27),
        (4.5, 12),
        (7, 3),
        (12, 1),
        (60, 0),
    ],
    "enlarge": [(1, 86), (1.3, 82), (1.7, 74), (2.2, 64), (3, 52), (4, 40), (6, 24), (9, 10), (14, 3)],
    "noise": [(0, 86), (2, 82), (5, 72), (8, 62), (12, 52), (18, 40), (28, 24), (45, 8), (70, 2)],
    "jpeg": [(5, 86), (20, 80), (50, 70), (70, 60), (80, 50), (88, 36), (93, 20), (96, 8), (98, 3)],
    "h264": [(16, 86), (20, 84), (26, 76), (31, 64), (36, 48), (40, 34), (45, 18), (50, 7)],
}

HIDDEN = 24
NUM_STEPS = 3000
WEIGHT_DECAY = 0.03


def blur(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """strength: sigma in pixels."""
    return cv2.GaussianBlur(image, (0, 0), strength) if strength else image


def enlarge(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """strength: how many times smaller the image once was."""
    height, width = image.shape[:2]
    small = cv2.resize(image, (round(width / strength), round(height / strength)), interpolation=cv2.INTER_AREA)
    how = (cv2.INTER_CUBIC, cv2.INTER_LINEAR, cv2.INTER_LANCZOS4)[rng.integers(3)]
    return cv2.resize(small, (width, height), interpolation=how)


def noise(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """strength: standard deviation of 255, per colour; or 2/3 of it in all colours alike, equal in luminance."""
    shape, size = (image.shape, strength) if rng.random() < 0.5 else ((*image.shape[:2], 1), strength * 2 / 3)
    return np.clip(image + rng.normal(0, size, shape), 0, 255).round().astype(np.uint8)


def jpeg(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """strength: 100 - JPEG quality."""
    encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, round(100 - strength)])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB))


def h264(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """strength: CRF of x264."""
    height, width = (side // 2 * 2 for side in image.shape[:2])
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": str(strength), "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    file.seek(0)
    with av.open(file, "r") as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


DAMAGES: dict[str, Callable[[np.ndarray, float, np.random.Generator], np.ndarray]] = {
    # in physical order: lens, distance, sensor, codec
    "blur": blur,
    "enlarge": enlarge,
    "noise": noise,
    "jpeg": jpeg,
    "h264": h264,
}


def draw_examples(reference: np.ndarray, rng: np.random.Generator) -> tuple[list[np.ndarray], list[float]]:
    """Damaged versions of one reference, uint8 [H, W, 3] RGB, and the score that each should get."""
    images, scores = [reference], [BEST]
    for kind, levels in LEVELS.items():
        strengths, level_scores = np.array(levels).T
        for position in np.linspace(0, len(levels) - 1, 14) + rng.uniform(-0.3, 0.3, 14):
            strength = float(np.interp(position, range(len(levels)), strengths))
            images.append(DAMAGES[kind](_vary_light(reference, rng), strength, rng))
            scores.append(float(np.interp(strength, strengths, level_scores)))
    for light in rng.uniform(0, 255, 3):  # blank, or with a little noise
        blank = noise(np.full_like(reference, round(light)), rng.choice([0, 0.3, 1]), rng)
        images.append(blank)
        scores.append(0.0)
    for _ in range(16):  # two damages at once: their remaining quality, multiplied
        image, score = _vary_light(reference, rng), BEST
        for kind in sorted(rng.choice(list(DAMAGES), 2, replace=False), key=list(DAMAGES).index):
            strengths, level_scores = np.array(LEVELS[kind]).T
            strength = float(np.interp(rng.uniform(0, len(strengths) * 0.7), range(len(strengths)), strengths))
            image = DAMAGES[kind](image, strength, rng)
            score *= float(np.interp(strength, strengths, level_scores)) / BEST
        images.append(image)
        scores.append(score)
    return images, scores


def _vary_light(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Vary exposure, contrast and side, so that the score does not learn those of the few references."""
    light = 255 * (image / 255.0) ** rng.uniform(0.7, 1.5) * rng.uniform(0.5, 1.0) + rng.uniform(0, 25)
    return np.clip(light if rng.random() < 0.5 else light[:, ::-1], 0, 255).round().astype(np.uint8)


def fit(features: np.ndarray, scores: np.ndarray, num_steps: int = NUM_STEPS) -> dict[str, list]:
    """features: [N, F]; scores: [N], 0..100. Returns the weights as `model/quality/builtin.py` reads them."""
    torch.manual_seed(0)
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-3
    inputs = torch.from_numpy(np.clip((features - mean) / scale, -4, 4)).float()
    targets = torch.from_numpy(scores / 100).float()
    first, second = torch.nn.Linear(features.shape[1], HIDDEN), torch.nn.Linear(HIDDEN, 1)
    network = torch.nn.Sequential(first, torch.nn.Tanh(), second, torch.nn.Flatten(0))
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for _ in range(num_steps):
        loss = torch.nn.functional.mse_loss(torch.sigmoid(network(inputs + 0.1 * torch.randn_like(inputs))), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()

    def rounded(values: torch.Tensor | np.ndarray) -> list:
        return np.round(np.asarray(values, dtype=np.float64), 5).tolist()

    return {
        "mean": rounded(mean),
        "scale": rounded(scale),
        "hidden": rounded(first.weight.detach().numpy().T),
        "hidden_bias": rounded(first.bias.detach().numpy()),
        "output": rounded(second.weight.detach().numpy()[0]),
        "output_bias": rounded(second.bias.detach().numpy())[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("references", type=Path, help="folder of PNG images")
    parser.add_argument("--out", type=Path, required=True, help="the weights, JSON")
    arguments = parser.parse_args()

    rng = np.random.default_rng(0)
    features, scores = [], []
    for path in sorted(arguments.references.glob("*.png")):
        images, wanted = draw_examples(np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)), rng)
        features += [image_statistics(image) for image in images]
        scores += wanted
    arguments.out.write_text(json.dumps(fit(np.array(features), np.array(scores))) + "\n")


if __name__ == "__main__":
    main()
