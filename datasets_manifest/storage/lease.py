"""Which command writes a dataset in an object store, where there are no locks.

A lease is a numbered file, made by a conditional write, so two commands never hold the same one. Its holder renews it.
Whoever wants the dataset watches the newest lease: if it is renewed meanwhile, its holder lives; if it stays the same
for `EXPIRES_S` of the watcher's own time, the next number is free. No two clocks are compared.

A lease saves work; it guards nothing: a holder may sleep, lose its lease and wake up. What guards the dataset is that
every step of its history is a file that can be made only once (`Store.create`).
"""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from lipforge.datasets_manifest.storage.files import to_json

if TYPE_CHECKING:
    from lipforge.datasets_manifest.storage.store import Store

FOLDER = "ledger/lease"
RENEW_S = 10.0
EXPIRES_S = 60.0


class HeldError(BlockingIOError):
    """Another command holds the dataset."""


@contextmanager
def held_lease(store: "Store") -> Iterator[None]:
    """Hold the lease while the block runs. Raises HeldError, at once or after EXPIRES_S, when another command does."""
    number = _next_free(store)
    name = f"{FOLDER}/{number:06d}.json"
    about = {"host": socket.gethostname(), "pid": os.getpid(), "token": secrets.token_hex(8), "renewals": 0}
    try:
        store.create(name, to_json(about))
    except FileExistsError as error:
        raise HeldError(_words(_read(store, name))) from error
    store.delete_all([old for old in store.list(FOLDER) if old < name])
    done = threading.Event()
    renewer = threading.Thread(target=_renew, args=(store, name, about, done), daemon=True)
    renewer.start()
    try:
        yield
    finally:
        done.set()
        renewer.join()
        with suppress(OSError):  # it expires
            store.write(name, to_json({**about, "released": True}))


def is_held(store: "Store") -> bool:
    """Whether the newest lease was renewed lately, by this machine's clock."""
    names = store.list(FOLDER)
    if not names or _read(store, names[-1]).get("released"):
        return False
    modified_s = store.modified_s(names[-1])
    return modified_s is None or time.time() - modified_s < EXPIRES_S


def _next_free(store: "Store") -> int:
    names = store.list(FOLDER)
    if not names:
        return 1
    newest = names[-1]
    seen, since_s = _read(store, newest), time.monotonic()
    while not seen.get("released") and time.monotonic() - since_s < EXPIRES_S:
        time.sleep(RENEW_S / 4)
        now = _read(store, newest)
        if now.get("released"):
            break
        if now != seen or store.list(FOLDER)[-1:] != [newest]:
            raise HeldError(_words(now))
    return int(newest.rpartition("/")[2].partition(".")[0]) + 1


def _renew(store: "Store", name: str, about: dict[str, Any], done: threading.Event) -> None:
    renewals = 0
    while not done.wait(RENEW_S):
        renewals += 1
        with suppress(OSError):  # the next renewal may pass
            if store.list(FOLDER)[-1:] != [name]:
                return  # another command took over: what this one still makes is refused
            store.write(name, to_json({**about, "renewals": renewals}))


def _read(store: "Store", name: str) -> dict[str, Any]:
    """The lease; empty when it is gone or damaged, which says nothing of its holder."""
    try:
        found = json.loads(store.read(name))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _words(lease: dict[str, Any]) -> str:
    return f"process {lease.get('pid', '?')} on {lease.get('host', 'another machine')}"
