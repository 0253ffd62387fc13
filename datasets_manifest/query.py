"""SQL over a manifest: DuckDB, locked down so that a query reaches no file and no network."""

from collections.abc import Iterator
from contextlib import contextmanager

import duckdb
import pyarrow as pa

from lipforge.datasets_manifest.manifest import ManifestError, open_manifest

VIEW = "manifest"
_ROWS_PER_BATCH = 100_000


def connect() -> duckdb.DuckDBPyConnection:
    """An empty in-memory database without files, network, extensions or Python variables, whatever the SQL."""
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
    connection.execute("SET python_enable_replacements = false")
    connection.execute("SET lock_configuration = true")
    return connection


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
    dataset = open_manifest(dataset_dir)
    with connect() as connection, plain_sql_errors():
        if [statement.type for statement in connection.extract_statements(sql)] != [duckdb.StatementType.SELECT]:
            raise ValueError("a query is one SELECT statement")
        connection.register(VIEW, dataset)
        try:
            yield connection.sql(sql).to_arrow_reader(_ROWS_PER_BATCH)
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            if f"'{VIEW}' failed" in str(error):  # Arrow's error while DuckDB read from it
                raise ManifestError(
                    f"the manifest of {dataset_dir} cannot be read, it may be damaged: {error}"
                ) from error
            raise


@contextmanager
def plain_sql_errors() -> Iterator[None]:
    """DuckDB's errors as ValueError."""
    try:
        yield
    except duckdb.Error as error:
        raise ValueError(f"SQL: {str(error).strip()}") from error
