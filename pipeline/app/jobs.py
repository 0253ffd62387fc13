"""What users asked for, one at a time for the machine's one GPU, in the order in which it was asked."""

import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from lipforge.datasets_manifest.storage.trouble import CANNOT_WRITE, UnreadableError
from lipforge.model.weights.load import ModelFileError
from lipforge.pipeline.infer import run
from lipforge.pipeline.infer.protocols import Cancelled, Progress
from lipforge.pipeline.infer.request import InferConfig, InferError, InferResult
from lipforge.pipeline.media.container import MediaError
from lipforge.pipeline.media.output.sound import open_sound
from lipforge.pipeline.media.probe import probe
from lipforge.pipeline.media.source_file import NotThereError, StorageError

PREVIEW_S = 2.0
MOST_PENDING = 20
"""Jobs of one user that wait or run."""
MOST_KEPT = 20
"""Results of one user."""
MOST_SEARCHES = 3
"""Pictures of numbered faces, which push out no result."""
MOST_KEPT_BYTES = 4 << 30
"""Of one user's results, with the files that they were made from; the oldest go first."""
MOST_KEPT_S = 24 * 3600.0

WORDED = (InferError, MediaError, NotThereError, StorageError, ModelFileError, UnreadableError, ValueError)
"""Errors whose message is meant for the user."""
BROKEN = "Something in Lipforge itself failed. Who runs it finds the reason in the terminal that it was started from."


class Kind(StrEnum):
    VIDEO = "video"
    PREVIEW = "preview"
    FACES = "faces"


class State(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


PENDING = (State.WAITING, State.RUNNING)


@dataclass(eq=False)
class Job:
    """One thing that a user asked for. All of its files lie in its folder."""

    id: str
    user: str
    kind: Kind
    folder: Path
    video: Path
    audio: Path | None
    config: InferConfig
    state: State = State.WAITING
    progress: Progress | None = None
    words: str = ""
    """Why it failed."""
    result: InferResult | None = None
    size_px: tuple[int, int] = (16, 9)
    """Width and height of the result, as displayed."""
    picture: Path | None = None
    """Of numbered faces."""
    faces: list[str] = field(default_factory=list)
    """A line about each."""
    stop: threading.Event = field(default_factory=threading.Event)
    began_s: float = 0.0
    ended_s: float = 0.0

    @property
    def out(self) -> Path:
        word = "preview" if self.kind is Kind.PREVIEW else "new"
        return self.folder / f"{self.video.stem}-{word}{self.video.suffix.lower()}"

    @property
    def title(self) -> str:
        return self.video.name if self.audio is None else f"{self.video.name} + {self.audio.name}"

    def without_folders(self, text: str) -> str:
        """Messages name files as the user knows them."""
        for path in (self.video, self.audio, self.out):
            if path is not None:
                text = text.replace(str(path), path.name)
        return text.replace(f"{self.folder}/", "")


Make = Callable[..., InferResult]


class Jobs:
    """The queue, and what came of it."""

    def __init__(
        self, make: Make = run.infer, number: Callable[..., tuple[Path, list[str]]] = run.number_faces
    ) -> None:
        self._make, self._number = make, number
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="lipforge-job")
        self._lock = threading.Lock()
        self._jobs: list[Job] = []

    def submit(self, jobs: list[Job]) -> None:
        """All or none. Raises ValueError when the user has too many waiting."""
        with self._lock:
            for user in {job.user for job in jobs}:
                asked = sum(job.user == user and job.state in PENDING for job in self._jobs)
                wanted = sum(job.user == user for job in jobs)
                if asked + wanted > MOST_PENDING:
                    raise ValueError(
                        f"{wanted} more would make {asked + wanted} jobs of yours; at most {MOST_PENDING} wait at a "
                        "time: send the others when some of these are done"
                    )
            self._jobs += jobs
        for job in jobs:
            self._worker.submit(self._run, job).add_done_callback(_note_failure(job))

    def of(self, user: str) -> list[Job]:
        """The newest first."""
        with self._lock:
            return [job for job in reversed(self._jobs) if job.user == user]

    def find(self, user: str, job_id: str) -> Job | None:
        return next((job for job in self.of(user) if job.id == job_id), None)

    def ahead_of(self, job: Job) -> int:
        """Jobs of all users that come before one that waits."""
        with self._lock:
            before = self._jobs[: self._jobs.index(job)] if job in self._jobs else []
        return sum(other.state in PENDING for other in before)

    def stop(self, jobs: list[Job]) -> None:
        for job in jobs:
            job.stop.set()
            if job.state is State.WAITING:
                job.state = State.STOPPED

    def remove(self, jobs: list[Job]) -> None:
        """Forget jobs that are over, with their files."""
        with self._lock:
            over = [job for job in jobs if job.state not in PENDING and job.ended_s]
            self._jobs = [job for job in self._jobs if job not in over]
        for job in over:
            shutil.rmtree(job.folder, ignore_errors=True)

    def close(self) -> None:
        """Stop everything, and wait until it has stopped."""
        with self._lock:
            jobs = list(self._jobs)
        self.stop(jobs)
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _run(self, job: Job) -> None:
        if job.stop.is_set():
            self._end(job)
            return
        job.state, job.began_s = State.RUNNING, time.monotonic()
        try:
            self._work(job)
            job.state = State.DONE
        except Cancelled:
            job.state = State.STOPPED
        except WORDED as error:
            job.words, job.state = job.without_folders(f"{_blamed(job, error)}{error}"), State.FAILED
        except OSError as error:
            if error.errno not in CANNOT_WRITE:
                raise
            job.words, job.state = f"The app's disk cannot be written to: {error.strerror}.", State.FAILED
        finally:
            if job.state is State.RUNNING:
                job.words, job.state = BROKEN, State.FAILED
            self._end(job)

    def _end(self, job: Job) -> None:
        job.ended_s = time.monotonic()
        if job.state is not State.DONE:
            shutil.rmtree(job.folder, ignore_errors=True)
        self._prune(job.user)

    def _work(self, job: Job) -> None:
        def listen(progress: Progress) -> None:
            job.progress = progress

        video, out = str(job.video), str(job.out)
        if job.kind is Kind.FACES:
            job.picture, job.faces = self._number(video, out, job.config, listen, job.stop.is_set)
            return
        limit_s = PREVIEW_S if job.kind is Kind.PREVIEW else None
        result = self._make(video, str(job.audio), out, job.config, listen, job.stop.is_set, limit_s=limit_s)
        info = probe(result.out)
        job.size_px, job.result = (info.width_px, info.height_px), result

    def _prune(self, user: str) -> None:
        results, searches, size = 0, 0, 0
        old: list[Job] = []
        for job in self.of(user):
            if job.state is not State.DONE:
                continue
            size += folder_bytes(job.folder)
            if job.kind is Kind.FACES:
                searches += 1
                is_old = searches > MOST_SEARCHES
            else:
                results += 1
                is_old = results > MOST_KEPT
            if is_old or (results + searches > 1 and size > MOST_KEPT_BYTES):
                old.append(job)
        with self._lock:
            old += [job for job in self._jobs if job.ended_s and time.monotonic() - job.ended_s > MOST_KEPT_S]
        self.remove(old)


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _blamed(job: Job, error: Exception) -> str:
    """The name of the file that cannot be read, for messages that do not say it."""
    if not isinstance(error, MediaError):
        return ""
    for path, look in ((job.video, probe), (job.audio, open_sound)):
        if path is not None and str(path) not in str(error):
            try:
                look(str(path))
            except WORDED:
                return f"{path.name}: "
    return ""


def _note_failure(job: Job) -> Callable[[Future[Any]], None]:
    """A bug: the traceback goes to the terminal, and the next job runs."""

    def note(future: Future[Any]) -> None:
        if not future.cancelled() and (error := future.exception()) is not None:
            import traceback

            traceback.print_exception(error)

    return note
