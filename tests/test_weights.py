"""The table of model files, and loading them: checked, or refused with a message that says what to do."""

import hashlib
import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import lipforge.model
from lipforge.model.weights import load as weights
from lipforge.model.weights import state_dicts, table
from lipforge.model.weights.load import FileState, MissingModelError, ModelFileError
from lipforge.model.weights.model_file import HubFile, ModelFile, PackageFile, WebFile, ZipMember

CONTENT = b"seven little weights"
TOY = ModelFile(
    name="tiny.tflite",
    bundle="toy",
    purpose="a toy",
    source="Toy Works",
    licence="Toy-1.0",
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    size_bytes=len(CONTENT),
    origin=WebFile("https://toy.invalid/tiny.tflite"),
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a table of one file."""
    monkeypatch.setenv("LIPFORGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(table, "MODEL_FILES", (TOY,))
    return tmp_path / "cache" / "models"


def test_missing_file_names_file_source_licence_place_and_command(cache: Path) -> None:
    with pytest.raises(MissingModelError) as caught:
        weights.load("toy")
    for word in ("tiny.tflite", "Toy Works", "Toy-1.0", str(cache / "tiny.tflite"), "lipforge models fetch toy"):
        assert word in str(caught.value)


def test_load_names_every_missing_file(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "MODEL_FILES", (replace(TOY, name="a.pt"), replace(TOY, name="b.pt")))
    with pytest.raises(
        MissingModelError,
        match=r"(?s)^2 model files of `toy` are missing: `lipforge models fetch toy` .*\n  a\.pt.*\n  b\.pt",
    ):
        weights.load("toy")


def test_damaged_file_is_refused(cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "tiny.tflite").write_bytes(CONTENT)
    assert weights.load("toy") == {"tiny.tflite": CONTENT}
    assert weights.load_file("tiny.tflite") == CONTENT
    (cache / "tiny.tflite").write_bytes(CONTENT[:-1])
    with pytest.raises(ModelFileError, match=r"tiny\.tflite: not the expected tiny\.tflite.*lipforge models fetch toy"):
        weights.load("toy")
    assert [status.state for status in weights.verify("toy")] == [FileState.WRONG_HASH]


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown bundle.*builtin"):
        weights.load("nonsense")
    with pytest.raises(ValueError, match=r"unknown model file.*quality\.json"):
        weights.load_file("nonsense")


def test_models_hash_follows_names_and_contents_not_order() -> None:
    one = weights.models_hash({"a": b"1", "b": b"2"})
    assert one == weights.models_hash({"b": b"2", "a": b"1"})
    assert one != weights.models_hash({"a": b"2", "b": b"1"})
    assert one != weights.models_hash({"a": b"1", "c": b"2"})


def test_a_mirror_replaces_the_hub_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    files = (HubFile("a/b", "c0ffee", "sub/net.pt"), WebFile("https://example.org/x"))
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert weights.url_of(files[0]) == "https://huggingface.co/a/b/resolve/c0ffee/sub/net.pt"
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.invalid/")
    urls = [weights.url_of(file) for file in files]
    assert urls == ["https://mirror.invalid/a/b/resolve/c0ffee/sub/net.pt", "https://example.org/x"]


def test_tensors_are_taken_from_where_the_table_says(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    torch.save({"global_step": 7, "state_dict": {"a": torch.ones(2)}}, stream)
    wrapped = stream.getvalue()
    monkeypatch.setattr(table, "MODEL_FILES", (replace(TOY, name="net.pt", state_dict_key="state_dict"),))
    assert torch.equal(state_dicts.read_state_dict(wrapped, "net.pt")["a"], torch.ones(2))
    with pytest.raises(ModelFileError, match="'global_step' is a int"):
        state_dicts.read_state_dict(wrapped, "other.pt")
    stream = io.BytesIO()
    torch.save({"a": torch.ones(2)}, stream)
    with pytest.raises(ModelFileError, match="expected a mapping with 'state_dict'"):
        state_dicts.read_state_dict(stream.getvalue(), "net.pt")


def test_published_files_are_pinned_and_reached_by_tls() -> None:
    assert table.bundles() == (
        "builtin",
        "mouth-cover",
        "builtin-lips",
        "latentsync",
        "stable-syncnet",
        "latentsync-unet-1.5",
        "latentsync-unet-1.6",
        "stable-diffusion-1.5",
        "sd-vae-ft-mse",
        "taesd",
        "videomae",
        "lpips",
        "st-lpips",
        "st-lpips-vgg",
        "i3d",
        "voice",
        "inception",
        "arcface",
        "whisper",
    )
    names = [file.name for file in table.list_models("latentsync")]
    assert names == ["syncnet_v2.model", "koniq_pretrained.pkl", "det_10g.onnx", "2d106det.onnx"]
    for file in table.MODEL_FILES:
        assert len(bytes.fromhex(file.sha256)) == 32
        assert file.licence
        assert file.source
        if isinstance(file.origin, HubFile):
            assert len(bytes.fromhex(file.origin.revision)) == 20
        elif isinstance(file.origin, WebFile | ZipMember):
            assert file.origin.url.startswith("https://")
        if isinstance(file.origin, ZipMember | PackageFile):
            assert len(bytes.fromhex(file.origin.sha256)) == 32
    restricted = {file.name for file in table.MODEL_FILES if file.non_commercial}
    assert restricted == {"det_10g.onnx", "2d106det.onnx", "w600k_r50.onnx"}
    assert all("NON-COMMERCIAL" in file.licence for file in table.MODEL_FILES if file.non_commercial)


def test_the_builtin_bundle_ships_with_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIPFORGE_CACHE", str(tmp_path))
    for file in table.list_models("builtin"):
        assert file.origin is None
        content = weights.path_of(file).read_bytes()
        assert len(content) == file.size_bytes < 3_000_000
        assert hashlib.sha256(content).hexdigest() == file.sha256
    assert set(weights.load("builtin")) == {file.name for file in table.list_models("builtin")}


def test_names_of_the_model_package_resolve() -> None:
    for name in lipforge.model.__all__:
        assert getattr(lipforge.model, name).__name__.rpartition(".")[2] == name
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = lipforge.model.Nonsense


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import lipforge.model", ["torch", "numpy"]),
        ("from lipforge.model.weights import load as weights; weights.verify('builtin')", ["torch"]),
        ("from lipforge.model.weights.fetch import fetch; fetch('builtin')", ["torch", "huggingface_hub", "pooch"]),
    ],
)
def test_imports_stay_light(statement: str, absent: list[str]) -> None:
    words = f"{statement}; import sys; loaded = {{*sys.modules}} & {{*{absent}}}; assert not loaded, loaded"
    subprocess.run([sys.executable, "-c", words], check=True)
