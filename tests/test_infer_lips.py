"""The models that draw lips: from a run, from a published file, or none at all; and what decides their result."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save, save_file

from lipforge.model.audio.tokens import MEL_WIDTH
from lipforge.model.denoiser.layouts import LAYOUTS
from lipforge.model.denoiser.packed import load_packed, packed, unpacked
from lipforge.model.denoiser.unet import UNet3D
from lipforge.model.weights.load import ModelFileError, sha256_of
from lipforge.model.weights.table import list_models
from lipforge.pipeline.infer import lips
from lipforge.pipeline.infer.lips import DiffusionLips, Identity, layout_of, open_lip_model
from lipforge.pipeline.infer.protocols import Cancelled
from lipforge.pipeline.infer.request import InferConfig, InferError, SamplingConfig
from lipforge.train import pack
from tests.golden import golden_json
from tests.whisper_file import whisper_file

SIDE, FRAMES = 64, 4


@pytest.fixture(scope="module")
def run_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RUN/model of a tiny U-Net with random weights."""
    folder = tmp_path_factory.mktemp("run") / "model"
    folder.mkdir()
    torch.manual_seed(0)
    network = UNet3D(LAYOUTS["tiny_stage1"])
    save_file(network.state_dict(), folder / "unet.safetensors")
    about = {
        "kind": "unet",
        "layout": LAYOUTS["tiny_stage1"],
        "resolution": SIDE,
        "num_frames": FRAMES,
        "vae": "blocks",
        "audio_encoder": "mel",
    }
    (folder / "config.json").write_text(json.dumps(about))
    return folder


def open_(run_model: Path, **changes) -> DiffusionLips:
    sampling = {name: changes.pop(name) for name in list(changes) if name in SamplingConfig.model_fields}
    config = InferConfig(
        model=str(run_model), device="cpu", sampling=SamplingConfig(**{"steps": 2, **sampling}), **changes
    )
    model = open_lip_model(config)
    assert isinstance(model, DiffusionLips)
    return model


@pytest.fixture(scope="module")
def seen() -> tuple[np.ndarray, torch.Tensor]:
    rng = np.random.default_rng(0)
    faces = rng.integers(0, 255, (FRAMES, SIDE, SIDE, 3)).astype(np.uint8)
    return faces, torch.from_numpy(rng.normal(size=(FRAMES, 16, MEL_WIDTH)).astype(np.float32))


def test_a_run_names_its_resolution_window_autoencoder_and_hearing(run_model: Path, seen):
    model = open_(run_model)
    assert (model.resolution, model.window_frames, model.audio_encoder) == (SIDE, FRAMES, "mel")
    drawn = model.draw(*seen)
    assert drawn.shape == (FRAMES, 4, SIDE // 8, SIDE // 8)
    shown = model.show(drawn)
    assert shown.shape == (FRAMES, SIDE, SIDE, 3) and shown.dtype == np.float32
    assert shown.min() >= 0 and shown.max() <= 255


def test_the_same_seed_draws_the_same_bits_and_sound_and_seed_matter(run_model: Path, seen):
    faces, tokens = seen
    first = open_(run_model).draw(faces, tokens)
    assert torch.equal(first, open_(run_model).draw(faces, tokens))
    assert not torch.equal(first, open_(run_model).draw(faces, -tokens))
    assert not torch.equal(first, open_(run_model, seed=3).draw(faces, tokens))


def test_guidance_counts_inside_its_band_alone(run_model: Path, seen):
    plain = open_(run_model, guidance=1).draw(*seen)
    guided = open_(run_model, guidance=3).draw(*seen)
    assert torch.equal(open_(run_model, guidance=3, guidance_band=(0, 1000)).draw(*seen), guided)
    assert torch.equal(open_(run_model, guidance=3, guidance_band=(998, 1000)).draw(*seen), plain)
    assert not torch.equal(guided, plain)


def test_networks_are_loaded_once_whatever_is_asked_of_them(run_model: Path):
    first, second = open_(run_model, guidance=1), open_(run_model, steps=9)
    assert first.networks is second.networks


def test_drawing_stops_within_a_step_when_asked_to(run_model: Path, seen):
    asked = iter([False, False, True])
    config = InferConfig(model=str(run_model), device="cpu", sampling=SamplingConfig(steps=50))
    with pytest.raises(Cancelled):
        open_lip_model(config, lambda: next(asked)).draw(*seen)


def test_offloading_changes_nothing_but_places(run_model: Path, seen):
    assert torch.equal(open_(run_model, offload=True).draw(*seen), open_(run_model).draw(*seen))


@pytest.mark.parametrize(("dtype", "most"), [("bf16", 0.05), ("int8", 0.05)])
def test_lower_precision_stays_near_full(run_model: Path, seen, dtype: str, most: float):
    full = open_(run_model).draw(*seen)
    other = open_(run_model, dtype=dtype).draw(*seen)
    assert 0 < (other - full).abs().mean() < most * full.abs().mean()


def test_what_this_machine_lacks_is_said(run_model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InferError, match="--device cuda"):
        open_lip_model(InferConfig(model=str(run_model), device="cuda"))
    with pytest.raises(InferError, match="needs a GPU"):
        open_lip_model(InferConfig(model=str(run_model), device="cpu", dtype="fp16"))


@pytest.mark.parametrize("name", ["stage1", "stage2", "stage2_efficient"])
def test_the_layout_of_a_published_file_is_found_from_its_keys(name: str):
    keys = golden_json(f"unet_{name}.keys.json")
    assert layout_of({key: torch.empty(0) for key in keys}) == name


def test_a_published_file_takes_the_published_companions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    monkeypatch.setitem(lips.LAYOUTS, "stage1", {**LAYOUTS["tiny_stage1"], "cross_attention_dim": 16})
    torch.save(UNet3D(lips.LAYOUTS["stage1"]).state_dict(), tmp_path / "latentsync_unet.pt")
    (tmp_path / "hears.pt").write_bytes(whisper_file())
    given = {"model": str(tmp_path / "latentsync_unet.pt"), "device": "cpu", "vae": "blocks"}
    model = open_lip_model(InferConfig(**given, audio_encoder=str(tmp_path / "hears.pt")))
    assert (model.resolution, model.window_frames) == (256, 16)
    with pytest.raises(InferError, match=r"width 16, and mel gives 96"):
        open_lip_model(InferConfig(**given, audio_encoder="mel"))


def test_steps_that_a_solver_cannot_take_are_refused_at_once(run_model: Path):
    with pytest.raises(InferError, match="takes 1 to 50"):
        open_(run_model, solver="lcm", steps=60)


def test_identity_draws_what_it_sees():
    model = open_lip_model(InferConfig(model="identity"))
    assert isinstance(model, Identity)
    faces = np.random.default_rng(0).integers(0, 255, (16, 8, 8, 3)).astype(np.uint8)
    np.testing.assert_array_equal(model.show(model.draw(faces, None)), faces)


def test_what_ships_draws_where_nothing_was_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LIPFORGE_CACHE", str(tmp_path))
    model = open_lip_model(InferConfig(device="cpu", sampling=SamplingConfig(steps=2, guidance=1)))
    assert isinstance(model, DiffusionLips)
    assert (model.name, model.resolution, model.window_frames, model.audio_encoder) == ("builtin", 128, 12, "lip_sync")
    shipped = [file for name in ("builtin-lips", "taesd") for file in list_models(name)]
    assert sum(file.size_bytes for file in shipped) <= 12e6
    assert model.sha256 == shipped[0].sha256
    faces = np.random.default_rng(0).integers(0, 255, (2, 128, 128, 3)).astype(np.uint8)
    shown = model.show(model.draw(faces, torch.zeros(2, 1, 384)))
    assert shown.shape == (2, 128, 128, 3) and np.isfinite(shown).all()


def test_an_audio_encoder_of_the_same_width_is_no_other_one(run_model: Path, tmp_path: Path):
    (tmp_path / "hears.pt").write_bytes(whisper_file())
    for model, given in (("builtin", str(tmp_path / "hears.pt")), (str(run_model), "lip_sync")):
        with pytest.raises(InferError, match=f"hears by .*{Path(given).name}: leave it out"):
            open_lip_model(InferConfig(model=model, device="cpu", audio_encoder=given))


def test_a_packed_network_is_the_same_within_half_a_step_of_each_channel(run_model: Path):
    tensors = load_file(run_model / "unet.safetensors")
    found, about = unpacked(packed(tensors, {"kind": "unet"}), "a")
    assert about == {"kind": "unet"} and found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        off = (found[name] - tensor).abs()
        if tensor.ndim > 1:
            assert (off.flatten(1).amax(1) <= tensor.abs().flatten(1).amax(1) * (0.5 / 127 * 1.02) + 1e-6).all()
        else:
            assert (off <= tensor.abs() * 1e-3 + 1e-6).all()


def test_a_run_is_packed_into_the_file_that_ships(
    run_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "lips.safetensors"
    monkeypatch.setattr("sys.argv", ["pack", str(run_model), str(out), "--vae", "taesd"])
    pack.main()
    assert sha256_of(out) in capsys.readouterr().out
    network, about = load_packed(out)
    assert not network.training and about["vae"] == "taesd" and about["resolution"] == SIDE


@pytest.mark.parametrize("damage", ["text", "cut off", "no config", "no scales"])
def test_a_damaged_packed_network_is_named(run_model: Path, damage: str):
    tensors = load_file(run_model / "unet.safetensors")
    content = packed(tensors, {"kind": "unet"})
    plain = {name: tensor.to(torch.int8) for name, tensor in tensors.items()}
    broken = {
        "text": b"not weights",
        "cut off": content[:-9],
        "no config": save(tensors),
        "no scales": save(plain, {"config": "{}"}),
    }
    with pytest.raises(ModelFileError, match="lips: not a packed U-Net"):
        unpacked(broken[damage], "lips")


@pytest.mark.parametrize(
    ("place", "error", "words"),
    [
        ("nowhere", InferError, "no such file"),
        ("taesd", InferError, "not a U-Net"),
        ("text", ModelFileError, "text"),
        ("syncnet", InferError, "is a syncnet"),
        ("empty", ModelFileError, "no model in"),
        ("half", ModelFileError, "tensors|missing"),
    ],
)
def test_what_is_no_model_is_named(tmp_path: Path, run_model: Path, place: str, error: type[Exception], words: str):
    (tmp_path / "text").write_text("not weights")
    for name in ("syncnet", "empty", "half"):
        (tmp_path / name).mkdir()
    (tmp_path / "syncnet" / "config.json").write_text(json.dumps({"kind": "syncnet", "layout": {}}))
    (tmp_path / "half" / "config.json").write_bytes((run_model / "config.json").read_bytes())
    save_file({"conv_in.weight": torch.zeros(1)}, tmp_path / "half" / "unet.safetensors")
    given = place if place in ("nowhere", "taesd") else str(tmp_path / place)
    with pytest.raises(error, match=words):
        open_lip_model(InferConfig(model=given, device="cpu"))
