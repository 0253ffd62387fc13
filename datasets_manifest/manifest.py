"""The manifest: one row for every candidate clip, kept or not, as Parquet files that any tool can query."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, cast

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset

from lipforge.datasets_manifest.parquet import checked_format, parquet_bytes
from lipforge.datasets_manifest.schema import ADDED_COLUMNS, COLUMNS, SCHEMA_VERSION
from lipforge.datasets_manifest.storage.files import is_remote, open_place, publish, remote_errors
from lipforge.datasets_manifest.storage.trouble import UnreadableError

MAX_ROWS_PER_FILE = 500_000
SORT_KEYS = ("source_id", "start_s", "track_index", "clip_id")
DICTIONARIES = ("status", "reason", "language", "sync_model", "quality_model", "speaker", "source_id")
"""Text columns in which few values repeat: small and fast to read as dictionaries."""


class ManifestError(ValueError):
    """A manifest that this version cannot read."""


def manifest_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows, as `write_manifest` takes them, in Arrow."""
    return pa.Table.from_batches(_batches(rows), COLUMNS)


def write_manifest(dataset_dir: str, rows: Iterable[Mapping[str, Any]] | pa.Table) -> None:
    """Replace the manifest of `dataset_dir` (a folder or an fsspec URL) by these rows.

    rows: a table of schema.COLUMNS, or one mapping per candidate by their names; a column left out is null, an unknown
    one is a ValueError. Text that is not valid Unicode (file names can be any bytes) is stored with its bytes escaped.

    The same rows give the same bytes, in whatever order they come. Each file appears whole or not at all; between the
    first and the last file a reader may see old files next to new ones, so write once, when the rows are complete.
    """
    fs, root = open_place(dataset_dir)
    folder = f"{root}/manifest"
    with remote_errors(folder_url := f"{dataset_dir}/manifest", "written"):
        old_files = set(_manifest_files(fs, folder))
        fs.makedirs(folder, exist_ok=True)

    table = cast(Any, rows) if isinstance(rows, pa.Table) else manifest_table(rows)
    table = table.sort_by([(key, "ascending") for key in SORT_KEYS])
    new_files = set()
    for number, first in enumerate(range(0, max(len(table), 1), MAX_ROWS_PER_FILE)):
        path = f"{folder}/part-{number:05d}.parquet"
        publish(fs, path, parquet_bytes(table.slice(first, MAX_ROWS_PER_FILE)))
        new_files.add(path)
    for path in sorted(old_files - new_files):
        with remote_errors(folder_url, "written"):
            fs.rm_file(path)


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
        for fragment in dataset.get_fragments():
            _check_columns(dataset_dir, fragment.physical_schema)
        versions = set(dataset.to_table(columns=["schema_version"])["schema_version"].unique().to_pylist())
    if versions - {SCHEMA_VERSION, None}:
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
    fs, root = open_place(dataset_dir)
    with remote_errors(dataset_dir):
        paths = _manifest_files(fs, f"{root}/manifest")
    if not paths:
        raise FileNotFoundError(
            f"no manifest in {dataset_dir}: expected manifest/part-*.parquet there. "
            "Is this the --out folder of `lipforge prepare`, and has its first run finished?"
        )
    return fs, paths


def _manifest_files(fs: fsspec.AbstractFileSystem, folder: str) -> list[str]:
    if not fs.isdir(folder):
        return []
    paths = fs.ls(folder, detail=False)  # not glob: a dataset's own path may hold `[` or `*`
    return sorted(p for p in paths if p.rsplit("/", 1)[-1].startswith("part-") and p.endswith(".parquet"))


def _batches(rows: Iterable[Mapping[str, Any]], rows_per_batch: int = 20_000) -> Iterator[pa.RecordBatch]:
    """Rows as Arrow, batch by batch, so that millions of them are never Python objects at the same time."""
    known = frozenset(COLUMNS.names)
    iterator = iter(rows)
    while batch := list(islice(iterator, rows_per_batch)):
        for row in batch:
            if not known.issuperset(row):
                raise ValueError(f"unknown manifest columns {sorted(set(row) - known)} in row {row.get('clip_id')!r}")
        try:
            yield pa.RecordBatch.from_pylist(batch, schema=COLUMNS)
        except UnicodeEncodeError:
            escaped = [{name: _valid_unicode(value) for name, value in row.items()} for row in batch]
            yield pa.RecordBatch.from_pylist(escaped, schema=COLUMNS)


def _valid_unicode(value: Any) -> Any:
    return value.encode("utf-8", "backslashreplace").decode("utf-8") if isinstance(value, str) else value
