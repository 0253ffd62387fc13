"""A remote file system for tests that raises what a test wants, as those of object stores do."""

from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class ShakyFileSystem(MemoryFileSystem):
    """Files in memory below `shaky://`, whose first folder stands for a bucket."""

    protocol = "shaky"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    cachable = False
    error: ClassVar[BaseException | None] = None
    """Raised by the calls in `failing`."""
    failing: ClassVar[frozenset[str]] = frozenset()
    """Names of methods, for example `cat_file`; `_open` includes reading by Arrow."""

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(each) for each in path]
        return super()._strip_protocol(path.removeprefix("shaky://"))

    def info(self, path: str, **how: Any) -> Any:
        return self._call("info", path, **how)

    def ls(self, path: str, detail: bool = True, **how: Any) -> Any:
        return self._call("ls", path, detail=detail, **how)

    def find(self, path: str, *args: Any, **how: Any) -> Any:  # fsspec's own hides errors, s3fs's does not
        return self._call("find", path, *args, **how)

    def exists(self, path: str, **how: Any) -> Any:
        return self._call("exists", path, **how)

    def isdir(self, path: str) -> Any:
        return self._call("isdir", path)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **how: Any) -> Any:
        return self._call("cat_file", path, start=start, end=end, **how)

    def put_file(self, lpath: Any, rpath: str, **how: Any) -> Any:
        return self._call("put_file", lpath, rpath, **how)

    def _open(self, path: str, *args: Any, **how: Any) -> Any:
        return self._call("_open", path, *args, **how)

    def _call(self, name: str, *args: Any, **how: Any) -> Any:
        if self.error is not None and name in self.failing:
            raise self.error
        return getattr(super(), name)(*args, **how)


fsspec.register_implementation("shaky", ShakyFileSystem, clobber=True)
