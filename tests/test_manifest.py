"""The manifest is complete, sorted, byte-identical for the same rows, and says clearly when it is missing."""

import hashlib
import os
import random
from enum import StrEnum
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from fsspec.implementations.local import LocalFileSystem

from lipforge.datasets_manifest import manifest
from lipforge.datasets_manifest.generations import ManifestChangedError, ManifestError, publish_generation, write_rows
from lipforge.datasets_manifest.manifest import manifest_table, open_manifest, read_manifest, write_manifest
from lipforge.datasets_manifest.parquet import parquet_bytes
from lipforge.datasets_manifest.schema import COLUMNS, Reason, Status
from lipforge.datasets_manifest.storage.files import is_temporary, writing
from lipforge.datasets_manifest.storage.store import Store


def make_rows(num_rows: int) -> list[dict]:
    return [
        {
            "key": f"{i:032x}",
            "source_id": hashlib.sha256(str(i % 7).encode()).hexdigest(),
            "source_uri": f"/videos/{i % 7}.mp4",
            "start_s": float(i % 50),
            "track_index": i % 3 - 1,
            "accounted_s": 5.0,
            "status": Status.KEPT if i % 2 else Status.REJECTED,
            "reason": None if i % 2 else Reason.NO_FACE,
            "quality": float("nan") if i % 5 == 0 else 50.0,
        }
        for i in range(num_rows)
    ]


def files_of(dataset: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (dataset / "manifest").iterdir()}


def test_rows_come_back_sorted_with_every_column(tmp_path: Path) -> None:
    rows = make_rows(100)
    random.Random(0).shuffle(rows)
    write_manifest(str(tmp_path), rows)
    table = read_manifest(str(tmp_path))
    assert table.schema.equals(COLUMNS)
    keys = [(r["source_id"], r["start_s"], r["track_index"], r["key"]) for r in table.to_pylist()]
    assert keys == sorted(keys)
    assert {key[-1] for key in keys} == {row["key"] for row in rows}


def test_same_rows_in_any_order_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "MAX_ROWS_PER_FILE", 1000)
    rows = make_rows(2500)
    write_manifest(str(tmp_path / "a"), rows)
    random.Random(1).shuffle(rows)
    write_manifest(str(tmp_path / "b"), iter(rows))
    a, b = files_of(tmp_path / "a"), files_of(tmp_path / "b")
    assert len(a) == 4 and "generation-000001.json" in a
    assert a == b


def test_bytes_do_not_depend_on_how_rows_were_batched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make_rows(3000)
    write_manifest(str(tmp_path / "a"), rows)
    whole_batches = manifest._batches
    monkeypatch.setattr(manifest, "_batches", lambda rows: whole_batches(rows, rows_per_batch=17))
    write_manifest(str(tmp_path / "b"), rows)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_a_new_generation_leaves_the_old_one_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "MAX_ROWS_PER_FILE", 10)
    write_manifest(str(tmp_path), make_rows(35))
    before = files_of(tmp_path)
    write_manifest(str(tmp_path), make_rows(11))
    assert before.items() <= files_of(tmp_path).items() and "generation-000002.json" in files_of(tmp_path)
    assert read_manifest(str(tmp_path)).num_rows == 11
    write_manifest(str(tmp_path), make_rows(11))  # nothing new: no generation of its own
    assert "generation-000003.json" not in files_of(tmp_path)


def test_of_two_writers_one_is_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    first = write_manifest(store.root, make_rows(3))
    files = [write_rows(store, manifest_table(make_rows(count))) for count in (4, 5)]
    publish_generation(store, first, files[:1], {})
    with pytest.raises(ManifestChangedError, match="another command wrote"):
        publish_generation(store, first, files[1:], {})
    assert read_manifest(store.root).num_rows == 4
    publish_generation(store, first, files[:1], {})  # its own answer was lost: no harm


def test_a_generation_that_is_damaged_or_names_what_is_gone_is_said(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write_manifest(store.root, make_rows(3))
    generation = write_manifest(store.root, make_rows(4))
    name = generation.files[0]["name"]
    rows = store.read(name)
    store.delete(name)
    with pytest.raises(ManifestError, match=r"1 file of the manifest in force, .*000002\.json, missing: "):
        read_manifest(store.root)
    store.write(name, rows)
    whole = store.read(generation.name)
    changes = (b"", b"{", b"[]", whole.replace(b"rows-", b"../x"), whole.replace(b'"rows":4', b'"rows":"4"'))
    for damaged in changes:
        store.write(generation.name, damaged)
        with pytest.raises(ManifestError, match=r"generation-000002\.json is damaged.*Restore it from a copy"):
            read_manifest(store.root)
    store.write(generation.name, whole.replace(b'"schema_version":2', b'"schema_version":3'))
    with pytest.raises(ManifestError, match="schema version 3, this lipforge reads 2"):
        read_manifest(store.root)
    store.delete(generation.name)
    assert read_manifest(store.root).num_rows == 3


def test_a_dataset_of_format_1_is_read(tmp_path: Path) -> None:
    table = manifest_table(make_rows(3)).drop_columns(["schema_version"])
    old = table.append_column("schema_version", pa.array([1] * 3, pa.int32()))
    old = old.append_column("clip_id", old["key"]).append_column("attempt", pa.array([1] * 3, pa.int32()))
    Store(str(tmp_path)).write("manifest/part-00000.parquet", parquet_bytes(old))
    assert read_manifest(str(tmp_path), ["key"]).num_rows == 3
    assert open_manifest(str(tmp_path)).count_rows() == 3


def test_columns_and_filter_narrow_what_is_read(tmp_path: Path) -> None:
    write_manifest(str(tmp_path), make_rows(20))
    table = read_manifest(str(tmp_path), columns=["key"], filter=pc.field("status") == "kept")
    assert table.column_names == ["key"]
    assert table.num_rows == 10


def test_no_rows_is_a_readable_manifest(tmp_path: Path) -> None:
    write_manifest(str(tmp_path), [])
    assert read_manifest(str(tmp_path)).num_rows == 0


def test_unknown_column_is_an_error_and_keeps_the_old_manifest(tmp_path: Path) -> None:
    write_manifest(str(tmp_path), make_rows(3))
    with pytest.raises(ValueError, match="sync_score"):
        write_manifest(str(tmp_path), [{"key": "00", "sync_score": 1.0}])
    assert read_manifest(str(tmp_path)).num_rows == 3


def test_wrong_type_is_an_error(tmp_path: Path) -> None:
    with pytest.raises((pa.ArrowInvalid, pa.ArrowTypeError)):
        write_manifest(str(tmp_path), [{"key": "00", "num_frames": "many"}])


def test_missing_manifest_names_the_folder_and_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"generation-\*\.json"):
        read_manifest(str(tmp_path))


def test_file_names_of_any_bytes_are_stored(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9 \xf0\x9f\x98\x80\n.mp4")  # latin-1 byte, valid emoji, newline
    write_manifest(str(tmp_path), [{"key": "00", "source_uri": name}, {"key": "01", "source_uri": "plain"}])
    uris = read_manifest(str(tmp_path)).column("source_uri").to_pylist()
    assert uris == ["caf\\udce9 \U0001f600\n.mp4", "plain"]


def test_dataset_folder_with_glob_characters(tmp_path: Path) -> None:
    dataset = str(tmp_path / "set [1] * $(x)")
    write_manifest(dataset, make_rows(3))
    assert read_manifest(dataset).num_rows == 3


def test_failed_write_leaves_the_old_file_and_no_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_manifest(str(tmp_path), make_rows(3))
    before = files_of(tmp_path)

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_manifest(str(tmp_path), make_rows(30))
    assert files_of(tmp_path) == before


def test_a_killed_writer_leaves_a_name_that_the_sweep_of_a_dataset_removes(tmp_path: Path) -> None:
    with writing(LocalFileSystem(), str(tmp_path / "file")):
        (left,) = tmp_path.iterdir()
        assert is_temporary(left.name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_remote_dataset_through_fsspec() -> None:
    url = "memory://manifest-test/dataset"
    write_manifest(url, make_rows(12))
    write_manifest(url, make_rows(11))
    assert read_manifest(url).num_rows == 11
    fs, root = fsspec.url_to_fs(url)
    names = [p.rsplit("/", 1)[-1] for p in fs.ls(f"{root}/manifest", detail=False)]
    assert [name for name in names if name.startswith("gen")] == ["generation-000001.json", "generation-000002.json"]


def test_enum_members_are_stored_as_plain_words() -> None:
    assert issubclass(Status, StrEnum) and issubclass(Reason, StrEnum)
    batch = next(manifest._batches([{"status": Status.FAILED, "reason": Reason.TIMEOUT}]))
    assert batch.to_pylist()[0]["status"] == "failed"
    assert batch.to_pylist()[0]["reason"] == "timeout"
