"""New lips for many videos: each pair once, one row of results each, whatever happens to the others."""

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from lipforge.datasets_manifest.parquet import parquet_bytes, parse_parquet
from lipforge.datasets_manifest.storage.files import open_place, publish
from lipforge.model.weights.load import ModelFileError
from lipforge.pipeline.infer.pairs import Pair
from lipforge.pipeline.infer.request import InferError, InferResult
from lipforge.pipeline.media.container import MediaError
from lipforge.pipeline.media.source_file import NotThereError, StorageError

logger = logging.getLogger(__name__)

RESULTS = "results.parquet"
CLAIMS = ".batch.json"
"""Names of the outputs that a batch in this folder began: those, it may replace."""
SCHEMA = pa.schema(
    [
        ("video", pa.string()),
        ("audio", pa.string()),
        ("out", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("frames", pa.int64()),
        ("seconds", pa.float64()),
        ("drawn_share", pa.float64()),
        ("wall_s", pa.float64()),
        ("model", pa.string()),
        ("model_sha256", pa.string()),
        ("request", pa.string()),
    ]
)
"""status: made, failed or skipped. reason: a fixed word; detail: a sentence. drawn_share: frames with a new mouth, of
all. request: the same for the same files and settings."""

Row = dict[str, Any]
Infer = Callable[[Pair], InferResult]
"""Makes one output. It may replace the one that is there. On Ray it is sent to other processes, so it must pickle."""


class Mapper(Protocol):
    """What a batch asks of `running.executors`: LocalExecutor and RayExecutor have it."""

    def map(self, function: Callable[[Any], Any], items: list[Any]) -> Iterator[Any]:
        """Results of function(item), in any order."""
        ...


@dataclass(frozen=True)
class BatchResult:
    """How many pairs ended how. Pairs that were made before count as made, too."""

    made: int
    failed: int
    skipped: int
    made_before: int

    @property
    def exit_code(self) -> int:
        """0 when nothing failed."""
        return 1 if self.failed else 0


def run_batch(
    pairs: Sequence[Pair],
    infer: Infer,
    executor: Mapper,
    out_folder: str,
    on_row: Callable[[Row], None] = lambda row: None,
) -> BatchResult:
    """Make what is not made yet; a row of each pair is in out_folder/results.parquet as soon as it ended.

    Pairs that were made stay as they are, those that failed are tried again. What another program put where an output
    goes is not touched, unless the pair's settings say `overwrite`. The errors of files, models and requests end one
    pair; Cancelled and bugs end the batch, and the same call goes on from there. Raises InferError where out_folder
    cannot be written or holds a damaged table.
    """
    folder = Path(out_folder)
    rows = _read_rows(folder)
    claims = _read_claims(folder)
    todo, made_before = [], 0
    results: dict[str, Row] = {}
    for pair in pairs:
        before = rows.get(_escaped(pair.out))
        if before is not None and before["status"] == "made" and before["request"] == pair.request and _is_there(pair):
            results[pair.out] = before
            made_before += 1
        elif pair.audio is None:
            results[pair.out] = _row(pair, "skipped", "no_sound", "no sound of the same name lies beside the video")
        elif _is_there(pair) and pair.out not in claims and not pair.config.overwrite:
            detail = f"{pair.out} exists: choose another folder, or --overwrite to replace it"
            results[pair.out] = _row(pair, "failed", "output_exists", detail)
        else:
            todo.append(pair)
    claims.update(pair.out for pair in todo)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for pair in todo:
            Path(pair.out).parent.mkdir(parents=True, exist_ok=True)
        _publish(folder / CLAIMS, json.dumps(sorted(claims)).encode("utf-8", "surrogateescape"))
        _write_rows(folder, results)
        for row in executor.map(partial(_attempt, infer), todo):
            results[row["out"]] = row
            _write_rows(folder, results)
            on_row(row)
    except OSError as error:
        raise InferError(f"{folder} cannot be written: {error.strerror or error}") from error
    ended = [row["status"] for row in results.values()]
    return BatchResult(ended.count("made"), ended.count("failed"), ended.count("skipped"), made_before)


def _attempt(infer: Infer, pair: Pair) -> Row:
    """The row of one pair. Errors that say something of its files or settings are its result."""
    began = time.monotonic()
    try:
        result = infer(pair)
    except MediaError as error:
        reason, detail = error.reason.value, error.detail
    except NotThereError as error:
        reason, detail = "not_there", str(error)
    except StorageError as error:
        reason, detail = "storage", str(error)
    except ModelFileError as error:
        reason, detail = "model", str(error)
    except InferError as error:
        reason, detail = "request", str(error)
    else:
        return _row(
            pair,
            "made",
            None,
            "; ".join(result.notes) or None,
            frames=result.num_frames,
            seconds=result.duration_s,
            drawn_share=result.num_drawn / max(result.num_frames, 1),
            wall_s=result.wall_s,
            model=result.model,
            model_sha256=result.model_sha256,
        )
    logger.warning("%s: %s", pair.video, detail)
    return _row(pair, "failed", reason, detail, wall_s=time.monotonic() - began)


def _row(pair: Pair, status: str, reason: str | None, detail: str | None, **measures: Any) -> Row:
    names = {"video": pair.video, "audio": pair.audio, "out": pair.out, "request": pair.request}
    ended = {"status": status, "reason": reason, "detail": detail}
    return dict.fromkeys(SCHEMA.names) | names | ended | measures


def _is_there(pair: Pair) -> bool:
    return os.path.lexists(pair.out)


def _read_rows(folder: Path) -> dict[str, Row]:
    try:
        table = parse_parquet((folder / RESULTS).read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InferError(f"{folder / RESULTS} cannot be read: {error}. Move it away to begin anew") from error
    if table.schema.names != SCHEMA.names:
        raise InferError(f"{folder / RESULTS} is not a table of results: choose another folder")
    return {row["out"]: row for row in table.to_pylist()}


def _write_rows(folder: Path, results: dict[str, Row]) -> None:
    rows = [_to_text(results[out]) for out in sorted(results)]
    _publish(folder / RESULTS, parquet_bytes(pa.Table.from_pylist(rows, schema=SCHEMA)))


def _to_text(row: Row) -> Row:
    """Names of files may be any bytes; tables hold text."""
    return {name: _escaped(value) if isinstance(value, str) else value for name, value in row.items()}


def _escaped(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _read_claims(folder: Path) -> set[str]:
    try:
        return set(json.loads((folder / CLAIMS).read_bytes().decode("utf-8", "surrogateescape")))
    except FileNotFoundError:
        return set()
    except (OSError, ValueError) as error:
        raise InferError(f"{folder / CLAIMS} cannot be read: {error}. Move it away to begin anew") from error


def _publish(path: Path, data: bytes) -> None:
    fs, place = open_place(str(path))
    publish(fs, place, data)
