"""A folder that caches remote samples: bounded, checked, shared by all processes of a machine."""

import fcntl
import hashlib
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

log = logging.getLogger(__name__)

_DIGEST_BYTES = 16
_EVICT_TO = 0.9
"""Eviction stops at this share of the limit, so that the next entry does not evict again."""
_NUM_LOCKS = 2**20
_SUFFIX = ".sample"
"""Of entries. Other files in the folder are left alone."""


class SampleCache:
    """Evicts the least recently used entries. Files appear whole or not at all and carry a hash of their content.

    Use a local disk: locks do not work on every network file system. Several caches, also of different processes, may
    share a folder if their limits are equal; use one object in one process and one thread only.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.max_bytes = max_bytes
        self.is_writable = True
        """False after a failed write: reading ahead is then pointless."""
        # Byte 0 locks the folder's size, the others lock entries. Closing any other handle of this file in this process
        # would drop all locks (POSIX), so it stays open and private.
        self._locks = os.open(folder / ".locks", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._locks)

    def get(self, name: str) -> bytes | None:
        """The content of an entry, or None. A damaged entry is deleted."""
        path = self._path(name)
        try:
            stored = path.read_bytes()
        except OSError:
            return None
        with suppress(OSError):  # the file of another user
            os.utime(path)
        digest, content = stored[:_DIGEST_BYTES], stored[_DIGEST_BYTES:]
        if digest != _digest(content):
            log.warning("%s is damaged and will be fetched again", path)
            with suppress(OSError):
                path.unlink()
            return None
        return content

    def __contains__(self, name: str) -> bool:
        return self._path(name).exists()

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{_SUFFIX}"

    def put(self, name: str, content: bytes) -> None:
        """Store an entry, evicting others. Does nothing when it exceeds the whole cache or writing fails."""
        size = _DIGEST_BYTES + len(content)
        if size > self.max_bytes:
            return
        try:
            self._put(name, content, size)
        except OSError as error:
            if self.is_writable:
                log.warning("the cache %s cannot be written and is not used: %s", self.folder, error.strerror)
            self.is_writable = False

    def _put(self, name: str, content: bytes, size: int) -> None:
        with self._locked([0]):
            # Only the lock holder writes, so a leftover temporary file belongs to a crashed writer.
            total = self._total_bytes()
            if total is None or total + size > self.max_bytes:
                total = self._make_room(size)
            # Not files.writing: under the lock one fixed name is enough, so a crash leaves at most one file, and fsync
            # is not needed: the hash shows damage, and the entry can be fetched again.
            temporary, count = self.folder / ".new", self.folder / ".total"
            count.unlink(missing_ok=True)  # a crash from here on leaves no wrong count
            temporary.unlink(missing_ok=True)
            with temporary.open("xb") as file:  # never through a planted link
                file.write(_digest(content) + content)
            path = self._path(name)
            replaced = path.stat().st_size if path.exists() else 0
            temporary.replace(path)
            count.write_text(str(total + size - replaced))

    @contextmanager
    def fetching(self, names: Iterable[str]) -> Iterator[None]:
        """Keeps other processes from fetching the same entries at the same time."""
        # in rising order, which rules out deadlocks
        with self._locked(sorted({1 + int(_digest(name.encode()).hex(), 16) % _NUM_LOCKS for name in names})):
            yield

    @contextmanager
    def _locked(self, numbers: list[int]) -> Iterator[None]:
        held = []
        try:
            for number in numbers:
                fcntl.lockf(self._locks, fcntl.LOCK_EX, 1, number)
                held.append(number)
            yield
        finally:
            for number in held:
                fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, number)

    def _total_bytes(self) -> int | None:
        try:
            return int((self.folder / ".total").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def _make_room(self, size: int) -> int:
        """Delete the least recently used entries; returns the bytes that are left."""
        entries = []
        with os.scandir(self.folder) as files:
            for file in files:
                if file.name.endswith(_SUFFIX) and file.is_file(follow_symlinks=False):
                    with suppress(FileNotFoundError):  # a damaged entry, deleted meanwhile
                        entries.append((file.stat().st_mtime_ns, file.name, file.stat().st_size))
        total = sum(entry[2] for entry in entries)
        if total + size <= self.max_bytes:
            return total
        for _, name, entry_size in sorted(entries):
            if total + size <= self.max_bytes * _EVICT_TO:
                break
            (self.folder / name).unlink(missing_ok=True)
            total -= entry_size
        return total


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()
