"""The manifest: one row for every candidate clip, kept or not, as Parquet files that any tool can query."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, cast

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset

from lipforge.datasets_manifest.parquet import checked_format, parquet_bytes
from lipforge.datasets_manifest.schema import COLUMNS
from lipforge.datasets_manifest.storage.files import open_place, publish

MAX_ROWS_PER_PART = 500_000
SORT_KEYS = ("source_id", "start_s", "track_index", "clip_id")


def manifest_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows, as `write_manifest` takes them, in Arrow."""
    return pa.Table.from_batches(_batches(rows), COLUMNS)


def write_manifest(dataset_dir: str, rows: Iterable[Mapping[str, Any]] | pa.Table) -> None:
    """Replace the manifest of `dataset_dir` (a folder or an fsspec URL) by these rows.

    rows: a table of schema.COLUMNS, or one mapping per candidate by their names; a column left out is null, an unknown
    one is a ValueError. Text that is not valid Unicode (file names can be any bytes) is stored with its bytes escaped.

    The same rows give the same bytes, in whatever order they come. Each part appears whole or not at all; between the
    first and the last part a reader may see old parts next to new ones, so write once, when the rows are complete.
    """
    fs, root = open_place(dataset_dir)
    folder = f"{root}/manifest"
    old_parts = set(_parts(fs, folder))
    fs.makedirs(folder, exist_ok=True)

    table = cast(Any, rows) if isinstance(rows, pa.Table) else manifest_table(rows)
    table = table.sort_by([(key, "ascending") for key in SORT_KEYS])
    new_parts = set()
    for number, first in enumerate(range(0, max(len(table), 1), MAX_ROWS_PER_PART)):
        part = table.slice(first, MAX_ROWS_PER_PART)
        path = f"{folder}/part-{number:05d}.parquet"
        publish(fs, path, parquet_bytes(part))
        new_parts.add(path)
    for path in sorted(old_parts - new_parts):
        fs.rm_file(path)


def read_manifest(
    dataset_dir: str, columns: Sequence[str] | None = None, filter: pc.Expression | None = None
) -> pa.Table:
    """The rows of a dataset's manifest, in its order: source, time, track.

    columns: names of schema.COLUMNS; all when None. filter: for example `pc.field("status") == "kept"`.
    Raises FileNotFoundError when the dataset has no manifest.
    """
    fs, parts = find_parts(dataset_dir)
    dataset = pyarrow.dataset.dataset(parts, schema=COLUMNS, format=checked_format(), filesystem=fs)
    return dataset.to_table(columns=None if columns is None else list(columns), filter=filter)


def find_parts(dataset_dir: str) -> tuple[fsspec.AbstractFileSystem, list[str]]:
    """(file system, paths of the manifest's Parquet files). Raises FileNotFoundError when the dataset has no manifest."""
    fs, root = open_place(dataset_dir)
    parts = _parts(fs, f"{root}/manifest")
    if not parts:
        raise FileNotFoundError(
            f"no manifest in {dataset_dir}: expected manifest/part-*.parquet there. "
            "Is this the --out folder of `lipforge prepare`, and has its first run finished?"
        )
    return fs, parts


def _parts(fs: fsspec.AbstractFileSystem, folder: str) -> list[str]:
    if not fs.isdir(folder):
        return []
    paths = fs.ls(folder, detail=False)  # not glob: a dataset's own path may hold `[` or `*`
    return sorted(p for p in paths if p.rsplit("/", 1)[-1].startswith("part-") and p.endswith(".parquet"))


def _batches(rows: Iterable[Mapping[str, Any]], rows_per_batch: int = 20_000) -> Iterator[pa.RecordBatch]:
    """Rows as Arrow, batch by batch, so that millions of them are never Python objects all at once."""
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
