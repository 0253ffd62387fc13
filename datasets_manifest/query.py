"""SQL over a manifest: DuckDB, locked down so that a query can read the manifest and nothing else."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset
from numpy.typing import NDArray

from lipforge.datasets_manifest.manifest import find_parts
from lipforge.datasets_manifest.parquet import checked_format
from lipforge.datasets_manifest.schema import COLUMNS, SCHEMA_VERSION

VIEW = "manifest"
TABLE_FUNCTIONS = frozenset({"unnest", "range", "generate_series"})
"""All others are refused: they read files, pointers, settings, or SQL out of a string."""
ROWS_PER_BATCH = 100_000
DICTIONARIES = ("status", "reason", "language", "sync_model", "quality_model", "speaker", "source_id")
"""Text columns in which few values repeat: small and fast to read as dictionaries."""


class ManifestError(ValueError):
    """A manifest that this version cannot read."""


def open_manifest(dataset_dir: str, dictionaries: Sequence[str] = ()) -> pyarrow.dataset.Dataset:
    """The manifest of a dataset (a folder or an fsspec URL), for reading chosen columns of many rows.

    dictionaries: text columns to read as dictionaries, which is small and fast where few values repeat.
    Raises FileNotFoundError without a manifest, ManifestError when it is damaged or of another schema version.
    """
    fs, parts = find_parts(dataset_dir)
    schema = pa.schema([_as_dictionary(f) if f.name in dictionaries else f for f in COLUMNS])
    with plain_arrow_errors(dataset_dir):
        dataset = pyarrow.dataset.dataset(parts, schema=schema, format=checked_format(dictionaries), filesystem=fs)
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
        if type_ != field.type:
            what = "is missing" if type_ is None else f"is {type_}, expected {field.type}"
            raise ManifestError(
                f"the manifest of {dataset_dir}: column {field.name} {what}. It was not written by this version of lipforge"
            )


@contextmanager
def plain_arrow_errors(dataset_dir: str) -> Iterator[None]:
    """What Arrow says of files that it cannot read, as ManifestError."""
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OSError) as error:
        if isinstance(error, TimeoutError) or (isinstance(error, OSError) and error.errno is not None):
            raise  # of the system or the storage, not of Arrow's readers
        raise ManifestError(f"the manifest of {dataset_dir} cannot be read, it may be damaged: {error}") from error


def connect() -> duckdb.DuckDBPyConnection:
    """An empty database in memory that reaches no file, no network, no extension and no Python variable."""
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

    Raises ValueError for anything but one SELECT, for what reaches beyond the manifest, and for DuckDB's own complaints;
    FileNotFoundError and ManifestError as open_manifest does.
    """
    with open_query(dataset_dir, sql) as reader:
        return reader.read_all()


@contextmanager
def open_query(dataset_dir: str, sql: str) -> Iterator[pa.RecordBatchReader]:
    """The same, batch by batch: for results that are larger than memory."""
    dataset = open_manifest(dataset_dir)
    with connect() as connection, plain_sql_errors():
        _check_query(connection, sql)
        connection.register(VIEW, dataset)
        try:
            yield connection.sql(sql).to_arrow_reader(ROWS_PER_BATCH)
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            if f"'{VIEW}' failed" in str(error):  # what Arrow said while DuckDB read from it
                raise ManifestError(
                    f"the manifest of {dataset_dir} cannot be read, it may be damaged: {error}"
                ) from error
            raise


def _check_query(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    nodes = list(_nodes(_parse(connection, sql, "a query is one SELECT statement")))
    own = {entry["key"].lower() for node in nodes for entry in (node.get("cte_map") or {}).get("map", ())}
    # A name holds in its own part of a query only; elsewhere it would stand for the database's own view.
    if taken := own & {
        VIEW,
        *(name for (name,) in connection.execute("SELECT view_name FROM duckdb_views()").fetchall()),
    }:
        raise ValueError(f"WITH {min(taken)}: choose another name, this one is the database's own")
    for node in nodes:
        kind, name = node.get("type"), ""
        if kind == "TABLE_FUNCTION":
            name = str(node["function"]["function_name"]).lower()
            beyond = name not in TABLE_FUNCTIONS
        elif kind == "BASE_TABLE":
            place = [part for part in (node["catalog_name"], node["schema_name"]) if part]
            name = ".".join([*place, node["table_name"]])
            beyond = bool(place) or name.lower() not in {VIEW, *own}
        else:
            beyond = node.get("show_type") == "SHOW_SPECIAL"  # not DESCRIBE and SUMMARIZE, which tell of a query
        if beyond:
            raise ValueError(f"{name or 'SHOW'} cannot be used here: a query reads the view `{VIEW}` and nothing else")


@dataclass(frozen=True)
class Condition:
    """A checked SQL condition over the columns of a manifest. Its value for a row depends on that row alone."""

    sql: str
    columns: tuple[str, ...]
    """What it reads."""

    def passing(self, connection: duckdb.DuckDBPyConnection, rows: pa.Table) -> NDArray[np.bool_]:
        """For each row whether the condition is true; unknown (null) is not."""
        numbered = rows.select(self.columns).append_column("row_number", pa.array(np.arange(len(rows))))
        with plain_sql_errors():
            connection.register(VIEW, numbered)
            found = connection.sql(f"SELECT row_number FROM {VIEW} WHERE (\n{self.sql}\n)").to_arrow_table()  # noqa: S608
        passing = np.zeros(len(rows), dtype=bool)
        passing[found["row_number"].to_numpy()] = True
        return passing


def condition(sql: str) -> Condition:
    """Check a condition that a user wrote, for example `duration_s > 6 and source_fps = 25`.

    Refused with a ValueError: several statements or clauses, subqueries, aggregates, windows, unknown columns, functions
    whose answer is not the same every time (random, now), and functions that are not plain ones of one row.
    """
    words = "--where is one condition over the manifest's columns"
    if not sql.strip():
        raise ValueError(f"{words}, and this is empty")
    with connect() as connection, plain_sql_errors():
        tree = _parse(connection, f"SELECT (\n{sql}\n)", words)
        select = tree["statements"][0]["node"]
        clauses = ("modifiers", "where_clause", "group_expressions", "having", "sample", "qualify")
        if (
            select["type"] != "SELECT_NODE"
            or select["from_table"]["type"] != "EMPTY"
            or len(select["select_list"]) != 1
            or any(select.get(clause) for clause in clauses)
        ):
            raise ValueError(f"{words}, without clauses of its own: {sql}")
        names = _check_nodes(connection, select["select_list"][0], words)
        connection.register(VIEW, COLUMNS.empty_table())
        checked = connection.execute(f"SELECT (\n{sql}\n) FROM {VIEW}")  # noqa: S608
        if str(checked.description[0][1]) != "BOOLEAN":
            raise ValueError(f"{words}, either true or false: this is {checked.description[0][1]}: {sql}")
    return Condition(sql, tuple(name for name in COLUMNS.names if name in names))


def _check_nodes(connection: duckdb.DuckDBPyConnection, expression: Mapping[str, Any], words: str) -> set[str]:
    """The names in an expression, lower case; ValueError for what a condition may not hold."""
    names = set()
    for node in _nodes(expression):
        kind = node.get("class")
        if kind in ("SUBQUERY", "STAR", "WINDOW", "PARAMETER"):
            raise ValueError(f"{words}: no {kind.lower()} in it")
        if kind == "FUNCTION" and not _is_plain_function(connection, node["function_name"]):
            raise ValueError(f"{words}: {node['function_name']}() cannot be used in it")
        if kind == "COLUMN_REF":
            # Without this check the clock (current_timestamp) and whole rows (manifest) would pass: DuckDB writes them like columns.
            name = ".".join(node["column_names"])
            column = name.lower().removeprefix(f"{VIEW}.")
            if column not in COLUMNS.names:
                raise ValueError(f"{words}, and {name} is none of them: {', '.join(COLUMNS.names)}")
            names.add(column)
    return names


def _is_plain_function(connection: duckdb.DuckDBPyConnection, name: str) -> bool:
    if name in ("+", "-"):  # for times with zones, which no column is, their answer may change
        return True
    kinds = connection.execute(
        "SELECT DISTINCT function_type, stability FROM duckdb_functions() WHERE function_name = lower(?)", [name]
    ).fetchall()
    # DuckDB calls the clock functions current_local... consistent.
    return kinds == [("scalar", "CONSISTENT")] and not name.lower().startswith("current_")


def _parse(connection: duckdb.DuckDBPyConnection, sql: str, expected: str) -> Mapping[str, Any]:
    """DuckDB's syntax tree of one SELECT statement; nothing is run."""
    ((text,),) = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [sql]).fetchall()
    tree = json.loads(text)
    if tree["error"]:
        raise ValueError(f"{expected}: {tree['error_message']}")
    if len(tree["statements"]) != 1:
        raise ValueError(f"{expected}, not {len(tree['statements'])}")
    return tree


def _nodes(tree: Any) -> Iterator[Mapping[str, Any]]:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Mapping):
            yield node
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


@contextmanager
def plain_sql_errors() -> Iterator[None]:
    """DuckDB's complaints as ValueError."""
    try:
        yield
    except duckdb.Error as error:
        raise ValueError(f"SQL: {str(error).strip()}") from error
