"""Stage 2: four losses, each switchable, whose gradients reach what is trained and nothing else."""

import json
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from lipforge.model.denoiser.diffusion import add_noise, clean_latents
from lipforge.model.denoiser.losses import noise_loss
from lipforge.train.config import Stage2Config, load_preset
from lipforge.train.loop.judges import Judges, check_windows, open_judges
from lipforge.train.loop.opening import open_diffusion
from lipforge.train.loop.together import Together
from tests.ranks import run_ranks
from tests.train_runs import coded_selection, losses, model_hash, settings

OFF = ["losses.lpips=0", "losses.trepa=0", "losses.sync=0"]


@pytest.fixture(scope="module")
def selection(tmp_path_factory: pytest.TempPathFactory) -> str:
    return coded_selection(tmp_path_factory.mktemp("clips"))


def config_of(selection: str, folder: Path, *more: str) -> Stage2Config:
    place = [f"selection={selection}", f"run_dir={folder}"]
    return load_preset(Stage2Config, "tiny_stage2", [*place, "num_steps=2", *more])


def test_every_loss_is_logged_and_a_run_resumes_to_the_same_bits(selection: str, tmp_path: Path):
    whole = settings(selection, tmp_path / "whole", "num_frames=16", "num_steps=2", preset="tiny_stage2")
    ended = run_ranks("stage2", whole, tmp_path)
    assert ended.exit_codes == [0], ended.words
    for values in losses(tmp_path / "whole").values():
        total = values["noise"] + 0.1 * values["lpips"] + 10 * values["trepa"] + 0.05 * values["sync"]
        assert values["loss"] == pytest.approx(total, rel=1e-5)
    for num_steps in (1, 2):
        command = settings(
            selection, tmp_path / "parts", "num_frames=16", f"num_steps={num_steps}", preset="tiny_stage2"
        )
        assert run_ranks("stage2", command, tmp_path).exit_codes == [0]
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert model_hash(tmp_path / "parts") == model_hash(tmp_path / "whole")
    models = json.loads((tmp_path / "whole" / "facts.json").read_text())["models"]
    assert set(models) == {"vae", "audio_encoder", "lpips", "videomae", "syncnet"}


@pytest.mark.parametrize("name", ["noise", "lpips", "trepa", "sync"])
def test_gradient_of_each_loss_reaches_all_that_is_trained_and_nothing_else(selection: str, tmp_path: Path, name: str):
    config = config_of(selection, tmp_path / "run")
    together = Together(Accelerator(cpu=True))
    tmp_path.joinpath("run").mkdir()
    judges = open_judges(config, together.accelerator.device)
    trained, data, inputs = open_diffusion(config, together, judges.see_pixels)
    torch.manual_seed(0)
    with torch.no_grad():
        for key, parameter in trained.network.named_parameters():
            if key.endswith(
                "proj_out.weight"
            ):  # a new motion module returns its input: nothing behind it has a gradient
                parameter.normal_(std=0.1)
    made = inputs.make(next(iter(data.train)))
    noisy = add_noise(made.latents, made.noise, made.timesteps)
    prediction = trained.network(made.network_input(noisy), made.timesteps, made.audio)
    estimate = clean_latents(noisy, prediction, made.timesteps)
    found = {"noise": noise_loss(prediction, made.noise)}
    found |= judges.losses(made, estimate, inputs.vae.decode(estimate.transpose(1, 2)))
    found[name].sum().backward()
    for key, parameter in trained.network.named_parameters():
        is_trained = "motion_modules." in key or "attentions." in key
        assert parameter.requires_grad == is_trained
        has_gradient = parameter.grad is not None and bool(parameter.grad.abs().max() > 0)
        assert not has_gradient or is_trained, key
        # keys of attention have a bias in no layer, and what softmax cancels has no gradient
        assert has_gradient or not is_trained or "norm" in key or key.endswith("bias"), key
    for judge in (judges.lpips, judges.videomae, judges.syncnet):
        assert judge is not None
        assert all(parameter.grad is None for parameter in judge.parameters())


def test_loss_of_weight_0_needs_no_network(selection: str, tmp_path: Path):
    config = config_of(selection, tmp_path, *OFF, "lpips=nowhere", "videomae=nowhere", "syncnet=nowhere")
    judges = open_judges(config, torch.device("cpu"))
    assert judges == Judges()
    assert not judges.see_pixels


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["num_frames=5"], "num_frames=5: VideoMAE, which TREPA needs, takes a multiple of 2 frames up to 16"),
        (["num_frames=24"], "num_frames=24: VideoMAE"),
        (
            ["num_frames=5", "losses.trepa=0", "syncnet=stable_syncnet"],
            "num_frames=5: the SyncNet stable_syncnet takes windows of 16 frames",
        ),
    ],
)
def test_window_that_a_judge_cannot_take_is_refused_before_anything_is_loaded(
    selection: str, tmp_path: Path, settings: list[str], words: str
):
    with pytest.raises(ValueError, match=words):
        check_windows(config_of(selection, tmp_path, *settings))


def test_five_frames_are_one_setting(selection: str, tmp_path: Path):
    command = settings(selection, tmp_path / "run", "losses.trepa=0", "num_steps=1", preset="tiny_stage2")
    ended = run_ranks("stage2", command, tmp_path)  # five frames
    assert ended.exit_codes == [0], ended.words
    assert set(losses(tmp_path / "run")[1]) == {"loss", "noise", "lpips", "sync"}
