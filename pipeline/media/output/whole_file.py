"""A media file that appears under its name when it is complete, and not at all when it is not."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lipforge.datasets_manifest.storage.trouble import storage_words
from lipforge.pipeline.media.source_file import StorageError

_OF_STORAGE = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG, errno.ESTALE, errno.ENOTCONN),
        *(errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.ENXIO, errno.ETIMEDOUT),
    }
)


class WholeFile:
    """A temporary file, to be written by FFmpeg."""

    def __init__(self, path: Path, folder: Path | None = None) -> None:
        """folder: of the temporary file, on the same file system; None: that of path.

        Raises StorageError when the folder cannot be written.
        """
        self.path = path
        self._temporary = ""
        with self.errors():
            descriptor, self._temporary = tempfile.mkstemp(dir=folder or path.parent, prefix=".tmp-")
            os.close(descriptor)
        self.url = "file:" + os.path.abspath(self._temporary)  # a URL, because FFmpeg would interpret `concat:x`

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Errors of the disk become StorageError, and the temporary file goes away."""
        try:
            yield
        except OSError as error:
            if error.errno not in _OF_STORAGE:
                raise
            self.discard()
            raise StorageError(storage_words(error, str(self.path), "written")) from error

    def keep(self) -> None:
        """Give the finished file its name, once its bytes are on the disk."""
        with self.errors():
            descriptor = os.open(self._temporary, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(self._temporary, 0o666 & ~mask)  # mkstemp lets only the owner read
            os.replace(self._temporary, self.path)
        with suppress(OSError):  # not every file system can: the file itself is safe
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def discard(self) -> None:
        """Free the space. Nothing happens to what already has its name."""
        with suppress(OSError):
            os.unlink(self._temporary)
