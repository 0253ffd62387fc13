"""The mel, StableSyncNet and HyperIQA: the numbers of the published code, its files, and what goes in."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import CenterCrop

from lipforge.model.audio.mel import mel_spectrogram
from lipforge.model.quality.hyperiqa import HyperIQA, HyperIQAQuality, centre_crop, normalised
from lipforge.model.sync.stable_syncnet import LAYOUTS, StableSyncNet
from lipforge.model.weights import load as weights
from lipforge.model.weights import state_dicts
from tests.golden import difference, golden_arrays, golden_fill, same_keys

CLOSE = 1e-4  # of the expected output's deviation

INPUTS = {
    "syncnet_16_pixel_attn": ((48, 128, 256), (1, 80, 52), 2048),
    "syncnet_16_pixel": ((48, 128, 256), (1, 80, 52), 2048),
    "syncnet_16_latent": ((64, 32, 32), (1, 80, 52), 1024),
    "syncnet_25_pixel": ((75, 128, 256), (1, 80, 80), 1024),
    "syncnet_5_pixel_attn": ((15, 128, 256), (1, 80, 16), 2048),
    "syncnet_5_latent": ((20, 32, 32), (1, 80, 16), 1024),
    "tiny_16_pixel": ((48, 32, 64), (1, 80, 52), 256),
    "tiny_5_pixel": ((15, 32, 64), (1, 80, 16), 256),
    "tiny_16_latent": ((64, 32, 32), (1, 80, 52), 256),
}
"""Shapes of frames and mel of one sample, and numbers out: as in LatentSync's configs; the last five are ours."""


def empty(config: dict[str, Any]) -> StableSyncNet:
    """A network whose weights are still to be filled: drawing 400 million first takes seconds."""
    with torch.device("meta"):
        network = StableSyncNet(config)
    return network.to_empty(device="cpu").eval()


def narrow(config: dict[str, Any]) -> dict[str, Any]:
    """The same layout, at most 64 channels wide."""
    return {
        name: {**encoder, "block_out_channels": [min(width, 64) for width in encoder["block_out_channels"]]}
        for name, encoder in config.items()
    }


def saved(module: nn.Module, as_zip: bool, **around: Any) -> bytes:
    file = io.BytesIO()
    content = {"state_dict": module.state_dict(), **around} if around else module.state_dict()
    torch.save(content, file, _use_new_zipfile_serialization=as_zip)
    return file.getvalue()


def tone(num_samples: int, hz: float = 440.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(num_samples) / 16_000)).astype(np.float32)


def test_mel_has_the_published_numbers() -> None:
    t = np.arange(32_000) / 16_000
    noise = golden_fill().draw(5, "noise", (32_000,)).numpy()
    audio = (0.4 * np.sin(2 * np.pi * (200 * t + 600 * t**2)) + 0.05 * noise).astype(np.float32)
    assert difference(mel_spectrogram(audio), golden_arrays("mel.npz")["mel"]) <= CLOSE


def test_mel_agrees_with_an_independent_implementation() -> None:
    audio_utils = pytest.importorskip("transformers.audio_utils")
    audio = tone(8_123) + 0.1 * np.random.default_rng(0).normal(size=8_123).astype(np.float32)
    filters = audio_utils.mel_filter_bank(401, 80, 55.0, 7600.0, 16_000, norm="slaney", mel_scale="slaney")
    emphasised = np.append(audio[:1], audio[1:] - 0.97 * audio[:-1])
    hann = audio_utils.window_function(800, "hann")
    options = {"fft_length": 800, "power": 1.0, "pad_mode": "constant", "mel_filters": filters, "mel_floor": 1e-5}
    expected = 20 * np.log10(audio_utils.spectrogram(emphasised, hann, 800, 200, **options)) - 20
    expected = np.clip(8 * (expected + 100) / 100 - 4, -4, 4)
    assert difference(mel_spectrogram(audio), expected) <= CLOSE


def test_mel_of_silence_is_the_floor_and_of_a_tone_is_one_ridge() -> None:
    assert (mel_spectrogram(np.zeros(1000, np.float32)) == -4).all()
    low, high = (mel_spectrogram(tone(16_000, hz))[:, 40].argmax() for hz in (300, 3000))
    assert 0 < low < high < 79
    assert mel_spectrogram(tone(1000)).shape == (80, 6)


@pytest.mark.parametrize("audio", [np.zeros((2, 100)), np.zeros(0), np.array([0.0, np.nan])])
def test_mel_refuses_bad_audio(audio: np.ndarray) -> None:
    with pytest.raises(ValueError, match="finite samples"):
        mel_spectrogram(audio)


def test_stable_syncnet_has_the_published_numbers() -> None:
    fill = golden_fill()
    expected = golden_arrays("stable_syncnet_16_pixel_attn.npz")
    network = fill.fill_(empty(LAYOUTS["syncnet_16_pixel_attn"]), 1)
    with torch.inference_mode():
        vision, audio = network(fill.draw(1, "frames", (2, 48, 128, 256)), fill.draw(1, "mel", (2, 1, 80, 52)))
    assert difference(vision.numpy(), expected["vision"]) <= CLOSE
    assert difference(audio.numpy(), expected["audio"]) <= CLOSE


def test_stable_syncnet_has_the_published_keys() -> None:
    with torch.device("meta"):
        network = StableSyncNet(LAYOUTS["syncnet_16_pixel_attn"])
    assert same_keys(network, "stable_syncnet_16_pixel_attn.keys.json")
    assert len(network.state_dict()) == 266
    assert sum(p.numel() for p in network.parameters()) == 401_306_080


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_takes_its_inputs_and_gives_unit_vectors(layout: str) -> None:
    frames_shape, mel_shape, num_outputs = INPUTS[layout]
    assert all(encoder["block_out_channels"][-1] == num_outputs for encoder in LAYOUTS[layout].values())
    torch.manual_seed(0)
    network = StableSyncNet(narrow(LAYOUTS[layout])).eval()
    with torch.inference_mode():
        vision, audio = network(torch.randn(2, *frames_shape), torch.randn(2, *mel_shape))
    assert vision.shape == audio.shape == (2, 64)
    for vectors in (vision, audio):
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
        assert (vectors[0] - vectors[1]).abs().max() > 1e-3


def test_a_config_without_attention_builds_a_network_without_attention() -> None:
    config = narrow(LAYOUTS["syncnet_25_pixel"])
    bare = {name: {k: v for k, v in part.items() if k != "attn_blocks"} for name, part in config.items()}
    with torch.device("meta"):
        assert not [key for key in StableSyncNet(bare).state_dict() if "attn" in key]


def test_gradients_reach_every_weight_of_stable_syncnet() -> None:
    network = StableSyncNet(narrow(LAYOUTS["syncnet_16_pixel_attn"]))
    vision, audio = network(torch.randn(2, 48, 128, 256), torch.randn(2, 1, 80, 52))
    (vision * audio).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parametrize("as_zip", [False, True])
def test_a_stable_syncnet_file_loads_strictly(as_zip: bool) -> None:
    config = narrow(LAYOUTS["syncnet_16_pixel_attn"])
    source, target = StableSyncNet(config).eval(), StableSyncNet(config)
    content = saved(source, as_zip, global_step=7)
    state_dicts.load_strict(target, state_dicts.read_state_dict(content, "stable_syncnet.pt"), "stable_syncnet.pt")
    inputs = torch.randn(1, 48, 128, 256), torch.randn(1, 1, 80, 52)
    with torch.inference_mode():
        for got, expected in zip(target(*inputs), source(*inputs), strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_hyperiqa_has_the_published_numbers_and_keys() -> None:
    fill = golden_fill()
    network = HyperIQA().eval()
    assert same_keys(network, "hyperiqa.keys.json")
    with torch.inference_mode():
        scores = fill.fill_(network, 4)(fill.draw(4, "images", (3, 3, 224, 224)))
    assert difference(scores.numpy(), golden_arrays("hyperiqa.npz")["score"]) <= CLOSE


@pytest.fixture(scope="module")
def random_hyperiqa() -> HyperIQA:
    torch.manual_seed(3)
    return HyperIQA().eval()


@pytest.fixture(scope="module")
def scorer(random_hyperiqa: HyperIQA) -> HyperIQAQuality:
    return HyperIQAQuality(saved(random_hyperiqa, as_zip=False))


def random_images(count: int, size: int = 256) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_images_of_a_batch_do_not_touch_each_other(random_hyperiqa: HyperIQA) -> None:
    images = torch.randn(3, 3, 224, 224)
    with torch.inference_mode():
        together = random_hyperiqa(images)
        alone = torch.cat([random_hyperiqa(image[None]) for image in images])
    assert together.shape == (3,)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_quality_is_the_mean_score_of_the_middle_of_each_frame(
    random_hyperiqa: HyperIQA, scorer: HyperIQAQuality
) -> None:
    frames = random_images(3)
    images = torch.from_numpy(frames).permute(0, 3, 1, 2) / 255
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = (CenterCrop(224)(images) - mean[:, None, None]) / deviation[:, None, None]
    with torch.inference_mode():
        expected = random_hyperiqa(images).mean()
    assert scorer.score(frames) == pytest.approx(float(expected), abs=1e-4)
    frames[:, :16] = frames[:, -16:] = frames[:, :, :16] = frames[:, :, -16:] = 0  # only the border
    assert scorer.score(frames) == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize("size", [224, 225, 227, 256, 512])
def test_the_crop_is_the_one_of_torchvision(size: int) -> None:
    frames = random_images(1, size)
    expected = CenterCrop(224)(torch.from_numpy(frames).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    np.testing.assert_array_equal(centre_crop(frames), expected.numpy())


def test_images_are_normalised_channel_by_channel() -> None:
    red = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
    red[..., 0] = 255
    expected = torch.tensor([(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225])
    torch.testing.assert_close(normalised(red)[0, :, 0, 0], expected)


def test_quality_repeats_exactly_and_leaves_torch_as_it_was(scorer: HyperIQAQuality) -> None:
    before = torch.get_num_threads()
    assert scorer.score(random_images(2)) == scorer.score(random_images(2))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    "frames",
    [
        random_images(1)[0],
        random_images(1).astype(np.float32),
        random_images(1)[:0],
        random_images(1, 200),
        random_images(1)[..., :1],
    ],
    ids=["one image", "floats", "none", "too small", "grey"],
)
def test_quality_refuses_other_arrays(scorer: HyperIQAQuality, frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected"):
        scorer.score(frames)


def test_a_file_of_another_network_is_refused() -> None:
    with pytest.raises(weights.ModelFileError, match=r"missing: res\.conv1\.weight"):
        HyperIQAQuality(saved(HyperIQA().res, as_zip=True))
    with pytest.raises(weights.ModelFileError):
        HyperIQAQuality(b"no weights at all")
