"""What is learnt of clips after their segment was sealed: votes for a language, voices, labels, new places.

Two kinds of tables, both immutable files that are made once:

- `SegmentFiles`: one table per segment, replaced by a later revision: ledger/KIND/000042.001.parquet
- `SegmentLog`: what one command changed, for clips of any segments: ledger/KIND/000007.parquet; the last row counts
"""

import re

import numpy as np
import pyarrow as pa

from lipforge.datasets_manifest.parquet import parquet_bytes, parse_parquet
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.ledger.records import DatasetError, create

_LOG_FILE = re.compile(r"/[0-9]{6}\.parquet$")


class SegmentFiles:
    """The last table of each segment, of one kind."""

    def __init__(self, store: Store, kind: str) -> None:
        self._store = store
        self._folder = f"ledger/{kind}"
        self._names: dict[int, str] = {}
        pattern = re.compile(rf"{self._folder}/([0-9]{{6}})\.[0-9]{{3}}\.parquet")
        for name in store.list(self._folder):  # sorted: later revisions come last
            if match := pattern.fullmatch(name):
                self._names[int(match[1])] = name

    def name(self, segment: int) -> str | None:
        """Changes when the table does. None: there is none."""
        return self._names.get(segment)

    def read(self, segment: int) -> pa.Table | None:
        name = self.name(segment)
        return None if name is None else _read(self._store, name)

    def write(self, segment: int, table: pa.Table) -> None:
        """Replace a segment's table. Raises TakenOverError."""
        last = self.name(segment)
        revision = int(last.split(".")[1]) + 1 if last else 1
        name = f"{self._folder}/{segment:06d}.{revision:03d}.parquet"
        create(self._store, name, parquet_bytes(table))
        self._names[segment] = name


class SegmentLog:
    """Rows about clips or content of any segments, in the order of the commands that wrote them."""

    def __init__(self, store: Store, kind: str, columns: pa.Schema) -> None:
        """columns: with `segment`, an int32."""
        self._store = store
        self._folder = f"ledger/{kind}"
        self._columns = columns
        self._names = [name for name in store.list(self._folder) if _LOG_FILE.search(name)]
        tables = [_read(store, name).select(columns.names).cast(columns) for name in self._names]
        origins = [np.full(len(table), number) for number, table in enumerate(tables)]
        table = pa.concat_tables([columns.empty_table(), *tables])
        order = np.argsort(table["segment"].to_numpy(), kind="stable")
        self._rows = table.take(pa.array(order)).combine_chunks()
        self._segments = self._rows["segment"].to_numpy()
        self._origins = np.concatenate([np.zeros(0, np.int64), *origins])[order]

    def rows(self, segment: int) -> pa.Table:
        """All rows about a segment; a later one replaces an earlier one."""
        first, end = np.searchsorted(self._segments, [segment, segment + 1])
        return self._rows.slice(int(first), int(end - first))

    def mark(self, segment: int) -> list[str]:
        """Changes when `rows` does."""
        first, end = np.searchsorted(self._segments, [segment, segment + 1])
        return [self._names[number] for number in np.unique(self._origins[first:end])]

    def add(self, table: pa.Table) -> None:
        """Write rows as one file: all or none. Raises TakenOverError."""
        number = int(self._names[-1].rpartition("/")[2].partition(".")[0]) + 1 if self._names else 1
        name = f"{self._folder}/{number:06d}.parquet"
        create(self._store, name, parquet_bytes(table.select(self._columns.names).cast(self._columns)))


def _read(store: Store, name: str) -> pa.Table:
    try:
        return parse_parquet(store.read(name))
    except FileNotFoundError as error:
        raise DatasetError(
            f"{store.path(name)} is gone: another command may be writing this dataset. If none is, restore it."
        ) from error
    except ValueError as error:
        raise DatasetError(f"{store.path(name)} is damaged: {error}. Restore it from a copy.") from error
