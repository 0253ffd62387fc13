"""What a dataset was made with: ledger/dataset.json, written once.

The rest of the ledger: sources that were probed (source_log.py), what was planned and finished (segments.py), finished
units that are not in a segment yet (parts.py). The thresholds in force are the manifest's (publish/publish.py).
"""

import json
from typing import Any

from lipforge.datasets_manifest.storage.files import to_json
from lipforge.datasets_manifest.storage.store import Store

FORMAT_VERSION = 2
DATASET = "ledger/dataset.json"

_SECTIONS = ("config", "measuring", "hashes")

Record = dict[str, Any]


class DatasetError(Exception):
    """A command cannot use a dataset as asked, or cannot go on; the message says what to do."""


class TakenOverError(DatasetError):
    """Another command wrote what this one was about to write."""

    def __init__(self, place: str) -> None:
        super().__init__(
            f"another command writes this dataset at the same time: it made {place} first. Nothing was mixed or lost. "
            "Wait until it is done, then run the same command again."
        )
        self.place = place

    def __reduce__(self) -> tuple[type["TakenOverError"], tuple[str]]:
        """Sent between processes, an error is made again from its arguments."""
        return type(self), (self.place,)


def read_dataset(store: Store) -> Record | None:
    """Settings, hashes and versions; None when nothing was begun here. Raises DatasetError when it is damaged."""
    try:
        record = json.loads(store.read(DATASET))
    except FileNotFoundError:
        return None
    except ValueError as error:  # no JSON, or not even text
        raise _damaged(store, str(error)) from error
    if not isinstance(record, dict) or not all(isinstance(record.get(name), dict) for name in _SECTIONS):
        raise _damaged(store, "it holds no record")
    return record


def write_dataset(store: Store, record: Record) -> None:
    create(store, DATASET, to_json({"format_version": FORMAT_VERSION, **record}))


def create(store: Store, name: str, data: bytes) -> None:
    """Write a file that only one command can make. Raises TakenOverError when another one did."""
    try:
        store.create(name, data)
    except FileExistsError as error:
        raise TakenOverError(store.path(name)) from error


def _damaged(store: Store, why: str) -> DatasetError:
    return DatasetError(
        f"{store.path(DATASET)} is damaged ({why}). Restore it from a copy, or prepare the sources again into a new "
        "folder."
    )
