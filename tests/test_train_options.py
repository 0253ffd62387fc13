"""Options of the trainers do what they say, and resume exactly."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lipforge.model.audio.tokens import MEL_WIDTH
from lipforge.model.trained import load_trained
from lipforge.train.config import LoraConfig, OptimizerConfig, Stage1Config, load_preset
from lipforge.train.loop.denoiser import build_denoiser, merged
from lipforge.train.loop.optimizer import learning_rate
from lipforge.train.loop.run_folder import CONFIG, write_config
from tests.ranks import run_ranks
from tests.test_train_runs import KilledAfter
from tests.train_runs import coded_selection, largest_difference, losses, model_hash, model_tensors, settings

pytest.importorskip("accelerate", reason="the package accelerate is not installed")


@pytest.fixture(scope="module")
def selection(tmp_path_factory: pytest.TempPathFactory) -> str:
    return coded_selection(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def plain(selection: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the preset's settings."""
    return trained(selection, tmp_path_factory.mktemp("plain"))


def trained(selection: str, folder: Path, *more: str, steps: int = 4) -> Path:
    """The folder of a finished run."""
    ended = run_ranks("stage1", settings(selection, folder / "run", f"num_steps={steps}", *more), folder)
    assert ended.exit_codes == [0], ended.words
    return folder / "run"


@pytest.mark.parametrize(
    "options",
    [
        ["optimizer.name=adamw8bit"],
        ["lora.rank=2", "ema.decay=0.9", "ema.on_cpu=true", "init=PLAIN"],
        ["optimizer.schedule=cosine", "optimizer.warmup_steps=2", "audio_dropout=0.5", "min_snr_gamma=5"],
        ["mixed_precision=bf16", "gradient_checkpointing=true", "channels_last=true", "audio_encoder=lip_sync"],
    ],
    ids=["8-bit AdamW", "LoRA and EMA", "schedule, dropout, min-SNR", "bf16, checkpointing, channels last, lip_sync"],
)
def test_option_resumes_to_the_same_bits(selection: str, plain: Path, tmp_path: Path, options: list[str]):
    options = [option.replace("PLAIN", str(plain / "model")) for option in options]
    straight = trained(selection, tmp_path / "a", *options)
    num_steps = "num_steps=4"  # a cosine ends there
    command = settings(selection, tmp_path / "b" / "run", *options, num_steps, "save_every=2")
    assert run_ranks("stage1", command, tmp_path / "b", before=KilledAfter(3)).exit_codes != [0]
    ended = run_ranks("stage1", command, tmp_path / "b")
    assert ended.exit_codes == [0], ended.words
    assert losses(tmp_path / "b" / "run") == losses(straight)
    assert model_hash(tmp_path / "b" / "run") == model_hash(straight)
    assert losses(straight) != losses(plain)


def test_gradient_checkpointing_changes_no_bit(selection: str, plain: Path, tmp_path: Path):
    assert model_hash(trained(selection, tmp_path, "gradient_checkpointing=true")) == model_hash(plain)


def test_average_is_what_inference_takes(selection: str, plain: Path, tmp_path: Path):
    averaged = trained(selection, tmp_path, "ema.decay=0.5")
    newest = averaged / "checkpoints" / "step-00000004"
    assert largest_difference(model_tensors(averaged), load_file(newest / "ema.safetensors")) == 0
    network = load_file(newest / "network.safetensors")
    assert largest_difference(network, model_tensors(plain)) == 0  # training itself does not see the average
    assert largest_difference(network, model_tensors(averaged)) > 0


def test_model_folder_loads_in_one_line_as_the_network_that_was_trained(plain: Path):
    network, about = load_trained(plain / "model")
    assert (about["kind"], about["vae"], about["audio_encoder"], about["resolution"]) == ("unet", "blocks", "mel", 128)
    assert about["num_frames"] == 5
    assert not network.training
    assert largest_difference(dict(network.state_dict()), model_tensors(plain)) == 0
    facts = json.loads((plain / "facts.json").read_text())
    assert set(facts["models"]) == {"vae", "audio_encoder"}
    assert facts["packages"]["torch"] == torch.__version__.partition("+")[0] or facts["packages"]["torch"]


def test_lora_trains_adapters_alone_and_merges_them():
    config = load_preset(Stage1Config, "tiny_stage1", ["selection=s", "run_dir=r", "lora.rank=2", "lora.alpha=6"])
    network, _, _ = build_denoiser(config, MEL_WIDTH)
    names = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert names and all(".lora_" in name for name in names)
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    sample, audio = torch.randn(1, 13, 3, 8, 8), torch.randn(1, 3, 16, MEL_WIDTH)
    with torch.no_grad():
        expected = network(sample, 7, audio)
        network_of_merged = build_denoiser(config.model_copy(update={"lora": None}), MEL_WIDTH)[0]
        network_of_merged.load_state_dict(merged(network.state_dict(), config.lora), strict=True)
        assert torch.allclose(network_of_merged(sample, 7, audio), expected, atol=1e-5)


def test_lora_trains_what_begins_anew_whole(plain: Path):
    more = ["selection=s", "run_dir=r", "unet=tiny_stage2", f"init={plain / 'model'}", "lora.rank=2"]
    config = load_preset(Stage1Config, "tiny_stage1", [*more, "init_differences=[adds_motion_modules]"])
    network, _, _ = build_denoiser(config, MEL_WIDTH)
    trained_names = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    for name, _ in network.named_parameters():
        assert (name in trained_names) == (".lora_" in name or "motion_modules." in name), name


def test_lora_needs_linear_layers_of_that_name():
    config = load_preset(Stage1Config, "tiny_stage1", ["selection=s", "run_dir=r", "lora.modules=[o_q]"])
    with pytest.raises(ValueError, match="no layer's name ends like that"):
        build_denoiser(config, MEL_WIDTH)
    config = load_preset(Stage1Config, "tiny_stage1", ["selection=s", "run_dir=r", "lora.modules=[conv_in]"])
    with pytest.raises(ValueError, match="takes linear layers only"):
        build_denoiser(config, MEL_WIDTH)


def test_stage_2_begins_with_the_weights_of_a_stage_1(selection: str, plain: Path, tmp_path: Path):
    more = [f"init={plain / 'model'}", "init_differences=[adds_motion_modules]", "unet=tiny_stage2"]
    run_dir = trained(selection, tmp_path, *more, "trainable=[motion_modules.]", steps=1)
    before, after = model_tensors(plain), model_tensors(run_dir)
    assert all("motion_modules." in name for name in after.keys() - before.keys())
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert any(after[name].abs().max() > 0 for name in after if name.endswith("proj_out.weight"))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [1.0, 1.0, 1.0, 1.0]),
        ({"warmup_steps": 2}, [0.5, 1.0, 1.0, 1.0]),
        ({"schedule": "cosine"}, [1.0, 0.853553, 0.5, 0.146447]),
        ({"schedule": "cosine", "warmup_steps": 2}, [0.5, 1.0, 1.0, 0.5]),
    ],
)
def test_learning_rate_of_each_step(settings: dict, expected: list[float]):
    config = OptimizerConfig(learning_rate=1.0, **settings)
    assert [learning_rate(config, step, 4) for step in (1, 2, 3, 4)] == pytest.approx(expected, abs=1e-6)


@pytest.mark.gpu
def test_fp16_on_a_gpu_saves_its_scaler_and_goes_on(selection: str, tmp_path: Path):
    options = ["device=cuda", "mixed_precision=fp16"]
    straight = trained(selection, tmp_path / "a", *options)
    for num_steps in (2, 4):
        trained(selection, tmp_path / "b", *options, steps=num_steps)
    state = json.loads((tmp_path / "b" / "run" / "checkpoints" / "step-00000002" / "state.json").read_text())
    assert state["scaler"]["scale"] > 0
    for step, values in losses(tmp_path / "b" / "run").items():  # kernels of a GPU may round differently
        assert values == pytest.approx(losses(straight)[step], rel=1e-3)


def test_bare_no_of_yaml_is_a_precision(tmp_path: Path):
    preset = tmp_path / "mine.yaml"
    preset.write_text("mixed_precision: no\n")
    places = ["selection=s.parquet", "run_dir=run"]
    assert load_preset(Stage1Config, str(preset), places).mixed_precision == "no"
    assert load_preset(Stage1Config, "stage1", [*places, "mixed_precision=no"]).mixed_precision == "no"


def test_settings_that_a_run_wrote_are_read_again(tmp_path: Path):
    config = load_preset(Stage1Config, "tiny_stage1", ["selection=s.parquet", f"run_dir={tmp_path}"])
    write_config(tmp_path, config)
    again = str(tmp_path / CONFIG)
    assert load_preset(Stage1Config, again, []) == config
    assert load_preset(Stage1Config, again, ["lora.rank=3"]).lora == LoraConfig(rank=3)


def test_what_must_be_set_is_named():
    with pytest.raises(ValueError, match="run_dir: not set, and it has no default"):
        load_preset(Stage1Config, "tiny_stage1", ["selection=s.parquet"])
