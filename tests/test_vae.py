"""The frozen autoencoders: the numbers of diffusers, one latent scale, the files that are read and those refused."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from lipforge.model.denoiser.mask import to_pixels
from lipforge.model.denoiser.vae import (
    CONFIG_NAME,
    LATENT_SCALE,
    WEIGHTS_NAME,
    FrozenVae,
    open_vae,
    read_vae_files,
    sample_latents,
)
from lipforge.model.weights.load import MissingModelError, ModelFileError
from lipforge.train.features.extract import vae_moments
from tests.tiny_vae import save_taesd, save_tiny_vae, tiny_network

pytest.importorskip("diffusers", reason="the package diffusers is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_vae(tmp_path_factory.mktemp("vae"))


@pytest.fixture(scope="module")
def vae(folder: Path) -> FrozenVae:
    return FrozenVae(*read_vae_files(folder), "tiny")


def pixels(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_moments_are_those_of_diffusers(vae: FrozenVae) -> None:
    frames = pixels(3, 3, 64, 64)
    with torch.inference_mode():
        posterior = tiny_network().encode(frames).latent_dist
    got = vae.moments(frames)
    assert got.shape == (3, 8, 8, 8)
    assert torch.equal(got[:, :4], posterior.mean)
    assert torch.equal(got[:, 4:], posterior.logvar)


def test_leading_dimensions_stay(vae: FrozenVae) -> None:
    frames = pixels(2, 3, 3, 64, 64)
    assert torch.allclose(vae.moments(frames)[1, 2], vae.moments(frames[1, 2]), atol=1e-5)
    assert vae.decode(vae.moments(frames)[..., :4, :, :]).shape == frames.shape


def test_latents_are_mean_and_noise_scaled(vae: FrozenVae) -> None:
    moments = vae.moments(pixels(2, 3, 64, 64))
    noise = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(1))
    deviation = torch.exp(0.5 * moments[:, 4:])
    assert torch.allclose(sample_latents(moments, noise), 0.18215 * (moments[:, :4] + deviation * noise))
    assert torch.equal(sample_latents(moments, torch.zeros_like(noise)), moments[:, :4] * LATENT_SCALE)


def test_decoding_undoes_the_scale_and_passes_gradients(vae: FrozenVae) -> None:
    latents = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(2)).requires_grad_()
    got = vae.decode(latents)
    with torch.inference_mode():
        expected = tiny_network().decode(latents / 0.18215).sample
    assert torch.equal(got.detach(), expected)
    got.sum().backward()
    assert latents.grad is not None and latents.grad.abs().sum() > 0


def test_nothing_of_it_is_trained(vae: FrozenVae) -> None:
    assert not any(parameter.requires_grad for parameter in vae._network.parameters())
    assert not vae._network.training


def test_its_name_is_the_hash_of_its_weights(vae: FrozenVae, folder: Path) -> None:
    assert vae.sha256 == hashlib.sha256((folder / WEIGHTS_NAME).read_bytes()).hexdigest()


def test_the_file_of_weights_will_do(vae: FrozenVae, folder: Path) -> None:
    named = FrozenVae(*read_vae_files(folder / WEIGHTS_NAME), "tiny")
    assert named.sha256 == vae.sha256


def test_a_file_that_lies_alone_must_be_stable_diffusions(folder: Path, tmp_path: Path) -> None:
    alone = tmp_path / "vae.safetensors"
    alone.write_bytes((folder / WEIGHTS_NAME).read_bytes())
    weights, config = read_vae_files(alone)
    assert json.loads(config)["block_out_channels"] == [128, 256, 512, 512]
    with pytest.raises(ModelFileError, match=r"vae\.safetensors.*of another shape"):
        FrozenVae(weights, config, alone.name)


def test_attention_names_of_old_files_are_known(vae: FrozenVae, folder: Path, tmp_path: Path) -> None:
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(folder / WEIGHTS_NAME)
    for new_name, old_name in old.items():
        for key in [key for key in tensors if f".{new_name}." in key]:
            tensors[key.replace(f".{new_name}.", f".{old_name}.")] = tensors.pop(key)
    assert any(".query." in key for key in tensors)
    save_file(tensors, tmp_path / WEIGHTS_NAME)
    (tmp_path / CONFIG_NAME).write_bytes((folder / CONFIG_NAME).read_bytes())
    frames = pixels(1, 3, 64, 64)
    assert torch.equal(FrozenVae(*read_vae_files(tmp_path), "old").moments(frames), vae.moments(frames))


def test_a_missing_vae_is_named_with_its_place(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing.safetensors"):
        with pytest.raises(MissingModelError, match=r"no VAE at .*sd-vae-ft-mse"):
            read_vae_files(path)


def test_decoding_again_on_the_way_back_changes_nothing(vae: FrozenVae) -> None:
    latents = torch.randn((2, 2, 4, 8, 8), generator=torch.Generator().manual_seed(3))
    results = []
    for checkpoint in (False, True):
        leaf = latents.clone().requires_grad_()
        pixels = vae.decode(leaf, checkpoint=checkpoint)
        pixels.square().sum().backward()
        assert leaf.grad is not None
        results.append((pixels.detach(), leaf.grad))
    for plain, again in zip(*results, strict=True):
        assert torch.allclose(plain, again, rtol=1e-4, atol=1e-4 * float(plain.std()))


@pytest.fixture(scope="module")
def taesd(tmp_path_factory: pytest.TempPathFactory) -> tuple[FrozenVae, Any]:
    """From files with the published names, and the network of diffusers that they hold."""
    folder = tmp_path_factory.mktemp("taesd")
    network = save_taesd(folder)
    return open_vae(folder), network


def test_taesd_gives_what_diffusers_gives(taesd: tuple[FrozenVae, Any]) -> None:
    vae, network = taesd
    frames = pixels(2, 3, 32, 32)
    with torch.no_grad():
        encoded = network.encode(frames).latents
        decoded = network.decode(encoded).sample
    moments = vae.moments(frames)
    latents = sample_latents(moments, torch.ones(2, 4, 4, 4))
    assert torch.allclose(latents, encoded, atol=1e-5 * float(encoded.std()))  # nothing is drawn: TAESD is sure
    assert torch.allclose(vae.decode(latents), decoded, atol=1e-4 * float(decoded.std()))


def test_taesd_in_a_folder_of_diffusers_is_the_same(taesd: tuple[FrozenVae, Any], tmp_path: Path) -> None:
    vae, network = taesd
    network.save_pretrained(tmp_path)
    assert torch.equal(open_vae(tmp_path).moments(pixels(1, 3, 32, 32)), vae.moments(pixels(1, 3, 32, 32)))


def test_taesd_is_named_by_both_its_files(taesd: tuple[FrozenVae, Any], tmp_path: Path) -> None:
    save_taesd(tmp_path)
    assert open_vae(tmp_path).sha256 == taesd[0].sha256
    for part in ("encoder", "decoder"):
        file = tmp_path / f"taesd_{part}.safetensors"
        tensors = load_file(file)
        tensors["1.conv.0.bias" if part == "encoder" else "1.bias"] += 1
        before = open_vae(tmp_path).sha256
        save_file(tensors, file)
        assert open_vae(tmp_path).sha256 != before


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_half_of_taesd_is_refused(part: str, tmp_path: Path) -> None:
    save_taesd(tmp_path)
    (tmp_path / f"taesd_{part}.safetensors").unlink()
    with pytest.raises(MissingModelError, match=f"taesd_{part}"):
        read_vae_files(tmp_path)


def test_another_pair_of_files_is_refused(tmp_path: Path) -> None:
    for part in ("encoder", "decoder"):
        save_file({"0.weight": torch.zeros(3)}, tmp_path / f"taesd_{part}.safetensors")
    with pytest.raises(ModelFileError, match=r"not the weights of AutoencoderTiny.*missing"):
        open_vae(tmp_path)


def test_an_autoencoder_that_was_not_fetched_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIPFORGE_CACHE", str(tmp_path))
    with pytest.raises(MissingModelError, match="lipforge models fetch sd-vae-ft-mse"):
        open_vae("sd-vae-ft-mse")


def test_taesd_ships_and_shows_faces(
    photo_of_a_face: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIPFORGE_CACHE", str(tmp_path))
    assert 24 < fidelity_db(open_vae("taesd"), photo_of_a_face) < 34


def test_blocks_need_no_file_and_show_faces(photo_of_a_face: torch.Tensor) -> None:
    blocks = open_vae("blocks")
    assert 20 < fidelity_db(blocks, photo_of_a_face) < 30
    latents = blocks.moments(photo_of_a_face)[:, :4] * LATENT_SCALE
    assert latents.shape == (1, 4, 32, 32)
    assert ((latents.std((0, 2, 3)) > 0.5) & (latents.std((0, 2, 3)) < 2)).all()


def test_blocks_pass_gradients() -> None:
    latents = torch.zeros((1, 4, 4, 4), requires_grad=True)
    open_vae("blocks").decode(latents)[0, 1, 5, 5].backward()
    assert latents.grad is not None
    assert latents.grad[0, :, 0, 0].abs().sum() > 0
    assert latents.grad[0, :, 2:].abs().sum() == 0


def test_grey_has_no_blocks() -> None:
    assert not open_vae("blocks").moments(torch.zeros(1, 3, 16, 16))[:, :4].any()


@pytest.fixture(scope="module")
def photo_of_a_face() -> torch.Tensor:
    """Pixels [1, 3, 256, 256]."""
    frame = torch.from_numpy(skimage.data.astronaut()[0:256, 96:352].copy())
    return to_pixels(frame, 256)[None]


def fidelity_db(vae: FrozenVae, frames: torch.Tensor) -> float:
    """Peak signal-to-noise ratio of encoding and decoding."""
    with torch.no_grad():
        decoded = vae.decode(vae.moments(frames)[:, :4] * LATENT_SCALE).clamp(-1, 1)
    return float(10 * torch.log10(4 / functional.mse_loss(decoded, frames)))


@pytest.mark.parametrize("config", [b"{", b"[]", b'{"_class_name": "UNet2DModel"}'])
def test_another_config_is_refused(folder: Path, config: bytes) -> None:
    with pytest.raises(ModelFileError, match=r"config\.json is not for an AutoencoderKL"):
        FrozenVae((folder / WEIGHTS_NAME).read_bytes(), config, "x")


def test_cut_off_weights_are_refused(folder: Path) -> None:
    weights, config = read_vae_files(folder)
    with pytest.raises(ModelFileError):
        FrozenVae(weights[:-100], config, "x")


def test_latents_of_another_kind_are_refused(folder: Path) -> None:
    weights, config = read_vae_files(folder)
    other = json.dumps({**json.loads(config), "latent_channels": 16}).encode()
    with pytest.raises(ModelFileError, match="16 channels, not 4"):
        FrozenVae(weights, other, "x")


def test_bfloat16_latents_are_close_to_those_of_float32_and_not_the_same(tmp_path: Path):
    save_taesd(tmp_path)
    vae = open_vae(tmp_path)
    frames = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (2, 64, 64, 3), np.uint8))
    exact, half = (vae_moments(vae, frames, False, 64, bf16)[:, :4] for bf16 in (False, True))
    difference = (half - exact).square().mean().sqrt() / exact.std()
    assert half.dtype == torch.float32 and 0 < difference < 0.03
