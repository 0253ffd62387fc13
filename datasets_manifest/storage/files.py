"""Files and folders, on a local disk or behind an fsspec URL: open, read, write whole."""

import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from lipforge.datasets_manifest.storage.trouble import UnreadableError as UnreadableError  # noqa: PLC0414 - docs/library.md
from lipforge.datasets_manifest.storage.trouble import storage_errors

_TEMPORARY_PREFIX = ".tmp-"


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
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=_TEMPORARY_PREFIX)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp lets only the owner read
        os.replace(temporary, path)
    except BaseException:  # a full disk, too: free the space
        with suppress(OSError):
            os.unlink(temporary)
        raise


def publish(fs: fsspec.AbstractFileSystem, path: str, data: bytes) -> None:
    """Make `path` hold `data`, all or nothing: see `writing`."""
    with writing(fs, path) as file:
        file.write(data)


def is_temporary(name: str) -> bool:
    """Whether a file of this name is what a killed writer left behind."""
    return re.fullmatch(re.escape(_TEMPORARY_PREFIX) + "[a-z0-9_]{8}", name) is not None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def to_json(plain: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces, ASCII."""
    return (json.dumps(plain, sort_keys=True, separators=(",", ":")) + "\n").encode()
