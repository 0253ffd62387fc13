"""SQL over a manifest: DuckDB, locked down so that a query reaches no file and no network."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset
from duckdb.func import FunctionNullHandling, PythonUDFType

from lipforge.datasets_manifest.language_tags import LanguageError, canonical_language, takes_any
from lipforge.datasets_manifest.manifest import ManifestError, open_manifest, plain_arrow_errors
from lipforge.datasets_manifest.storage.files import is_remote

VIEW = "manifest"
_ROWS_PER_BATCH = 100_000


def connect() -> duckdb.DuckDBPyConnection:
    """An empty in-memory database without files, network, extensions or Python variables, whatever the SQL.

    It has one function more than DuckDB: `in_language(language, 'zh')`, which matches as `select --language` does.
    """
    connection = duckdb.connect(
        ":memory:",
        config={
            "enable_external_access": "false",
            "autoload_known_extensions": "false",
            "autoinstall_known_extensions": "false",
            "allow_community_extensions": "false",
            "temp_directory": "",
        },
    )
    connection.create_function(
        "in_language",
        _in_language,
        ["VARCHAR", "VARCHAR"],
        "BOOLEAN",
        type=PythonUDFType.ARROW,
        null_handling=FunctionNullHandling.SPECIAL,
    )
    connection.execute("SET python_enable_replacements = false")
    connection.execute("SET lock_configuration = true")
    return connection


def _in_language(labels: pa.ChunkedArray, ranges: pa.ChunkedArray) -> pa.Array:
    """For each label whether the range in its row takes it. A label of null is unknown, a range of null takes none."""
    columns = [column.combine_chunks().dictionary_encode() for column in (labels, ranges)]
    known_labels, known_ranges = ([*column.dictionary.to_pylist(), None] for column in columns)
    # Null has the last code. Few labels and one range make millions of rows.
    codes = [column.indices.fill_null(len(column.dictionary)).to_numpy() for column in columns]
    wanted = [[] if text is None else [canonical_language(text)] for text in known_ranges]
    answers = np.array([[takes_any(ranges, label) for ranges in wanted] for label in known_labels])
    return pa.array(answers[codes[0], codes[1]])


def query(dataset_dir: str, sql: str) -> pa.Table:
    """The result of one SELECT over the view `manifest`, whose columns are schema.COLUMNS.

    Raises ValueError for anything but one SELECT and for DuckDB's errors, among them access to files and network;
    FileNotFoundError and ManifestError as open_manifest.
    """
    with open_query(dataset_dir, sql) as reader:
        return reader.read_all()


@contextmanager
def open_query(dataset_dir: str, sql: str) -> Iterator[pa.RecordBatchReader]:
    """The result of query() batch by batch, for results larger than memory."""
    manifest = open_manifest(dataset_dir)
    if is_remote(dataset_dir):
        manifest = _RemoteManifest(
            list(manifest.get_fragments()), manifest.schema, manifest.format, manifest.filesystem
        )
    with connect() as connection, plain_sql_errors():
        if [statement.type for statement in connection.extract_statements(sql)] != [duckdb.StatementType.SELECT]:
            raise ValueError("a query is one SELECT statement")
        connection.register(VIEW, manifest)
        try:
            yield connection.sql(sql).to_arrow_reader(_ROWS_PER_BATCH)
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            if isinstance(manifest, _RemoteManifest) and manifest.failure is not None:
                with plain_arrow_errors(dataset_dir):
                    raise manifest.failure from error
            if f"'{VIEW}' failed" in str(error):  # Arrow's error while DuckDB read from it
                raise ManifestError(
                    f"the manifest of {dataset_dir} cannot be read, it may be damaged: {error}"
                ) from error
            raise


class _RemoteManifest(pyarrow.dataset.FileSystemDataset):
    """A manifest in remote storage, for DuckDB: its batches pass through Python.

    Reading Arrow's own stream, DuckDB 2.0 with pyarrow 26 waits forever when the storage fails.
    """

    failure: Exception | None = None
    """What ended the reading."""

    def scanner(self, **options: Any) -> Any:
        scanner = super().scanner(**options)

        def batches() -> Iterator[pa.RecordBatch]:
            try:
                yield from scanner.to_batches()
            except Exception as error:
                self.failure = error
                raise

        return _Readable(pa.RecordBatchReader.from_batches(scanner.projected_schema, batches()))


@dataclass(frozen=True)
class _Readable:
    """The part of a Scanner that DuckDB uses."""

    reader: pa.RecordBatchReader

    def to_reader(self) -> pa.RecordBatchReader:
        return self.reader


@contextmanager
def plain_sql_errors() -> Iterator[None]:
    """DuckDB's errors as ValueError."""
    try:
        yield
    except duckdb.Error as error:
        words = str(error).strip().rpartition(f"{LanguageError.__name__}: ")[2]  # DuckDB's own words on in_language
        raise ValueError(f"SQL: {words}") from error
