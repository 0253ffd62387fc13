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
        connection.register("no_rows", COLUMNS.empty_table())
        connection.execute(f"CREATE TABLE {VIEW} AS FROM no_rows")
        try:
            duckdb.SQLExpression(sql)  # raises for several statements or expressions, and for clauses
            type_ = str(connection.execute(f"SELECT (\n{sql}\n) FROM {VIEW}").description[0][1])  # noqa: S608
            # DuckDB builds an index only over what always has the same value for a row, which is the check we need.
            # An index must mention a column, hence the second half.
            connection.execute(f"CREATE INDEX checked ON {VIEW} (((\n{sql}\n) AND key IS NOT NULL))")
        except duckdb.Error as error:
            raise ValueError(f"{_EXPECTED} whose value depends on one row alone. {str(error).strip()}") from error
        if type_ != "BOOLEAN":
            raise ValueError(f"{_EXPECTED}, either true or false: this is {type_}: {sql}")
        return Condition(sql, _columns_read(connection, sql))


def _columns_read(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[str, ...]:
    names: set[str] = set()

    def visit(node: dict[str, Any]) -> None:
        if node.get("class") == "COLUMN_REF":
            names.add(".".join(node["column_names"]).lower().removeprefix(f"{VIEW}."))

    ((tree,),) = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [f"SELECT (\n{sql}\n)"]).fetchall()
    json.loads(tree, object_hook=visit)
    # `manifest` itself would be a row, whose value depends on which columns were loaded.
    if unknown := names.difference(COLUMNS.names):
        raise ValueError(f"{_EXPECTED}, and {min(unknown)} is none of them: {', '.join(COLUMNS.names)}")
    return tuple(name for name in COLUMNS.names if name in names)
