"""Model files are downloaded complete and right, or not at all."""

import hashlib
import io
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lipforge.model.weights import load as weights
from lipforge.model.weights import table
from lipforge.model.weights.fetch import fetch
from lipforge.model.weights.load import FileState, MissingModelError, ModelFileError
from lipforge.model.weights.model_file import HubFile, ModelFile, WebFile, ZipMember
from tests.web_server import REVISION, Page, WebServer, web_server

CONTENT = b"seven little weights" * 1000
TOY = ModelFile(
    name="net.pt",
    bundle="toy",
    purpose="a toy",
    source="Toy Works",
    licence="Toy-1.0",
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    size_bytes=len(CONTENT),
    origin=None,
)
HUB_PATH = f"/toy/works/resolve/{REVISION}/sub/net.pt"
KINDS = ("hub", "web", "zip")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    """An empty cache, and a server that is also the mirror of the hub."""
    monkeypatch.setenv("LIPFORGE_CACHE", str(tmp_path / "cache"))
    with web_server() as running:
        monkeypatch.setenv("HF_ENDPOINT", f"{running.url}/")
        yield running


@pytest.fixture
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub waits between its tries."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def zip_of(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def in_table(monkeypatch: pytest.MonkeyPatch, *files: ModelFile) -> None:
    monkeypatch.setattr(table, "MODEL_FILES", files)


def file_of(kind: str, server: WebServer, archive: bytes = b"") -> ModelFile:
    match kind:
        case "hub":
            return replace(TOY, origin=HubFile("toy/works", REVISION, "sub/net.pt"))
        case "web":
            return replace(TOY, origin=WebFile(f"{server.url}/net.pt"))
    archive = archive or zip_of({"pack/net.pt": CONTENT})
    origin = ZipMember(f"{server.url}/pack.zip", len(archive), hashlib.sha256(archive).hexdigest(), "pack/net.pt")
    return replace(TOY, origin=origin)


def pages_of(content: bytes, **behaviour: int) -> dict[str, Page]:
    archive = zip_of({"pack/net.pt": content})
    pages = {HUB_PATH: content, "/net.pt": content, "/pack.zip": archive}
    return {path: Page(body, **behaviour) for path, body in pages.items()}


def names() -> list[str]:
    return sorted(path.name for path in weights.models_folder().iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_is_stored_once_and_nothing_else_is_left(
    kind: str, server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    in_table(monkeypatch, file_of(kind, server))
    server.pages = pages_of(CONTENT)
    said: list[str] = []
    assert fetch("toy", said.append) == [weights.models_folder() / "net.pt"]
    assert weights.load("toy") == {"net.pt": CONTENT}
    assert names() == ["net.pt"]
    assert (weights.models_folder() / "net.pt").stat().st_mode & 0o444 == 0o444  # for every user of a shared cache
    assert len(server.requests) == 1
    assert "lipforge" in server.requests[0][1]["User-Agent"]
    assert "Authorization" not in server.requests[0][1]
    words = "\n".join(said)
    assert words.index("net.pt: licence: Toy-1.0") < words.index(f"downloading {server.url}")
    fetch("toy", said.append)
    assert said[-1] == "net.pt: in place"
    assert len(server.requests) == 1


@pytest.mark.parametrize("content", [CONTENT.swapcase(), CONTENT + b"!", CONTENT[:-1], b"<html>log in first</html>"])
@pytest.mark.parametrize("kind", KINDS)
def test_other_content_is_refused_and_not_stored(
    kind: str, content: bytes, server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.pages = pages_of(content)
    in_table(monkeypatch, file_of(kind, server, archive=server.pages["/pack.zip"].content))
    with pytest.raises(ModelFileError, match=TOY.sha256):
        fetch("toy")
    assert names() == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_off_download_leaves_nothing_and_the_next_one_works(
    kind: str, server: WebServer, monkeypatch: pytest.MonkeyPatch, no_waits: None
) -> None:
    in_table(monkeypatch, file_of(kind, server))
    server.pages = pages_of(CONTENT, cut_after=0 if kind == "hub" else 50)
    with pytest.raises(ModelFileError, match=r"(?s)could not download.*net\.pt: By hand: download"):
        fetch("toy")
    assert names() == []
    server.pages = pages_of(CONTENT)
    fetch("toy")
    assert weights.load("toy") == {"net.pt": CONTENT}


@pytest.mark.parametrize("kind", ["hub", "web"])
def test_a_killed_download_leaves_nothing_that_looks_finished(
    kind: str, server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_table(monkeypatch, file_of(kind, server))
    server.pages = pages_of(CONTENT, hang_after=10_000)
    words = (
        "import sys; from lipforge.model.weights import table; from lipforge.model.weights.fetch import fetch; "
        "from lipforge.model.weights.table import *; table.MODEL_FILES = (eval(sys.argv[1]),); fetch('toy')"
    )
    with subprocess.Popen([sys.executable, "-c", words, repr(file_of(kind, server))]) as process:
        end_s = time.monotonic() + 60
        while not server.requests and time.monotonic() < end_s and process.poll() is None:
            time.sleep(0.05)
        time.sleep(0.2)
        os.kill(process.pid, signal.SIGKILL)
    assert len(server.requests) == 1
    assert "net.pt" not in names()
    assert [status.state for status in weights.verify("toy")] == [FileState.MISSING]
    with pytest.raises(MissingModelError):
        weights.load("toy")
    server.pages = pages_of(CONTENT)
    fetch("toy")
    assert weights.load("toy") == {"net.pt": CONTENT}


@pytest.mark.parametrize("status", [403, 404, 503])
@pytest.mark.parametrize("kind", KINDS)
def test_the_servers_refusal_is_named(
    kind: str, status: int, server: WebServer, monkeypatch: pytest.MonkeyPatch, no_waits: None
) -> None:
    in_table(monkeypatch, file_of(kind, server))
    server.pages = pages_of(CONTENT, status=status)
    with pytest.raises(ModelFileError, match=rf"could not download {server.url}/\S+: .*{status}"):
        fetch("toy")
    assert names() == []


def test_without_a_network_the_error_says_how_to_place_each_missing_file_by_hand(
    server: WebServer, monkeypatch: pytest.MonkeyPatch, no_waits: None
) -> None:
    with web_server() as gone:
        pass
    monkeypatch.setenv("HF_ENDPOINT", gone.url)
    files = [replace(file_of(kind, gone), name=f"{kind}.pt") for kind in KINDS]
    for first in range(len(files)):
        in_table(monkeypatch, *files[first:])
        with pytest.raises(ModelFileError, match=f"could not download {gone.url}/.*refused") as caught:
            fetch("toy")
        for file in files[first:]:
            assert file.origin is not None
            by_hand = f"{file.name}: By hand: download {weights.url_of(file.origin)}"
            assert by_hand in str(caught.value)
            assert f"put it at {weights.models_folder() / file.name} (sha256 {file.sha256})" in str(caught.value)
    assert "unzip it, take pack/net.pt" in str(caught.value)


def test_a_file_placed_by_hand_is_used(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    in_table(monkeypatch, file_of("web", server))
    weights.models_folder().mkdir(parents=True)
    (weights.models_folder() / "net.pt").write_bytes(CONTENT)
    fetch("toy")
    assert weights.load("toy") == {"net.pt": CONTENT}
    assert server.requests == []


def test_a_file_of_the_user_is_kept_under_another_name(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    in_table(monkeypatch, file_of("web", server))
    weights.models_folder().mkdir(parents=True)
    (weights.models_folder() / "net.pt").write_bytes(b"my own training")
    server.pages = pages_of(CONTENT, cut_after=3)
    with pytest.raises(ModelFileError):
        fetch("toy")
    assert (weights.models_folder() / "net.pt").read_bytes() == b"my own training"
    server.pages = pages_of(CONTENT)
    said: list[str] = []
    fetch("toy", said.append)
    (kept,) = weights.models_folder().glob("net.pt.other-*")
    assert kept.read_bytes() == b"my own training"
    assert any(str(kept) in line for line in said)
    assert weights.load("toy") == {"net.pt": CONTENT}


def test_files_of_one_archive_come_with_one_download(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = zip_of({"pack/net.pt": CONTENT, "pack/two.pt": b"two", "pack/other": b"x"})
    one = file_of("zip", server, archive)
    assert isinstance(one.origin, ZipMember)
    two = replace(
        one,
        name="two.pt",
        sha256=hashlib.sha256(b"two").hexdigest(),
        size_bytes=3,
        origin=replace(one.origin, member="pack/two.pt"),
    )
    in_table(monkeypatch, one, two)
    server.pages["/pack.zip"] = Page(archive)
    fetch("toy")
    assert weights.load("toy") == {"net.pt": CONTENT, "two.pt": b"two"}
    assert names() == ["net.pt", "two.pt"]
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "archive",
    [zip_of({"pack/net.pt": b"9" * 50_000_000}), zip_of({"elsewhere": b"1"}), b"not a zip archive"],
    ids=["huge member", "no member", "no archive"],
)
def test_an_archive_without_the_right_member_leaves_nothing(
    archive: bytes, server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_table(monkeypatch, file_of("zip", server, archive))
    server.pages["/pack.zip"] = Page(archive)
    with pytest.raises(ModelFileError, match=r"pack/net\.pt in http"):
        fetch("toy")
    assert names() == []


def test_names_inside_an_archive_are_never_used_as_paths(
    server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = {"../../escaped": b"1", f"{tmp_path}/escaped": b"2", "pack/../../../escaped": b"3"}
    archive = zip_of({**outside, "pack/net.pt": CONTENT})
    in_table(monkeypatch, file_of("zip", server, archive))
    server.pages["/pack.zip"] = Page(archive)
    fetch("toy")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [weights.models_folder() / "net.pt"]


def test_a_missing_shipped_file_cannot_be_downloaded(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    in_table(monkeypatch, replace(TOY, name="absent.safetensors"))
    with pytest.raises(MissingModelError, match="install the package again"):
        fetch("toy")
