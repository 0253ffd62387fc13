"""A store that stands for a process which is killed before or after a change on disk."""

import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lipforge.datasets_manifest.storage.store import Store


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the pipeline may catch it."""


class MortalStore(Store):
    """Dies just before or after its n-th change on disk."""

    def __init__(self, root: str, lives: int, after: bool) -> None:
        super().__init__(root)
        self.lives = lives
        self.after = after

    def _change(self, change: Callable[[], None]) -> None:
        self.lives -= 1
        if self.lives == 0 and not self.after:
            raise Killed
        change()
        if self.lives == 0:
            raise Killed

    @contextmanager
    def writing(self, name: str) -> Iterator[io.BytesIO]:  # type: ignore[override]
        buffer = io.BytesIO()
        yield buffer
        self._change(lambda: Store.write(Store(self.root), name, buffer.getvalue()))

    @contextmanager
    def writing_hashed(self, name_of: Callable[[str], str]) -> Iterator[io.BytesIO]:  # type: ignore[override]
        buffer = io.BytesIO()
        yield buffer

        def write() -> None:
            with Store(self.root).writing_hashed(name_of) as file:
                file.write(buffer.getvalue())

        self._change(write)
        digest = hashlib.sha256(buffer.getvalue()).hexdigest()
        name_of(digest)  # the caller learns the name from this call

    def create(self, name: str, data: bytes) -> None:
        self._change(lambda: Store.create(self, name, data))

    def delete(self, name: str) -> None:
        self._change(lambda: Store.delete(self, name))

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("a mortal store stays in its process")
