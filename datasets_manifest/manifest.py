"""The manifest: one row for every candidate clip, kept or not, as Parquet files that any tool can query."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, cast

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset

from lipforge.datasets_manifest.display import counted, valid_unicode
from lipforge.datasets_manifest.generations import (
    Generation,
    ManifestError,
    last_generation,
    publish_generation,
    sorted_rows,
    write_rows,
)
from lipforge.datasets_manifest.parquet import checked_format
from lipforge.datasets_manifest.schema import ADDED_COLUMNS, COLUMNS, READABLE_VERSIONS, SCHEMA_VERSION
from lipforge.datasets_manifest.storage.files import is_remote, open_place, remote_errors
from lipforge.datasets_manifest.storage.store import Store
from lipforge.datasets_manifest.storage.trouble import UnreadableError

MAX_ROWS_PER_FILE = 500_000
_FORMAT_1 = re.compile(r"manifest/part-[0-9]+\.parquet")
DICTIONARIES = ("status", "reason", "language", "sync_model", "quality_model", "speaker", "source_id")
"""Text columns in which few values repeat: small and fast to read as dictionaries."""


def manifest_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows, as `write_manifest` takes them, in Arrow."""
    return pa.Table.from_batches(_batches(rows), COLUMNS)


def write_manifest(
    dataset_dir: str, rows: Iterable[Mapping[str, Any]] | pa.Table, about: Mapping[str, Any] | None = None
) -> Generation:
    """Make these rows the manifest of `dataset_dir` (a folder or an fsspec URL), as its next generation.

    rows: a table of schema.COLUMNS, or one mapping per candidate by their names; a column left out is null, an unknown
    one is a ValueError. Text that is not valid Unicode (file names can be any bytes) is stored with its bytes escaped.
    about: see `publish_generation`.

    The same rows give the same bytes, in whatever order they come. Readers see the old generation or the new one.
    """
    table = cast(Any, rows) if isinstance(rows, pa.Table) else manifest_table(rows)
    table = sorted_rows(table)
    store = Store(dataset_dir)
    files = [
        write_rows(store, table.slice(first, MAX_ROWS_PER_FILE))
        for first in range(0, max(len(table), 1), MAX_ROWS_PER_FILE)
    ]
    return publish_generation(store, last_generation(store), files, about or {})


def read_manifest(
    dataset_dir: str, columns: Sequence[str] | None = None, filter: pc.Expression | None = None
) -> pa.Table:
    """The rows of a dataset's manifest, in its order: source, time, track.

    columns: names of schema.COLUMNS; all when None. filter: for example `pc.field("status") == "kept"`.
    Raises FileNotFoundError when the dataset has no manifest.
    """
    fs, paths = _existing_files(dataset_dir)
    with plain_arrow_errors(dataset_dir):
        dataset = pyarrow.dataset.dataset(paths, schema=COLUMNS, format=checked_format(), filesystem=fs)
        return dataset.to_table(columns=None if columns is None else list(columns), filter=filter)


def open_manifest(dataset_dir: str, dictionaries: Sequence[str] = ()) -> pyarrow.dataset.Dataset:
    """The manifest of a dataset (a folder or an fsspec URL), to read chosen columns of many rows.

    dictionaries: text columns to read as dictionaries, which is small and fast where few values repeat.
    Raises FileNotFoundError without a manifest, ManifestError when it is damaged or of another schema version.
    """
    fs, paths = _existing_files(dataset_dir)
    schema = pa.schema([_as_dictionary(f) if f.name in dictionaries else f for f in COLUMNS])
    with plain_arrow_errors(dataset_dir):
        dataset = pyarrow.dataset.dataset(paths, schema=schema, format=checked_format(dictionaries), filesystem=fs)
        for fragment in islice(dataset.get_fragments(), 1):
            _check_columns(dataset_dir, fragment.physical_schema)
        versions = set(dataset.to_table(columns=["schema_version"])["schema_version"].unique().to_pylist())
    if versions - {*READABLE_VERSIONS, None}:
        found = ", ".join(str(version) for version in sorted(versions - {None}))
        raise ManifestError(
            f"the manifest of {dataset_dir} has schema version {found}, this lipforge reads {SCHEMA_VERSION}: "
            "use the version of lipforge that wrote it, or prepare the dataset again"
        )
    return dataset


def _as_dictionary(field: pa.Field) -> pa.Field:
    return field.with_type(pa.dictionary(pa.int32(), pa.string()))


def _check_columns(dataset_dir: str, found: pa.Schema) -> None:
    for field in COLUMNS:
        index = found.get_field_index(field.name)
        type_: Any = found.field(index).type if index >= 0 else None
        if isinstance(type_, pa.DictionaryType):
            type_ = type_.value_type
        if type_ is None and field.name in ADDED_COLUMNS:
            continue
        if type_ != field.type:
            what = "is missing" if type_ is None else f"is {type_}, expected {field.type}"
            raise ManifestError(
                f"the manifest of {dataset_dir}: column {field.name} {what}. Another version of lipforge wrote it"
            )


@contextmanager
def plain_arrow_errors(dataset_dir: str) -> Iterator[None]:
    """Arrow's errors about files that it cannot read, as ManifestError; those of remote storage as UnreadableError."""
    with remote_errors(f"{dataset_dir}/manifest"):
        try:
            yield
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OSError) as error:
            # Arrow's readers raise OSError itself without a number; the system and the storage do not.
            if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
                if isinstance(error, FileNotFoundError) and is_remote(dataset_dir):  # pyarrow's word for every failure
                    raise UnreadableError(f"{error} is in the list of files, but cannot be read. Try again") from error
                raise
            raise ManifestError(f"the manifest of {dataset_dir} cannot be read, it may be damaged: {error}") from error
        except ValueError as error:
            if is_remote(dataset_dir) and "range requests" in str(error):
                words = f"{dataset_dir}/manifest: the server does not support range requests"
                raise UnreadableError(f"{words}. Use one that does, or copy the dataset to a local disk") from error
            raise


def _existing_files(dataset_dir: str) -> tuple[fsspec.AbstractFileSystem, list[str]]:
    """(file system, paths of the manifest's Parquet files). Raises FileNotFoundError when there are none."""
    store = Store(dataset_dir)
    with remote_errors(dataset_dir):
        names = store.list("manifest")
    generation = last_generation(store, names)
    if generation is None:
        files = [name for name in names if _FORMAT_1.fullmatch(name)]
    else:
        files = [file["name"] for file in generation.files]
        if missing := sorted(set(files) - set(names)):
            raise ManifestError(
                f"{dataset_dir}: {counted(len(missing), 'file')} of the manifest in force, {generation.name}, missing: "
                f"{missing[0]}. Restore them from a copy, or let `lipforge pack` write the manifest again"
            )
    if not files:
        raise FileNotFoundError(
            f"no manifest in {dataset_dir}: expected manifest/generation-*.json there. "
            "Is this the --out folder of `lipforge prepare`, and has its first run finished?"
        )
    fs, root = open_place(dataset_dir)
    return fs, [f"{root}/{name}" for name in files]


def _batches(rows: Iterable[Mapping[str, Any]], rows_per_batch: int = 20_000) -> Iterator[pa.RecordBatch]:
    """Rows as Arrow, batch by batch, so that millions of them are never Python objects at the same time."""
    known = frozenset(COLUMNS.names)
    iterator = iter(rows)
    while batch := list(islice(iterator, rows_per_batch)):
        for row in batch:
            if not known.issuperset(row):
                raise ValueError(f"unknown manifest columns {sorted(set(row) - known)} in row {row.get('key')!r}")
        try:
            yield pa.RecordBatch.from_pylist(batch, schema=COLUMNS)
        except UnicodeEncodeError:
            escaped = [{name: valid_unicode(value) for name, value in row.items()} for row in batch]
            yield pa.RecordBatch.from_pylist(escaped, schema=COLUMNS)
