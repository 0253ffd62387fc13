"""`lipforge models convert`: bytes stay, nothing is overwritten, what is no checkpoint is refused in one sentence."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner, Result

from lipforge.model.sync.stable_syncnet import LAYOUTS, StableSyncNet
from lipforge.model.weights import convert as conversion
from lipforge.model.weights.convert import convert, known_layout
from lipforge.model.weights.load import MissingModelError, ModelFileError
from lipforge.model.weights.state_dicts import read_checkpoint_file
from lipforge.pipeline.cli import app


def tensors() -> dict[str, Tensor]:
    """One of each kind that weights come in, with values that arithmetic would change."""
    generator = torch.Generator().manual_seed(0)
    floats = torch.randn((3, 4), generator=generator)
    return {
        "float32": floats,
        "float64": floats.double() / 3,
        "float16": floats.half(),
        "bfloat16": floats.bfloat16(),
        "float8": floats.to(torch.float8_e4m3fn),
        "int64": torch.arange(5),
        "uint8": torch.arange(5, dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "nan": torch.tensor([float("nan"), float("inf"), -0.0]),
        "transposed": floats.t(),
        "part": torch.arange(100.0)[10:20],
    }


def raw(tensor: Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    plain = tensor.contiguous()
    return tensor.dtype, tensor.shape, plain.reshape(-1).view(torch.uint8).numpy().tobytes()


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return list(first) == list(second) and all(raw(first[key]) == raw(second[key]) for key in first)


def run(*arguments: Path) -> Result:
    return CliRunner().invoke(app, ["models", "convert", *map(str, arguments)])


@pytest.mark.parametrize("step", [None, 0, 123_456])
def test_both_ways_every_byte_stays(tmp_path: Path, step: int | None) -> None:
    first, second, third = (tmp_path / name for name in ("a.pt", "b.safetensors", "c.pt"))
    torch.save({"state_dict": tensors()} | ({} if step is None else {"global_step": step}), first)
    convert(first, second)
    convert(second, third)
    for path in (second, third):
        found = read_checkpoint_file(path)
        assert found.global_step == step
        assert equal(dict(sorted(found.tensors.items())), dict(sorted(tensors().items())))
    published = torch.load(third, weights_only=True)
    assert set(published) == ({"state_dict"} if step is None else {"state_dict", "global_step"})
    assert third.stat().st_size < 20_000  # a part of a tensor does not bring the whole


def test_a_plain_mapping_and_the_old_container_will_do(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "plain.pt")
    torch.save({"state_dict": {"a": torch.ones(2)}}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("plain", "old"):
        convert(tmp_path / f"{name}.pt", tmp_path / f"{name}.safetensors")
        assert equal(read_checkpoint_file(tmp_path / f"{name}.safetensors").tensors, {"a": torch.ones(2)})


def test_tied_weights_are_written_whole_under_both_names(tmp_path: Path) -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    torch.save({"state_dict": {"a": weight, "b": weight, "c": weight[1]}}, tmp_path / "tied.pt")
    convert(tmp_path / "tied.pt", tmp_path / "tied.safetensors")
    found = read_checkpoint_file(tmp_path / "tied.safetensors").tensors
    assert equal(found, {"a": weight, "b": weight, "c": weight[1]})


def test_it_says_what_it_wrote_and_what_it_left_out(tmp_path: Path) -> None:
    content = {"state_dict": {"a": torch.ones(1000, 1000)}, "global_step": 7, "train_loss_list": [0.7, 0.6]}
    torch.save(content, tmp_path / "in.pt")
    result = run(tmp_path / "in.pt", tmp_path / "out.safetensors")
    assert result.exit_code == 0
    for words in ("out.safetensors: written, 4.0 MB", "1 tensors, 1.000 M numbers (float32), global_step 7"):
        assert words in result.output
    assert "left out, as they are no weights: train_loss_list" in result.output
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "global_step": "7"}
    assert (tmp_path / "out.safetensors").stat().st_mode & 0o777 == 0o644


def test_a_known_layout_is_named() -> None:
    with torch.device("meta"):
        network = StableSyncNet(LAYOUTS["syncnet_16_latent"])
    assert known_layout(network.state_dict()) == "syncnet_16_latent (StableSyncNet)"
    assert known_layout({"a": torch.ones(1)}) is None


def test_the_layout_of_a_u_net_is_named() -> None:
    networks: Any = pytest.importorskip("lipforge.model.denoiser.unet", reason="the U-Net is not there")
    layouts: Any = pytest.importorskip("lipforge.model.denoiser.layouts")
    with torch.device("meta"):
        network = networks.UNet3D(layouts.LAYOUTS["stage1"])
    tensors = network.state_dict()
    assert known_layout(tensors) == "stage1 (UNet3D)"
    del tensors["conv_in.bias"]
    assert known_layout(tensors) is None


def test_what_is_there_stays(tmp_path: Path) -> None:
    source, target = tmp_path / "in.pt", tmp_path / "out.safetensors"
    torch.save({"a": torch.ones(2)}, source)
    assert run(source, target).exit_code == 0
    again = run(source, target)
    assert again.exit_code == 0
    assert "there already, with the same content" in again.output
    others: list[dict[str, Tensor]] = [{"a": torch.zeros(2)}, {"b": torch.ones(2)}, {"a": torch.ones(2).half()}]
    for other in others:
        save_file(other, target)
        before = target.read_bytes()
        refused = run(source, target)
        assert refused.exit_code == 2
        assert "exists and holds something else" in refused.output
        assert target.read_bytes() == before
    save_file({"a": torch.ones(2)}, target, {"global_step": "3"})
    assert run(source, target).exit_code == 2
    target.write_bytes(b"my notes")
    assert run(source, target).exit_code == 2
    assert target.read_bytes() == b"my notes"
    assert sorted(os.listdir(tmp_path)) == ["in.pt", "out.safetensors"]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "in.pt")

    def half(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(conversion, "save_file", half)
    result = run(tmp_path / "in.pt", tmp_path / "out.safetensors")
    assert result.exit_code == 1
    assert "No space left on device" in result.output
    assert os.listdir(tmp_path) == ["in.pt"]


def test_types_that_safetensors_lacks_are_named(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2, dtype=torch.complex128)}, tmp_path / "in.pt")
    with pytest.raises(ModelFileError, match=r"out\.safetensors: cannot be written.*complex128"):
        convert(tmp_path / "in.pt", tmp_path / "out.safetensors")
    assert os.listdir(tmp_path) == ["in.pt"]


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("/tmp/lipforge-ran-code",))


def write(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def test_what_is_no_checkpoint_is_refused_in_words(tmp_path: Path) -> None:
    good = write({"state_dict": {"a": torch.ones(1000)}, "global_step": 1}, tmp_path / "good.pt").read_bytes()
    cut = tmp_path / "cut.pt"
    cut.write_bytes(good[:-700])
    save_file({"a": torch.ones(1000)}, tmp_path / "whole.safetensors")
    cut_tensors = tmp_path / "cut.safetensors"
    cut_tensors.write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-700])
    noise = tmp_path / "noise.pt"
    noise.write_bytes(b"<html>Not found</html>")
    save_file({"a": torch.ones(2)}, tmp_path / "stepless.safetensors", {"global_step": "many"})
    cases = {
        cut: "cut off or damaged",
        cut_tensors: "not a readable safetensors file",
        noise: "damaged, or no file with weights alone",
        tmp_path / "stepless.safetensors": "its global_step is 'many'",
        write({"state_dict": {"a": Code()}}, tmp_path / "code.pt"): "No code in it was run",
        write({"state_dict": [1, 2]}, tmp_path / "list.pt"): "expected a mapping of names to tensors, found a list",
        write({"state_dict": {}}, tmp_path / "none.pt"): "found an empty mapping",
        write({"a": torch.ones(2), "epoch": 3}, tmp_path / "mixed.pt"): "'epoch' is a int",
        write({"state_dict": {"a": torch.ones(2)}, "global_step": -1}, tmp_path / "step.pt"): "its global_step is -1",
        write(torch.ones(2), tmp_path / "tensor.pt"): "expected a mapping of names to tensors, found a Tensor",
    }
    for path, words in cases.items():
        result = run(path, tmp_path / "out.safetensors")
        assert result.exit_code == 1
        assert words in result.output, path
        assert str(path) in result.output
    assert not (tmp_path / "out.safetensors").exists()
    assert not Path("/tmp/lipforge-ran-code").exists()


def test_a_missing_source_and_an_unknown_format_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingModelError, match=r"no file of weights at .*nothing\.pt"):
        convert(tmp_path / "nothing.pt", tmp_path / "out.safetensors")
    with pytest.raises(ValueError, match=r"expected a name that ends with \.safetensors or \.pt"):
        convert(write({"a": torch.ones(2)}, tmp_path / "in.pt"), tmp_path / "out.onnx")
    missing_folder = run(tmp_path / "in.pt", tmp_path / "nowhere" / "out.pt")
    assert missing_folder.exit_code == 1
    assert "nowhere" in missing_folder.output
