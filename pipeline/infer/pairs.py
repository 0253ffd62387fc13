"""Which videos get which sounds: a folder of both, or a list."""

import csv
import io
import json
import math
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from lipforge.datasets_manifest.parquet import parse_parquet
from lipforge.pipeline.config_loader import hash_of, validated
from lipforge.pipeline.infer.request import InferConfig, InferError, SamplingConfig
from lipforge.pipeline.media.output.containers import KINDS
from lipforge.pipeline.sources.inputs import VIDEO_SUFFIXES

SOUND_SUFFIXES = frozenset({".wav", ".mp3", ".flac", ".m4a", ".aac", ".ogg", ".oga", ".opus", ".wma"})
LIST_SUFFIXES = (".csv", ".jsonl", ".parquet")
_COLUMNS = ("video", "audio", "out")
_LISTS = frozenset({"guidance_band"})
"""Settings of several numbers: in a CSV, `0,500`."""


@dataclass(frozen=True)
class Pair:
    """One video to be given one sound."""

    video: str
    audio: str | None
    """None: no sound was found for it, so it is skipped."""
    out: str
    config: InferConfig

    @property
    def request(self) -> str:
        """The same for the same work."""
        config = self.config.model_dump(mode="json", exclude={"overwrite"})
        return hash_of([self.video, self.audio, config])


def find_pairs(source: str, out_folder: str, config: InferConfig) -> list[Pair]:
    """The pairs in a folder, sounds beside videos of the same stem, or in a .csv, .jsonl or .parquet file.

    A list has the columns video and audio, and may have out, a name in out_folder, and any setting of InferConfig or
    SamplingConfig, which replaces that of `config`; empty cells replace nothing. Its paths count from its own folder.
    Raises InferError where nothing is to be done, for rows that cannot be meant, and for two pairs of one output.
    """
    path = Path(source)
    if path.is_dir():
        pairs = _in_folder(path, Path(out_folder), config)
    elif path.suffix.lower() in LIST_SUFFIXES:
        pairs = _in_list(path, Path(out_folder), config)
    else:
        raise InferError(f"{source}: expected a folder, or a list: a file named {', '.join(LIST_SUFFIXES)}")
    if not any(pair.audio for pair in pairs):
        raise InferError(
            f"{source}: no pair of a video and a sound. In a folder, both have the same name: a.mp4, a.wav"
        )
    _refuse_doubles(pairs)
    return pairs


def _in_folder(folder: Path, out_folder: Path, config: InferConfig) -> list[Pair]:
    sounds: dict[Path, list[Path]] = defaultdict(list)
    videos = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or out_folder.resolve() in path.resolve().parents:
            continue
        if path.suffix.lower() in VIDEO_SUFFIXES:
            videos.append(path)
        elif path.suffix.lower() in SOUND_SUFFIXES:
            sounds[path.with_suffix("")].append(path)
    pairs = []
    for video in videos:
        found = sounds[video.with_suffix("")]
        if len(found) > 1:
            names = ", ".join(sound.name for sound in found)
            raise InferError(f"{video}: several sounds have its name: {names}. Keep one, or name them in a list")
        out = out_folder / _out_name(video.relative_to(folder))
        pairs.append(Pair(os.path.abspath(video), os.path.abspath(found[0]) if found else None, str(out), config))
    return pairs


def _in_list(path: Path, out_folder: Path, config: InferConfig) -> list[Pair]:
    try:
        rows = _rows(path)
    except OSError as error:
        raise InferError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, csv.Error) as error:
        raise InferError(f"{path}: {error}") from error
    pairs = []
    for number, raw in enumerate(rows, 1):
        where = f"{path}, row {number}"
        row = {name: value for name, value in raw.items() if not _is_empty(value)}
        for name in ("video", "audio"):
            if not isinstance(row.get(name), str):
                raise InferError(f"{where}: no {name}; each row names a video and an audio file")
        video, audio = (_from(path.parent, row[name]) for name in ("video", "audio"))
        out = PurePath(str(row.get("out") or _out_name(PurePath(PurePath(video).name))))
        if out.is_absolute() or ".." in out.parts:
            raise InferError(f"{where}: out {str(out)!r} is not a name inside {out_folder}")
        if out.suffix.lower() not in KINDS:
            raise InferError(f"{where}: out {str(out)!r} must end in one of {', '.join(KINDS)}")
        settings = {name: value for name, value in row.items() if name not in _COLUMNS}
        pairs.append(Pair(video, audio, str(out_folder / out), _with_settings(config, settings, where)))
    return pairs


def _rows(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    if path.suffix.lower() == ".parquet":
        return parse_parquet(data).to_pylist()
    # Paths may be any bytes; surrogateescape keeps them, as in Python's own file functions.
    text = data.decode("utf-8-sig", "surrogateescape")
    if path.suffix.lower() == ".csv":
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        if any(None in row for row in rows):
            raise ValueError("a row has more cells than the first")
        return rows
    rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("expected an object on each line")
    return rows


def _with_settings(config: InferConfig, settings: dict[str, Any], where: str) -> InferConfig:
    tree = config.model_dump()
    for name, value in settings.items():
        meant = value.split(",") if name in _LISTS and isinstance(value, str) else value
        if name in SamplingConfig.model_fields:
            tree["sampling"][name] = meant
        elif name in InferConfig.model_fields and name != "sampling":
            tree[name] = meant
        else:
            known = [*_COLUMNS, *(n for n in InferConfig.model_fields if n != "sampling"), *SamplingConfig.model_fields]
            raise InferError(f"{where}: unknown column {name!r}; known: {', '.join(known)}")
    try:
        return validated(InferConfig, tree)
    except ValueError as error:
        raise InferError(f"{where}: {error}") from error


def _out_name(video: PurePath) -> PurePath:
    """The video's own name; with .mp4 where its kind of file cannot be written."""
    return video if video.suffix.lower() in KINDS else video.with_suffix(".mp4")


def _from(folder: Path, name: str) -> str:
    return name if "://" in name else os.path.abspath(folder / name)


def _is_empty(value: Any) -> bool:
    """An empty cell; in tables of pandas also NaN."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _refuse_doubles(pairs: Iterable[Pair]) -> None:
    makers: dict[str, Pair] = {}
    for pair in pairs:
        out = os.path.abspath(pair.out)
        if out in makers:
            raise InferError(
                f"{out} would be written twice: for {makers[out].video} and for {pair.video}. Give one another name, "
                "in a list's column `out`"
            )
        if out in (os.path.abspath(pair.video), os.path.abspath(pair.audio or "")):
            raise InferError(f"{out} is an input: choose another folder for the outputs")
        makers[out] = pair
