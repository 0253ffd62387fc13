"""LPIPS: the numbers of the published package, and gradients."""

import math

import pytest
import torch
from torch import Tensor, nn

from lipforge.model import Lpips
from lipforge.model.denoiser.lpips import LAYOUTS


def known_weights(network: nn.Module) -> dict[str, Tensor]:
    """Weights that depend on nothing but their shapes."""
    found = {}
    for key, value in network.state_dict().items():
        waves = torch.arange(value.numel(), dtype=torch.float64).mul(0.7).add(value.numel()).sin().reshape(value.shape)
        if key.startswith("lin"):
            found[key] = waves.square().float()
        else:
            found[key] = (waves * (2 / math.sqrt(value[0].numel()) if value.ndim > 1 else 0.1)).float()
    return found


def known_pictures() -> tuple[Tensor, Tensor]:
    places = torch.arange(2 * 3 * 32 * 48, dtype=torch.float64).reshape(2, 3, 32, 48)
    return places.mul(0.013).sin().float(), places.mul(0.017).cos().mul(0.8).float()


def test_distances_and_gradients_are_those_of_the_published_package() -> None:
    network = Lpips(LAYOUTS["vgg16"])
    network.load_state_dict(known_weights(network))
    pixels, target = known_pictures()
    distances = network(pixels.requires_grad_(), target)
    (gradient,) = torch.autograd.grad(distances.sum(), pixels)
    # What the package lpips 0.1.4 returned for these weights and pictures.
    assert distances.tolist() == pytest.approx([1.04814601, 1.32831478], rel=1e-5)
    assert float(gradient.abs().sum()) == pytest.approx(105.819756, rel=1e-4)
    assert float(gradient[0, 1, 5, 7]) == pytest.approx(0.0134626897, rel=1e-4)


def test_keys_are_those_of_the_published_files() -> None:
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in Lpips(LAYOUTS["vgg16"]).state_dict().items()}
    trunk = [(64, 3), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256), (256, 256)]
    trunk += [(512, 256), *[(512, 512)] * 5]
    layers = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    expected = {f"features.{layer}.weight": (*widths, 3, 3) for layer, widths in zip(layers, trunk, strict=True)}
    expected |= {f"features.{layer}.bias": widths[:1] for layer, widths in zip(layers, trunk, strict=True)}
    heads = enumerate((64, 128, 256, 512, 512))
    expected |= {f"lin{number}.model.1.weight": (1, width, 1, 1) for number, width in heads}
    assert shapes == expected


def test_a_picture_is_at_no_distance_from_itself_and_gradients_stay_finite() -> None:
    network = Lpips(LAYOUTS["tiny"])
    nn.init.constant_(network.get_parameter("features.0.bias"), -9.0)  # all features of the first depth are zeros
    pixels = torch.zeros(1, 3, 16, 16, requires_grad=True)
    distances = network(pixels, pixels.detach())
    assert distances.tolist() == [0]
    (gradient,) = torch.autograd.grad(network(pixels, torch.ones(1, 3, 16, 16)).sum(), pixels)
    assert gradient.isfinite().all()
