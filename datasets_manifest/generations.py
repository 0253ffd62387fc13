"""Generations of a manifest: immutable files of rows, and one small file, written last, that says which are in force.

    manifest/rows-<hash>.parquet        rows of some clips; named by their content, never changed
    manifest/generation-000007.json     names the files of the seventh manifest

The generation with the highest number is in force. Its file is made by `Store.create`, so of two commands that both
follow generation 6, one gets number 7 and the other is refused: no reader ever sees a mix.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from lipforge.datasets_manifest.parquet import parquet_bytes
from lipforge.datasets_manifest.schema import COLUMNS, SCHEMA_VERSION
from lipforge.datasets_manifest.storage.files import to_json
from lipforge.datasets_manifest.storage.store import Store

FOLDER = "manifest"
SORT_KEYS = ("source_id", "start_s", "track_index", "key")
_NAME = re.compile(rf"{FOLDER}/generation-([0-9]{{6}})\.json")
_ROWS = re.compile(rf"{FOLDER}/rows-[0-9a-f]{{16}}\.parquet")


class ManifestError(ValueError):
    """A manifest that this version cannot read."""


class ManifestChangedError(ManifestError):
    """Another command published a manifest first."""


@dataclass(frozen=True)
class Generation:
    """One manifest."""

    number: int
    files: Sequence[Mapping[str, Any]]
    """In the order of the rows: `name`, `rows` and what the writer adds."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What the writer adds: thresholds in force, sums over the rows."""

    @property
    def name(self) -> str:
        return f"{FOLDER}/generation-{self.number:06d}.json"


def last_generation(store: Store, names: Sequence[str] | None = None) -> Generation | None:
    """The manifest in force; None when there is none. names: of the files in manifest/, if they are known.

    Raises ManifestError when its file is damaged.
    """
    numbers = [int(match[1]) for name in names or store.list(FOLDER) if (match := _NAME.fullmatch(name))]
    return read_generation(store, max(numbers)) if numbers else None


def generation_numbers(store: Store) -> list[int]:
    """Of all generations that are still there."""
    return sorted(int(match[1]) for name in store.list(FOLDER) if (match := _NAME.fullmatch(name)))


def read_generation(store: Store, number: int) -> Generation:
    """Raises FileNotFoundError without the file, ManifestError when it is damaged."""
    name = Generation(number, []).name
    try:
        found = json.loads(store.read(name))
        version, files, about = found["schema_version"], found["files"], found["about"]
        names = [file["name"] for file in files]
        good = all(isinstance(file["rows"], int) and _ROWS.fullmatch(file["name"]) for file in files)
    except (ValueError, KeyError, TypeError) as error:
        raise ManifestError(f"{store.path(name)} is damaged ({error!r}). {_RESTORE}") from error
    if version != SCHEMA_VERSION:
        raise ManifestError(
            f"{store.path(name)} has schema version {version}, this lipforge reads {SCHEMA_VERSION}: use the version "
            "of lipforge that wrote it, or prepare the dataset again"
        )
    if not good or len(set(names)) < len(names):
        raise ManifestError(f"{store.path(name)} is damaged (it names what lipforge does not write). {_RESTORE}")
    return Generation(number, files, about)


_RESTORE = "Restore it from a copy; or delete it, and the manifest before it is in force, or `lipforge pack` makes one"


def sorted_rows(table: pa.Table) -> pa.Table:
    """In the manifest's order: source, time, track."""
    return table.sort_by([(key, "ascending") for key in SORT_KEYS])


def write_rows(store: Store, rows: pa.Table) -> dict[str, Any]:
    """Write rows (schema.COLUMNS, sorted) as an immutable file; returns its entry for a generation."""
    data = parquet_bytes(rows.select(COLUMNS.names).cast(COLUMNS))
    name = f"{FOLDER}/rows-{hashlib.sha256(data).hexdigest()[:16]}.parquet"
    store.write(name, data)
    return {"name": name, "rows": len(rows), "size": len(data)}


def publish_generation(
    store: Store, previous: Generation | None, files: Sequence[Mapping[str, Any]], about: Mapping[str, Any]
) -> Generation:
    """Put a manifest of these files in force. Does nothing when `previous` is just that.

    previous: what was in force when the rows were made. about: plain values to store with it.
    Raises ManifestChangedError when it no longer is in force.
    """
    files = [dict(file) for file in files]
    if previous is not None and (list(previous.files), dict(previous.about)) == (files, dict(about)):
        return previous
    generation = Generation((previous.number if previous else 0) + 1, files, about)
    plain = {"schema_version": SCHEMA_VERSION, "files": files, "about": dict(about)}
    try:
        store.create(generation.name, to_json(plain))
    except FileExistsError as error:
        raise ManifestChangedError(
            f"another command wrote {store.path(generation.name)} at the same time: nothing of it was changed. "
            "Run this command again"
        ) from error
    return generation
