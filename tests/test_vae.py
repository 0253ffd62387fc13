"""The frozen VAE: the moments of diffusers, one latent scale, the files that are read and those that are refused."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lipforge.model.denoiser.vae import (
    CONFIG_NAME,
    LATENT_SCALE,
    WEIGHTS_NAME,
    FrozenVae,
    read_vae_files,
    sample_latents,
)
from lipforge.model.weights.load import MissingModelError, ModelFileError
from tests.tiny_vae import save_tiny_vae, tiny_network

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


@pytest.mark.parametrize("config", [b"{", b"[]", b'{"_class_name": "UNet2DModel"}'])
def test_another_config_is_refused(folder: Path, config: bytes) -> None:
    with pytest.raises(ModelFileError, match=r"config\.json is not for an AutoencoderKL"):
        FrozenVae((folder / WEIGHTS_NAME).read_bytes(), config, "x")


def test_cut_off_weights_are_refused(folder: Path) -> None:
    weights, config = read_vae_files(folder)
    with pytest.raises(ModelFileError):
        FrozenVae(weights[:-100], config, "x")
