"""Brings one file from the web to a path: the bytes that were asked for, or an error that says what to do.

Interrupted downloads go on where they stopped. Knows nothing of models.
"""

import errno
import fcntl
import hashlib
import ipaddress
import os
import re
import time
from collections.abc import Callable
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, BinaryIO, Protocol
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, Request, build_opener

_TIMEOUT_S = 60
_CHUNK_BYTES = 1 << 20
_REPORT_EVERY_S = 5.0
_RANGE_NOT_SATISFIABLE = 416
_PARTIAL_CONTENT = 206


class DownloadError(ValueError):
    """The file could not be brought; the message says why."""


class WrongContentError(DownloadError):
    """The server has other bytes than were asked for."""


class _Response(Protocol):
    """What we use of urllib's answers."""

    status: int
    headers: HTTPMessage

    def read(self, size: int, /) -> bytes: ...
    def close(self) -> None: ...


def download(url: str, target: Path, size_bytes: int, sha256: str, progress: Callable[[str], None]) -> None:
    """Puts the file at the URL there: exactly `size_bytes` bytes with this hash, complete or not at all.

    An interrupted download stays beside the target as `.<first 16 digits of the hash>.part` and is continued by the next call.
    progress: called with one line of text about every 5 s.
    Raises DownloadError (cannot be reached, refused, cut off) or WrongContentError (other size, other hash).
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.parent / f".{sha256[:16]}.part"
    with _open_part(part) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DownloadError(f"{url}: another process is downloading this file ({part}); wait for it") from error
        if not _is_same(file, part):
            raise DownloadError(f"{url}: another process has just ended its download of this file; try again")
        try:
            if file.tell() < size_bytes:
                _continue(url, file, size_bytes, progress)
        finally:
            file.flush()
            if not file.tell():
                part.unlink()
        found = _sha256(part)
        if found != sha256:
            part.unlink()
            raise WrongContentError(f"{url}: served {size_bytes} bytes with sha256 {found}, expected {sha256}")
        os.fsync(file.fileno())
        os.replace(part, target)


def _open_part(part: Path) -> BinaryIO:
    """Opened for appending; never what a link leads to."""
    try:
        return open(part, "ab", opener=lambda path, flags: os.open(path, flags | os.O_NOFOLLOW, 0o666))
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise DownloadError(f"{part} is a link, and nothing is written through links: remove it") from error


def _is_same(file: BinaryIO, path: Path) -> bool:
    """Between opening and locking, who held the lock may have moved the finished file to its place, or removed it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _continue(url: str, file: BinaryIO, size_bytes: int, progress: Callable[[str], None]) -> None:
    """Appends what is missing."""
    response = _open(url, file.tell())
    try:
        if file.tell():
            progress(f"  going on after {file.tell() / 1e6:.1f} of {size_bytes / 1e6:.1f} MB")
        start, total = _extent(response)
        if total is not None and total != size_bytes:
            raise WrongContentError(f"{url}: serves {total} bytes, expected {size_bytes}")
        if start != file.tell():
            _empty(file)  # the server does not continue files
            if start != 0:
                raise DownloadError(f"{url}: the server sent another part of the file than was asked for; try again")
        _copy(url, response, file, size_bytes, progress)
    finally:
        response.close()


def _copy(url: str, response: _Response, file: BinaryIO, size_bytes: int, progress: Callable[[str], None]) -> None:
    reported_s = time.monotonic()
    while True:
        done = file.tell()
        try:
            # One byte more than expected is enough to know that there are too many.
            chunk = response.read(min(_CHUNK_BYTES, size_bytes - done + 1))
        except (HTTPException, OSError) as error:
            raise _cut_off(url, done, size_bytes, str(error) or type(error).__name__) from error
        if not chunk:
            break
        if done + len(chunk) > size_bytes:
            _empty(file)
            raise WrongContentError(f"{url}: serves more than the expected {size_bytes} bytes")
        file.write(chunk)
        if time.monotonic() - reported_s >= _REPORT_EVERY_S:
            reported_s = time.monotonic()
            progress(f"  {file.tell() / 1e6:.1f} of {size_bytes / 1e6:.1f} MB")
    if file.tell() < size_bytes:
        raise _cut_off(url, file.tell(), size_bytes, "the server closed the connection")


def _empty(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()


def _cut_off(url: str, done: int, size_bytes: int, reason: str) -> DownloadError:
    return DownloadError(
        f"{url}: cut off after {done} of {size_bytes} bytes ({reason}). The same command goes on from there."
    )


def _open(url: str, start: int) -> _Response:
    _refuse_plain_http(url)
    request = Request(url, headers={"User-Agent": "lipforge", "Accept-Encoding": "identity"})  # noqa: S310 - checked above
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        return _opener().open(request, timeout=_TIMEOUT_S)
    except HTTPError as error:
        error.close()
        if error.code == _RANGE_NOT_SATISFIABLE and start:
            return _open(url, 0)
        raise DownloadError(f"{url}: the server answered {error.code} {error.reason}") from error
    except (URLError, HTTPException, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise DownloadError(f"cannot reach {urlsplit(url).hostname}: {reason}") from error


def _extent(response: _Response) -> tuple[int, int | None]:
    """Where the answer starts in the file, and how long the file is, as far as the server says."""
    if response.status == _PARTIAL_CONTENT:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
        if found is None:
            return -1, None
        return int(found[1]), None if found[2] == "*" else int(found[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


class _CheckedRedirects(HTTPRedirectHandler):
    """Hubs redirect to their storage; never from TLS to plain text."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        _refuse_plain_http(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> OpenerDirector:
    return build_opener(_CheckedRedirects)


def _refuse_plain_http(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname or "")):
        return
    raise DownloadError(f"{url}: refused: only https:// is used for downloads")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
