"""Expected outputs of published networks, under weights that anyone can make again. Tests skip without them."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from torch import nn

GOLDEN = Path(__file__).parents[2] / "shared" / "golden"


def golden_json(name: str) -> Any:
    return json.loads(_path(name).read_text())


def golden_arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(_path(name)) as arrays:
        return dict(arrays)


def golden_fill() -> ModuleType:
    """The module that makes weights (`fill_`) and inputs (`draw`)."""
    spec = importlib.util.spec_from_file_location("golden_fill", _path("fill.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def same_keys(module: nn.Module, name: str) -> bool:
    """Names, their order and shapes are those of the published file."""
    found = [[key, list(value.shape)] for key, value in module.state_dict().items()]
    return found == [[key, shape] for key, shape in golden_json(name).items()]


def difference(got: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the expected output's deviation."""
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max() / expected.std())


def _path(name: str) -> Path:
    path = GOLDEN / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path
