"""Find the sources in files, folders, globs, lists and URLs. Opens list files only."""

import csv
import glob
import io
import json
import math
import os
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from lipforge.datasets_manifest.language_tags import LanguageError, canonical_language
from lipforge.datasets_manifest.parquet import arrow_reader
from lipforge.datasets_manifest.storage.files import open_place, read_file
from lipforge.datasets_manifest.storage.store import REPORT_MEDIA, REPORT_PAGE
from lipforge.datasets_manifest.storage.trouble import storage_errors
from lipforge.pipeline.clip import Source, fingerprint_of
from lipforge.pipeline.sources.path_template import TemplateUse

VIDEO_SUFFIXES = frozenset(
    [
        ".3g2",
        ".3gp",
        ".asf",
        ".avi",
        ".divx",
        ".dv",
        ".f4v",
        ".flv",
        ".m2ts",
        ".m2v",
        ".m4v",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
        ".mts",
        ".mxf",
        ".ogm",
        ".ogv",
        ".rm",
        ".ts",
        ".vob",
        ".webm",
        ".wmv",
    ]
)
LIST_SUFFIXES = frozenset({".txt", ".csv", ".jsonl", ".parquet"})
LIST_COLUMNS = frozenset({"source_uri", "language", "speaker", "start_s", "end_s"})


@dataclass(frozen=True)
class Labels:
    """Labels for all sources. A list's columns take precedence over the path, the path over the flags.

    Languages may be spelled in any way that language_tags knows: zh_CN, eng, iw.
    """

    language: str | None = None
    speaker: str | None = None
    path_template: str | None = None
    """For example `{language}/{speaker}/`: see path_template.py."""


@dataclass(frozen=True)
class Unreadable:
    """A folder that could not be listed. The run goes on and reports it at the end."""

    uri: str
    detail: str


class Found(NamedTuple):
    """What the inputs hold."""

    sources: list[Source]
    """Sorted and without repeats."""
    unreadable: list[Unreadable]
    notes: list[str]
    """For the user: what a path template gave."""


def find_sources(inputs: list[str], labels: Labels, exclude: Path | None = None) -> Found:
    """All sources with their labels, and the folders that could not be read.

    inputs: files, folders (searched recursively), globs, list files, fsspec URLs of any of these.
    exclude: the dataset being written, which may be inside an input folder.
    Raises ValueError for an input that does not exist, a list that is invalid, or a path template that gives no file a
    label; FileNotFoundError for a URL of which nothing exists, UnreadableError when the storage of a URL or list fails.
    """
    if labels.language is not None:
        labels = replace(labels, language=check_language(labels.language, "--language"))
    template = None if labels.path_template is None else TemplateUse(labels.path_template, labels.language)
    sources: dict[tuple[str, float | None, float | None], Source] = {}
    unreadable: list[Unreadable] = []
    for text in inputs:
        if exclude is not None and os.path.realpath(text) == os.path.realpath(exclude):
            raise ValueError(f"{text}: this input is also the output folder; choose another --out")
        root = _as_root(text)
        for source in _expand(text, unreadable, exclude):
            above = root if source.uri.startswith(f"{root}/") else None
            labelled = _label(source, labels, {} if template is None else template.labels(source, above))
            key = (labelled.uri, labelled.start_s, labelled.end_s)
            sources[key] = _joined(sources[key], labelled, text) if key in sources else labelled
    ordered = sorted(sources.values(), key=lambda s: (os.fsencode(s.uri), s.start_s or 0.0, s.end_s or 0.0))
    return Found(ordered, unreadable, [] if template is None else template.notes())


def _as_root(text: str) -> str:
    """An input as the sources in it begin, if it is a folder: of several names of a protocol, the one they have."""
    if "://" not in text:
        return os.path.abspath(text)
    filesystem, path = open_place(text)
    return str(filesystem.unstrip_protocol(path)).rstrip("/")


def check_language(code: str, where: str) -> str:
    """The canonical tag of a language. Raises ValueError, which names the place, for what is none."""
    try:
        return canonical_language(code)
    except LanguageError as error:
        raise ValueError(f"{where}: {error}") from error


def _expand(text: str, unreadable: list[Unreadable], exclude: Path | None) -> Iterator[Source]:
    if "://" in text:
        yield from _expand_url(text)
        return
    path = Path(text)
    if os.path.isdir(path):  # os.path, because Path raises on names that are too long or not permitted
        for found in _walk(path, unreadable, exclude):
            yield Source(uri=found)
    elif os.path.lexists(path):  # probing rejects what is not a regular file
        yield from _file_or_list(str(path), path.suffix.lower())
    elif glob.has_magic(text):
        matches = sorted(glob.glob(text, recursive=True))
        if not matches:
            raise ValueError(f"{text}: the pattern matches nothing")
        for match in matches:
            yield from (
                _expand(match, unreadable, exclude)
                if Path(match).is_dir()
                else _file_or_list(match, Path(match).suffix.lower())
            )
    else:
        raise ValueError(f"{text}: no such file or folder")


def _file_or_list(uri: str, suffix: str) -> Iterator[Source]:
    if suffix in LIST_SUFFIXES:
        yield from read_list(uri)
    else:
        yield Source(uri=uri if "://" in uri else os.path.abspath(uri))


def _walk(folder: Path, unreadable: list[Unreadable], exclude: Path | None) -> Iterator[str]:
    """Video files below a folder. Follows links, and visits each real folder once, so loops end.

    What the report of a dataset plays is left out: it is copies of clips.
    """
    seen: set[tuple[int, int]] = set()
    excluded = exclude.resolve() if exclude else None

    def refuse(error: OSError) -> None:
        unreadable.append(Unreadable(str(error.filename), error.strerror or "cannot be read"))

    for root, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        status = os.stat(root)
        if (status.st_dev, status.st_ino) in seen or (excluded and Path(root).resolve() == excluded):
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if name != REPORT_MEDIA or REPORT_PAGE not in files)
        for name in sorted(files):
            if os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES:
                yield os.path.abspath(os.path.join(root, name))


def _expand_url(url: str) -> Iterator[Source]:
    filesystem, path = open_place(url)
    suffix = os.path.splitext(path)[1].lower()
    is_pattern = glob.has_magic(path) and "*" in path
    if not is_pattern and suffix in LIST_SUFFIXES:
        yield from read_list(url)
        return
    with storage_errors(url):
        found = _list_url(filesystem, path, is_pattern)
    if found is None:
        raise FileNotFoundError(f"{url} does not exist: check the names of the bucket, the folders and the file")
    if is_pattern and not found:
        raise ValueError(f"{url}: the pattern matches nothing")
    for match, about in sorted(found.items()):
        name = url if match == path else str(filesystem.unstrip_protocol(match))
        for source in _file_or_list(name, os.path.splitext(match)[1].lower()):
            yield replace(source, listed=fingerprint_of(about)) if about and source.uri == name else source


def _list_url(filesystem: fsspec.AbstractFileSystem, path: str, is_pattern: bool) -> dict[str, Any] | None:
    """Files of a pattern, videos of a folder, or the file itself, with what a listing says of each, or nothing.

    None when nothing is there, not even the bucket.
    """
    if is_pattern:
        found = cast(dict[str, Any], filesystem.glob(path, detail=True))
        bucket = path.split("/", 1)[0]
        has_bucket = bool(bucket) and not bucket.endswith(":")  # not so for `/folder` and `http://host/folder`
        return None if not found and has_bucket and not filesystem.exists(bucket) else found
    if filesystem.isdir(path):
        files = cast(dict[str, Any], filesystem.find(path, detail=True))
        videos = {file: about for file, about in files.items() if os.path.splitext(file)[1].lower() in VIDEO_SUFFIXES}
        return {file: about for file, about in videos.items() if not _is_of_report(file, files)}
    return {path: None} if filesystem.exists(path) else None


def _is_of_report(file: str, files: Container[str]) -> bool:
    """Whether a file is what the report of a dataset plays."""
    dataset, folder, _ = file.rpartition(f"/{REPORT_MEDIA}/")
    return bool(folder) and f"{dataset}/{REPORT_PAGE}" in files


def read_list(uri: str) -> Iterator[Source]:
    """Sources of a list file, each once. Relative paths are relative to the list's folder.

    Raises ValueError for a list that is invalid or contradicts itself, FileNotFoundError, UnreadableError when it
    cannot be read.
    """
    suffix = os.path.splitext(uri)[1].lower()
    try:
        data = read_file(uri)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"list {uri} does not exist: check its name") from error
    except IsADirectoryError as error:
        raise ValueError(f"list {uri} is a folder: name a .txt, .csv, .jsonl or .parquet file") from error
    try:
        rows = list(_list_rows(data, suffix))
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error, pa.ArrowException) as error:
        raise ValueError(f"list {uri}: {error}") from error
    base = uri.rsplit("/", 1)[0] if "://" in uri else os.path.dirname(os.path.abspath(uri))
    found: dict[str, Source] = {}
    for number, row in enumerate(rows, start=1):
        where = f"list {uri}, entry {number}"
        unknown = set(row) - LIST_COLUMNS
        if unknown:
            known = f"known are {', '.join(sorted(LIST_COLUMNS))}, as in the manifest"
            raise ValueError(f"{where}: unknown column {sorted(unknown)[0]!r}; {known}")
        target = row.get("source_uri")
        if not isinstance(target, str) or not target:
            raise ValueError(f"{where}: no source_uri")
        if "://" not in target:
            target = f"{base}/{target}" if "://" in base else os.path.abspath(os.path.join(base, target))
        language, speaker = _text(row.get("language")), _text(row.get("speaker"))
        start_s, end_s = _seconds(row.get("start_s"), where), _seconds(row.get("end_s"), where)
        if start_s is not None and end_s is not None and end_s <= start_s:
            raise ValueError(f"{where}: end_s {end_s} is not after start_s {start_s}")
        source = Source(
            uri=target,
            language=check_language(language, where) if language else "und",
            language_source="list" if language else "none",
            speaker=speaker,
            speaker_source="list" if speaker else "none",
            start_s=start_s,
            end_s=end_s,
        )
        before = found.get(source.entry_id)
        found[source.entry_id] = source if before is None else _joined(before, source, where)
    yield from found.values()


def _joined(first: Source, second: Source, where: str) -> Source:
    """A source that is named twice: the labels of lists, or else those that it had first.

    Raises ValueError when two lists, or two entries of one, contradict each other.
    """
    for name, source_of in (("language", "language_source"), ("speaker", "speaker_source")):
        old, new = getattr(first, name), getattr(second, name)
        if getattr(second, source_of) != "list":
            continue
        if getattr(first, source_of) != "list":
            first = replace(first, **{name: new, source_of: "list"})
        elif old != new:
            raise ValueError(f"{where}: {first.uri} is named twice, with the {name} {old!r} and here {new!r}")
    return first


def _list_rows(data: bytes, suffix: str) -> Iterator[dict[str, Any]]:
    if suffix == ".parquet":
        yield from pq.read_table(arrow_reader(data)).to_pylist()
        return
    # Paths may be any bytes; surrogateescape keeps them, as in Python's own file functions.
    text = data.decode("utf-8-sig", "surrogateescape")
    if suffix == ".csv":
        yield from csv.DictReader(io.StringIO(text, newline=""))
    elif suffix == ".jsonl":
        for line in text.split("\n"):  # not splitlines: names may hold rarer separators
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise csv.Error(f"expected an object on each line, found {line[:40]!r}")
                yield row
    else:
        for line in text.split("\n"):  # not splitlines: names may hold rarer separators
            if line.strip() and not line.startswith("#"):
                yield {"source_uri": line.strip()}


def _text(value: Any) -> str | None:
    """A label; None when there is none: an empty cell, in tables of pandas also NaN."""
    return None if value is None or value == "" or (isinstance(value, float) and math.isnan(value)) else str(value)


def _seconds(value: Any, where: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"{where}: {value!r} is not a time in seconds")
    return seconds


def _label(source: Source, labels: Labels, found: dict[str, str]) -> Source:
    """found: labels of the path."""
    if source.language_source == "none":
        if "language" in found:
            source = replace(source, language=canonical_language(found["language"]), language_source="path")
        elif labels.language:
            source = replace(source, language=labels.language, language_source="flag")
    if source.speaker_source == "none":
        if "speaker" in found:
            source = replace(source, speaker=found["speaker"], speaker_source="path")
        elif labels.speaker:
            source = replace(source, speaker=labels.speaker, speaker_source="flag")
    return source
