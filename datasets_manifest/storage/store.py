"""A dataset's folder, local or in an object store, whose files appear complete or not at all."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import IO, Any, cast

from fsspec.implementations.local import LocalFileSystem

from lipforge.datasets_manifest.storage.files import (
    create,
    is_temporary,
    open_place,
    remote_errors,
    writing,
    writing_hashed,
)
from lipforge.datasets_manifest.storage.lease import held_lease, is_held

READS_AT_ONCE = 32
"""Requests for small files in flight: an object store takes 30 ms for each."""
_DELETES_AT_ONCE = 1000
REPORT_PAGE, REPORT_MEDIA = "report.html", "report_media"
"""The report, and the folder of what it plays."""
_OWN_FOLDERS = (
    *("parts", "shards", "refused", "stills", "ledger", "runs", "manifest", REPORT_MEDIA),
    *("train", "val", "lists"),  # of an export
)


class Store:
    """Files below one root, named by relative paths with forward slashes. Cheap to send to workers.

    root: a folder, or an fsspec URL such as s3://bucket/dataset. All methods raise UnreadableError when remote storage
    fails.
    """

    def __init__(self, root: str) -> None:
        self._fs, self._base = open_place(root)
        self.root = root if "://" in root else self._base

    @property
    def is_local(self) -> bool:
        return isinstance(self._fs, LocalFileSystem)

    def path(self, name: str) -> str:
        return f"{self._base}/{name}"

    def exists(self, name: str) -> bool:
        with self._storage_errors(name):
            return self._fs.exists(self.path(name))

    def size(self, name: str) -> int | None:
        """Bytes of a file; None when it does not exist."""
        try:
            with self._storage_errors(name):
                return int(self._fs.size(self.path(name)) or 0)
        except FileNotFoundError:
            return None

    def modified_s(self, name: str) -> float | None:
        """When a file was last written, by the clock of its storage: seconds since 1970. None when it does not say."""
        try:
            with self._storage_errors(name):
                return self._fs.modified(self.path(name)).timestamp()
        except (FileNotFoundError, NotImplementedError):
            return None

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """A file's bytes, or a range of them. Raises FileNotFoundError."""
        end = None if length is None else offset + length
        with self._storage_errors(name):
            return cast(bytes, self._fs.cat_file(self.path(name), start=offset or None, end=end))

    def write(self, name: str, data: bytes) -> None:
        with self.writing(name) as file:
            file.write(data)

    def writing(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """A file to fill; it appears under its name when the block ends, and not at all when the block fails."""
        if self.is_local:
            os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        return writing(self._fs, self.path(name))

    def create(self, name: str, data: bytes) -> None:
        """Write a file that must not exist yet: of two writers at once, one gets FileExistsError.

        A file that holds these very bytes is a success: the answer to the first request may have been lost.
        """
        if self.is_local:
            os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        with self._storage_errors(name, "written"):
            create(self._fs, self.path(name), data)

    @contextlib.contextmanager
    def writing_hashed(self, name_of: Callable[[str], str]) -> Iterator[IO[bytes]]:
        """A file to fill, whose name is made of its content: name_of(sha256 in hex). Like `writing` otherwise."""
        with writing_hashed(self._fs, lambda digest: self.path(name_of(digest)), self._base) as file:
            yield file

    def delete(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError), self._storage_errors(name):
            self._fs.rm_file(self.path(name))

    def delete_all(self, names: Sequence[str]) -> None:
        """Delete many files, in few requests where the store can. What is gone already is a success."""
        if self.is_local:
            for name in names:
                self.delete(name)
            return
        for first in range(0, len(names), _DELETES_AT_ONCE):
            paths = [self.path(name) for name in names[first : first + _DELETES_AT_ONCE]]
            with contextlib.suppress(FileNotFoundError), self._storage_errors(names[first]):
                self._fs.rm(paths)
                continue
            for name in names[first : first + _DELETES_AT_ONCE]:  # one of them was gone
                self.delete(name)

    def delete_folder(self, folder: str) -> None:
        """Delete a folder and all that is in it."""
        if self.is_local:
            shutil.rmtree(self.path(folder), ignore_errors=True)
        else:
            self.delete_all(sorted(self.sizes(folder)))

    def read_all(self, names: Sequence[str], length: int | None = None) -> Iterator[bytes | None]:
        """The bytes of many files, or the first `length` of each, in order, many at once. None for a missing one."""

        def read(name: str) -> bytes | None:
            try:
                return self.read(name, 0, length)
            except FileNotFoundError:
                return None

        with ThreadPoolExecutor(READS_AT_ONCE) as pool:
            for first in range(0, len(names), 16 * READS_AT_ONCE):  # map would read everything ahead
                yield from pool.map(read, names[first : first + 16 * READS_AT_ONCE])

    def sizes(self, folder: str) -> dict[str, int]:
        """Like `list`, with the bytes of each file."""
        self._fs.invalidate_cache()  # another process may have written since
        try:
            with self._storage_errors(folder):
                found = cast(dict[str, dict[str, Any]], self._fs.find(self.path(folder), detail=True))
        except FileNotFoundError:
            return {}
        prefix = len(self._base) + 1
        names = ((str(path)[prefix:], int(about.get("size") or 0)) for path, about in found.items())
        return {name: size for name, size in names if not name.rsplit("/", 1)[-1].startswith(".")}

    def folders(self, folder: str) -> list[str]:
        """Names of the folders in a folder, sorted, without what is in them. Empty when there is no such folder."""
        self._fs.invalidate_cache()
        try:
            with self._storage_errors(folder):
                found = cast(list[dict[str, Any]], self._fs.ls(self.path(folder), detail=True))
        except FileNotFoundError:
            return []
        return sorted(
            str(about["name"]).rstrip("/").rpartition("/")[2] for about in found if about["type"] == "directory"
        )

    def list(self, folder: str) -> list[str]:
        """Names of all files below a folder, sorted, without temporary ones. Empty when there is no such folder."""
        return sorted(self.sizes(folder))

    def _storage_errors(self, name: str, doing: str = "read") -> AbstractContextManager[None]:
        return remote_errors(f"{self.root.rstrip('/')}/{name}", doing)

    @contextlib.contextmanager
    def only_writer(self) -> Iterator[None]:
        """Lock the dataset for one writing command; BlockingIOError when another holds it.

        The system releases the lock however the process ends. An object store has no locks: see storage/lease.py.
        """
        if not self.is_local:
            with held_lease(self):
                yield
            return
        os.makedirs(self.path("ledger"), exist_ok=True)
        with open(self.path("ledger/.lock"), "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._sweep()
            yield

    def is_being_written(self) -> bool:
        """Whether a command holds the lock now, or in an object store seems to. Writes nothing."""
        if not self.is_local:
            return is_held(self)
        try:
            with open(self.path("ledger/.lock")) as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def _sweep(self) -> None:
        """Remove temporary files that killed writers left. Only the lock holder may call this."""
        for root, folders, files in os.walk(self._base):
            if root == self._base:
                folders[:] = [name for name in folders if name in _OWN_FOLDERS]
            for file in files:
                if is_temporary(file):
                    with contextlib.suppress(OSError):
                        os.unlink(os.path.join(root, file))

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["root"])
