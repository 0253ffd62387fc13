"""Storage that fails: a sentence with the URL and what to do, exit code 1; no traceback, and no word of wrong usage."""

import errno
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from typer.testing import CliRunner, Result

import lipforge.__main__  # noqa: F401 - joins the commands of both apps
from lipforge.datasets_manifest.manifest import write_manifest
from lipforge.datasets_manifest.query import open_query
from lipforge.datasets_manifest.storage.files import open_place, publish, read_file
from lipforge.datasets_manifest.storage.store import Store
from lipforge.datasets_manifest.storage.trouble import UnreadableError, is_missing, storage_errors, storage_words
from lipforge.pipeline.cli import app
from lipforge.pipeline.sources.inputs import Labels, _list_url, find_sources
from lipforge.pipeline.stages.probe import fingerprint
from tests.manifests import clip
from tests.shaky_storage import ShakyFileSystem
from tests.web_server import Page, web_server


class NoCredentialsError(Exception):
    """As botocore's: neither OSError nor of fsspec."""


class ClientError(Exception):
    """As botocore's, with the server's answer."""

    response = {"ResponseMetadata": {"HTTPStatusCode": 403}, "Error": {"Code": "ExpiredToken"}}  # noqa: RUF012


class HttpError(Exception):
    """As gcsfs's."""

    code = 401


def answered(status: int) -> aiohttp.ClientResponseError:
    request = SimpleNamespace(real_url="http://x/y")
    return aiohttp.ClientResponseError(request, (), status=status, message="Odd")  # type: ignore[arg-type]


CREDENTIALS, NETWORK, LATER = "Check that your credentials", "Check the address and the network", "Try again later"
TROUBLE = [
    (NoCredentialsError("Unable to locate credentials"), CREDENTIALS),
    (ClientError("An error occurred"), CREDENTIALS),
    (HttpError("Anonymous caller"), CREDENTIALS),
    (PermissionError("Forbidden"), CREDENTIALS),
    (answered(403), CREDENTIALS),
    (OSError(errno.EINVAL, "The provided token has expired"), CREDENTIALS),
    (OSError(errno.EINVAL, "Bad Request"), CREDENTIALS),
    (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), NETWORK),
    (ConnectionResetError(), NETWORK),
    (aiohttp.ServerDisconnectedError(), NETWORK),
    (type("EndpointConnectionError", (Exception,), {})("Could not reach it"), NETWORK),
    (OSError(errno.EBUSY, "SlowDown"), LATER),
    (answered(503), LATER),
    (TimeoutError(), LATER),
    (ImportError("Install oddfs"), "A package for this kind of URL is missing"),
]
LISTING = frozenset({"ls", "find", "info", "exists", "isdir"})
READING = frozenset({"cat_file", "_open"})


@pytest.fixture(autouse=True)
def shaky() -> Iterator[type[ShakyFileSystem]]:
    fs = fsspec.filesystem("shaky")
    fs.pipe_file("/bucket/raw/a.mp4", b"")
    fs.pipe_file("/bucket/raw/list.csv", b"source_uri\na.mp4\n")
    fs.pipe_file("/bucket/dataset/runs/one/summary.json", b"{}")
    write_manifest("shaky://bucket/dataset", [clip(number) for number in range(20)])
    yield ShakyFileSystem
    ShakyFileSystem.error = None
    ShakyFileSystem.store.clear()


def said(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def sentence(result: Result) -> str:
    """What a command wrote, when it ended as it should."""
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit), result.output
    assert result.output.startswith("lipforge: ") and result.output.count("\n") == 1, result.output
    return result.output


# --- words


@pytest.mark.parametrize(("error", "advice"), TROUBLE)
def test_each_kind_of_trouble_has_its_advice(error: Exception, advice: str) -> None:
    words = storage_words(error, "s3://bucket/a.mp4")
    assert words.startswith("s3://bucket/a.mp4 cannot be read: ") and advice in words and "\n" not in words
    assert storage_words(error, "s3://b/a", "written").startswith("s3://b/a cannot be written: ")
    with pytest.raises(UnreadableError) as caught, storage_errors("s3://bucket/a.mp4"):
        raise error
    assert str(caught.value) == words and caught.value.__cause__ is error


def test_words_of_local_files_and_bugs_are_left_alone() -> None:
    assert storage_words(OSError(errno.EIO, "Input/output error"), "/a") == "/a cannot be read: Input/output error"
    for error in (ValueError("x"), KeyError("x"), TypeError("x"), FileNotFoundError("x"), IsADirectoryError("x")):
        with pytest.raises(type(error)), storage_errors("s3://bucket/a.mp4"):
            raise error


def test_http_calls_every_failure_missing_but_only_some_are() -> None:
    with web_server() as server:
        server.pages["/gone.mp4"], server.pages["/busy.mp4"] = Page(status=404), Page(status=503)
        fs = fsspec.filesystem("http")
        for name, missing in (("gone", True), ("busy", False)):
            with pytest.raises(FileNotFoundError) as caught:
                fs.open(f"{server.url}/{name}.mp4")
            assert is_missing(caught.value) is missing
        with (
            pytest.raises(
                UnreadableError, match=r"/busy.mp4 cannot be read: 503 Service Unavailable\. Try again later"
            ),
            storage_errors(f"{server.url}/busy.mp4"),
        ):
            fs.open(f"{server.url}/busy.mp4")


# --- inputs


@pytest.mark.parametrize("url", ["shaky://bucket/raw", "shaky://bucket/raw/*.mp4", "shaky://bucket/raw/a.mp4"])
@pytest.mark.parametrize(("error", "advice"), TROUBLE)
def test_inputs_that_cannot_be_listed(url: str, error: Exception, advice: str, shaky, tmp_path: Path) -> None:
    assert len(find_sources([url], Labels())[0]) == 1
    shaky.error, shaky.failing = error, LISTING
    words = sentence(said("prepare", url, "--out", str(tmp_path / "out"), "--executor", "local"))
    assert f"{url} cannot be read: " in words and advice in words
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("error", "advice"), TROUBLE)
def test_lists_that_cannot_be_read(error: Exception, advice: str, shaky, tmp_path: Path) -> None:
    assert len(find_sources(["shaky://bucket/raw/list.csv"], Labels())[0]) == 1
    shaky.error, shaky.failing = error, READING
    words = sentence(said("prepare", "shaky://bucket/raw/list.csv", "--out", str(tmp_path / "out")))
    assert "shaky://bucket/raw/list.csv cannot be read: " in words and advice in words


def test_what_is_missing_is_said_and_slips_stay_slips(tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "out"), "--executor", "local")
    for url in ("shaky://bucket/other", "shaky://nowhere/raw", "shaky://bucket/raw/other.csv", "shaky://b/x.mp4"):
        assert f"{url} does not exist: check" in sentence(said("prepare", url, *out))
    for url, words in (
        ("shaky://bucket/raw/*.mkv", "the pattern matches nothing"),
        ("nosuchkind://bucket/raw", "nosuchkind://bucket/raw: Protocol not known"),
    ):
        result = said("prepare", url, *out)
        assert result.exit_code == 2 and words in result.output


def test_object_stores_take_a_missing_bucket_for_an_empty_one() -> None:
    found: list[bool] = []
    store: Any = SimpleNamespace(glob=lambda path, detail: {}, exists=lambda path: found[-1])
    for path, has_bucket, files in (
        ("bucket/*.mp4", False, None),
        ("bucket/*.mp4", True, {}),
        ("http://host/*.mp4", False, {}),
        ("/a/*.mp4", False, {}),
    ):
        found.append(has_bucket)
        assert _list_url(store, path, is_pattern=True) == files


def test_a_local_list_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "list.csv"
    path.write_text("source_uri\na.mp4\n")

    plain_open = LocalFileSystem._open

    def failing(self, name: str, *args, **how):  # simulated, because root may read everything
        if name == str(path):
            raise PermissionError(errno.EACCES, "Permission denied", name)
        return plain_open(self, name, *args, **how)

    monkeypatch.setattr(LocalFileSystem, "_open", failing)
    words = sentence(said("prepare", str(path), "--out", str(tmp_path / "out")))
    assert words == f"lipforge: {path} cannot be read: Permission denied\n"


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    for url in ("http://127.0.0.1:1/raw", "http://127.0.0.1:1/raw/*.mp4", "http://127.0.0.1:1/list.csv"):
        words = sentence(said("prepare", url, "--out", str(tmp_path / "out")))
        assert f"{url} cannot be read: Cannot connect" in words and NETWORK in words
    with web_server() as server:
        for status, advice in ((403, CREDENTIALS), (500, LATER)):
            server.pages["/raw"] = server.pages["/list.csv"] = Page(status=status)
            for name in ("raw", "list.csv"):
                words = sentence(said("prepare", f"{server.url}/{name}", "--out", str(tmp_path / "out")))
                assert f"/{name} cannot be read: {status} " in words and advice in words


def test_a_package_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    known = sys.modules["fsspec.registry"]._registry
    monkeypatch.delitem(known, "s3", raising=False)  # another test may have loaded it
    for command in (["prepare", "s3://bucket/raw", "--out", str(tmp_path / "out")], ["languages", "s3://bucket/raw"]):
        assert "s3://bucket/raw cannot be read: Install s3fs" in sentence(said(*command))


# --- datasets


COMMANDS = (
    ("languages", "DATASET"),
    ("query", "DATASET", "SELECT count(language) FROM manifest"),
    ("select", "DATASET", "--out", "OUT.parquet"),
    ("status", "DATASET"),
    ("explain", "DATASET", "x"),
    ("report", "DATASET", "--out", "OUT.html"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize("failing", [LISTING, READING | {"info"}], ids=["listing", "reading"])
def test_datasets_that_cannot_be_read(command: tuple[str, ...], failing: frozenset[str], shaky, tmp_path: Path) -> None:
    places = {"DATASET": "shaky://bucket/dataset", "OUT": str(tmp_path / "out")}
    arguments = [word.replace("DATASET", places["DATASET"]).replace("OUT", places["OUT"]) for word in command]
    shaky.error, shaky.failing = NoCredentialsError("Unable to locate credentials"), failing
    words = sentence(said(*arguments))
    assert "shaky://bucket/dataset" in words and CREDENTIALS in words


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_query_ends_when_the_storage_fails_half_way(number: int, shaky, monkeypatch: pytest.MonkeyPatch) -> None:
    """DuckDB on Arrow's own reader waits forever here."""
    plain_open, opened = ShakyFileSystem._open, []

    def _open(self, *args, **how):
        opened.append(args)
        if len(opened) >= number:
            raise NoCredentialsError("Unable to locate credentials")
        return plain_open(self, *args, **how)

    monkeypatch.setattr(ShakyFileSystem, "_open", _open)
    with (
        pytest.raises(UnreadableError, match=f"shaky://bucket/dataset/manifest cannot be read: .*{CREDENTIALS}"),
        open_query("shaky://bucket/dataset", "SELECT * FROM manifest") as reader,
    ):
        reader.read_all()
    assert len(opened) == number


def test_datasets_that_cannot_be_written(shaky) -> None:
    for error in (NoCredentialsError("Unable to locate credentials"), FileNotFoundError("no such bucket")):
        shaky.error, shaky.failing = error, {"put_file"}
        with pytest.raises(UnreadableError, match=r"bucket/new/a.json cannot be written: .*\. Check"):
            Store("shaky://bucket/new").write("a.json", b"{}")
        with pytest.raises(UnreadableError, match="cannot be written"):
            publish(*open_place("shaky://bucket/b.json"), b"{}")


def test_a_store_tells_missing_from_failing(shaky) -> None:
    store = Store("shaky://bucket/dataset")
    with pytest.raises(FileNotFoundError):
        store.read("none.json")
    assert store.size("none.json") is None and store.list("none") == [] and not store.exists("none.json")
    with pytest.raises(FileNotFoundError):
        read_file("shaky://bucket/none.json")
    shaky.error, shaky.failing = PermissionError("Forbidden"), LISTING | READING
    for call in (store.read, store.size, store.exists, store.list):
        with pytest.raises(UnreadableError, match=r"shaky://bucket/dataset/manifest cannot be read: Forbidden\. Check"):
            call("manifest")


def test_a_source_whose_storage_fails_has_no_fingerprint(shaky) -> None:
    """Reading it tells what is wrong; asking for its size and tag must not end the run."""
    fsspec.filesystem("shaky").pipe_file("/bucket/a.mp4", b"content")
    assert (fingerprint("shaky://bucket/a.mp4") or "").startswith("7:")
    shaky.error, shaky.failing = NoCredentialsError("no credentials"), frozenset({"info"})
    assert fingerprint("shaky://bucket/a.mp4") is None
