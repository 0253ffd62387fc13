"""Export a selection as a dataset of its own: its clips in new shards, byte for byte, with rows and provenance.

Samples are copied by byte range and verified one by one; nothing is decoded or encoded. What to export is recorded
first (ledger/export.json), and each shard's record follows its shard. So an export may be stopped anywhere, and the
same command continues it and ends with the same bytes.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from lipforge.datasets_manifest.arrow import compute as pc
from lipforge.datasets_manifest.language_tags import SAFE_AS_FOLDER, with_canonical_languages
from lipforge.datasets_manifest.manifest import write_manifest
from lipforge.datasets_manifest.sample import END_OF_TAR, read_clip
from lipforge.datasets_manifest.schema import COLUMNS, Status
from lipforge.datasets_manifest.select.again import require_shards
from lipforge.datasets_manifest.selection import read_selection, selection_bytes, selection_request
from lipforge.datasets_manifest.storage.files import read_file, to_json
from lipforge.datasets_manifest.storage.lease import FOLDER as LEASES
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.ledger.records import DatasetError
from lipforge.pipeline.ledger.settings import EXPORT_RECORD, writing
from lipforge.pipeline.publish.shards import Place, Sample, fill_shards, write_shard
from lipforge.pipeline.publish.tasks import Mapper
from lipforge.pipeline.running.summary import Summary, now, versions

SELECTION_NAME = "selection.parquet"
"""In the exported dataset: the same rows in the same order and splits, with their new places."""

AT_ONCE = 8
"""Samples read concurrently: about 1 MB each, and an object store answers slowly."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Exported:
    """Size of an export."""

    clips: int
    hours: float
    size_bytes: int
    """Of its shards."""
    shards: int


@dataclass(frozen=True)
class Origin:
    """Where a sample is copied from."""

    dataset: str
    shard: str
    offset: int
    size: int


def export(
    selection: str,
    out: str,
    shard_size_mb: float = 512.0,
    progress: Progress = lambda done, total: None,
    run_map: Mapper = map,
) -> Exported:
    """Copy the clips of a selection into a new dataset `out`; both may be fsspec URLs. Safe to stop and to repeat.

    shard_size_mb: largest size of a shard, in 10^6 bytes. progress: called with (clips copied, clips in all).
    run_map: who copies; a shard is one item.
    Raises ValueError for a selection that cannot be exported, DatasetError when `out` holds something else, or when a
    sample is damaged or not where the selection says. `out` gets its manifest last.
    """
    if not out:
        raise ValueError("--out is empty; name a folder")
    if shard_size_mb <= 0:
        raise ValueError(f"the shard size is {shard_size_mb}: expected more than 0")
    rows = with_canonical_languages(read_selection(selection))
    samples, origins = find_origins(rows, selection)
    store = Store(out)
    record = export_record(selection, rows, shard_size_mb=shard_size_mb)
    require_own(store, record)  # before anything is made there
    shards = list(fill_shards(samples, int(shard_size_mb * 1e6)))
    with writing(store):
        require_own(store, record)
        missing = _not_yet_written(store, shards)
        check_sources(rows, [key for _, _, keys in missing for key in keys], selection)
        store.write(EXPORT_RECORD, to_json(record))
        done = len(samples) - sum(len(keys) for _, _, keys in missing)
        progress(done, len(samples))
        tasks = [_Shard(name, language, [(key, origins[key]) for key in keys]) for name, language, keys in missing]
        for copied in run_map(_ShardCopier(store), tasks):
            done += copied
            progress(done, len(samples))
        _write_rows(store, rows, record)
    hours = sum(rows["duration_s"].to_pylist()) / 3600
    return Exported(len(samples), hours, sum(store.sizes("shards").values()), len(shards))


# --- what to export ---


def find_origins(rows: pa.Table, selection: str) -> tuple[list[Sample], dict[str, Origin]]:
    """Samples by language and key, and where each lies. rows: as checked by `read_selection`."""
    places = ("dataset", "shard", "sample_offset", "sample_size")
    names = ("key", "language", "status", *places, "duration_s", "accounted_s")
    samples, origins = [], {}
    for key, language, status, dataset, shard, offset, size, *lengths in zip(
        *(rows[n].to_pylist() for n in names), strict=True
    ):
        language = language or "und"  # noqa: PLW2901
        if status != Status.KEPT or None in lengths or not SAFE_AS_FOLDER.fullmatch(language):
            raise ValueError(
                f"{selection}: clip {key} with status {status}, language {language!r}, seconds {lengths} "
                "was not made by lipforge"
            )
        samples.append(Sample(key, language, size))
        origins[key] = Origin(dataset, shard, offset, size)
    if not samples:
        raise ValueError(f"{selection} holds no clips")
    return sorted(samples, key=lambda sample: (sample.language, sample.key)), origins


def export_record(selection: str, rows: pa.Table, **settings: Any) -> dict[str, Any]:
    """What is exported, how, and from where. Depends on the selection's content alone, not on its path or the time."""
    about = selection_request(rows, selection)
    return {
        "selection_sha256": hashlib.sha256(read_file(selection)).hexdigest(),
        "request": about["request"],
        "gave": about["gave"],
        "lipforge": about["lipforge"],
        **settings,
        "datasets": [_dataset_facts(root, rows) for root in sorted(set(rows["dataset"].to_pylist()))],
    }


def _dataset_facts(root: str, rows: pa.Table) -> dict[str, Any]:
    own = rows.filter(pc.field("dataset") == root)
    columns = ("config_hash", "models_hash", "sync_model", "quality_model")
    facts = {name: sorted(set(own[name].to_pylist()) - {None}) for name in columns}
    return {"dataset": root, "clips": own.num_rows, **facts}


def require_own(store: Store, record: dict[str, Any]) -> None:
    """Raises DatasetError unless `out` is empty or holds this very export, finished or not."""
    if store.exists(EXPORT_RECORD):
        try:
            found = json.loads(store.read(EXPORT_RECORD))
        except ValueError:
            found = None
        if found == json.loads(to_json(record)):
            return
        what = "the export of another selection, or of the same one with other settings"
    else:
        held = [name for name in store.list("") if not name.startswith(LEASES)]
        if not held:
            return
        what = f"something else ({held[0].lstrip('/') or 'it is a file'})"
    raise DatasetError(f"{store.root} holds {what}. Nothing in it was changed: name a new folder.")


# --- copying ---


def _not_yet_written(store: Store, shards: list[tuple[str, list[Sample]]]) -> list[tuple[str, str, list[str]]]:
    """(name, language, keys) of groups without a record, or whose shard is not as it says."""
    sizes = store.sizes("shards")
    numbers: dict[str, int] = {}
    missing = []
    for language, members in shards:
        number = numbers[language] = numbers.get(language, -1) + 1
        name, keys = f"{language}-{number:06d}", [sample.key for sample in members]
        places = _recorded(store, name)
        last = places.get(keys[-1])
        if list(places) != keys or last is None or sizes.get(last.tar) != last.offset + last.size + len(END_OF_TAR):
            missing.append((name, language, keys))
    return missing


@dataclass(frozen=True)
class _Shard:
    """One to be written."""

    name: str
    """Of its record."""
    language: str
    clips: list[tuple[str, Origin]]


class _ShardCopier:
    """Copies the clips of a shard, in any process; its record follows it. Returns how many."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __call__(self, shard: _Shard) -> int:
        places = write_shard(self.store, shard.language, _read_samples(shard.clips))
        self.store.write(_record_name(shard.name), to_json({"places": places}))
        return len(shard.clips)


def check_sources(rows: pa.Table, keys: list[str], selection: str) -> None:
    """Check that the shards of these clips are there and whole, before a byte is copied. Raises FileNotFoundError."""
    require_shards(rows.filter(pc.is_in(rows["key"], pa.array(keys, pa.string()))), selection, whole=True)


def _record_name(name: str) -> str:
    return f"ledger/shards/{name}.json"


def _recorded(store: Store, name: str) -> dict[str, Place]:
    """Where a group's samples lie; empty when it is not written yet."""
    try:
        found = {key: Place(*place) for key, place in json.loads(store.read(_record_name(name)))["places"].items()}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}
    return dict(sorted(found.items(), key=lambda item: item[1].offset))


def _read_samples(clips: list[tuple[str, Origin]]) -> Iterator[tuple[str, bytes]]:
    """Verified samples in order, a few read ahead."""
    stores = {origin.dataset: Store(origin.dataset) for _, origin in clips}

    def read(clip: tuple[str, Origin]) -> tuple[str, bytes]:
        key, origin = clip
        return key, read_sample(stores[origin.dataset], key, origin)[0]

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for first in range(0, len(clips), AT_ONCE):
            yield from pool.map(read, clips[first : first + AT_ONCE])


def read_sample(store: Store, key: str, origin: Origin) -> tuple[bytes, dict[str, bytes]]:
    """One sample, verified: its bytes, and its members by suffix. Raises DatasetError."""
    try:
        data = store.read(origin.shard, origin.offset, origin.size)
        return data, read_clip(data, origin.size, key)
    except FileNotFoundError as error:
        raise DatasetError(f"{store.path(origin.shard)} is missing: restore it from a copy") from error
    except ValueError as error:
        raise DatasetError(
            f"clip {key} cannot be exported: bytes {origin.offset} to {origin.offset + origin.size} of "
            f"{store.path(origin.shard)} are damaged ({error}). Restore the shard from a copy, or leave the clip out: "
            f"--where \"key <> '{key}'\""
        ) from error


# --- manifest, selection and run ---


def _write_rows(store: Store, rows: pa.Table, record: dict[str, Any]) -> None:
    """Write selection and manifest with the new places, then the run, which tells `lipforge status` that it is done."""
    places = {
        key: place
        for name in store.list("ledger/shards")
        for key, place in _recorded(store, name.rpartition("/")[2].removesuffix(".json")).items()
    }
    found = zip(*(places[key] for key in rows["key"].to_pylist()), strict=True)
    for name, column in zip(("shard", "sample_offset", "sample_size"), found, strict=True):
        index = rows.schema.get_field_index(name)
        rows = rows.set_column(index, rows.schema.field(index), pa.array(column, rows.schema.field(index).type))
    root = pa.array([store.root] * len(rows), pa.string())
    index = rows.schema.get_field_index("dataset")
    rows = rows.set_column(index, rows.schema.field(index), root)
    # An existing one is of the same selection, perhaps exported to a folder of another name: replace it.
    request = {**record["request"], "exported_from": record["selection_sha256"]}
    store.write(SELECTION_NAME, selection_bytes(rows, request))
    manifest = rows.select(COLUMNS.names).cast(COLUMNS)
    write_manifest(store.root, manifest)
    _write_run(store, manifest, record)


def _write_run(store: Store, manifest: pa.Table, record: dict[str, Any]) -> None:
    name = f"export-{record['selection_sha256'][:16]}"
    if store.exists(f"runs/{name}/summary.json"):
        return
    kept_s = round(sum(manifest["accounted_s"].to_pylist()), 2)
    summary = Summary(run_id=name, started_at=now(), finished_at=now(), phase="done", versions=versions())
    summary.num_sources = len(set(manifest["source_id"].to_pylist()))
    summary.seconds_total = summary.seconds_kept = kept_s
    summary.clips_by_outcome = {"kept": len(manifest)}
    summary.notes = [
        f"exported from {', '.join(facts['dataset'] for facts in record['datasets'])}: only kept clips are here"
    ]
    store.write(f"runs/{name}/summary.json", to_json(summary.as_record()))
