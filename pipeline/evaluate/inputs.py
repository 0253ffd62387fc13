"""Which videos are judged, with what they are compared and how they are labelled."""

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lipforge.datasets_manifest.display import counted
from lipforge.pipeline.clip import Source
from lipforge.pipeline.evaluate.metrics import Sound
from lipforge.pipeline.evaluate.result import EvaluateError
from lipforge.pipeline.sources.inputs import VIDEO_SUFFIXES, Labels, check_language, find_sources


@dataclass(frozen=True)
class Item:
    """One video, with all that belongs to it."""

    name: str
    """Path below its folder, without extension: what pairs it with others."""
    video: str
    reference: str | None = None
    language: str = "und"
    speaker: str | None = None
    made: dict[Sound, str] = field(default_factory=dict)
    """The same picture made with other sounds."""


def find_items(
    videos: Sequence[str],
    out: Path,
    *,
    reference: str | None = None,
    silent: str | None = None,
    foreign: str | None = None,
    labels: str | None = None,
    path_template: str | None = None,
) -> tuple[list[Item], list[str]]:
    """(all items by name, notes). Raises EvaluateError for what does not fit together, ValueError for bad inputs."""
    sources, unreadable, notes = find_sources(list(videos), Labels(path_template=path_template), out)
    if unreadable:
        raise EvaluateError(f"{unreadable[0].uri} cannot be read: {unreadable[0].detail}")
    if not sources:
        raise EvaluateError(f"no video in {', '.join(videos)}: known are {', '.join(sorted(VIDEO_SUFFIXES))}")
    if any(source.start_s is not None or source.end_s is not None for source in sources):
        raise EvaluateError("lists of `lipforge evaluate` take no start_s and end_s: whole videos are judged")
    roots = [os.path.abspath(one) for one in videos if os.path.isdir(one)]
    named = _named(sources, roots)
    items = [Item(name, source.uri, None, source.language, source.speaker) for name, source in sorted(named.items())]
    if labels is not None:
        items = _labelled(items, labels)
    for folder, what in ((reference, "reference"), (silent, Sound.SILENT), (foreign, Sound.FOREIGN)):
        if folder is None:
            continue
        items, without = _paired(items, folder, what, out)
        if without:
            shown = ", ".join(without[:5]) + (", ..." if len(without) > 5 else "")
            notes.append(
                f"{counted(len(without), 'video has', 'videos have')} no {what} of that name in {folder}, "
                f"of {len(items)}: {shown}."
            )
    return items, notes


def _named(sources: Sequence[Source], roots: Sequence[str]) -> dict[str, Source]:
    named: dict[str, Source] = {}
    for source in sources:
        if "://" in source.uri:
            raise EvaluateError(f"{source.uri}: videos are read twice; copy them to this machine first")
        root = max((root for root in roots if source.uri.startswith(f"{root}{os.sep}")), key=len, default=None)
        path = os.path.relpath(source.uri, root) if root else os.path.basename(source.uri)
        name = _name(path)
        if name in named:
            raise EvaluateError(
                f"{named[name].uri} and {source.uri} have the same name, {name}: rename one, or evaluate them apart"
            )
        named[name] = source
    return named


def _name(path: str) -> str:
    """Without extension. Bytes that are no UTF-8 are spelled out, as tables and pages hold text."""
    return os.path.splitext(path)[0].encode("utf-8", "backslashreplace").decode()


def _paired(items: list[Item], place: str, what: str, out: Path) -> tuple[list[Item], list[str]]:
    """(items with what belongs to them, names of those without)"""
    by_path, by_name = _index(place, what, out)
    found: list[Item] = []
    without: list[str] = []
    for item in items:
        match = by_path.get(item.name)
        if match is None:
            alike = by_name.get(os.path.basename(item.name), [])
            if len(alike) > 1:
                raise EvaluateError(
                    f"{item.name} fits {alike[0]} and {alike[1]}: give {what} videos the same folders as the videos"
                )
            match = alike[0] if alike else None
        if match is None:
            without.append(item.name)
            found.append(item)
        elif _same_file(match, item.video):
            needed = "of the originals" if what == "reference" else f"of those made with {what} sound"
            raise EvaluateError(f"{item.video} is its own {what}: name the folder {needed}")
        elif isinstance(what, Sound):
            found.append(replace(item, made={**item.made, what: match}))
        else:
            found.append(replace(item, reference=match))
    if len(without) == len(items):
        raise EvaluateError(
            f"no video has a {what} in {place}: they are paired by name, such as {items[0].name}{_SUFFIX_SHOWN}"
        )
    used: dict[str, str] = {}
    for item in found:
        match = item.made.get(what) if isinstance(what, Sound) else item.reference
        if match is not None and match in used:
            raise EvaluateError(f"{used[match]} and {item.name} would both have the {what} {match}")
        if match is not None:
            used[match] = item.name
    return found, without


_SUFFIX_SHOWN = ".mp4"


def _same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:  # one is not there: reading it says so
        return False


def _index(place: str, what: str, out: Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """(videos by path without extension, videos by name without extension)"""
    path = Path(place)
    if not path.exists():
        raise EvaluateError(f"{place}: no such folder of {what} videos")
    root = path if path.is_dir() else path.parent
    by_path: dict[str, str] = {}
    by_name: dict[str, list[str]] = {}
    for found in _videos_below(path, out):
        name = _name(os.path.relpath(found, root))
        if name in by_path:
            raise EvaluateError(f"{by_path[name]} and {found} have the same name: remove one")
        by_path[name] = found
        by_name.setdefault(os.path.basename(name), []).append(found)
    if not by_path:
        raise EvaluateError(f"no video in {place}, where {what} videos should be")
    return by_path, by_name


def _videos_below(path: Path, out: Path) -> Iterator[str]:
    sources, unreadable, _ = find_sources([str(path)], Labels(), out)
    if unreadable:
        raise EvaluateError(f"{unreadable[0].uri} cannot be read: {unreadable[0].detail}")
    yield from (source.uri for source in sources)


def _labelled(items: list[Item], labels: str) -> list[Item]:
    """labels: a CSV with the columns `file`, and `language`, `speaker` or both."""
    try:
        with open(labels, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error, IsADirectoryError) as error:
        raise EvaluateError(f"{labels} cannot be read as CSV: {error}") from error
    except FileNotFoundError as error:
        raise EvaluateError(f"{labels}: no such file of labels") from error
    if not rows or "file" not in rows[0] or not {"language", "speaker"} & set(rows[0]):
        raise EvaluateError(f"{labels}: expected the columns file, and language, speaker or both")
    known: dict[str, dict[str, str]] = {}
    for number, row in enumerate(rows, start=1):
        if not row["file"]:
            raise EvaluateError(f"{labels}, row {number}: its column `file` is empty")
        known[row["file"]] = row
        known.setdefault(os.path.splitext(row["file"])[0], row)
    found = [_with_label(item, known, labels) for item in items]
    if all(old == new for old, new in zip(items, found, strict=True)):
        raise EvaluateError(
            f"{labels} labels none of the videos: its column `file` holds names such as {items[0].name}"
        )
    return found


def _with_label(item: Item, known: dict[str, dict[str, str]], labels: str) -> Item:
    names = (item.video, os.path.basename(item.video), item.name, os.path.basename(item.name))
    row = next((known[name] for name in names if name in known), None)
    if row is None:
        return item
    language = row.get("language")
    return replace(
        item,
        language=check_language(language, labels) if language else item.language,
        speaker=row.get("speaker") or item.speaker,
    )
