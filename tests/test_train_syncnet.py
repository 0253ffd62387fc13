"""SyncNet's trainer: pairs, accuracy on held-out speakers by language, accumulation, ranks, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from lipforge.model.sync.stable_syncnet import LAYOUTS, StableSyncNet
from lipforge.train.cli import app
from tests.ranks import run_ranks
from tests.train_runs import coded_selection, largest_difference, losses, model_hash, model_tensors, settings

pytest.importorskip("accelerate", reason="the package accelerate is not installed")

SMALL = ["syncnet=tiny_5_pixel", "batch_size=2"]


@pytest.fixture(scope="module")
def selection(tmp_path_factory: pytest.TempPathFactory) -> str:
    return coded_selection(tmp_path_factory.mktemp("clips"), num_val=4)


@pytest.fixture(scope="module")
def straight(selection: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was not disturbed."""
    return run(selection, tmp_path_factory.mktemp("runs"), "straight")


def run(selection: str, folder: Path, name: str, *more: str, ranks: int = 1) -> Path:
    arguments = settings(selection, folder / name, *SMALL, *more, preset="tiny_syncnet")
    ended = run_ranks("syncnet", arguments, folder, ranks)
    assert ended.exit_codes == [0] * ranks, ended.words
    return folder / name


def validations(run_dir: Path) -> list[dict[str, Any]]:
    rows = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if "val_loss" in row]


def test_accumulation_ranks_and_one_large_batch_train_alike(selection: str, tmp_path: Path):
    # AdamW takes the sign of gradients that are 0 but for rounding
    shared = ["optimizer.eps=0.001", "num_steps=2", "validate_every=1"]
    whole = run(selection, tmp_path, "batch", *shared, "batch_size=4")
    for name, (ranks, *more) in {"ranks": (2,), "accumulated": (1, "gradient_accumulation_steps=2")}.items():
        other = run(selection, tmp_path, name, *shared, *more, ranks=ranks)
        assert largest_difference(model_tensors(other), model_tensors(whole)) < 1e-5
        for step, values in losses(other).items():
            assert values == pytest.approx(losses(whole)[step], abs=1e-5)


def test_validation_counts_held_out_clips_by_language_on_all_ranks(selection: str, tmp_path: Path):
    more = ["num_validation_samples=3", "num_steps=1"]
    found = [
        validations(run(selection, tmp_path, f"ranks {ranks}", *more, f"batch_size={2 // ranks}", ranks=ranks))[-1]
        for ranks in (1, 2)
    ]
    for name in ("val_loss", "val_sync", "val_accuracy", "val_best_accuracy", "val_accuracy_de", "val_accuracy_en"):
        assert found[0][name] == pytest.approx(found[1][name], abs=1e-3), name
    assert {row["val_samples"] for row in found} == {3}


def test_stopped_run_goes_on_to_the_same_bits(selection: str, straight: Path, tmp_path: Path):
    run(selection, tmp_path, "again", "num_steps=2")
    again = run(selection, tmp_path, "again")
    assert model_hash(again) == model_hash(straight)
    assert losses(again) == losses(straight)


def test_the_model_loads_with_one_line_and_begins_another_run(selection: str, straight: Path, tmp_path: Path):
    from lipforge.model.trained import load_trained

    network, about = load_trained(straight / "model")
    assert (about["sees"], about["side"], about["num_frames"]) == ("pixels", 64, 5)
    vision, audio = network(torch.randn(1, 15, 32, 64), torch.randn(1, 1, 80, 16))
    assert vision.shape == audio.shape == (1, 256)
    begun = [f"init={straight / 'model'}", "optimizer.learning_rate=1e-9", "num_steps=1"]
    assert largest_difference(model_tensors(run(selection, tmp_path, "begun", *begun)), model_tensors(straight)) < 1e-6


def test_a_network_that_sees_latents_trains(selection: str, tmp_path: Path):
    more = ["syncnet=tiny_16_latent", "num_frames=16", "vae=blocks", "num_steps=1", "gradient_checkpointing=true"]
    assert validations(run(selection, tmp_path, "latents", *more))[-1]["val_samples"] == 2


def test_windows_that_do_not_fit_are_refused_with_what_fits(selection: str, tmp_path: Path):
    arguments = settings(selection, tmp_path / "run", "syncnet=tiny_16_pixel", preset="tiny_syncnet")
    ended = run_ranks("syncnet", arguments, tmp_path)
    assert ended.exit_codes == [2]
    assert "num_frames=5: the SyncNet tiny_16_pixel takes windows of 16 frames" in ended.words
    assert "tiny_5_pixel" in ended.words


def test_accuracy_of_a_checkpoint_is_what_its_validation_found(selection: str, tmp_path: Path):
    trained = run(selection, tmp_path, "run", "num_validation_samples=4", "num_steps=1")
    ended = CliRunner().invoke(app, ["accuracy", str(trained / "model"), selection, "--rounds", "3", "--json"])
    assert ended.exit_code == 0, ended.output
    found = json.loads(ended.output)
    fixed, random = found["fixed"], found["random"]
    assert fixed["whole"]["at_half"] == validations(trained)[-1]["val_accuracy"]
    assert (fixed["whole"]["num_pairs"], random["whole"]["num_pairs"]) == (8, 24)
    assert set(fixed["languages"]) == {"de", "en"}
    low, high = random["whole"]["low"], random["whole"]["high"]
    assert low <= random["whole"]["at_half"] <= high
    words = CliRunner().invoke(app, ["accuracy", str(trained / "model"), selection, "--rounds", "1"]).output
    assert "fixed windows " in words and "random windows " in words and "by language: " in words


@pytest.mark.parametrize(
    ("model", "place", "more", "code", "words"),
    [
        ("nowhere", "SELECTION", [], 2, "nowhere"),
        ("unet", "SELECTION", [], 2, "the model there is a unet; the accuracy is that of a SyncNet"),
        ("syncnet", "nowhere.parquet", [], 1, "no selection nowhere.parquet"),
        ("syncnet", "SELECTION", ["--split", "test"], 2, "--split test: expected val, train or all"),
        ("syncnet", "SELECTION", ["--device", "tpu"], 2, "--device tpu: expected auto, cpu"),
    ],
)
def test_what_accuracy_cannot_measure_is_a_sentence(
    selection: str, tmp_path: Path, model: str, place: str, more: list[str], code: int, words: str
):
    network = StableSyncNet(LAYOUTS["tiny_5_pixel"])
    for kind in ("unet", "syncnet"):
        (tmp_path / kind).mkdir()
        about = {"kind": kind, "layout": LAYOUTS["tiny_5_pixel"], "num_frames": 5}
        (tmp_path / kind / "config.json").write_text(json.dumps(about))
        save_file(network.state_dict(), tmp_path / kind / f"{kind}.safetensors")
    arguments = [str(tmp_path / model), selection if place == "SELECTION" else place, *more]
    ended = CliRunner().invoke(app, ["accuracy", *arguments])
    assert ended.exit_code == code, ended.output
    assert words in ended.output and len(ended.output.strip().splitlines()) == 1
