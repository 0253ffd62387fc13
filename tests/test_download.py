"""Files from the web: complete and right, or not there at all."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from lipforge.model.weights.download import DownloadError, WrongContentError, download
from tests.web_server import Page, WebServer, web_server

CONTENT = os.urandom(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server() -> Iterator[WebServer]:
    with web_server() as running:
        yield running


def get(url: str, folder: Path, size_bytes: int = len(CONTENT), sha256: str = SHA256) -> list[str]:
    said: list[str] = []
    download(url, folder / "file", size_bytes, sha256, said.append)
    return said


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("claimed_size", [None, -1], ids=["length given", "no length"])
def test_file_arrives_whole_and_nothing_else_is_left(
    server: WebServer, tmp_path: Path, claimed_size: int | None
) -> None:
    server.pages["/a"] = Page(CONTENT, claimed_size=claimed_size)
    get(f"{server.url}/a", tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder" / "file").read_bytes() == CONTENT
    assert names(tmp_path / "new" / "folder") == ["file"]


def test_cut_off_download_goes_on_where_it_stopped(server: WebServer, tmp_path: Path) -> None:
    server.pages["/a"] = Page(CONTENT, cut_after=1_234_567)
    with pytest.raises(DownloadError, match="cut off after 1234567 of 3000000 bytes"):
        get(f"{server.url}/a", tmp_path)
    assert "file" not in names(tmp_path)
    said = get(f"{server.url}/a", tmp_path)
    assert server.requests == [("/a", None), ("/a", "bytes=1234567-")]
    assert "going on after 1.2 of 3.0 MB" in said[0]
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert names(tmp_path) == ["file"]


def test_cut_off_download_starts_again_where_a_server_cannot_continue(server: WebServer, tmp_path: Path) -> None:
    server.pages["/a"] = Page(CONTENT, cut_after=1_000_000, ranges=False)
    with pytest.raises(DownloadError):
        get(f"{server.url}/a", tmp_path)
    get(f"{server.url}/a", tmp_path)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_damaged_first_half_is_noticed_and_not_kept(server: WebServer, tmp_path: Path) -> None:
    server.pages["/a"] = Page(bytes(len(CONTENT)), cut_after=1_000_000)
    with pytest.raises(DownloadError):
        get(f"{server.url}/a", tmp_path)
    server.pages["/a"] = Page(CONTENT)
    with pytest.raises(WrongContentError):
        get(f"{server.url}/a", tmp_path)
    assert names(tmp_path) == []
    get(f"{server.url}/a", tmp_path)
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (Page(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])), "expected " + SHA256),
        (Page(CONTENT[:-1]), "serves 2999999 bytes, expected 3000000"),
        (Page(CONTENT + b"!"), "serves 3000001 bytes, expected 3000000"),
        (Page(CONTENT + bytes(5_000_000), claimed_size=-1), "serves more than the expected 3000000 bytes"),
    ],
    ids=["one bit", "short", "long", "long and silent about it"],
)
def test_other_content_is_refused_and_leaves_nothing(server: WebServer, tmp_path: Path, page: Page, words: str) -> None:
    server.pages["/a"] = page
    with pytest.raises(WrongContentError, match=words):
        get(f"{server.url}/a", tmp_path)
    assert names(tmp_path) == []


def test_server_that_claims_more_than_it_sends_is_cut_off(server: WebServer, tmp_path: Path) -> None:
    server.pages["/a"] = Page(CONTENT[:500], claimed_size=len(CONTENT))
    with pytest.raises(DownloadError, match="cut off after 500 of 3000000 bytes"):
        get(f"{server.url}/a", tmp_path)


@pytest.mark.parametrize("status", [403, 404, 429, 500, 503])
def test_refusal_of_the_server_is_named(server: WebServer, tmp_path: Path, status: int) -> None:
    server.pages["/a"] = Page(b"no", status=status)
    with pytest.raises(DownloadError, match=f"answered {status}"):
        get(f"{server.url}/a", tmp_path)
    assert names(tmp_path) == []


def test_unreachable_server_is_named(tmp_path: Path) -> None:
    with web_server() as server:
        url = server.url
    with pytest.raises(DownloadError, match=r"cannot reach 127\.0\.0\.1"):
        get(f"{url}/a", tmp_path)
    assert names(tmp_path) == []


def test_redirects_are_followed_on_this_machine(server: WebServer, tmp_path: Path) -> None:
    server.pages["/a"] = Page(redirect_to="/b")
    server.pages["/b"] = Page(CONTENT)
    get(f"{server.url}/a", tmp_path)
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("elsewhere", ["http://example.invalid/a", "ftp://example.invalid/a", "file:///etc/hostname"])
def test_unprotected_connections_are_refused_also_after_a_redirect(
    server: WebServer, tmp_path: Path, elsewhere: str
) -> None:
    server.pages["/a"] = Page(redirect_to=elsewhere)
    for url in (elsewhere, f"{server.url}/a"):
        with pytest.raises(DownloadError, match=r"only https|not allowed"):
            get(url, tmp_path)
    assert names(tmp_path) == []


def test_two_processes_do_not_write_into_one_file(server: WebServer, tmp_path: Path) -> None:
    server.pages["/a"] = Page(CONTENT)
    with open(tmp_path / f".{SHA256[:16]}.part", "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DownloadError, match="another process"):
            get(f"{server.url}/a", tmp_path)
    get(f"{server.url}/a", tmp_path)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_download_that_another_process_just_finished_stays_as_it_is(
    server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.pages["/a"] = Page(CONTENT, ranges=False)
    lock = fcntl.flock

    def finished_meanwhile(file: BinaryIO, operation: int) -> None:
        lock(file, operation)
        (tmp_path / f".{SHA256[:16]}.part").rename(tmp_path / "file")

    monkeypatch.setattr(fcntl, "flock", finished_meanwhile)
    (tmp_path / f".{SHA256[:16]}.part").write_bytes(CONTENT)
    with pytest.raises(DownloadError, match="another process has just ended"):
        get(f"{server.url}/a", tmp_path)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_nothing_is_written_through_a_link(server: WebServer, tmp_path: Path) -> None:
    server.pages["/a"] = Page(CONTENT)
    (tmp_path / "precious").write_bytes(b"mine")
    (tmp_path / f".{SHA256[:16]}.part").symlink_to(tmp_path / "precious")
    with pytest.raises(DownloadError, match="is a link"):
        get(f"{server.url}/a", tmp_path)
    assert (tmp_path / "precious").read_bytes() == b"mine"
