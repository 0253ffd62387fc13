"""SSIM, PSNR, ST-LPIPS and LPIPS of frames: the numbers of other people's code on the same pictures."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor, nn

from lipforge.model.denoiser.lpips import LAYOUTS, Lpips
from lipforge.model.measures import lpips, st_lpips
from lipforge.model.measures.pictures import PSNR_CAP_DB, psnr_db, ssim
from lipforge.model.weights.load import ModelFileError, load
from tests.test_lpips import known_weights


def two_videos(side: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [3, side, side + 16, 3]: smooth pictures, and the same with more and more noise."""
    rows, columns = np.mgrid[:side, : side + 16]
    plain = 128 + 90 * np.sin(rows / 7)[..., None] * np.cos(columns[..., None] / np.array([5, 9, 13]))
    noise = np.random.default_rng(3).normal(size=(3, *plain.shape)) * np.array([3, 15, 60])[:, None, None, None]
    return (plain + noise).clip(0, 255).astype(np.uint8), np.stack([plain.astype(np.uint8)] * 3)


def test_ssim_and_psnr_are_those_of_scikit_image() -> None:
    frames, reference = two_videos()
    expected = [
        structural_similarity(
            *pair, channel_axis=-1, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for pair in zip(frames, reference, strict=True)
    ]
    assert ssim(frames, reference) == pytest.approx(expected, abs=1e-5)
    assert max(expected) > 0.9
    assert min(expected) < 0.3
    expected = [
        peak_signal_noise_ratio(true, test, data_range=255) for test, true in zip(frames, reference, strict=True)
    ]
    assert psnr_db(frames, reference) == pytest.approx(expected, rel=1e-5)


def test_frames_without_a_difference_have_ssim_1_and_the_largest_psnr() -> None:
    frames = np.repeat(two_videos()[0], 3, axis=0)  # more than one batch
    assert ssim(frames, frames) == pytest.approx(np.ones(9), abs=1e-6)
    assert psnr_db(frames, frames).tolist() == [PSNR_CAP_DB] * 9
    assert ssim(frames[:0], frames[:0]).shape == psnr_db(frames[:0], frames[:0]).shape == (0,)


@pytest.mark.parametrize("measure", [ssim, psnr_db])
def test_videos_that_do_not_compare_are_refused(measure: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
    frames, _ = two_videos()
    for other, words in [
        (frames[:2], "other shapes"),
        (frames.astype(np.float32), "expected a video"),
        (frames[0], "expected a video"),
    ]:
        with pytest.raises(ValueError, match=words):
            measure(frames, other)
    with pytest.raises(ValueError, match="at least 11 px"):
        ssim(frames[:, :10], frames[:, :10])


@pytest.fixture(scope="module")
def shipped() -> st_lpips.StLpips:
    return st_lpips.StLpips(load("st-lpips"))


def known_pictures() -> tuple[Tensor, Tensor]:
    places = torch.arange(2 * 3 * 64 * 64, dtype=torch.float64).reshape(2, 3, 64, 64)
    return places.mul(0.013).sin().float(), places.mul(0.017).cos().mul(0.8).float()


def filled(network: nn.Module) -> nn.Module:
    """With known weights; what is no weight stays."""
    fixed = {key: value for key, value in network.state_dict().items() if "scaling" in key or key.endswith("filt")}
    network.load_state_dict(known_weights(network) | fixed)
    return network


@torch.no_grad()
def test_st_lpips_is_that_of_the_published_package() -> None:
    # What stlpips-pytorch 0.0.2 returned for these weights and pictures.
    assert filled(st_lpips.alex_network())(*known_pictures()).tolist() == pytest.approx([0.943233, 0.952168], rel=1e-5)
    assert filled(st_lpips.vgg_network())(*known_pictures()).tolist() == pytest.approx([2.150931, 1.513516], rel=1e-5)


@torch.no_grad()
def test_the_st_lpips_that_ships_gives_the_published_numbers(shipped: st_lpips.StLpips) -> None:
    # What stlpips-pytorch 0.0.2 returned with its own weights in float32.
    assert shipped._network(*known_pictures()).tolist() == pytest.approx([0.551360, 0.567858], rel=3e-4)


def test_st_lpips_grows_with_the_difference(shipped: st_lpips.StLpips) -> None:
    frames, reference = two_videos()
    found = shipped.distance(frames, reference)
    assert 0 < found[0] < found[1] < found[2]
    assert shipped.distance(frames, frames) == pytest.approx(np.zeros(3), abs=1e-6)
    with pytest.raises(ValueError, match="at least 32 px"):
        shipped.distance(frames[:, :20], frames[:, :20])


def test_other_weights_are_no_st_lpips() -> None:
    content = load("builtin")["lip_sync.safetensors"]
    with pytest.raises(ModelFileError, match="not the weights of StLpipsNetwork"):
        st_lpips.StLpips({st_lpips.ALEX: content})
    with pytest.raises(ModelFileError, match=r"ST-LPIPS takes .*got no file"):
        st_lpips.StLpips({})


@torch.no_grad()
def test_lpips_of_videos_reads_the_published_files_without_the_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LAYOUTS, "vgg16", LAYOUTS["tiny"])
    network = Lpips(LAYOUTS["tiny"])
    weights = known_weights(network)
    files = {
        lpips.TRUNK: {key: value for key, value in weights.items() if key.startswith("features")},
        lpips.HEADS: {key: value for key, value in weights.items() if key.startswith("lin")},
    }
    files[lpips.TRUNK]["classifier.0.weight"] = torch.ones(3)
    from safetensors.torch import save

    distance = lpips.LpipsDistance({name: save(tensors) for name, tensors in files.items()})
    frames, reference = two_videos()
    network.load_state_dict(weights)
    pixels, target = (torch.from_numpy(video).permute(0, 3, 1, 2) / 127.5 - 1 for video in (frames, reference))
    assert distance.distance(frames, reference) == pytest.approx(network(pixels, target).numpy(), rel=1e-5)
