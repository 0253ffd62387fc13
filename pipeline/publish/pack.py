"""Pack parts into shards: every kept clip's sample, by language, in tars of even size.

What to do is recorded first (the plan), and each shard's record is written after the shard. So packing may be killed
anywhere, and the next packing ends with the same bytes.
"""

import io
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from lipforge.datasets_manifest.sample import END_OF_TAR, find_samples
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.ledger.records import DatasetError, Ledger
from lipforge.pipeline.publish.shards import Sample, fill_shards, shard_path, write_shard
from lipforge.pipeline.stages.commit import part_name

Mapper = Callable[[Callable[[Any], Any], list[Any]], Iterator[Any]]
"""Applies a function to items, perhaps in other processes, and gives the results in any order."""


def pack(store: Store, samples: Iterable[Sample], kept: set[str], shard_size_bytes: int, run_map: Mapper) -> None:
    """Make the shards hold exactly the samples whose keys are in `kept`.

    Existing shards stay as they are, unless a sample in them is no longer kept: then the shard is rewritten without it,
    and the sample becomes a part again. New samples, sorted by key, fill new shards of at most shard_size_bytes.
    Raises DatasetError when the media of a kept sample is gone.
    """
    ledger = Ledger(store)
    by_key = {sample.key: sample for sample in samples}
    finish_interrupted(store, run_map)
    plan = _plan(store, by_key, kept, shard_size_bytes)
    if plan["write"] or plan["delete"]:
        ledger.write_pack_plan(plan)
        _carry_out(store, plan, run_map)
    _drop_packed_parts(store)


def finish_interrupted(store: Store, run_map: Mapper) -> None:
    """Carry out the plan of an interrupted packing. Until then the ledger does not know where each sample lies."""
    unfinished = Ledger(store).read_pack_plan()
    if unfinished is not None:
        _carry_out(store, unfinished, run_map)


def _plan(store: Store, by_key: Mapping[str, Sample], kept: set[str], shard_size_bytes: int) -> dict[str, Any]:
    """What to write and delete, as plain values. Changes nothing."""
    write: list[dict[str, Any]] = []
    delete: list[dict[str, Any]] = []
    packed: set[str] = set()
    next_number: dict[str, int] = {}
    for shard in Ledger(store).shards():
        language, keys = shard["language"], list(shard["samples"])
        next_number[language] = max(next_number.get(language, 0), int(shard["name"].rpartition("-")[2]) + 1)
        if store.size(shard["path"]) != shard["size"]:
            raise DatasetError(
                f"{store.path(shard['path'])} is missing or damaged: {store.size(shard['path'])} bytes, expected "
                f"{shard['size']}. Restore it from a copy, or prepare the sources again into a new folder."
            )
        # A clip without a record stays: its unit will be processed again and give the same clip.
        staying = [key for key in keys if key in kept or key not in by_key]
        packed.update(staying)
        if staying == keys:
            continue
        leaving = [[key, by_key[key].unit_id] for key in keys if key not in staying]
        change = {"name": shard["name"], "language": language, "path": shard["path"], "leaving": leaving}
        if staying:
            write.append({**change, "keys": [[key, None] for key in staying]})
        else:
            delete.append(change)
    new = sorted((by_key[key] for key in kept - packed), key=lambda sample: (sample.language, sample.key))
    _check_media(store, new)
    for language, members in fill_shards(new, shard_size_bytes):
        number = next_number.get(language, 0)
        next_number[language] = number + 1
        name = f"{language}-{number:06d}"
        keys = [[sample.key, sample.unit_id] for sample in members]
        path = shard_path(name, language)
        write.append({"name": name, "language": language, "path": path, "leaving": [], "keys": keys})
    return {"write": write, "delete": delete}


def _check_media(store: Store, samples: list[Sample]) -> None:
    if not samples:
        return
    present = set(store.list("parts"))
    gone = [sample for sample in samples if part_name(sample.unit_id, sample.key) not in present]
    if gone:
        raise DatasetError(
            f"{len(gone)} clips pass these thresholds but their media is no longer in parts/ (was it pruned?). "
            "Use stricter thresholds, or prepare the sources again into a new folder."
        )


def _carry_out(store: Store, plan: dict[str, Any], run_map: Mapper) -> None:
    """Do what a plan says. It may have been done in part."""
    for _ in run_map(_ShardWriter(store), plan["write"]):
        pass
    for change in plan["delete"]:
        _ShardWriter(store).dissolve(change)
    Ledger(store).write_pack_plan(None)


class _ShardWriter:
    """Writes one shard of a plan. Safe to repeat."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __call__(self, change: dict[str, Any]) -> str:
        old = self._samples_of(change["path"])
        self._put_back(change, old)
        write_shard(self.store, change["name"], change["language"], self._samples(change, old))
        return change["name"]

    def _samples(self, change: dict[str, Any], old: Mapping[str, tuple[int, int]]) -> Iterator[tuple[str, bytes]]:
        for key, unit_id in change["keys"]:
            if key in old:
                yield key, self.store.read(change["path"], *old[key])
            else:
                yield key, read_part(self.store, unit_id, key)

    def dissolve(self, change: dict[str, Any]) -> None:
        self._put_back(change, self._samples_of(change["path"]))
        self.store.delete(change["path"])
        Ledger(self.store).delete_shard(change["name"])

    def _put_back(self, change: dict[str, Any], old: Mapping[str, tuple[int, int]]) -> None:
        """Turn samples that leave a shard into parts again, before the shard changes."""
        for key, unit_id in change["leaving"]:
            if key in old:
                self.store.write(part_name(unit_id, key), self.store.read(change["path"], *old[key]) + END_OF_TAR)

    def _samples_of(self, path: str) -> dict[str, tuple[int, int]]:
        """Samples in the file itself, which may be newer than its record after a kill."""
        if not self.store.exists(path):
            return {}
        with self.store.open(path) as file:
            return find_samples(file)


def read_part(store: Store, unit_id: str, key: str) -> bytes:
    """A part's sample, without the end of the archive. Raises DatasetError when it is missing or damaged."""
    name = part_name(unit_id, key)
    try:
        data = store.read(name)
        found = find_samples(io.BytesIO(data))
    except (FileNotFoundError, tarfile.TarError) as error:
        raise DatasetError(f"{store.path(name)} is missing or damaged ({error})") from error
    if list(found) != [key] or not data.endswith(END_OF_TAR):
        raise DatasetError(f"{store.path(name)} is damaged: it does not hold exactly the sample that it is named after")
    offset, size = found[key]
    return data[offset : offset + size]


def _drop_packed_parts(store: Store) -> None:
    """Delete parts whose sample is in a shard: media is stored once."""
    packed = {key for shard in Ledger(store).shards() for key in shard["samples"]}
    for name in store.list("parts"):
        stem, _, suffix = name.rpartition("/")[2].partition(".")
        if suffix == "tar" and stem in packed:
            store.delete(name)
