"""Where the app's files lie, and whose they are. Nothing outside of this folder is served."""

import fcntl
import os
import secrets
import shutil
import threading
import time
from pathlib import Path

_RUN_PREFIX, _LOCK_NAME = "run-", "lock"
MOST_UPLOAD_BYTES = 2 << 30
"""Of one file."""
MOST_UPLOADS_BYTES = 6 << 30
"""Of what one user sent; the oldest go first."""
MOST_UPLOADS_S = 24 * 3600.0


class Shelf:
    """The folder of one run of the app. It goes when the app ends; what a killed one left goes at the next start."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError when it cannot be made."""
        folder = folder.expanduser().resolve()
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(f"{_RUN_PREFIX}*"):
            _remove_if_left(old)
        self.folder = folder / f"{_RUN_PREFIX}{secrets.token_hex(6)}"
        self.uploads, self._jobs = self.folder / "uploads", self.folder / "jobs"
        for path in (self.folder, self.uploads, self._jobs):
            path.mkdir(mode=0o700)
        self._lock_file = open(self.folder / _LOCK_NAME, "w")  # noqa: SIM115 (held as long as the app runs)
        fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._lock = threading.Lock()
        self._owned: dict[str, dict[Path, float]] = {}

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock_file.close()

    def job_folder(self) -> tuple[str, Path]:
        """A new job's name and folder."""
        name = secrets.token_urlsafe(12)
        folder = self._jobs / name
        folder.mkdir()
        return name, folder

    def take(self, user: str, uploads: list[str]) -> None:
        """These were sent by this user."""
        with self._lock:
            owned = self._owned.setdefault(user, {})
            for path in map(Path, uploads):
                owned[path.resolve()] = time.monotonic()
            self._drop_old(user)

    def owns(self, user: str, path: str) -> bool:
        """Whether this user sent this file."""
        if "\0" in path:
            return False
        with self._lock:
            return Path(path).resolve() in self._owned.get(user, {})

    def put(self, user: str, upload: str, folder: Path) -> Path:
        """The upload as a file in `folder`. Raises ValueError for what this user did not send, or what is gone."""
        if not self.owns(user, upload) or not Path(upload).is_file():
            raise ValueError("The file is no longer here: send it again.")
        folder.mkdir(exist_ok=True)
        target = folder / Path(upload).name
        try:
            os.link(upload, target)
        except OSError:  # a file system without hard links
            shutil.copyfile(upload, target)
        return target

    def _drop_old(self, user: str) -> None:
        size, now_s = 0, time.monotonic()
        for owner, owned in self._owned.items():
            for path in sorted(owned, key=lambda path: owned[path], reverse=True):
                if owner == user:
                    size += path.stat().st_size if path.is_file() else 0
                too_much = owner == user and size > MOST_UPLOADS_BYTES
                if too_much or now_s - owned[path] > MOST_UPLOADS_S:
                    del owned[path]
                    if not any(path in others for others in self._owned.values()):
                        path.unlink(missing_ok=True)


def _remove_if_left(folder: Path) -> None:
    """Remove a run's folder unless that run still lives."""
    try:
        with open(folder / _LOCK_NAME) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        return
