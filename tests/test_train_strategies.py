"""DDP, FSDP2 and DeepSpeed ZeRO-2, as the files in infra/accelerate ask for them: two processes train as one does."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from tests.ranks import run_ranks
from tests.train_runs import coded_selection, largest_difference, losses, model_hash, model_tensors, settings

pytest.importorskip("accelerate", reason="the package accelerate is not installed")

SMOOTH = "optimizer.eps=0.001"
"""AdamW takes the sign of gradients that are 0 but for rounding."""
INFRA = Path(__file__).parents[1] / "infra" / "accelerate"


@pytest.fixture(scope="module")
def selection(tmp_path_factory: pytest.TempPathFactory) -> str:
    return coded_selection(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def alone(selection: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process, two steps longer, with the batch of two ranks."""
    folder = tmp_path_factory.mktemp("alone")
    ended = run_ranks("stage1", settings(selection, folder / "run", SMOOTH, "batch_size=2", "num_steps=6"), folder)
    assert ended.exit_codes == [0], ended.words
    return folder / "run"


def environment_of(name: str) -> dict[str, str]:
    """What `accelerate launch --config_file` sets for its processes, beyond their ranks."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    before = dict(os.environ)
    parser = launch_command_parser()
    args, _, _ = _validate_launch_command(parser.parse_args(["--config_file", str(INFRA / f"{name}.yaml"), "x.py"]))
    made: dict[str, Any]
    if args.use_deepspeed:
        args.deepspeed_fields_from_accelerate_config = ""
        _, made = prepare_deepspeed_cmd_env(args)
    else:
        made = prepare_multi_gpu_env(args)
    return {key: value for key, value in made.items() if before.get(key) != value and key.startswith(_OF_ACCELERATE)}


_OF_ACCELERATE = ("ACCELERATE_", "FSDP_")


@pytest.mark.parametrize("name", [pytest.param("ddp", marks=pytest.mark.slow), "fsdp2", "zero2"])
def test_two_ranks_train_as_one_does_resume_exactly_and_go_on_alone(
    selection: str, alone: Path, tmp_path: Path, name: str
):
    if name == "zero2":
        pytest.importorskip("deepspeed", reason="the package deepspeed is not installed")
    environment = environment_of(name)
    straight = tmp_path / "straight"
    ended = run_ranks("stage1", settings(selection, straight, SMOOTH), tmp_path, 2, environment)
    assert ended.exit_codes == [0, 0], ended.words
    same_step = load_file(alone / "checkpoints" / "step-00000004" / "network.safetensors")
    assert largest_difference(model_tensors(straight), same_step) < 1e-5
    for step, values in losses(straight).items():
        assert values == pytest.approx(losses(alone)[step], abs=1e-5)

    resumed = tmp_path / "resumed"
    for num_steps in (2, 4):
        command = settings(selection, resumed, SMOOTH, f"num_steps={num_steps}")
        ended = run_ranks("stage1", command, tmp_path, 2, environment)
        assert ended.exit_codes == [0, 0], ended.words
    assert model_hash(resumed) == model_hash(straight)

    ended = run_ranks("stage1", settings(selection, straight, SMOOTH, "num_steps=6", "batch_size=2"), tmp_path)
    assert ended.exit_codes == [0], ended.words
    assert losses(straight)[6] == pytest.approx(losses(alone)[6], abs=1e-5)


@pytest.mark.parametrize("name", ["fsdp2", "zero2"])
def test_strategy_that_would_fall_back_is_refused(selection: str, tmp_path: Path, name: str):
    ended = run_ranks("stage1", settings(selection, tmp_path / "run"), tmp_path, 1, environment_of(name))
    assert ended.exit_codes == [2], ended.words
    assert "was asked for, but" in ended.words
    assert "Traceback" not in ended.words


def test_processes_that_never_came_are_missed(selection: str, tmp_path: Path):
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}  # what `accelerate launch --cpu` leaves
    ended = run_ranks("stage1", settings(selection, tmp_path / "run"), tmp_path, 1, address)
    assert ended.exit_codes == [2], ended.words
    assert "several processes were asked for and one was started" in ended.words


def test_files_name_their_strategy():
    kinds = {path.stem: yaml.safe_load(path.read_text())["distributed_type"] for path in INFRA.glob("*.yaml")}
    assert kinds == {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero2": "DEEPSPEED"}
