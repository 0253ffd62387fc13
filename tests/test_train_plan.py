"""The memory planner: what it counts is what a real step has; what it advises fits."""

import gc
import json
import resource

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

pytest.importorskip("accelerate", reason="the package accelerate is not installed")

from lipforge.model.denoiser.diffusion import signal_to_noise
from lipforge.model.denoiser.layouts import LAYOUTS
from lipforge.model.denoiser.unet import UNet3D
from lipforge.train.cli import app
from lipforge.train.config import DiffusionConfig, OptimizerConfig, TrainerConfig, presets
from lipforge.train.loop.optimizer import make_optimizer, set_learning_rate
from lipforge.train.plan import plan as planner
from lipforge.train.plan import step
from lipforge.train.plan.allocator import CachingAllocator
from lipforge.train.plan.kernels import convolution_workspace, norms_in_float32
from lipforge.train.plan.plan import ALLOWANCE_BYTES, GB, KNOBS, Plan, advise, make_plan, read_config
from lipforge.train.plan.show import advice_lines
from lipforge.train.plan.step import Rehearsal
from lipforge.train.plan.tracker import WORKSPACE, StorageTracker

MIB = 2**20
SMALL = ["num_frames=2", "resolution=64"]


def planned(preset: str, *overrides: str, gpus: int = 1, fake: bool = True) -> Plan:
    return make_plan(read_config(preset, list(overrides)), gpus, fake)


@pytest.fixture(scope="module")
def stage1() -> Plan:
    return planned("tiny_stage1", *SMALL)


@pytest.mark.parametrize(
    ("preset", "overrides"),
    [
        ("tiny_stage1", [*SMALL, "mixed_precision=bf16", "gradient_checkpointing=true", "ema.decay=0.9"]),
        pytest.param("tiny_stage1", [*SMALL, "features=cached"], marks=pytest.mark.slow),
        pytest.param("tiny_stage2", [*SMALL, "losses.sync=0", "gradient_checkpointing=true"], marks=pytest.mark.slow),
        pytest.param("tiny_syncnet", ["batch_size=2", "gradient_accumulation_steps=2"], marks=pytest.mark.slow),
    ],
)
def test_peaks_are_those_of_the_same_step_on_real_tensors(preset: str, overrides: list[str]):
    without_memory = planned(preset, *overrides, gpus=2)
    real = planned(preset, *overrides, gpus=2, fake=False)
    assert without_memory.rehearsal.reserved_bytes == pytest.approx(real.rehearsal.reserved_bytes, rel=0.01)
    assert without_memory.moments.keys() == real.moments.keys()
    for name, parts in real.moments.items():
        assert sum(without_memory.moments[name].values()) == pytest.approx(sum(parts.values()), rel=0.01)
        for part in (step.PARAMETERS, step.OPTIMIZER, step.GRADIENTS, step.EMA, step.BUCKETS):
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


def test_convolutions_need_copies_with_channels_last_while_they_run():
    tracker = StorageTracker(convolution_workspace)
    frames, weight = torch.zeros(1, 4, 16, 16), torch.zeros(8, 4, 3, 3)
    with tracker, tracker.phase("forward", "activations"):
        found = nn.functional.conv2d(frames, weight, padding=1)
    result = found.nbytes
    assert tracker.peaks["forward"].parts == {"activations": result, WORKSPACE: frames.nbytes + weight.nbytes + result}


def test_allocator_takes_small_tensors_from_segments_and_large_ones_as_they_are():
    allocator = CachingAllocator()
    for _ in range(3):
        allocator.allocate(1000)
    assert allocator.reserved_bytes == 2 * MIB
    allocator.allocate(2 * MIB)
    assert allocator.reserved_bytes == 22 * MIB
    allocator.allocate(33 * MIB)
    assert allocator.reserved_bytes == 56 * MIB


def test_allocator_takes_free_blocks_again_and_joins_neighbours():
    allocator = CachingAllocator()
    blocks = [allocator.allocate(5 * MIB) for _ in range(4)]
    assert allocator.reserved_bytes == 20 * MIB
    for number in (0, 2, 1):  # the one between them joins both
        allocator.free(blocks[number])
    allocator.allocate(15 * MIB)
    assert allocator.reserved_bytes == 20 * MIB
    allocator.allocate(4 * MIB)
    assert allocator.reserved_bytes == 40 * MIB


def test_allocator_leaves_gaps_that_are_too_small():
    allocator = CachingAllocator()
    blocks = [allocator.allocate(10 * MIB) for _ in range(4)]
    for block in blocks[::2]:
        allocator.free(block)
    allocator.allocate(20 * MIB)
    assert allocator.reserved_bytes == 60 * MIB


def test_tensors_that_try_shapes_do_not_count():
    tracker = StorageTracker(convolution_workspace)
    with tracker, tracker.phase("build", "parameters"), torch.device("meta"):
        found = nn.Conv2d(3, 64, 3)(torch.zeros(1, 3, 128, 128))
    assert tracker.allocator.reserved_bytes == 0 and found.shape == (1, 64, 126, 126)


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


def made_up(config: TrainerConfig, gpus: int = 1) -> Plan:
    """A plan in GB, of a network whose sizes are easy to add up."""
    step_parts = {"parameters": 4, "optimizer": 8, "EMA": 4, "VideoMAE": 4}
    if config.ema.on_cpu:
        del step_parts["EMA"]
    activations = config.batch_size * (2 if config.mixed_precision == "no" else 1)
    activations *= 1 if not isinstance(config, DiffusionConfig) or config.gradient_checkpointing else 10
    moments = {
        "encode": {**step_parts, "inputs": 30},
        "backward": {**step_parts, "gradients": 4, "activations": activations},
        "optimizer": {**step_parts, "gradients": 4, "temporary of AdamW": 4},
    }
    if gpus > 1:
        moments = {name: {**parts, step.BUCKETS: 4} for name, parts in moments.items()}
    sizes = {name: {part: size * GB for part, size in parts.items()} for name, parts in moments.items()}
    return Plan(config, 256, gpus, Rehearsal({}, 0, GB, GB, GB // 1000, GB // 4), sizes, 3 * GB)


@pytest.fixture
def made_up_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "make_plan", made_up)


UNTURNED = ["batch_size=2", "ema.decay=0.9"]


@pytest.mark.usefixtures("made_up_plans")
def test_knobs_come_in_the_order_of_least_harm_and_say_what_each_saves():
    advice = advise(read_config("tiny_stage2", UNTURNED), 2, None)
    assert [(knob.setting, round(knob.saves_bytes / GB, 1)) for knob in advice.turned] == [
        ("PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True", 3),
        ("gradient_checkpointing=true", 14),  # from 68 in the backward pass to 54 while frames are encoded
        ("mixed_precision=bf16", 0),
        ("features=FOLDER", 22),
        ("ema.on_cpu=true", 4),
        ("optimizer.name=adamw8bit", 8),  # 6 of its state; then the backward pass has the peak
        ("batch_size=1", 1),
        ("--config_file infra/accelerate/fsdp2.yaml", 8.5),
        ("losses.trepa=0", 4),
        ("lora.rank=16", 3),
    ]
    assert {knob.setting for knob in advice.turned} == {knob.setting for knob in KNOBS}


@pytest.mark.usefixtures("made_up_plans")
def test_knobs_end_where_the_plan_fits():
    config = read_config("tiny_stage2", UNTURNED)
    fits = [knob.total_bytes for knob in advise(config, 1, None).turned]
    advice = advise(config, 1, fits[3])
    assert not advice.fits
    assert [knob.fits for knob in advice.turned] == [False, False, False, True]
    text = "\n".join(advice_lines(advice))
    assert "  fits   costs" in text and f"{(advice.plan.total_bytes - fits[3]) / GB:.1f} GB too much" in text
    nothing_fits = advise(config, 1, GB)
    assert len(nothing_fits.turned) == len(fits)
    assert "Even with all of them it does not fit" in advice_lines(nothing_fits)[-1]
    assert advise(config, 1, advice.plan.total_bytes).fits


@pytest.mark.usefixtures("made_up_plans")
def test_knobs_that_are_turned_already_are_not_offered():
    more = ["gradient_checkpointing=true", "mixed_precision=bf16", "features=f", "losses.trepa=0", "lora.rank=4"]
    advice = advise(read_config("tiny_stage2", ["optimizer.name=adamw8bit", *more]), 1, None)
    assert [knob.setting for knob in advice.turned] == ["PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"]


@pytest.mark.slow
def test_lora_is_planned_as_it_is_estimated(stage1: Plan):
    pytest.importorskip("peft", reason="the package peft is not installed")
    adapted = planned("tiny_stage1", *SMALL, "lora.rank=16")
    assert adapted.rehearsal.trainable_numbers == stage1.rehearsal.lora_numbers
    assert adapted.moments["optimizer"][step.OPTIMIZER] == 8 * stage1.rehearsal.lora_numbers


def test_full_size_syncnet_is_planned_without_its_memory():
    config = read_config("syncnet_16_pixel_attn", [])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    plan = make_plan(config)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert plan.rehearsal.parameter_numbers == 401_306_080
    assert plan.peak[step.PARAMETERS] == 4 * 401_306_080 and plan.total_bytes > 10e9
    assert grown < 0.3e9


@pytest.mark.slow
@pytest.mark.parametrize("preset", [name for name in presets() if not name.startswith(("tiny_", "syncnet_16_pixel"))])
def test_each_preset_is_planned_without_its_memory(preset: str):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    plan = planned(preset)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 0.5e9
    assert plan.total_bytes > 1.5 * GB


@pytest.mark.slow
def test_stage_2_on_two_gpus_counts_frozen_networks_buckets_and_averages():
    plan = planned("tiny_stage2", *SMALL, "losses.sync=0", "losses.lpips=0", "features=f", "ema.decay=0.9", gpus=2)
    parts = plan.moments["optimizer"]
    assert parts["VideoMAE"] > 4e6 and "LPIPS" not in parts and "SyncNet" not in parts
    trained = 4 * plan.rehearsal.trainable_numbers
    assert parts[step.BUCKETS] == parts[step.EMA] == parts[step.GRADIENTS] == parts[step.TEMPORARY] == trained
    assert trained < parts[step.PARAMETERS]
    assert plan.moments["validation"][step.EMA] == 2 * trained  # the weights wait while the averages are looked at


def test_command_needs_neither_data_nor_folder_and_prints_a_table_or_json(
    stage1: Plan, monkeypatch: pytest.MonkeyPatch
):
    arguments = ["plan", "--config", "tiny_stage1", "--gpu-memory-gb", "24", "--set", "num_frames=2", "resolution=64"]
    monkeypatch.setattr(planner, "make_plan", lambda *_: stage1)
    ended = CliRunner().invoke(app, arguments)
    assert ended.exit_code == 0
    for words in ("parameters", "in all", "backward pass", "Fits into 24 GB"):
        assert words in ended.output
    values = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).output)
    assert values["fits"] is True
    fullest = max(found["bytes"] for found in values["phases"].values())
    assert values["total_bytes"] == fullest + values["gaps_bytes"] + ALLOWANCE_BYTES
    for found in values["phases"].values():
        assert sum(found["parts"].values()) == found["bytes"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config", "stage9"], "no preset 'stage9'; known: adapt_speaker"),
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


def test_rehearsal_leaves_no_fake_tensor_behind(stage1: Plan):
    assert stage1.total_bytes > ALLOWANCE_BYTES
    assert type(signal_to_noise(torch.tensor([0]))) is torch.Tensor
