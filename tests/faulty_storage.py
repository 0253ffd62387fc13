"""Storage that fails for a while, or for good, in part of a file."""

import errno
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lipforge.pipeline.media import source_file


@dataclass
class FaultySource:
    """How reads of one file fail while it is installed."""

    path: Path
    start: int = 0
    end: int = 1 << 62
    """Reads that touch these bytes fail."""
    error: int | None = errno.EIO
    """None: they return nothing, as if the file ended there."""
    fails_left: int = 1 << 30
    """So many reads fail before all goes well."""
    num_failures: int = field(default=0, init=False)

    def install(self, patch: pytest.MonkeyPatch) -> "FaultySource":
        """Also for processes that are forked later. Failed reads are tried again without a pause."""
        patch.setattr(source_file, "WAITS_S", (0.0,) * 3)
        patch.setattr(source_file, "open", self._open, raising=False)
        return self

    def _open(self, path: str, *arguments: Any, **options: Any) -> Any:
        file = open(path, *arguments, **options)  # noqa: SIM115
        return _FaultyFile(file, self) if Path(path) == self.path else file


class _FaultyFile(io.RawIOBase):
    def __init__(self, file: Any, faults: FaultySource) -> None:
        self.file = file
        self.faults = faults

    def fileno(self) -> int:
        return self.file.fileno()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        start, faults = self.file.tell(), self.faults
        if start < faults.end and start + max(size, 1) > faults.start and faults.fails_left > 0:
            faults.fails_left -= 1
            faults.num_failures += 1
            if faults.error is None:
                return b""
            raise OSError(faults.error, "injected")
        return self.file.read(size)

    def close(self) -> None:
        self.file.close()
        super().close()
