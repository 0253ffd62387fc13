"""Files and folders, on a local disk or behind an fsspec URL: open, read, write whole."""

import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from lipforge.datasets_manifest.storage.trouble import TEMPORARY_PREFIX, storage_errors
from lipforge.datasets_manifest.storage.trouble import UnreadableError as UnreadableError  # noqa: PLC0414 - docs/library.md

_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK)
"""Errors of file systems without hard links."""


def open_place(place: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """(file system, path in it) of a folder, a file or an fsspec URL: a name with `://`; any other is local.

    Raises ValueError for an unknown kind of URL, UnreadableError when its package or credentials are missing.
    """
    if "://" in place:
        try:
            with storage_errors(place):
                return fsspec.url_to_fs(place)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
    return LocalFileSystem(), os.path.abspath(place)


def is_remote(folder: str) -> bool:
    """Whether a name is a URL of something that is not a local file."""
    return "://" in folder and not folder.startswith(("file://", "local://"))


def remote_errors(place: str, doing: str = "read") -> AbstractContextManager[None]:
    """storage_errors for a URL. Local files: the system's own errors, whose numbers callers know."""
    return storage_errors(place, doing) if is_remote(place) else nullcontext()


def read_file(path: str) -> bytes:
    """The bytes of a file, named by a path or an fsspec URL.

    Raises FileNotFoundError, IsADirectoryError, UnreadableError when its storage fails, ValueError as open_place.
    """
    fs, place = open_place(path)
    with storage_errors(path):
        data = fs.cat_file(place)
    assert isinstance(data, bytes)  # fsspec also promises str, for text mode
    return data


@contextmanager
def writing(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[IO[bytes]]:
    """A file to fill. It appears at `path` when the block ends, and not at all when the block fails.

    Local: a temporary file in the same folder, flushed, then renamed. Remote: one PUT.
    """
    if not isinstance(fs, LocalFileSystem):
        with tempfile.NamedTemporaryFile() as file:
            yield file
            file.flush()
            with storage_errors(str(fs.unstrip_protocol(path)), "written"):
                fs.put_file(file.name, path)
        return
    with _temporary_file(os.path.dirname(path)) as (file, temporary):
        yield file
        _finish(file, temporary)
        os.replace(temporary, path)


def publish(fs: fsspec.AbstractFileSystem, path: str, data: bytes) -> None:
    """Make `path` hold `data`, all or nothing: see `writing`."""
    with writing(fs, path) as file:
        file.write(data)


def create(fs: fsspec.AbstractFileSystem, path: str, data: bytes) -> None:
    """Make `path` hold `data` unless it exists with another content: then FileExistsError. The storage decides.

    Local: a hard link, which never replaces. Object stores: a conditional write (If-None-Match and the like).
    """
    try:
        if isinstance(fs, LocalFileSystem):
            _link_new(path, data)
        else:
            fs.pipe_file(path, data, mode="create")
    except Exception as error:
        found = _content(fs, path)  # an answer may have been lost on its way
        if found is None:
            raise
        if found != data:
            raise FileExistsError(f"{path} exists") from error


def _link_new(path: str, data: bytes) -> None:
    with _temporary_file(os.path.dirname(path)) as (file, temporary):
        file.write(data)
        _finish(file, temporary)
        try:
            os.link(temporary, path)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if os.path.lexists(path):
                raise FileExistsError(path) from error
            os.rename(temporary, path)


def _content(fs: fsspec.AbstractFileSystem, path: str) -> bytes | None:
    try:
        return fs.cat_file(path)  # type: ignore[return-value]
    except FileNotFoundError:
        return None


@contextmanager
def writing_hashed(fs: fsspec.AbstractFileSystem, path_of: Callable[[str], str], folder: str) -> Iterator[IO[bytes]]:
    """A file to fill. When the block ends it appears at path_of(sha256 of its content, in hex); see `writing`.

    folder: for the temporary file, on the disk of the result. Used for local file systems only.
    """
    is_local = isinstance(fs, LocalFileSystem)
    if is_local:
        os.makedirs(folder, exist_ok=True)
    with _temporary_file(folder if is_local else None) as (file, temporary):
        hashed = _Hashed(file)
        yield hashed  # type: ignore[misc]
        path = path_of(hashed.digest.hexdigest())
        if is_local:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            _finish(file, temporary)
            os.replace(temporary, path)
        else:
            file.flush()
            with storage_errors(str(fs.unstrip_protocol(path)), "written"):
                fs.put_file(temporary, path)


@contextmanager
def _temporary_file(folder: str | None) -> Iterator[tuple[IO[bytes], str]]:
    """A file and its name. Deleted when the block ends, unless it was renamed."""
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=TEMPORARY_PREFIX)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file, temporary
    finally:
        with suppress(OSError):
            os.unlink(temporary)


def _finish(file: IO[bytes], temporary: str) -> None:
    """Make a temporary file's content safe from a power cut, and readable for others."""
    file.flush()
    os.fsync(file.fileno())
    os.chmod(temporary, 0o666 & ~_umask())  # mkstemp lets only the owner read


class _Hashed:
    """Passes writes on and hashes them."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)


def is_temporary(name: str) -> bool:
    """Whether a file of this name is what a killed writer left behind."""
    return re.fullmatch(re.escape(TEMPORARY_PREFIX) + "[a-z0-9_]{8}", name) is not None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def to_json(plain: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces, ASCII."""
    return (json.dumps(plain, sort_keys=True, separators=(",", ":")) + "\n").encode()
