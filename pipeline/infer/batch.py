"""Many videos at once: pairs of a video and a sound, from a list or a folder, with one row of results for each.

Each pair is made exactly once: a rerun skips those whose row says `made` and whose file is there.
"""

import csv
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from lipforge.model.trained import weights_name
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.config_loader import hash_of, validated
from lipforge.pipeline.infer.request import InferConfig, InferError, SamplingConfig
from lipforge.pipeline.infer.work import identity_of, points_identity, write_whole
from lipforge.pipeline.media.container import MediaError
from lipforge.pipeline.media.source_file import NotThereError, StorageError
from lipforge.pipeline.running.executors import make_executor

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".ts")
SOUND_SUFFIXES = (".wav", ".mp3", ".m4a", ".flac", ".ogg", ".opus", ".aac")
RESULTS_NAME, LINES_NAME = "results.parquet", "results.jsonl"
_FILES = ("video", "audio", "out")
_PLACES = ("face_points", "model", "vae", "audio_encoder")


@dataclass(frozen=True)
class Pair:
    """One video to make."""

    video: str
    audio: str
    out: str
    config: InferConfig

    @property
    def request_id(self) -> str:
        """Names what is asked, with the files as they are now. Raises OSError."""
        files: list[Any] = [identity_of(self.video), identity_of(self.audio)]
        if self.config.face_points is not None:
            files.append(points_identity(self.config.face_points))
        model = Path(self.config.model or "")
        weights = model / weights_name("unet") if model.is_dir() else model
        files.append(identity_of(str(weights)) if weights.is_file() else None)
        return hash_of([files, self.out, self.config.model_dump(mode="json", exclude={"overwrite"})])


@dataclass(frozen=True)
class Row:
    """What became of a pair."""

    video: str
    audio: str
    out: str
    status: str
    """made, or failed"""
    detail: str = ""
    """Why it failed, in words."""
    num_frames: int = 0
    duration_s: float = 0.0
    drawn_ratio: float = 0.0
    """Share of the frames that have a new mouth."""
    wall_s: float = 0.0
    model: str = ""
    notes: str = ""
    request_id: str = ""


def read_pairs(place: str, out: str, config: InferConfig) -> list[Pair]:
    """place: a list, or a folder of videos with a sound of the same name beside each. Raises ValueError, with the line.

    A list has the columns `video` and `audio`, optionally `out` and any setting; paths are relative to it. Results go
    to the folder `out`.
    """
    path = Path(place)
    if path.is_dir():
        rows = _rows_of_folder(path)
    elif path.suffix.lower() in (".csv", ".jsonl", ".parquet"):
        rows = _rows_of_list(path)
    else:
        raise ValueError(f"{place}: expected a folder, or a list: .csv, .jsonl or .parquet with `video` and `audio`")
    pairs = [_pair(number, row, path if path.is_dir() else path.parent, Path(out), config) for number, row in rows]
    taken: dict[str, int] = {}
    for (number, _), pair in zip(rows, pairs, strict=True):
        if pair.out in taken:
            raise ValueError(
                f"{place}: entries {taken[pair.out]} and {number} would both be {pair.out}: give each its own `out`"
            )
        taken[pair.out] = number
    inputs = {os.path.realpath(name) for pair in pairs for name in (pair.video, pair.audio)}
    for (number, _), pair in zip(rows, pairs, strict=True):
        if os.path.realpath(pair.out) in inputs:
            raise ValueError(f"{place}: entry {number} would replace {pair.out}, an input: give it another `out`")
    return pairs


def left_out(place: str) -> list[str]:
    """Videos of a folder that have no sound of their name; none for a list."""
    path = Path(place)
    if not path.is_dir():
        return []
    names = {file.name for file in path.iterdir() if file.is_file()}
    paired = {row["video"] for _, row in _rows_of_folder(path)}
    return sorted(name for name in names - paired if Path(name).suffix.lower() in VIDEO_SUFFIXES)


def run_pairs(
    pairs: list[Pair], out: str, executor: str, overwrite: bool, on_row: Callable[[Row, int, int], None]
) -> list[Row]:
    """Make what is not made yet. Returns a row for each pair, also written to OUT/results.parquet.

    executor: local or ray. on_row: told each row, how many are done, of how many. A pair that cannot be made gets a row
    that says why; the others go on.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    known = {} if overwrite else _known(folder)
    rows: dict[str, Row] = {}
    for pair in pairs:
        row = known.get(pair.out)
        if row is not None and row.status == "made" and Path(pair.out).is_file() and _is_same(pair, row):
            rows[pair.out] = row
    for number, row in enumerate(rows.values(), 1):
        on_row(row, number, len(pairs))
    wanted = [pair for pair in pairs if pair.out not in rows]
    if wanted:
        settings = validated(PrepareConfig, {"run": {"executor": executor}})
        runner = make_executor(settings)
        try:
            num_gpus = _num_gpus(wanted[0].config) if executor == "ray" else 0.0
            for row in runner.map(partial(_make, known), wanted, num_gpus):
                rows[row.out] = row
                _append(folder / LINES_NAME, row)
                on_row(row, len(rows), len(pairs))
        finally:
            runner.close()
    found = [rows[pair.out] for pair in pairs]
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([asdict(row) for row in found]), buffer)
    write_whole(folder / RESULTS_NAME, buffer.getvalue().to_pybytes())
    return found


def _make(known: dict[str, Row], pair: Pair) -> Row:
    """In any process of the run: models are loaded once in each."""
    from lipforge.pipeline.infer.run import infer

    began_s = time.monotonic()
    blank = Row(pair.video, pair.audio, pair.out, "failed")
    config = pair.config
    if pair.out in known and known[pair.out].status == "made":
        config = config.model_copy(update={"overwrite": True})  # ours, from other settings or files
    try:
        request_id = pair.request_id
        result = infer(pair.video, pair.audio, pair.out, config)
    except (InferError, MediaError, NotThereError, StorageError, ValueError) as error:
        words = getattr(error, "detail", None) or str(error)
        return _replace(blank, detail=words, wall_s=time.monotonic() - began_s)
    except OSError as error:
        words = "no such file" if isinstance(error, FileNotFoundError) else str(error.strerror)
        return _replace(blank, detail=f"{error.filename}: {words}", wall_s=time.monotonic() - began_s)
    return _replace(
        blank,
        status="made",
        num_frames=result.num_frames,
        duration_s=result.duration_s,
        drawn_ratio=result.num_drawn / result.num_frames,
        wall_s=result.wall_s,
        model=result.model,
        notes=" ".join(result.notes),
        request_id=request_id,
    )


def _replace(row: Row, **values: Any) -> Row:
    return Row(**{**asdict(row), **values})


def _num_gpus(config: InferConfig) -> float:
    """A GPU for each call where one is asked for; with `auto`, where the cluster has any."""
    if config.device == "auto":
        import ray

        return 1.0 if ray.cluster_resources().get("GPU", 0) else 0.0
    return 1.0 if config.device == "cuda" else 0.0


def _is_same(pair: Pair, row: Row) -> bool:
    try:
        return pair.request_id == row.request_id
    except OSError:
        return True  # the inputs are gone; the result is there


def _known(folder: Path) -> dict[str, Row]:
    """The last row of each output, from an earlier run. A line that was cut off when the run was killed is left out."""
    rows = {}
    path = folder / LINES_NAME
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            row = Row(**json.loads(line))
        except (ValueError, TypeError):
            continue
        rows[row.out] = row
    return rows


def _append(path: Path, row: Row) -> None:
    with open(path, "a") as file:
        file.write(json.dumps(asdict(row)) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _rows_of_folder(folder: Path) -> list[tuple[int, dict[str, Any]]]:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    sounds = {path.stem: path.name for path in files if path.suffix.lower() in SOUND_SUFFIXES}
    found = [
        {"video": path.name, "audio": sounds[path.stem]}
        for path in files
        if path.suffix.lower() in VIDEO_SUFFIXES and path.stem in sounds
    ]
    if not found:
        raise ValueError(
            f"{folder}: no pair in it: a video such as talk.mp4 needs a sound of the same name, such as talk.wav"
        )
    return list(enumerate(found, 1))


def _rows_of_list(path: Path) -> list[tuple[int, dict[str, Any]]]:
    try:
        rows = list(_lines(path))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, csv.Error, pa.ArrowInvalid) as error:
        raise ValueError(f"{path}: cannot be read as a list: {error}") from error
    if not rows:
        raise ValueError(f"{path}: the list is empty")
    return rows


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if path.suffix.lower() == ".parquet":
        yield from enumerate(pq.read_table(path).to_pylist(), 1)
    elif path.suffix.lower() == ".csv":
        with open(path, newline="", encoding="utf-8-sig") as file:
            yield from enumerate(csv.DictReader(file), 2)
    else:
        for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
            if line.strip():
                yield number, json.loads(line)


def _pair(number: int, row: Any, base: Path, out: Path, config: InferConfig) -> Pair:
    if not isinstance(row, dict) or None in row:
        raise ValueError(f"entry {number} of the list: expected values by name, such as video, audio")
    given = {name: value for name, value in row.items() if value not in (None, "")}
    for name in ("video", "audio"):
        if not isinstance(given.get(name), str):
            raise ValueError(f"entry {number} of the list: no `{name}`")
    video, audio = (str(base / given[name]) for name in ("video", "audio"))
    name = str(given.get("out", f"{Path(video).stem}.mp4"))
    if "\0" in name:
        raise ValueError(f"entry {number} of the list: out {name!r} cannot be a name")
    target = (out / name).resolve()
    if not target.is_relative_to(out.resolve()):
        raise ValueError(f"entry {number} of the list: out {name!r} lies outside of {out}")
    try:
        settings = {key: _typed(value) for key, value in given.items() if key not in _FILES}
    except yaml.YAMLError as error:
        raise ValueError(f"entry {number} of the list: a setting that cannot be read: {error}") from error
    for key in _PLACES:  # relative to the list, as its videos are
        if isinstance(settings.get(key), str) and (base / settings[key]).exists():
            settings[key] = str(base / settings[key])
    sampling = {key: settings.pop(key) for key in list(settings) if key in SamplingConfig.model_fields}
    merged = {**config.model_dump(), **settings}
    merged["sampling"] = {**config.sampling.model_dump(), **sampling}
    try:
        return Pair(video, audio, str(target), validated(InferConfig, merged))
    except ValueError as error:
        raise ValueError(f"entry {number} of the list: {error}") from error


def _typed(value: Any) -> Any:
    """Values of a CSV file are text."""
    return yaml.safe_load(value) if isinstance(value, str) else value
