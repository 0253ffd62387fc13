"""Files with tensors: read when they are what they say, else refused; and no code in them ever runs."""

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import nn

from lipforge.model.weights.load import ModelFileError
from lipforge.model.weights.state_dicts import load_strict, read_state_dict

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol", "ignore:Validating sparse tensor")
TENSORS = {"conv.weight": torch.arange(24.0).reshape(2, 3, 4), "conv.num_batches_tracked": torch.tensor(7)}


def legacy(content: object) -> bytes:
    """torch's container before 1.6: pickles in a row, then the raw storages."""
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def zipped(content: object, protocol: int = 2) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, pickle_protocol=protocol)
    return stream.getvalue()


def repacked(archive: bytes, change: Any) -> bytes:
    """The same zip archive with `change(name, content)` applied to each member, compressed."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.namelist():
            new.writestr(member, change(member, old.read(member)))
    return stream.getvalue()


class Command:
    """Pickles as a call of os.system: a reader that trusts it makes the marker file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


CONTAINERS = {
    "legacy": legacy,
    "zip": zipped,
    "zip, protocol 4": lambda content: zipped(content, protocol=4),
    "pickle, protocol 0": lambda content: pickle.dumps(content, 0),
    "pickle, protocol 2": lambda content: pickle.dumps(content, 2),
    "pickle, protocol 5": lambda content: pickle.dumps(content, 5),
}


@pytest.mark.parametrize("write", [legacy, zipped, save], ids=["legacy", "zip", "safetensors"])
def test_tensors_are_read_from_each_container(write: Any) -> None:
    found = read_state_dict(write(TENSORS), "some.pt")
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], TENSORS[name]) and found[name].dtype == TENSORS[name].dtype for name in TENSORS)


def test_state_dict_of_a_module_is_read() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    for write in (legacy, zipped):
        found = read_state_dict(write(OrderedDict(module.state_dict())), "some.pt")
        assert all(torch.equal(found[name], value) for name, value in module.state_dict().items())
        assert not any(
            value.requires_grad for value in read_state_dict(write(dict(module.named_parameters())), "x").values()
        )


@pytest.mark.parametrize("nested", [False, True], ids=["bare", "beside tensors"])
@pytest.mark.parametrize("container", CONTAINERS)
def test_code_in_a_pickle_is_refused_and_never_runs(tmp_path: Path, container: str, nested: bool) -> None:
    marker = tmp_path / "marker"
    bomb = Command(marker)
    content = CONTAINERS[container]({"weight": [1.0], "deep": {"deeper": [bomb]}} if nested else bomb)
    with pytest.raises(ModelFileError, match=r"syncnet_v2\.model: .*no file with weights alone: [Uu]nsupported"):
        read_state_dict(content, "syncnet_v2.model")
    assert not marker.exists()


def test_the_command_of_these_tests_does_run_where_pickles_are_trusted(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    torch.load(io.BytesIO(zipped(Command(marker))), weights_only=False)
    assert marker.exists()


def test_a_whole_module_is_refused_by_its_class() -> None:
    for write in (legacy, zipped):
        with pytest.raises(ModelFileError, match=r"torch\.nn\.modules\.linear\.Linear"):
            read_state_dict(write(nn.Linear(2, 2)), "some.pt")


@pytest.mark.parametrize("write", [legacy, zipped, save], ids=["legacy", "zip", "safetensors"])
def test_truncated_files_are_refused_wherever_they_end(write: Any) -> None:
    content = write(TENSORS)
    for end in [*range(0, len(content) - 1, 7), len(content) - 1]:
        with pytest.raises(ModelFileError, match=r"some\.pt"):
            read_state_dict(content[:end], "some.pt")


@pytest.mark.parametrize("write", [legacy, zipped, save], ids=["legacy", "zip", "safetensors"])
def test_damaged_files_give_tensors_or_a_refusal_and_no_other_error(write: Any) -> None:
    content = write(TENSORS)
    refused = 0
    for place in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        try:
            read_state_dict(bytes(damaged), "some.pt")
        except ModelFileError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize(
    "content",
    [b"", b"abc", b"<!DOCTYPE html><html>", b"version https://git-lfs.github.com/spec/v1\noid sha256:0a\nsize 1\n"],
    ids=["empty", "short", "web page", "LFS pointer"],
)
def test_what_is_no_weights_at_all_is_shown_by_its_first_bytes(content: bytes) -> None:
    with pytest.raises(ModelFileError) as caught:
        read_state_dict(content, "some.pt")
    assert repr(content[:16]) in str(caught.value)


def test_torchs_advice_to_switch_safety_off_is_not_passed_on() -> None:
    for content in (zipped(nn.Linear(2, 2)), pickle.dumps({"a": 1}, 4), b"<html>"):
        with pytest.raises(ModelFileError) as caught:
            read_state_dict(content, "some.pt")
        assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (3, "found a int"),
        ([torch.ones(1)], "found a list"),
        ({}, "an empty mapping"),
        ({"epoch": 3, "a": torch.ones(1)}, "'epoch' is a int"),
        ({3: torch.ones(1)}, "3 is a Tensor"),
        ({"state_dict": TENSORS}, "'state_dict' is a dict"),
        ({"a": torch.ones(3, 3).to_sparse()}, "sparse"),
        ({"a": torch.ones(1).expand(10**12)}, "claims 1000000000000 numbers"),
    ],
)
def test_anything_but_named_tensors_is_refused_not_guessed(content: object, words: str) -> None:
    with pytest.raises(ModelFileError, match=words):
        read_state_dict(zipped(content), "some.pt")


def test_zip_bomb_is_refused_before_it_is_unpacked() -> None:
    bomb = repacked(zipped(TENSORS), lambda name, content: bytes(10**8) if "/data/" in name else content)
    assert len(bomb) < 10**6
    with pytest.raises(ModelFileError, match="claim to unpack to 2000"):
        read_state_dict(bomb, "some.pt")


def test_storage_that_claims_more_than_the_file_holds_is_refused() -> None:
    honest = legacy({"a": torch.arange(4.0)})
    for numel in (100, 10**9):
        lying = honest.replace(b"K\x04N", b"J" + numel.to_bytes(4, "little") + b"N")
        assert lying != honest
        with pytest.raises(ModelFileError):
            read_state_dict(lying, "some.pt")


def test_tensors_match_a_module_exactly_or_the_difference_is_named() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    wrong = {f"module.{name}": value for name, value in before.items()}
    with pytest.raises(ModelFileError, match=r"net\.pt.*7 missing: 0\.weight, .*and 4 more; 7 unexpected: module\.0"):
        load_strict(module, wrong, "net.pt")
    shaped = {**before, "0.weight": torch.ones(3, 5), "0.bias": torch.ones(3)}
    with pytest.raises(ModelFileError, match=r"1 of another shape: 0\.weight \[3, 5\] instead of \[3, 2\]"):
        load_strict(module, shaped, "net.pt")
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex64])
def test_numbers_of_another_kind_are_refused(dtype: torch.dtype) -> None:
    module = nn.Linear(2, 3)
    tensors = {**module.state_dict(), "bias": torch.ones(3, dtype=dtype)}
    with pytest.raises(ModelFileError, match=f"1 of another kind: bias {dtype} instead of torch.float32"):
        load_strict(module, tensors, "net.pt")
    with pytest.raises(ModelFileError, match=r"num_batches_tracked torch.float32 instead of torch.int64"):
        load_strict(
            norm := nn.BatchNorm1d(3), {**norm.state_dict(), "num_batches_tracked": torch.tensor(1.0)}, "net.pt"
        )


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e300])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    module = nn.Linear(2, 3)
    tensors = {**module.state_dict(), "bias": torch.full((3,), value, dtype=torch.float64)}
    with pytest.raises(ModelFileError, match=r"net\.pt: bias holds values that are not finite"):
        load_strict(module, tensors, "net.pt")
    assert module.bias.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_precisions_are_read_as_the_networks(dtype: torch.dtype) -> None:
    source, module = nn.Linear(2, 3).to(dtype), nn.Linear(2, 3)
    load_strict(module, read_state_dict(zipped(source.state_dict()), "net.pt"), "net.pt")
    assert module.weight.dtype == torch.float32
    assert torch.equal(module.weight, source.weight.float())


def test_loaded_module_is_in_evaluation_mode_without_gradients() -> None:
    module, source = nn.Linear(2, 3), nn.Linear(2, 3)
    load_strict(module, read_state_dict(zipped(source.state_dict()), "net.pt"), "net.pt")
    assert torch.equal(module.weight, source.weight)
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())
