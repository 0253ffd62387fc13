"""Noise, the way back from it, and sampling: published numbers, and what must hold for any network."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lipforge.model import diffusion
from lipforge.model.audio.windows import mel_rows
from tests.golden import difference, golden_arrays, golden_fill, golden_json

SHAPE = (2, 4, 16, 8, 8)
SHOWN_FRAMES = [0, 5, 10, 15]
CLOSE = 1e-4  # of the deviation


def draw(name: str, shape: tuple[int, ...] = SHAPE) -> Tensor:
    generator = torch.Generator().manual_seed(sum(name.encode()))
    return torch.randn(shape, generator=generator)


def test_a_training_step_is_the_published_one() -> None:
    expected = golden_arrays("train/diffusion_step.npz")
    drawn = golden_fill().draw
    latents, shared, independent, prediction = (
        drawn(20, name, SHAPE) for name in ("latents", "shared", "independent", "prediction")
    )
    timesteps = torch.from_numpy(expected["timesteps"])
    noise = diffusion.mixed_noise(shared, independent, 1.0)
    noisy = diffusion.add_noise(latents, noise, timesteps)
    clean = diffusion.clean_latents(noisy, prediction, timesteps)
    for name, got in (("noise", noise), ("noisy", noisy), ("clean", clean)):
        assert difference(got[:, :, SHOWN_FRAMES].numpy(), expected[name]) < CLOSE


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 3.0])
def test_mixed_noise_stays_standard_normal_and_frames_correlate_as_promised(alpha: float) -> None:
    shape = (4, 4, 2, 32, 32)
    noise = diffusion.mixed_noise(draw("shared", shape), draw("independent", shape), alpha)
    assert noise.std() == pytest.approx(1, abs=0.03)
    first, second = noise[:, :, 0].flatten(), noise[:, :, 1].flatten()
    assert float((first * second).mean()) == pytest.approx(alpha**2 / (1 + alpha**2), abs=0.03)


def test_one_frame_of_shared_noise_is_enough() -> None:
    shared, independent = draw("shared"), draw("independent")
    assert torch.equal(
        diffusion.mixed_noise(shared[:, :, :1], independent, 1.0), diffusion.mixed_noise(shared, independent, 1.0)
    )


@pytest.mark.parametrize("timesteps", [0, 999, torch.tensor([3, 999])])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_estimate_undoes_the_noise_in_float32(timesteps: Tensor | int, dtype: torch.dtype) -> None:
    latents, noise = draw("latents").to(dtype), draw("noise").to(dtype)
    noisy = diffusion.add_noise(latents, noise, timesteps)
    assert noisy.dtype == torch.float32
    assert torch.allclose(diffusion.clean_latents(noisy, noise, timesteps), latents.float(), atol=1e-4)


def test_the_estimate_passes_gradients() -> None:
    prediction = draw("prediction").requires_grad_()
    diffusion.clean_latents(draw("noisy"), prediction, torch.tensor([10, 999])).sum().backward()
    assert prediction.grad is not None
    small, large = prediction.grad[0].mean(), prediction.grad[1].mean()
    assert float(large) == pytest.approx(-((1 - 0.00466) ** 0.5) / 0.00466**0.5, rel=1e-2)
    assert abs(small) < abs(large)


def test_signal_to_noise_follows_the_noise_that_is_added() -> None:
    timesteps = torch.tensor([0, 500, 999])
    kept = diffusion.add_noise(torch.ones(3, 1), torch.zeros(3, 1), timesteps)[:, 0]
    assert torch.allclose(diffusion.signal_to_noise(timesteps), kept**2 / (1 - kept**2), rtol=1e-4)


def test_the_schedule_is_that_of_the_solvers() -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    timesteps = torch.arange(1000)
    ours = diffusion.signal_to_noise(timesteps)
    kept = scheduler.alphas_cumprod
    assert torch.allclose(ours, kept / (1 - kept), rtol=1e-3)


def perfect(latents: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """A network that knows the clean latents, and so finds exactly the noise."""

    def unet(seen: Tensor, timesteps: Tensor, audio: Tensor) -> Tensor:
        assert seen.shape[1] == 13
        assert timesteps.shape == (len(seen),)
        kept = 1 / (1 + 1 / diffusion.signal_to_noise(timesteps)).reshape(-1, 1, 1, 1, 1)
        return (seen[:, :4] - kept.sqrt() * latents) / (1 - kept).sqrt()

    return unet


def inputs(batch: int = 1, frames: int = 4) -> dict[str, Any]:
    shape = (batch, 4, frames, 8, 8)
    return {
        "latents": draw("start", (batch, 4, 1, 8, 8)),
        "mask": torch.ones(batch, 1, frames, 8, 8),
        "masked": draw("masked", shape),
        "reference": draw("reference", shape),
        "audio": draw("audio", (batch, frames, 6, 5)),
    }


@pytest.mark.parametrize("solver", diffusion.SOLVERS)
@pytest.mark.parametrize("num_steps", [4, 20])
def test_every_solver_finds_what_a_perfect_network_knows(solver: str, num_steps: int) -> None:
    wanted = draw("wanted", (1, 4, 4, 8, 8))
    got = diffusion.sample(perfect(wanted), **inputs(), num_steps=num_steps, guidance=1.0, solver=solver)
    assert got.shape == wanted.shape
    last_noise = 0.15 if solver == "ddim" else 1e-4  # as published, its last step goes to t = 0, not to none
    assert float((got - wanted).abs().max()) < last_noise


def test_guidance_moves_away_from_silence() -> None:
    calls = []

    def unet(seen: Tensor, timesteps: Tensor, audio: Tensor) -> Tensor:
        calls.append((len(seen), bool(audio[0].any()), bool(audio[-1].any())))
        return audio.mean((1, 2, 3)).reshape(-1, 1, 1, 1, 1) * torch.ones_like(seen[:, :4])

    given = {**inputs(), "audio": torch.full((1, 4, 6, 5), 0.1)}
    plain = diffusion.sample(unet, **given, num_steps=2, guidance=1.0)
    guided = diffusion.sample(unet, **given, num_steps=2, guidance=1.5)
    louder = diffusion.sample(unet, **{**given, "audio": given["audio"] * 1.5}, num_steps=2, guidance=1.0)
    assert calls == [(1, True, True)] * 2 + [(2, False, True)] * 2 + [(1, True, True)] * 2
    assert torch.allclose(guided, louder, atol=1e-5)
    assert not torch.allclose(guided, plain, atol=1e-2)


def test_the_network_sees_noisy_mask_masked_reference_in_this_order() -> None:
    given = inputs()
    noisy = draw("noisy", (1, 4, 4, 8, 8))
    seen = diffusion.network_input(noisy, given["mask"], given["masked"], given["reference"])
    for channels, part in ((slice(4), noisy), (slice(4, 5), given["mask"])):
        assert torch.equal(seen[:, channels], part)
    assert torch.equal(seen[:, 5:9], given["masked"])
    assert torch.equal(seen[:, 9:], given["reference"])


def test_sampling_repeats_itself_with_the_same_generator() -> None:
    wanted = draw("wanted", (1, 4, 4, 8, 8))
    settings: dict[str, Any] = {**inputs(), "num_steps": 3, "guidance": 1.0, "solver": "lcm"}

    def unet(seen: Tensor, timesteps: Tensor, audio: Tensor) -> Tensor:
        return 0.9 * perfect(wanted)(seen, timesteps, audio)

    first, second, third = (
        diffusion.sample(unet, **settings, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


@pytest.mark.parametrize(
    ("solver", "num_steps", "words"),
    [
        ("heun", 4, "unknown solver 'heun'; known: ddim, dpm"),
        ("ddim", 0, "num_steps is 0; the solver ddim takes 1 to 1000"),
        ("ddim", 1001, "takes 1 to 1000"),
        ("lcm", 51, "the solver lcm takes 1 to 50"),
    ],
)
def test_what_cannot_be_sampled_is_refused(solver: str, num_steps: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        diffusion.sample(perfect(torch.zeros(1)), **inputs(), num_steps=num_steps, guidance=1.0, solver=solver)


def test_guided_sampling_is_the_published_one() -> None:
    networks: Any = pytest.importorskip("lipforge.model.denoiser.unet", reason="the U-Net is not there")
    expected = golden_arrays("train/sampling.npz")
    golden = golden_fill()
    network = networks.UNet3D(golden_json("unet_stage2_tiny.config.json"))
    unet = golden.fill_(network, 2).eval()
    seen_timesteps: list[int] = []

    def watched(seen: Tensor, timesteps: Tensor, audio: Tensor) -> Tensor:
        seen_timesteps.append(int(timesteps[0]))
        return unet(seen, timesteps, audio)

    frames = (1, 4, 4, 16, 16)
    got = diffusion.sample(
        watched,
        golden.draw(24, "latents", (1, 4, 1, 16, 16)),
        (golden.draw(24, "mask", (1, 1, 1, 16, 16)) > 0).float().expand(-1, -1, 4, -1, -1),
        golden.draw(24, "masked", frames),
        golden.draw(24, "reference", frames),
        golden.draw(24, "audio", (1, 4, 50, 384)),
        num_steps=4,
        guidance=1.5,
    )
    assert seen_timesteps == expected["timesteps"].tolist()
    assert difference(got.numpy(), expected["latents"]) < CLOSE


@pytest.mark.parametrize(("num_frames", "num_columns"), [(1, 4), (5, 16), (16, 52)])
def test_mel_columns_stay_in_the_window_and_are_centred(num_frames: int, num_columns: int) -> None:
    rows = mel_rows(num_frames)
    assert rows.shape == (num_frames, 16)
    assert (rows.min(), rows.max()) == (0, num_columns - 1)
    middle = 3.2 * (np.arange(num_frames) + 0.5)  # of a frame, in columns
    inside = (rows[:, 0] > 0) & (rows[:, -1] < num_columns - 1)
    assert np.abs(rows.mean(1) - middle)[inside].max(initial=0) <= 0.5
