"""Read a source's bytes, and tell storage that fails from a file that is damaged.

FFmpeg takes a failed read for the end of the file. So all reading of sources goes through `SourceFile`, which tries
failed reads again and remembers when it gave up.
"""

import contextlib
import errno
import io
import os
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, cast

import fsspec

from lipforge.datasets_manifest.storage.trouble import is_missing, storage_words

WAITS_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Pauses before a failed read is tried again: together a minute, as long as a server takes to come back."""
KEPT_BYTES = 256_000_000
"""Of a remote source, between its passes: about 300 s at 6.8 Mbit/s."""
_BLOCK_BYTES = 1 << 20
NOT_THERE = frozenset(
    {
        errno.ENOENT,
        errno.EACCES,
        errno.EPERM,
        errno.EISDIR,
        errno.ENOTDIR,
        errno.ENAMETOOLONG,
        errno.ELOOP,
        errno.EINVAL,
    }
)
"""System errors of opening a local path that say something about the path, not about its storage."""


class StorageError(Exception):
    """The storage of a source failed, or the file changed while it was read. Nothing is known of the file itself."""


class NotThereError(Exception):
    """There is no such source, or it may not be read."""


@contextlib.contextmanager
def read_once(uri: str) -> Iterator[None]:
    """Keep what is read of a remote source while the block runs, so that reading it again asks its storage for little.

    A source is hashed and demuxed, and its sound is read before its pictures. Up to KEPT_BYTES are kept, in memory.
    """
    token = _kept.set(_Kept(uri))
    try:
        yield
    finally:
        _kept.reset(token)


class _Kept:
    """Blocks of one source, the last ones that were read."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._blocks: dict[int, bytes] = {}

    def read(self, position: int, size: int, total: int, fetch: Callable[[int, int], bytes]) -> bytes:
        """Up to `size` bytes (-1: the rest) from `position`, of a source of `total` bytes."""
        end = total if size < 0 else min(position + size, total)
        parts = []
        while position < end:
            number = position // _BLOCK_BYTES
            start = number * _BLOCK_BYTES
            block = self._block(number, start, min(_BLOCK_BYTES, total - start), fetch)
            parts.append(block[position - start : end - start])
            position = start + len(block)
        return b"".join(parts)

    def _block(self, number: int, start: int, size: int, fetch: Callable[[int, int], bytes]) -> bytes:
        block = self._blocks.pop(number, None)
        if block is None:
            block = fetch(start, size)
        self._blocks[number] = block  # the one used last is the last
        if len(self._blocks) * _BLOCK_BYTES > KEPT_BYTES:
            del self._blocks[next(iter(self._blocks))]
        return block


_kept: ContextVar[_Kept | None] = ContextVar("_kept", default=None)


class SourceFile(io.RawIOBase):
    """A local path or fsspec URL, to read and seek in.

    A read that fails is tried again, with growing pauses, on the file opened anew. When that does not help, `failure`
    says why, and the file seems to end: an exception would pass through FFmpeg's C code, which may swallow it. Ask
    `check` when done.
    """

    def __init__(self, uri: str) -> None:
        """Raises StorageError, and NotThereError for what is no file or has no permission."""
        super().__init__()
        self.uri = uri
        self.is_remote = "://" in uri
        # As a `file:` URL, because FFmpeg would interpret `concat:x` or a leading dash.
        self.name = uri if self.is_remote else "file:" + os.path.abspath(uri)
        self.failure: StorageError | None = None
        self._file: Any = None
        self._position = 0
        self._size_bytes: int | None = None  # when a server does not tell
        self._try(self._open)

    def check(self) -> None:
        """Raises StorageError when a read failed for good: then what was read is not the whole file."""
        if self.failure is not None:
            raise self.failure

    def read(self, size: int = -1) -> bytes:
        """Up to size bytes; none at the end of the file, or when the storage failed for good."""
        if self.failure is not None:
            return b""
        if self._size_bytes is not None and self._position >= self._size_bytes:
            return b""  # damaged files send readers to absurd places
        kept = _kept.get()
        try:
            if kept is not None and kept.uri == self.uri and self.is_remote and self._size_bytes is not None:
                data = kept.read(self._position, size, self._size_bytes, self._fetch)
            else:
                data = self._try(lambda: self._read_once(size))
        except (StorageError, NotThereError) as error:
            self.failure = StorageError(str(error))
            return b""
        self._position += len(data)
        return data

    def _fetch(self, start: int, size: int) -> bytes:
        """All these bytes, from the storage."""
        before, self._position = self._position, start
        parts: list[bytes] = []

        def read_more() -> bytes:
            return self._read_once(start + size - self._position)

        try:
            while self._position < start + size:
                parts.append(self._try(read_more))
                self._position += len(parts[-1])
        finally:
            self._position = before
        return b"".join(parts)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size_bytes}[whence]
        if start is None:
            raise OSError(errno.ESPIPE, "the size is not known")
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._size_bytes is not None

    def close(self) -> None:
        self._close_file()
        super().close()

    def _try(self, action: Any) -> Any:
        """The result of action(), which is tried again when the storage fails."""
        for wait_s in (*WAITS_S, None):
            try:
                if self._file is None and action != self._open:
                    self._open()
                return action()
            except Exception as error:  # fsspec's file systems raise what their libraries raise
                self._close_file()
                if isinstance(error, NotThereError):
                    raise
                if wait_s is None:
                    raise (
                        error if isinstance(error, StorageError) else StorageError(storage_words(error, self.uri))
                    ) from error
                time.sleep(wait_s)

    def _open(self) -> None:
        if self.is_remote:
            self._open_remote()
        else:
            self._open_local()

    def _open_local(self) -> None:
        try:
            if not os.path.isfile(self.uri):
                os.stat(self.uri)
                raise NotThereError("not a regular file")
            # Unbuffered: FFmpeg has a buffer of its own.
            file = open(self.uri, "rb", buffering=0)  # noqa: SIM115
        except OSError as error:
            if error.errno in NOT_THERE:
                raise NotThereError("no such file" if error.errno == errno.ENOENT else error.strerror) from error
            raise
        except ValueError as error:  # a null byte in the name
            raise NotThereError(str(error)) from error
        self._file = file
        self._keep_size(os.fstat(file.fileno()).st_size)

    def _open_remote(self) -> None:
        try:
            self._file = cast(Any, fsspec.open(self.uri, "rb")).open()
        except (ValueError, ImportError) as error:  # a scheme that fsspec cannot open
            raise NotThereError(str(error)) from error
        except Exception as error:
            if is_missing(error):
                raise NotThereError(str(error) or "no such file") from error
            raise
        self._keep_size(getattr(self._file, "size", None))

    def _keep_size(self, size_bytes: int | None) -> None:
        if self._size_bytes is not None and size_bytes != self._size_bytes:
            raise StorageError(f"{self.uri} changed while it was read: {self._size_bytes} bytes, then {size_bytes}")
        self._size_bytes = size_bytes

    def _read_once(self, size: int) -> bytes:
        self._file.seek(self._position)
        data = self._file.read(size)
        if not data and size and self._size_bytes is not None:
            raise StorageError(f"{self.uri} ends at byte {self._position} of {self._size_bytes}")
        return data

    def _close_file(self) -> None:
        if self._file is not None:
            with contextlib.suppress(Exception):  # of no consequence: it was only read
                self._file.close()
            self._file = None
