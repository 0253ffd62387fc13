"""What is done: one record for each source, work unit and shard, written last.

A record is the only sign that a unit is finished. It is written after the unit's media and appears complete or not at
all, so a process may die at any moment: the unit is either done or not begun.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lipforge.datasets_manifest.storage.files import to_json
from lipforge.datasets_manifest.storage.store import Store

Record = dict[str, Any]


class DatasetError(Exception):
    """A command cannot use a dataset as asked, or cannot go on; the message says what to do."""


class Ledger:
    """Records below DATASET/ledger."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def read_dataset(self) -> Record | None:
        """What the dataset was made with: settings, models."""
        return self._read("ledger/dataset.json")

    def write_dataset(self, record: Record) -> None:
        self.store.write("ledger/dataset.json", to_json(record))

    def read_source(self, entry_id: str) -> Record | None:
        return self._read(_name("sources", entry_id))

    def write_source(self, entry_id: str, record: Record) -> None:
        self.store.write(_name("sources", entry_id), to_json(record))

    def delete_source(self, entry_id: str) -> None:
        self.store.delete(_name("sources", entry_id))

    def sources(self) -> Iterator[Record]:
        return self._all("sources")

    def write_content(self, name: str, record: Record) -> None:
        """The source that owns some content, and the content's units: see sources/ownership.py."""
        self.store.write(_name("contents", name), to_json(record))

    def contents(self) -> Iterator[Record]:
        return self._all("contents")

    def read_unit(self, unit_id: str) -> Record | None:
        return self._read(_name("units", unit_id))

    def write_unit(self, unit_id: str, record: Record) -> None:
        self.store.write(_name("units", unit_id), to_json(record))

    def read_units(self, unit_ids: list[str]) -> list[Record]:
        """The records of these units, in order; units without a record are left out."""
        with ThreadPoolExecutor(min(8, max(1, len(unit_ids)))) as pool:
            return [record for record in pool.map(self.read_unit, unit_ids) if record is not None]

    def delete_unit(self, unit_id: str) -> None:
        self.store.delete(_name("units", unit_id))

    def units(self) -> Iterator[Record]:
        return self._all("units")

    def read_votes(self, unit_ids: list[str]) -> list[Record]:
        """Language votes of the clips of these units, in order; units without votes are left out."""
        with ThreadPoolExecutor(min(8, max(1, len(unit_ids)))) as pool:
            found = pool.map(lambda unit_id: self._read(_name("languages", unit_id)), unit_ids)
            return [record for record in found if record is not None]

    def write_votes(self, unit_id: str, record: Record) -> None:
        self.store.write(_name("languages", unit_id), to_json(record))

    def units_with_votes(self) -> set[str]:
        names = self.store.list("ledger/languages")
        return {name.rpartition("/")[2].removesuffix(".json") for name in names}

    def write_shard(self, name: str, record: Record) -> None:
        self.store.write(f"ledger/shards/{name}.json", to_json(record))

    def delete_shard(self, name: str) -> None:
        self.store.delete(f"ledger/shards/{name}.json")

    def shards(self) -> Iterator[Record]:
        return self._all("shards")

    def read_pack_plan(self) -> Record | None:
        """What packing set out to do and may not have finished."""
        return self._read("ledger/pack_plan.json")

    def write_pack_plan(self, plan: Record | None) -> None:
        if plan is None:
            self.store.delete("ledger/pack_plan.json")
        else:
            self.store.write("ledger/pack_plan.json", to_json(plan))

    def _all(self, kind: str) -> Iterator[Record]:
        names = [name for name in self.store.list(f"ledger/{kind}") if name.endswith(".json")]
        with ThreadPoolExecutor(8) as pool:
            for record in pool.map(self._read, names):
                if record is not None:
                    yield record

    def _read(self, name: str) -> Record | None:
        try:
            record = json.loads(self.store.read(name))
        except FileNotFoundError:
            return None
        except ValueError as error:  # no JSON, or not even text
            raise DatasetError(f"{self.store.path(name)} is damaged ({error}). {_remedy(name)}") from error
        if not record or not isinstance(record, dict):
            raise DatasetError(f"{self.store.path(name)} is damaged (it holds no record). {_remedy(name)}")
        return record


def _remedy(name: str) -> str:
    if name.startswith(("ledger/sources/", "ledger/contents/", "ledger/units/")):
        return "Delete this file and run `lipforge prepare` again: only what it records is redone."
    if name.startswith("ledger/languages/"):
        return "Delete this file and run `lipforge identify-languages` again: only its clips are redone."
    return "Restore it from a copy, or prepare the sources again into a new folder."


def _name(kind: str, identity: str) -> str:
    return f"ledger/{kind}/{identity[:2]}/{identity}.json"
