"""The memory planner: what it counts is what a real step has; what it advises fits."""

import gc
import json
import resource
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

pytest.importorskip("accelerate", reason="the package accelerate is not installed")

from lipforge.model.denoiser.layouts import LAYOUTS
from lipforge.model.denoiser.unet import UNet3D
from lipforge.train.cli import app
from lipforge.train.config import OptimizerConfig
from lipforge.train.loop.optimizer import make_optimizer, set_learning_rate
from lipforge.train.plan import step
from lipforge.train.plan.autocast import norms_in_float32
from lipforge.train.plan.plan import ALLOWANCE_BYTES, GB, KNOBS, Plan, advise, make_plan, read_config
from lipforge.train.plan.show import advice_lines
from lipforge.train.plan.step import Rehearser
from lipforge.train.plan.tracker import StorageTracker

SMALL = ["num_frames=2", "resolution=64"]


def planned(preset: str, *overrides: str, gpus: int = 1, fake: bool = True) -> Plan:
    return make_plan(read_config(preset, list(overrides)), gpus, fake)


@pytest.fixture(scope="module")
def stage1() -> Plan:
    return planned("tiny_stage1", *SMALL)


@pytest.mark.parametrize(
    ("preset", "overrides"),
    [
        ("tiny_stage1", SMALL),
        ("tiny_stage1", [*SMALL, "mixed_precision=bf16", "gradient_checkpointing=true", "ema.decay=0.9"]),
        ("tiny_stage2", ["num_frames=2", "resolution=64", "losses.sync=0", "gradient_checkpointing=true"]),
        ("tiny_syncnet", ["batch_size=2", "gradient_accumulation_steps=2"]),
    ],
)
def test_peaks_are_those_of_the_same_step_on_real_tensors(preset: str, overrides: list[str]):
    without_memory = planned(preset, *overrides)
    real = planned(preset, *overrides, fake=False)
    assert without_memory.moments.keys() == real.moments.keys()
    for name, parts in real.moments.items():
        assert sum(without_memory.moments[name].values()) == pytest.approx(sum(parts.values()), rel=0.01)
        for part in (step.PARAMETERS, step.OPTIMIZER, step.GRADIENTS, step.EMA):
            if part in parts and name in ("optimizer", "validation"):
                assert without_memory.moments[name].get(part) == parts[part]


def test_parameters_and_moments_are_those_of_the_network_and_its_optimizer(stage1: Plan):
    network = UNet3D(LAYOUTS["tiny_stage1"])
    tensors = [*network.parameters(), *network.buffers()]
    assert stage1.peak[step.PARAMETERS] == sum(tensor.nbytes for tensor in tensors)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer = make_optimizer(OptimizerConfig(), network.parameters())
    optimizer.step()
    moments = [value for state in optimizer.state.values() for name, value in state.items() if name != "step"]
    assert stage1.peak[step.OPTIMIZER] == sum(moment.nbytes for moment in moments)


def test_optimizer_over_all_parameters_at_once_has_the_temporary_that_is_planned():
    parameters = [nn.Parameter(torch.zeros(100_000)) for _ in range(4)]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer = make_optimizer(OptimizerConfig(), parameters)
    optimizer.param_groups[0]["foreach"] = True  # what torch takes on a GPU
    optimizer.step()
    tracker = StorageTracker()
    with tracker, tracker.phase("optimizer", "temporary"):
        optimizer.step()
    planned_bytes = sum(value.nbytes for value in step.optimizer_temporary("adamw", parameters))
    assert tracker.peaks["optimizer"].bytes == pytest.approx(planned_bytes, rel=0.01)


def test_8_bit_moments_have_the_size_that_bitsandbytes_gives_them():
    pytest.importorskip("bitsandbytes", reason="the package bitsandbytes is not installed")
    parameters = [nn.Parameter(torch.ones(shape)) for shape in (100, 4095, 4096, 70_001)]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer = make_optimizer(OptimizerConfig(name="adamw8bit"), parameters)
    set_learning_rate(optimizer, 0.1)
    optimizer.step()
    names = ("state1", "state2", "absmax1", "absmax2")
    real = sum(state[name].nbytes for state in optimizer.state.values() for name in names if name in state)
    assert sum(value.nbytes for value in step.optimizer_state("adamw8bit", parameters)) == real


def test_autocast_keeps_norms_in_float32_as_cuda_does():
    norm = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))
    with torch.autocast("cpu", torch.bfloat16):
        assert norm(torch.zeros(1, 8)).dtype == torch.bfloat16
        with norms_in_float32():
            assert norm(torch.zeros(1, 8)).dtype == torch.float32
    with norms_in_float32():
        assert norm.double()(torch.zeros(1, 8).double()).dtype == torch.float64


def test_attention_keeps_no_matrix_of_all_pairs():
    tracker = StorageTracker()
    points = torch.zeros(1, 2, 2048, 8, requires_grad=True)
    with tracker, tracker.phase("forward", "activations"):
        kept = nn.functional.scaled_dot_product_attention(points, points, points)
    assert kept.shape == points.shape
    assert tracker.peaks["forward"].bytes < 2048 * 2048


def test_storage_counts_once_and_until_it_is_freed():
    tracker = StorageTracker()
    with tracker:
        with tracker.phase("one", "a"):
            first = torch.zeros(1000)
            view = first[10:]
            first.add_(1)
        with tracker.phase("two", "b"):
            second = first + 1
            tracker.mark([view], "c")
        del first, view
        gc.collect()
        with tracker.phase("three", "b"):
            third = second + 1
    assert tracker.peaks["one"].parts == {"a": 4000}
    assert tracker.peaks["two"].bytes == 8000 and tracker.peaks["two"].parts["c"] == 4000
    assert tracker.peaks["three"].parts == {"b": 8000}
    assert len(second) == len(third)


def test_full_size_network_is_planned_without_its_memory():
    config = read_config("stage1", ["num_frames=1", "resolution=64", "vae=blocks"])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    plan = make_plan(config)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert plan.rehearsal.parameter_numbers == 849_962_244
    assert plan.peak[step.PARAMETERS] > 3.3e9 and plan.total_bytes > 16e9
    assert grown < 0.5e9


def test_several_gpus_need_buckets_and_averages_their_place(stage1: Plan):
    plan = planned("tiny_stage1", *SMALL, "ema.decay=0.9", gpus=2)
    numbers = stage1.rehearsal.trainable_numbers
    assert plan.moments["optimizer"][step.BUCKETS] == plan.moments["optimizer"][step.EMA] == 4 * numbers
    assert step.BUCKETS not in stage1.peak and step.EMA not in stage1.peak


def test_cached_features_leave_nothing_to_encode(stage1: Plan):
    cached = planned("tiny_stage1", *SMALL, "features=somewhere")
    assert sum(cached.moments["encode"].values()) < sum(stage1.moments["encode"].values())


def test_knobs_come_one_on_top_of_another_until_it_fits(stage1: Plan):
    config = read_config("tiny_stage1", [*SMALL, "batch_size=2", "ema.decay=0.9"])
    alone = advise(config, 1, None)
    settings = [knob.setting for knob in alone.turned]
    assert settings == [
        "gradient_checkpointing=true",
        "mixed_precision=bf16",
        "features=FOLDER",
        "ema.on_cpu=true",
        "optimizer.name=adamw8bit",
        "batch_size=1",
        "lora.rank=16",
    ]
    assert set(settings) < {knob.setting for knob in KNOBS}
    assert alone.turned[0].saves_bytes > 0
    total = alone.plan.total_bytes - sum(knob.saves_bytes for knob in alone.turned)
    assert total == alone.turned[-1].total_bytes
    limit = alone.turned[3].total_bytes
    limited = advise(config, 1, limit)
    assert not limited.fits and limited.turned[-1].fits
    assert [knob.setting for knob in limited.turned] == settings[: len(limited.turned)]
    assert "  fits   costs" in "\n".join(advice_lines(limited))
    assert advise(config, 1, alone.plan.total_bytes).fits


def test_lora_is_planned_as_it_is_estimated():
    pytest.importorskip("peft", reason="the package peft is not installed")
    plain, adapted = planned("tiny_stage1", *SMALL), planned("tiny_stage1", *SMALL, "lora.rank=16")
    assert adapted.rehearsal.trainable_numbers == plain.rehearsal.lora_numbers
    assert adapted.moments["optimizer"][step.OPTIMIZER] == 8 * plain.rehearsal.lora_numbers


def test_fsdp_shares_out_what_ddp_repeats():
    config = read_config("tiny_stage1", [*SMALL, "gradient_checkpointing=true", "mixed_precision=bf16"])
    advice = advise(config, 4, None)
    (fsdp,) = (knob for knob in advice.turned if "fsdp2" in knob.setting)
    assert fsdp.saves_bytes > 0


@pytest.mark.parametrize("preset", ["syncnet_16_pixel_attn", "syncnet_16_latent"])
def test_syncnet_is_planned(preset: str):
    plan = planned(preset, "batch_size=1", "gradient_accumulation_steps=1", "vae=blocks")
    assert plan.peak[step.PARAMETERS] == 4 * plan.rehearsal.parameter_numbers
    assert ALLOWANCE_BYTES < plan.total_bytes < 12 * GB


def test_frozen_networks_of_stage_2_are_counted_and_leave_with_their_loss():
    config = read_config("tiny_stage2", ["num_frames=2", "resolution=64", "losses.sync=0", "losses.lpips=0"])
    found = make_plan(config).moments["forward"]
    assert found["VideoMAE"] > 4e6 and "LPIPS" not in found and "SyncNet" not in found


def test_command_needs_neither_data_nor_folder_and_prints_a_table_or_json(tmp_path: Path):
    arguments = ["plan", "--config", "tiny_stage1", "--gpu-memory-gb", "24", "--set", "num_frames=2", "resolution=64"]
    ended = CliRunner().invoke(app, arguments)
    assert ended.exit_code == 0
    for words in ("parameters", "in all", "backward pass", "Fits into 24 GB"):
        assert words in ended.output
    values = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).output)
    assert values["fits"] is True
    assert values["total_bytes"] == max(found["bytes"] for found in values["phases"].values()) + ALLOWANCE_BYTES
    for found in values["phases"].values():
        assert sum(found["parts"].values()) == found["bytes"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config", "stage9"], "no preset 'stage9'"),
        (["--config", "stage1", "--set", "batch=2"], "batch"),
        (["--config", "stage2", "--set", "num_frames=5"], "VideoMAE"),
        (["--config", "syncnet_16_latent", "--set", "num_frames=5"], "num_frames=5"),
        (["--config", "stage1", "--set", "audio_encoder=small"], "hears audio of width 384"),
    ],
)
def test_wrong_settings_are_one_sentence(arguments: list[str], words: str):
    ended = CliRunner().invoke(app, ["plan", *arguments])
    assert ended.exit_code == 2
    assert ended.output.startswith("lipforge: ") and words in ended.output
    assert len(ended.output.strip().splitlines()) == 1


def test_rehearsal_leaves_no_fake_tensor_behind():
    planned("tiny_stage1", *SMALL)
    from lipforge.model.denoiser.diffusion import signal_to_noise

    assert signal_to_noise(torch.tensor([0])).item() == pytest.approx(1175, rel=0.01)
    assert Rehearser(read_config("tiny_stage1", SMALL), 64, 1, fake=False).rehearse().peaks
