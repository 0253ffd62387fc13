"""Files and folders, on a local disk or behind an fsspec URL: open, read, write whole."""

import json
import os
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem


class UnreadableError(OSError):
    """Storage does not answer, or not with what was asked for: nothing is said of what it holds."""


def open_place(place: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """(file system, path in it) of a folder, a file or an fsspec URL. A local name may hold anything, also what looks like a URL chain.

    Raises ValueError for a URL of a kind that is unknown, or whose package is not installed.
    """
    if "://" in place:
        try:
            return fsspec.url_to_fs(place)
        except ImportError as error:
            raise ValueError(f"{place}: {error}") from error
    return LocalFileSystem(), os.path.abspath(place)


def is_remote(folder: str) -> bool:
    """Whether it is behind a network, as far as its name tells."""
    return "://" in folder and not folder.startswith(("file://", "local://"))


def read_file(path: str) -> bytes:
    """The bytes of a file, named by a path or an fsspec URL.

    Raises FileNotFoundError, IsADirectoryError, UnreadableError when its storage fails, ValueError as open_place.
    """
    fs, place = open_place(path)
    try:
        data = fs.cat_file(place)
    except (FileNotFoundError, IsADirectoryError):
        raise
    except Exception as error:
        raise UnreadableError(f"{path} cannot be read: {error or repr(error)}") from error
    assert isinstance(data, bytes)  # fsspec also promises str, for text mode
    return data


def publish(fs: fsspec.AbstractFileSystem, path: str, data: bytes) -> None:
    """Make `path` hold `data`, all or nothing: rename on a local disk, one PUT in an object store."""
    if not isinstance(fs, LocalFileSystem):
        fs.pipe_file(path, data)
        return
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        if os.path.exists(temporary):  # a full disk: give the space back
            os.remove(temporary)
        raise


def to_json(plain: Any) -> bytes:
    """One way to write a value: sorted keys, no spaces, ASCII."""
    return (json.dumps(plain, sort_keys=True, separators=(",", ":")) + "\n").encode()
