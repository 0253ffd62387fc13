"""Conditions in SQL that users write for `--where`."""

import json
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lipforge.datasets_manifest.query import VIEW, connect, plain_sql_errors
from lipforge.datasets_manifest.schema import COLUMNS

_EXPECTED = "--where is one condition over the manifest's columns"


@dataclass(frozen=True)
class Condition:
    """A checked SQL condition over the columns of a manifest. Its value for a row depends on that row alone."""

    sql: str
    columns: tuple[str, ...]
    """Columns that it reads."""

    def passing(self, connection: duckdb.DuckDBPyConnection, rows: pa.Table) -> NDArray[np.bool_]:
        """For each row whether the condition is true; unknown (null) is not."""
        numbered = rows.select(self.columns).append_column("row_number", pa.array(np.arange(len(rows))))
        with plain_sql_errors():
            connection.register(VIEW, numbered)
            found = connection.sql(f"SELECT row_number FROM {VIEW} WHERE (\n{self.sql}\n)").to_arrow_table()  # noqa: S608
        passing = np.zeros(len(rows), dtype=bool)
        passing[found["row_number"].to_numpy()] = True
        return passing


def parse_condition(sql: str) -> Condition:
    """Check a user's condition, for example `duration_s > 6 and source_fps = 25`.

    Selections store their request, and the same request must choose the same clips. So whatever depends on more than
    the row is a ValueError: subqueries, aggregates, windows, random, now, names that are not columns.
    """
    with connect() as connection, plain_sql_errors():
        connection.register(VIEW, COLUMNS.empty_table())
        try:
            duckdb.SQLExpression(sql)  # raises for several statements or expressions, and for clauses
            type_ = str(connection.execute(f"SELECT (\n{sql}\n) FROM {VIEW}").description[0][1])  # noqa: S608
        except duckdb.Error as error:
            raise ValueError(f"{_EXPECTED}: {str(error).strip()}") from error
        if type_ != "BOOLEAN":
            raise ValueError(f"{_EXPECTED}, either true or false: this is {type_}: {sql}")
        names = _columns_read(connection, sql)
    return Condition(sql, tuple(name for name in COLUMNS.names if name in names))


def _columns_read(connection: duckdb.DuckDBPyConnection, sql: str) -> set[str]:
    """Names of columns in an expression. ValueError for what does not depend on the row alone."""
    nodes: list[dict[str, Any]] = []
    ((tree,),) = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [f"SELECT (\n{sql}\n)"]).fetchall()
    json.loads(tree, object_hook=nodes.append)  # which is called for every node
    names = set()
    for node in nodes:
        kind = node.get("class")
        if kind in ("SUBQUERY", "STAR", "WINDOW", "PARAMETER"):
            raise ValueError(f"{_EXPECTED}: no {kind.lower()} in it")
        if kind == "FUNCTION" and not _is_plain_function(connection, node["function_name"]):
            raise ValueError(f"{_EXPECTED}: {node['function_name']}() cannot be used in it")
        if kind == "COLUMN_REF":
            # DuckDB writes the clock (current_timestamp) and whole rows (manifest) like columns.
            name = ".".join(node["column_names"]).lower().removeprefix(f"{VIEW}.")
            if name not in COLUMNS.names:
                raise ValueError(f"{_EXPECTED}, and {name} is none of them: {', '.join(COLUMNS.names)}")
            names.add(name)
    return names


def _is_plain_function(connection: duckdb.DuckDBPyConnection, name: str) -> bool:
    """Whether it is a function of one row that always gives the same result."""
    if name in ("+", "-"):  # not always the same for times with zones, which no column has
        return True
    kinds = connection.execute(
        "SELECT DISTINCT function_type, stability FROM duckdb_functions() WHERE function_name = lower(?)", [name]
    ).fetchall()
    return kinds == [("scalar", "CONSISTENT")]
