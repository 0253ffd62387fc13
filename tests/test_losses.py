"""The losses: published numbers, one value per sample, finite where float16 is not."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lipforge.model import diffusion, losses
from tests.golden import golden_arrays, golden_fill

SHAPE = (2, 4, 16, 8, 8)


def test_the_noise_loss_is_the_published_one() -> None:
    expected = golden_arrays("train/diffusion_step.npz")
    drawn = golden_fill().draw
    shared, independent, prediction = (drawn(20, name, SHAPE) for name in ("shared", "independent", "prediction"))
    noise = diffusion.mixed_noise(shared, independent, 1.0)
    got = losses.noise_loss(prediction, noise)
    assert got.shape == (2,)
    assert float(got.mean()) == pytest.approx(float(expected["mse"]), rel=1e-5)


def test_weights_scale_the_samples() -> None:
    prediction, noise = torch.ones(2, 4, 1, 2, 2), torch.zeros(2, 4, 1, 2, 2)
    assert losses.noise_loss(prediction, noise, torch.tensor([0.5, 2.0])).tolist() == [0.5, 2.0]


def test_the_noise_loss_of_halves_does_not_overflow() -> None:
    prediction = torch.full((1, 4, 1, 2, 2), 300.0, dtype=torch.float16)
    assert losses.noise_loss(prediction, torch.zeros_like(prediction)).tolist() == [90_000.0]


def test_the_sync_loss_is_the_published_one() -> None:
    expected = golden_arrays("train/sync_loss.npz")
    drawn = golden_fill().draw
    vision, audio = (functional.normalize(functional.relu(drawn(21, name, (4, 64)))) for name in "va")
    for name, labels in (("all_positive", [1.0, 1, 1, 1]), ("mixed", [1.0, 0, 1, 0])):
        got = losses.sync_loss(vision, audio, torch.tensor(labels))
        assert torch.allclose(got, torch.from_numpy(expected[name]), rtol=1e-5)
        assert torch.equal(losses.sync_loss(vision, audio, torch.tensor(labels)[:, None]), got)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_sync_loss_is_finite_at_both_ends(dtype: torch.dtype) -> None:
    vision = functional.normalize(torch.eye(4, 64) + torch.tensor([[0.0], [0], [0.3], [0.3]])).to(dtype)
    audio = vision[[0, 0, 2, 3]].clone()  # equal, at a right angle, equal, equal
    vision.requires_grad_()
    for label in (0.0, 1.0):
        loss = losses.sync_loss(vision, audio, torch.full((4,), label))
        assert loss.dtype == torch.float32
        assert loss.isfinite().all()
        assert float(loss.detach().max()) < 14
        (gradient,) = torch.autograd.grad(loss.sum(), vision)
        assert gradient.isfinite().all()


def test_the_trepa_loss_is_the_published_one() -> None:
    networks: Any = pytest.importorskip("lipforge.model.denoiser.videomae", reason="VideoMAE is not there")
    expected = golden_arrays("train/trepa.npz")
    golden = golden_fill()
    small = {"embed_dim": 64, "depth": 2, "num_heads": 4, "num_classes": 10}
    encoder = golden.fill_(networks.VideoMae({**networks.LAYOUTS["giant"], **small}), 22).eval()
    fake, real = (torch.tanh(golden.draw(22, name, (1, 3, 16, 64, 64))) for name in ("fake", "real"))
    with torch.no_grad():
        got = losses.trepa_loss(encoder, fake, real)
    assert got.shape == (1,)
    assert float(got[0]) == pytest.approx(float(expected["loss"]), rel=1e-3)


class Means(nn.Module):
    """Stands in for a video encoder: mean of each colour and frame."""

    def forward(self, video: Tensor) -> Tensor:
        assert video.shape[-2:] == (224, 224)
        assert float(video.min()) >= 0 and float(video.max()) <= 1
        assert video.dtype == torch.float32
        return video.mean((3, 4)).flatten(1)


def test_the_trepa_loss_sees_order_in_time_and_not_brightness() -> None:
    rising = torch.linspace(-0.9, 0.9, 4).reshape(1, 1, 4, 1, 1).expand(2, 3, 4, 8, 8)
    flat = torch.zeros_like(rising)
    assert float(losses.trepa_loss(Means(), rising, rising).max()) == 0
    assert (losses.trepa_loss(Means(), flat, flat + 0.5) < 1e-10).all()
    assert (losses.trepa_loss(Means(), rising, rising.flip(2)) > 1e-3).all()
    mixed = torch.cat([rising[:1], flat[:1]])
    got = losses.trepa_loss(Means(), mixed, rising)
    assert float(got[0]) == 0 and float(got[1]) > 1e-3  # one value per sample


def brightness_gap(fake: Tensor, real: Tensor) -> Tensor:
    """Stands in for LPIPS."""
    assert fake.dtype == torch.float32
    return (fake - real).abs().mean((1, 2, 3), keepdim=True)


def test_lpips_looks_at_the_lower_half_only() -> None:
    real = torch.zeros(2, 3, 3, 8, 8)
    upper, lower = real.clone(), real.clone()
    upper[..., :4, :] = 1
    lower[1, :, :, 4:] = 1
    assert losses.lpips_loss(brightness_gap, upper, real).tolist() == [0, 0]
    assert losses.lpips_loss(brightness_gap, lower, real).tolist() == [0, 1]


def test_lpips_is_the_mean_over_frames() -> None:
    real = torch.zeros(1, 4, 3, 8, 8)
    fake = real.clone()
    fake[0, 1] = 1
    assert losses.lpips_loss(brightness_gap, fake, real).tolist() == [0.25]


def test_autocast_does_not_reach_into_the_losses() -> None:
    layer = nn.Linear(64, 8)
    seen = []

    def encoder(video: Tensor) -> Tensor:
        features = layer(video.mean((2, 3)).flatten(1)[:, :64])
        seen.append(features.dtype)
        return features

    def lpips(fake: Tensor, real: Tensor) -> Tensor:
        seen.append(layer((fake - real).flatten(1)[:, :64]).dtype)
        return (fake - real).square().mean((1, 2, 3))

    video = torch.rand(1, 3, 2, 8, 8).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        total = losses.trepa_loss(encoder, video, video.detach() * 0.5)
        total = total + losses.lpips_loss(lpips, video.transpose(1, 2), torch.zeros(1, 2, 3, 8, 8))
        total = total + losses.sync_loss(torch.rand(1, 4), torch.rand(1, 4), torch.ones(1))
    assert seen == [torch.float32] * 3
    assert total.dtype == torch.float32
    total.sum().backward()
    assert video.grad is not None and video.grad.isfinite().all()
