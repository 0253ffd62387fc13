"""VideoMAE v2: the features of the published code, and what the TREPA loss asks of it."""

from typing import Any

import pytest
import torch

from lipforge.model import VideoMae
from lipforge.model.denoiser.videomae import LAYOUTS
from tests.golden import difference, golden_arrays, golden_fill, same_keys

CLOSE = 1e-4  # of the expected output's deviation
SMALL: dict[str, Any] = {
    "img_size": 56,
    "patch_size": 14,
    "embed_dim": 64,
    "depth": 2,
    "num_heads": 4,
    "mlp_ratio": 48 / 11,
    "num_classes": 10,
    "all_frames": 16,
    "tubelet_size": 2,
}


def small() -> VideoMae:
    torch.manual_seed(0)
    return VideoMae(SMALL)


def test_features_and_keys_are_the_published_ones() -> None:
    fill = golden_fill()
    network = VideoMae(SMALL).eval()
    assert same_keys(network, "videomae_v2_tiny.keys.json")
    fill.fill_(network, 10)
    with torch.inference_mode():
        features = network(fill.draw(10, "video", (2, 3, 16, 56, 56)).sigmoid())
    assert difference(features.numpy(), golden_arrays("videomae_v2_tiny.npz")["features"]) <= CLOSE


def test_the_giant_has_the_keys_of_the_published_file() -> None:
    with torch.device("meta"):
        network = VideoMae(LAYOUTS["giant"])
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_011_855_918
    assert same_keys(network, "videomae_v2_giant.keys.json")


def test_features_depend_on_the_order_of_frames() -> None:
    network, video = small(), torch.rand(1, 3, 4, 56, 56)
    assert (network(video) - network(video.flip(2))).abs().max() > 1e-4


def test_short_windows_have_the_positions_of_the_beginning() -> None:
    network, video = small(), torch.rand(1, 3, 4, 56, 56)
    shorter = VideoMae({**SMALL, "all_frames": 4})
    shorter.load_state_dict(network.state_dict())
    assert torch.equal(network(video), shorter(video))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 3, 5, 56, 56), "5 frames do not fit VideoMAE: it takes a multiple of 2 frames, up to 16"),
        ((1, 3, 18, 56, 56), "18 frames do not fit"),
        ((1, 3, 16, 64, 64), r"expected \[B, 3, T, 56, 56\]"),
    ],
)
def test_videos_that_do_not_fit_are_refused(shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        small()(torch.zeros(shape))


@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_reach_the_pixels_and_checkpointing_gives_the_same_bits(autocast: bool) -> None:
    network = small().requires_grad_(False)
    video = torch.rand(1, 3, 4, 56, 56, requires_grad=True)
    found = []
    for network.gradient_checkpointing in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = network(video).float().square().sum()
        found += torch.autograd.grad(loss, video)
    assert found[0].abs().max() > 0
    assert torch.equal(found[0], found[1])
