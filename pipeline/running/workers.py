"""The work of one worker on one source or unit, whatever happens to it. Knows neither Ray nor processes.

Here, and only here, errors become outcomes: a source that is damaged or kills its worker gets a row; a source whose
storage fails stays undone; a bug gets a row that says so; a dataset that cannot be written ends the run.
"""

import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import av.error

from lipforge.datasets_manifest.schema import Reason, Stage, Status
from lipforge.datasets_manifest.storage.store import Store
from lipforge.datasets_manifest.storage.trouble import UnreadableError
from lipforge.model.faces.templates import Template
from lipforge.pipeline.clip import Source, Unit, Video
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.ledger.parts import part_name, read_record
from lipforge.pipeline.ledger.quarantine import DEATHS, GivenUp, Quarantine
from lipforge.pipeline.ledger.records import DatasetError
from lipforge.pipeline.media.container import error_text
from lipforge.pipeline.media.source_file import NotThereError, StorageError, read_once
from lipforge.pipeline.recipe import CutOperator, CutUnit, ScoreOperator, whole_unit
from lipforge.pipeline.stages.probe import Probe, fingerprint, to_record, unread

PROBED_BYTES_PER_S = 10_000_000
"""Probing reads the whole source, so large ones get more time: a second for this many bytes."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """All that a worker needs; it fetches nothing."""

    store: Store
    config: PrepareConfig
    models: Mapping[str, bytes]
    hashes: dict[str, str]
    run_id: str


@dataclass(frozen=True)
class Undone:
    """A unit without a record, because the storage of its source failed. The next run does it."""

    unit: Unit
    detail: str


@dataclass(frozen=True)
class Probed:
    """A probed source. `record` is None when its storage failed; `video` then says how."""

    video: Video
    record: Record | None
    cpu_s: float


def memory_mb(unit: Unit, config: PrepareConfig) -> float:
    """That a worker may need for a unit with four large faces: it holds each for as long as one and a half of the
    longest clip, and the frames that decoder and cut detector have not passed on.

    Measured peaks: one face, at 512 to 3000 pixels a side, 0.4 to 0.6 of this; three usable ones of 400 px 0.99.
    """
    info = unit.video.info
    assert info is not None
    frame_px = info.width_px * info.height_px
    crops = [config.align.resolution]
    if config.align.template is not Template.LATENTSYNC:
        crops.append(config.align.scored_px)
    piece_px = sum(min(frame_px, (_PIECE_SIDE * side) ** 2) for side in crops)
    pieces = _FACES * 1.5 * config.cut.max_frames * 3 * piece_px
    return _MODELS_MB + (pieces + _FRAMES_IN_FLIGHT * 3 * frame_px) / 1e6


_MODELS_MB = 900.0
"""Of both operators, with torch."""
_FACES = 4
_PIECE_SIDE = 2.5
"""Longest side of the area around a face over that of the crop: up to twice with a margin (stages/cut.py)."""
_FRAMES_IN_FLIGHT = 30


class ProbeWorker:
    """Probes sources: what they are. The driver records it."""

    def __init__(self, job: Job) -> None:
        self.quarantine = Quarantine(job.store, job.config.run, job.run_id)

    def __call__(self, source: Source) -> Probed:
        with _writes_explained():
            return self._probe(source)

    def _probe(self, source: Source) -> Probed:
        start_s = time.process_time()
        mark = fingerprint(source.uri)
        try:
            with self.quarantine.attempt(source.entry_id, Stage.PROBE, _more_s(mark)):
                with read_once(source.uri):
                    video = Probe().process(source)
                _check_unchanged(source, mark)
        except StorageError as error:
            video = unread(source, Reason.STORAGE_ERROR, str(error))
        except GivenUp as error:
            video = unread(source, error.reason, error.detail)
        except Exception as error:
            if isinstance(error, OSError) and not isinstance(error, av.error.FFmpegError):
                raise  # of the dataset: sources raise StorageError
            video = unread(source, *_blame(error))
        if video.reason is Reason.STORAGE_ERROR:
            return Probed(video, None, time.process_time() - start_s)
        video = replace(video, fingerprint=mark)
        return Probed(video, to_record(video), time.process_time() - start_s)


class CutWorker:
    """Cuts units."""

    def __init__(self, job: Job) -> None:
        self.store = job.store
        self.quarantine = Quarantine(job.store, job.config.run, job.run_id)
        self.operator = CutOperator(job.config, job.models)

    def __call__(self, unit: Unit) -> CutUnit | Undone | None:
        """None for a unit that is done: committed by an attempt whose answer was lost."""
        with _writes_explained():
            if DEATHS.get() and self.store.exists(part_name(unit.unit_id)):
                return None
            return _outcome(unit, "cut", self.quarantine, lambda: self._cut(unit))

    def _cut(self, unit: Unit) -> CutUnit:
        try:
            with read_once(unit.video.source.uri):
                return self.operator.process(unit)
        finally:  # whatever came out: it would be stored as what the file was
            _check_unchanged(unit.video.source, unit.video.fingerprint)


class ScoreWorker:
    """Scores and commits units."""

    def __init__(self, job: Job) -> None:
        self.store = job.store
        self.quarantine = Quarantine(job.store, job.config.run, job.run_id)
        self.operator = ScoreOperator(job.config, job.models, job.store, job.hashes)

    def __call__(self, unit: Unit, cut: CutUnit | Undone | None) -> Record | Undone:
        """The unit's record. cut: what CutWorker made of the unit."""
        if isinstance(cut, Undone):
            return cut
        with _writes_explained():
            done = read_record(self.store, unit.unit_id) if DEATHS.get() else None
            if done is not None:
                return done
            assert cut is not None
            if all(clip.status is Status.FAILED for clip in cut.clips):
                return self.operator.process(cut)  # given up: nothing to measure, only a row to commit
            scored = _outcome(unit, "score", self.quarantine, lambda: self.operator.process(cut))
            if isinstance(scored, CutUnit):  # failed: nothing to measure, only a row to commit
                return self.operator.process(scored)
            return scored


class UnitWorker:
    """Cuts, scores and commits units."""

    def __init__(self, job: Job) -> None:
        self.cut = CutWorker(job)
        self.score = ScoreWorker(job)

    def __call__(self, unit: Unit) -> Record | Undone:
        return self.score(unit, self.cut(unit))


def _outcome(unit: Unit, operator: str, quarantine: Quarantine, work: Callable[[], Any]) -> Any:
    """work(), or a CutUnit with one failed row, or Undone. Raises OSError of the dataset."""
    try:
        with quarantine.attempt(unit.unit_id, operator):
            return work()
    except StorageError as error:
        return Undone(unit, str(error))
    except NotThereError as error:  # it was there when it was probed
        return Undone(unit, f"{unit.video.source.uri}: {error}")
    except GivenUp as error:
        reason, detail = error.reason, error.detail
    except Exception as error:
        if isinstance(error, OSError) and not isinstance(error, av.error.FFmpegError):
            raise
        reason, detail = _blame(error)
    if reason is Reason.STORAGE_ERROR:
        return Undone(unit, f"{unit.video.source.uri}: {detail}")
    stage = Stage.RESAMPLE if operator == "cut" else Stage.DETECT_SPEECH  # where the operator begins
    return CutUnit(unit, [whole_unit(unit, Status.FAILED, stage, reason, detail)], {}, 0.0)


def _blame(error: Exception) -> tuple[Reason, str]:
    """(reason, detail) of an error that no stage expects: of FFmpeg, which means the data; of memory; or our bug."""
    if isinstance(error, av.error.FFmpegError):
        return Reason.DECODE_ERROR, error_text(error)
    where = traceback.extract_tb(error.__traceback__)[-1]
    text = f"{type(error).__name__}: {error} at {os.path.basename(where.filename)}, line {where.lineno}"
    if isinstance(error, MemoryError):
        return Reason.WORKER_CRASHED, f"out of memory: {text}"
    return Reason.INTERNAL_ERROR, text


def _check_unchanged(source: Source, mark: str | None) -> None:
    """Raises StorageError when the file is no longer the one that had this fingerprint."""
    now = fingerprint(source.uri)
    if mark is not None and now is not None and now != mark:
        raise StorageError(f"{source.uri} changed while it was in use")


def _more_s(mark: str | None) -> float:
    """Time to read a source of the size that its fingerprint begins with."""
    size = (mark or "").partition(":")[0]
    return int(size) / PROBED_BYTES_PER_S if size.isdigit() else 0.0


@contextmanager
def _writes_explained() -> Iterator[None]:
    """OSError, which can only come from the dataset, becomes DatasetError."""
    try:
        yield
    except OSError as error:
        if isinstance(error, UnreadableError):
            what = str(error)
        else:
            what = f"cannot write to the dataset: {os.strerror(error.errno) if error.errno else error!r}"
        raise DatasetError(
            f"{what}. Finished work is safe. Make room or mend the storage, and run the "
            "same command again: it continues from here."
        ) from error
