"""A part: one tar with all that came of a unit. It appears whole or not at all, and makes its unit done.

    parts/<unit_id>.tar     <unit_id>.json (the unit's record), then the samples of its measured clips, then stills of
                            its other candidates (KEY.jpg)

Parts live until their segment is sealed (publish/seal.py).
"""

import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence

from lipforge.datasets_manifest.sample import END_OF_TAR, sample_bytes
from lipforge.datasets_manifest.storage.files import to_json
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.ledger.records import DatasetError, Record

FOLDER = "parts"
_HEAD_BYTES = 1 << 16
"""Most records are smaller, so one short read gets them."""


def part_name(unit_id: str) -> str:
    return f"{FOLDER}/{unit_id}.tar"


def done_units(store: Store) -> set[str]:
    """Units that have a part."""
    names = (name.rpartition("/")[2] for name in store.list(FOLDER))
    return {name.removesuffix(".tar") for name in names if name.endswith(".tar")}


def write_part(store: Store, record: Record, blocks: Mapping[str, bytes]) -> Record:
    """Write a unit's part and return its record with `media` added: offset and size of each block, by key.

    blocks: tar blocks by key, a sample or a still each. Offsets count from the end of the record's own blocks.
    """
    media, offset = {}, 0
    for key, data in blocks.items():
        media[key] = (offset, len(data))
        offset += len(data)
    record = {**record, "media": media}
    unit_id = record["unit_id"]
    with store.writing(part_name(unit_id)) as file:
        file.write(sample_bytes(unit_id, {"json": to_json(record)}))
        for data in blocks.values():
            file.write(data)
        file.write(END_OF_TAR)
    return record


def read_record(store: Store, unit_id: str) -> Record | None:
    """The record of a unit; None when it has no part. Raises DatasetError when the part is damaged."""
    (record,) = read_records(store, [unit_id])
    return record


def read_records(store: Store, unit_ids: Sequence[str]) -> Iterator[Record | None]:
    """Many records, in order, many requests at once."""
    names = [part_name(unit_id) for unit_id in unit_ids]
    for unit_id, name, head in zip(unit_ids, names, store.read_all(names, _HEAD_BYTES), strict=True):
        yield None if head is None else _record_in(store, name, unit_id, head)


def _record_in(store: Store, name: str, unit_id: str, head: bytes) -> Record:
    try:
        size = tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "ascii", "strict").size
        if tarfile.BLOCKSIZE + size > len(head):
            head += store.read(name, len(head), tarfile.BLOCKSIZE + size - len(head))
        record = json.loads(head[tarfile.BLOCKSIZE : tarfile.BLOCKSIZE + size])
        if record["unit_id"] != unit_id:
            raise ValueError(f"it is that of {record['unit_id']}")
    except (tarfile.TarError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{store.path(name)} is damaged ({error}). Delete this file and run `lipforge prepare` again: only its "
            "unit is redone."
        ) from error
    blocks = -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    return {**record, "media_start": tarfile.BLOCKSIZE + blocks}


def read_media(store: Store, record: Record, key: str) -> bytes:
    """The tar blocks of a clip: a sample or a still. record: of `read_record`. Raises DatasetError."""
    name = part_name(record["unit_id"])
    offset, size = record["media"][key]
    try:
        data = store.read(name, record["media_start"] + offset, size)
        with tarfile.open(fileobj=io.BytesIO(data + END_OF_TAR), mode="r:") as tar:
            stems = {member.name.partition(".")[0] for member in tar}
    except (FileNotFoundError, tarfile.TarError) as error:
        raise DatasetError(f"{store.path(name)} is missing or damaged ({error}). {_REDO}") from error
    if stems != {key} or len(data) != size:
        raise DatasetError(f"{store.path(name)} is damaged: it does not hold clip {key} where it says. {_REDO}")
    return data


_REDO = "Delete it if it is there, and run `lipforge prepare` again: only its unit is redone."
