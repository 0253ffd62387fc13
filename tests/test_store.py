"""A dataset's folder: files appear whole or not at all, and of two writers one is told."""

import errno
import os
from pathlib import Path

import pytest

from lipforge.datasets_manifest.storage.store import Store


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "data"))
    store.write("a/b.bin", b"old")
    with pytest.raises(RuntimeError), store.writing("a/b.bin") as file:
        file.write(b"half of the new")
        file.flush()
        assert store.read("a/b.bin") == b"old"
        raise RuntimeError("killed")
    assert store.read("a/b.bin") == b"old"
    assert [path.name for path in (tmp_path / "data" / "a").iterdir()] == ["b.bin"]


def test_reading_ranges_listing_and_deleting(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("x/2.bin", b"0123456789")
    store.write("x/y/1.bin", b"")
    (tmp_path / "x" / ".tmp-left").write_bytes(b"?")
    assert store.list("x") == ["x/2.bin", "x/y/1.bin"]
    assert store.list("nothing") == []
    assert (store.read("x/2.bin", 3, 4), store.read("x/2.bin"), store.read("x/2.bin", 0, 2)) == (
        b"3456",
        b"0123456789",
        b"01",
    )
    assert store.size("x/2.bin") == 10 and store.size("x/3.bin") is None
    store.delete("x/2.bin")
    store.delete("x/2.bin")
    assert not store.exists("x/2.bin")
    with pytest.raises(FileNotFoundError):
        store.read("x/2.bin")


@pytest.mark.parametrize("name", ["with space", "c[1]*", "$(touch x)", "new\nline", "\N{GRINNING FACE}", "%41#?&"])
def test_a_dataset_may_lie_in_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    store = Store(str(tmp_path / name))
    store.write("ledger/a.json", b"{}")
    assert (tmp_path / name / "ledger" / "a.json").read_bytes() == b"{}"
    assert store.list("ledger") == ["ledger/a.json"]
    assert store.read("ledger/a.json") == b"{}"
    store.delete("ledger/a.json")
    assert store.list("ledger") == []


def test_only_one_command_writes_and_it_sweeps_up_after_killed_ones(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("parts/u/a.tar", b"1")
    (tmp_path / "parts" / "u" / ".tmp-abcd_012").write_bytes(b"half")
    with store.only_writer():
        assert not (tmp_path / "parts" / "u" / ".tmp-abcd_012").exists()
        with pytest.raises(BlockingIOError), Store(str(tmp_path)).only_writer():
            pass
    with store.only_writer():
        assert store.read("parts/u/a.tar") == b"1"


@pytest.fixture(params=["folder", "object store"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(str(tmp_path) if request.param == "folder" else f"memory://bucket/{tmp_path.name}")


def test_a_file_is_created_once(store: Store) -> None:
    store.create("a/1.json", b"one")
    store.create("a/1.json", b"one")  # the answer to the first request was lost
    with pytest.raises(FileExistsError):
        store.create("a/1.json", b"two")
    assert store.read("a/1.json") == b"one" and store.list("") == ["a/1.json"]


def test_a_file_system_without_links_serves_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(source: str, target: str) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    test_a_file_is_created_once(Store(str(tmp_path)))


def test_a_file_is_named_by_its_content(store: Store) -> None:
    for _ in range(2):
        with store.writing_hashed(lambda digest: f"shards/{digest[:8]}.tar") as file:
            file.write(b"ab")
            file.write(b"c")
    with pytest.raises(RuntimeError), store.writing_hashed(lambda digest: digest) as file:
        file.write(b"half")
        raise RuntimeError("killed")
    assert store.sizes("") == {"shards/ba7816bf.tar": 3}


def test_many_files_at_once(store: Store) -> None:
    names = [f"a/{number:04d}" for number in range(1500)]
    for name in names[::500]:
        store.write(name, name.encode())
    assert [data for data in store.read_all(names) if data] == [name.encode() for name in names[::500]]
    assert [data for data in store.read_all(names, 3) if data] == [b"a/0", b"a/0", b"a/1"]
    store.delete_all(names)
    assert store.list("") == []


def test_folders_are_listed_without_what_is_in_them(store: Store) -> None:
    for name in ("runs/b/x/y.json", "runs/a/z.json", "runs/file"):
        store.write(name, b"")
    assert store.folders("runs") == ["a", "b"] and store.folders("nothing") == []
    store.delete_folder("runs/b")
    store.delete_folder("runs/c")
    assert store.list("runs") == ["runs/a/z.json", "runs/file"]
