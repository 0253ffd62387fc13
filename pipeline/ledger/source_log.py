"""Which sources were probed, and what they are: an append-only log of Parquet files, read by columns.

    ledger/sources/000001.parquet ...   the last row of an entry counts

What a killed run had probed but not written yet is probed again: at most `WRITE_EVERY_S` of work.
"""

import json
import re
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from lipforge.datasets_manifest.arrow import compute as pc
from lipforge.datasets_manifest.parquet import parquet_bytes, parse_parquet
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.ledger.records import DatasetError, Record, create

FOLDER = "ledger/sources"
_FILE = re.compile(rf"{FOLDER}/[0-9]{{6}}\.parquet")
WRITE_EVERY_S = 30.0
MAX_ROWS_WAITING = 10_000

COLUMNS = pa.schema(
    [
        ("entry_id", pa.string()),
        ("source_id", pa.string()),
        ("fingerprint", pa.string()),
        ("reason", pa.string()),
        ("record", pa.string()),  # all of it, as JSON: see stages/probe.py
    ]
)
FORGOTTEN = ""
"""As source_id: the entry is no longer of the dataset."""


class SourceLog:
    """Reads and writes the log. One writer at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._names = [name for name in store.list(FOLDER) if _FILE.fullmatch(name)]
        self._waiting: list[Record] = []
        self._since_s = time.monotonic()

    def table(self, columns: Sequence[str]) -> pa.Table:
        """These of COLUMNS for every entry, as it was probed last. `entry_id` and `source_id` are always there."""
        wanted = list(dict.fromkeys(["entry_id", "source_id", *columns]))
        empty = pa.schema([COLUMNS.field(name) for name in wanted]).empty_table()
        tables = [empty]
        for name, data in zip(self._names, self._store.read_all(self._names), strict=True):
            tables.append(self._parsed(name, data, wanted))
        table = pa.concat_tables(tables)
        codes = table["entry_id"].combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
        last = np.zeros(int(codes.max(initial=-1)) + 1, np.int64)
        last[codes] = np.arange(len(codes))
        newest = np.zeros(len(codes), bool)
        newest[last] = True
        known = newest & ~np.asarray(pc.equal(table["source_id"], FORGOTTEN), dtype=bool)
        found = table.filter(pa.array(known))
        del table, tables
        pa.default_memory_pool().release_unused()
        return found

    def records(self, entry_ids: set[str]) -> dict[str, Record]:
        """The last record of each of these entries."""
        found: dict[str, Record] = {}
        wanted = pa.array(sorted(entry_ids), pa.string())
        for name, data in zip(self._names, self._store.read_all(self._names) if entry_ids else (), strict=False):
            rows = self._parsed(name, data, ["entry_id", "source_id", "record"])
            rows = rows.filter(pc.is_in(rows["entry_id"], wanted))
            columns = (rows[column].to_pylist() for column in ("entry_id", "source_id", "record"))
            for entry_id, source_id, record in zip(*columns, strict=True):
                found.pop(entry_id, None)
                if source_id != FORGOTTEN:
                    found[entry_id] = json.loads(record)
        return found

    def _parsed(self, name: str, data: bytes | None, columns: Sequence[str]) -> pa.Table:
        if data is None:
            raise DatasetError(
                f"{self._store.path(name)} is gone: another command may be writing this dataset. If none is, restore "
                "the file from a copy."
            )
        try:
            return parse_parquet(data, columns).select(list(columns))
        except ValueError as error:
            raise DatasetError(
                f"{self._store.path(name)} is damaged ({error}). Delete this file and run `lipforge prepare` again: "
                "only the sources that it records are probed again."
            ) from error

    def add(self, entry_id: str, record: Record) -> None:
        """record: of stages/probe.py. It is on disk after `write` at the latest."""
        self._add(
            {
                "entry_id": entry_id,
                "source_id": record["source_id"],
                "fingerprint": record["fingerprint"],
                "reason": record["reason"],
                "record": json.dumps(record, sort_keys=True),  # ASCII: names may hold any bytes
            }
        )

    def forget(self, entry_id: str) -> None:
        self._add({"entry_id": entry_id, "source_id": FORGOTTEN})

    def _add(self, row: dict[str, Any]) -> None:
        self._waiting.append(row)
        if len(self._waiting) >= MAX_ROWS_WAITING or time.monotonic() - self._since_s > WRITE_EVERY_S:
            self.write()

    def write(self) -> None:
        """Write what was added since."""
        if self._waiting:
            number = int(self._names[-1].rpartition("/")[2].partition(".")[0]) + 1 if self._names else 1
            name = f"{FOLDER}/{number:06d}.parquet"
            rows = sorted(self._waiting, key=lambda row: row["entry_id"])  # of one entry, the last stays the last
            create(self._store, name, parquet_bytes(pa.Table.from_pylist(rows, COLUMNS)))
            self._names.append(name)
            self._waiting = []
        self._since_s = time.monotonic()


def content_names(table: pa.Table) -> Any:
    """Text that tells which entry has which content: 64 bits of either, because there may be millions of rows.

    table: with `entry_id` and `source_id`.
    """
    halves = (pc.utf8_slice_codeunits(table[name], 0, 16) for name in ("entry_id", "source_id"))
    return pc.binary_join_element_wise(*halves, "")
