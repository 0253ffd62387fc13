"""The folder beside an output where its run keeps what is finished, so that it can go on after it was stopped."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lipforge.pipeline.infer.request import InferError

_REQUEST_NAME = "request.json"
_LOCK_NAME = "lock"
_WRITING_NAME = "writing"
VERSION = 1
"""Raise this when a change of code changes what unfinished runs keep."""


def work_folder(out: Path) -> Path:
    return out.with_name(f".{out.name}.unfinished")


@contextmanager
def open_work(out: Path, request: dict[str, Any]) -> Iterator[Path]:
    """The folder of the run that makes `out`, as it was left if the request is the same, else empty.

    request: plain values that shape the result. Raises InferError when another process makes the same output.
    """
    folder = work_folder(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise InferError(f"the name of the output is too long: {len(os.fsencode(out.name))} bytes") from error
    with open(folder / _LOCK_NAME, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InferError(f"{out} is being made by another process: wait for it, or name another output") from error
        wanted = json.dumps({"version": VERSION, **request}, sort_keys=True, indent=1).encode()
        path = folder / _REQUEST_NAME
        if not path.exists() or path.read_bytes() != wanted:
            for old in folder.iterdir():
                if old.name != _LOCK_NAME:
                    old.unlink()
            write_whole(path, wanted)
        yield folder


def mark_writing(folder: Path) -> None:
    """From here on the output is this run's own: a rerun may replace it."""
    write_whole(folder / _WRITING_NAME, b"")


def is_writing(folder: Path) -> bool:
    return (folder / _WRITING_NAME).exists()


def remove_work(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all."""
    temporary = path.with_name(f"{path.name}.part")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def identity_of(path: str) -> dict[str, Any]:
    """What tells whether a local file is the same as before, without reading all of it."""
    stat = os.stat(path)
    with open(path, "rb") as file:
        beginning = file.read(1 << 16)
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "begins": hashlib.sha256(beginning).hexdigest()}


def points_identity(path: Path) -> str:
    """Of a file that is read whole; empty where it cannot be: whoever reads it says why."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
