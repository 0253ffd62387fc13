"""Exactly once: files appear whole or not at all, and packing ends with the same bytes wherever it was killed."""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import webdataset
from typer.testing import CliRunner

from lipforge.datasets_manifest.sample import END_OF_TAR, find_samples, sample_bytes
from lipforge.datasets_manifest.storage.files import to_json
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.cli import app
from lipforge.pipeline.ledger.records import DatasetError, Ledger
from lipforge.pipeline.publish.pack import pack, read_part
from lipforge.pipeline.publish.shards import Sample
from lipforge.pipeline.stages.commit import part_name


def make_members(seed: int, size: int = 3000) -> dict[str, bytes]:
    noise = hashlib.shake_256(str(seed).encode()).digest(size + seed)
    return {"mp4": noise, "flac": noise[::-1][:777], "json": to_json({"seed": seed})}


# --- storage ---


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


def test_an_object_store_serves_as_well() -> None:
    store = Store("memory://bucket/dataset")
    samples = fill(store, range(6))
    pack(store, samples, keys_of(samples), 20_000, serial)
    assert packed_keys(store) == keys_of(samples)
    with pytest.raises(RuntimeError), store.writing("x") as file:
        file.write(b"half")
        raise RuntimeError("killed")
    assert not store.exists("x")
    for name in store.list("shards"):
        store.delete(name)
    assert not store.list("shards")


# --- ledger ---


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    ledger = Ledger(Store(str(tmp_path)))
    record = {"b": [1, 2.5, None], "a": {"uri": "x\udcff"}, "unit_id": "ab"}
    ledger.write_unit("ab", record)
    assert ledger.read_unit("ab") == record
    assert ledger.read_unit("cd") is None
    assert list(ledger.units()) == [record]
    assert to_json({"b": 1, "a": 2}) == b'{"a":2,"b":1}\n'


def test_a_damaged_record_says_which_file_to_delete(tmp_path: Path) -> None:
    ledger = Ledger(Store(str(tmp_path)))
    ledger.write_unit("ab", {"unit_id": "ab"})
    (path,) = tmp_path.rglob("ab.json")
    for damage in (b"{", b"\x94\xff", bytes(200), b"", b"{}", b"null"):
        path.write_bytes(damage)
        with pytest.raises(DatasetError, match=r"ab\.json is damaged.*Delete this file"):
            ledger.read_unit("ab")
    (tmp_path / "ledger" / "dataset.json").write_bytes(b"{")
    with pytest.raises(DatasetError, match="Restore it"):
        ledger.read_dataset()


# --- packing ---


def serial(function: Callable[[Any], Any], items: list[Any]) -> Iterator[Any]:
    yield from map(function, items)


def backwards(function: Callable[[Any], Any], items: list[Any]) -> Iterator[Any]:
    yield from map(function, reversed(items))


def fill(store: Store, numbers: range, language: str = "en") -> list[Sample]:
    """Write parts of made-up clips, as commit does."""
    samples = []
    for number in numbers:
        key = hashlib.sha256(f"{language}{number}".encode()).hexdigest()[:32]
        unit_id = f"unit-{number // 3}"
        data = sample_bytes(key, make_members(number))
        store.write(part_name(unit_id, key), data + END_OF_TAR)
        samples.append(Sample(key, unit_id, language, len(data)))
    return samples


def keys_of(samples: list[Sample]) -> set[str]:
    return {sample.key for sample in samples}


def files(store: Store, *folders: str) -> dict[str, bytes]:
    return {
        name: store.read(name) for folder in folders or ("shards", "parts", "ledger") for name in store.list(folder)
    }


def packed_keys(store: Store) -> set[str]:
    return {key for name in store.list("shards") for key in find_samples(io.BytesIO(store.read(name)))}


def check_shards(store: Store, kept: set[str], samples: list[Sample]) -> None:
    """Shards hold exactly `kept`, records say where, and no media is stored twice or lost."""
    seen: list[str] = []
    records = list(Ledger(store).shards())
    assert sorted(record["path"] for record in records) == store.list("shards")
    for record in records:
        data = store.read(record["path"])
        assert (record["size"], record["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        found = find_samples(io.BytesIO(data))
        assert {key: list(place) for key, place in found.items()} == record["samples"]
        assert list(found) == sorted(found)
        seen += found
    assert sorted(seen) == sorted(kept)
    parts = {name.rpartition("/")[2].removesuffix(".tar") for name in store.list("parts")}
    assert parts == keys_of(samples) - kept


def test_shards_are_sorted_by_language_and_key_and_of_bounded_size(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    samples = fill(store, range(20)) + fill(store, range(20, 30), "zh")
    pack(store, samples, keys_of(samples), 30_000, serial)
    assert len(store.list("shards/en")) > 2 and len(store.list("shards/zh")) > 1
    assert all((store.size(name) or 0) <= 30_000 for name in store.list("shards"))
    for language in ("en", "zh"):
        names = [name for name in store.list("shards") if f"/{language}/" in name]
        keys = [key for name in names for key in find_samples(io.BytesIO(store.read(name)))]
        assert keys == sorted(sample.key for sample in samples if sample.language == language)
        assert names == [f"shards/{language}/{language}-{n:06d}.tar" for n in range(len(names))]
    check_shards(store, keys_of(samples), samples)


def test_a_sample_larger_than_a_shard_gets_one_of_its_own(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    samples = fill(store, range(3))
    pack(store, samples, keys_of(samples), 100, serial)
    assert len(store.list("shards")) == 3


def test_the_order_of_samples_and_of_work_changes_no_byte(tmp_path: Path) -> None:
    one, two = Store(str(tmp_path / "1")), Store(str(tmp_path / "2"))
    samples = fill(one, range(20))
    fill(two, range(20))
    pack(one, samples, keys_of(samples), 30_000, serial)
    pack(two, samples[::-1], keys_of(samples), 30_000, backwards)
    assert files(one) == files(two)


def test_packing_again_does_nothing_and_adding_leaves_old_shards_alone(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    samples = fill(store, range(20))
    pack(store, samples, keys_of(samples), 30_000, serial)
    before = files(store)
    times = {name: (tmp_path / name).stat().st_mtime_ns for name in store.list("shards")}
    pack(store, samples, keys_of(samples), 30_000, serial)
    assert files(store) == before
    samples += fill(store, range(20, 31)) + fill(store, range(40, 45), "zh")
    pack(store, samples, keys_of(samples), 30_000, serial)
    after = files(store)
    assert before.items() <= after.items()
    assert times.items() <= {name: (tmp_path / name).stat().st_mtime_ns for name in store.list("shards")}.items()
    check_shards(store, keys_of(samples), samples)


def test_stricter_and_looser_again(tmp_path: Path) -> None:
    """A shard is rewritten only when it loses a sample; samples return, and none is ever lost."""
    store = Store(str(tmp_path))
    samples = fill(store, range(20))
    every = keys_of(samples)
    pack(store, samples, every, 30_000, serial)
    before = files(store, "shards")
    first_shard = store.list("shards")[0]
    leaving = set(list(find_samples(io.BytesIO(store.read(first_shard))))[1:3])
    pack(store, samples, every - leaving, 30_000, serial)
    check_shards(store, every - leaving, samples)
    after = files(store, "shards")
    assert [name for name in before if before[name] != after[name]] == [first_shard]
    pack(store, samples, every, 30_000, serial)
    check_shards(store, every, samples)
    pack(store, samples, set(), 30_000, serial)
    check_shards(store, set(), samples)
    pack(store, samples, every, 30_000, serial)
    check_shards(store, every, samples)
    assert files(store, "shards") == before


@pytest.mark.parametrize("damage", ["gone", "cut off"])
def test_a_shard_that_is_gone_or_cut_off_is_not_passed_over(tmp_path: Path, damage: str) -> None:
    store = Store(str(tmp_path))
    samples = fill(store, range(6))
    pack(store, samples, keys_of(samples), 10**9, serial)
    (shard,) = tmp_path.glob("shards/*/*.tar")
    if damage == "gone":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:5000])
    with pytest.raises(DatasetError, match=r"en-000000\.tar is missing or damaged"):
        pack(store, samples, keys_of(samples), 10**9, serial)


def test_clips_of_a_unit_that_is_to_be_done_again_stay_in_their_shard(tmp_path: Path) -> None:
    """`--retry-failed` forgets units of a video whose other clips are packed; `pack` may come before the retry."""
    store = Store(str(tmp_path))
    samples = fill(store, range(6))
    pack(store, samples, keys_of(samples), 10**9, serial)
    before = files(store)
    pack(store, samples[3:], keys_of(samples[3:]), 10**9, serial)
    assert files(store) == before


def test_media_that_was_pruned_is_asked_for_in_words(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    samples = fill(store, range(10))
    kept = keys_of(samples[:7])
    pack(store, samples, kept, 30_000, serial)
    for name in store.list("parts"):
        store.delete(name)
    before = files(store)
    with pytest.raises(DatasetError, match="3 clips"):
        pack(store, samples, keys_of(samples), 30_000, serial)
    assert files(store) == before
    check_shards(store, kept, samples[:7])


@pytest.mark.parametrize("damage", [lambda data: data[:-600], lambda data: b"", lambda data: b"\x01" + data[1:]])
def test_a_damaged_part_is_not_packed(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    store = Store(str(tmp_path))
    (sample,) = fill(store, range(1))
    name = part_name(sample.unit_id, sample.key)
    store.write(name, damage(store.read(name)))
    with pytest.raises(DatasetError, match="damaged"):
        read_part(store, sample.unit_id, sample.key)
    with pytest.raises(DatasetError, match="damaged"):
        pack(store, [sample], {sample.key}, 30_000, serial)


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the pipeline may catch it."""


class MortalStore(Store):
    """Dies just before or after its n-th change on disk."""

    def __init__(self, root: str, lives: int, after: bool) -> None:
        super().__init__(root)
        self.lives = lives
        self.after = after

    def _change(self, change: Callable[[], None]) -> None:
        self.lives -= 1
        if self.lives == 0 and not self.after:
            raise Killed
        change()
        if self.lives == 0:
            raise Killed

    def writing(self, name: str):
        from contextlib import contextmanager

        @contextmanager
        def block() -> Iterator[io.BytesIO]:
            buffer = io.BytesIO()
            yield buffer
            self._change(lambda: Store.write(Store(self.root), name, buffer.getvalue()))

        return block()

    def delete(self, name: str) -> None:
        self._change(lambda: Store.delete(self, name))


def history(store: Store, samples: list[Sample], step: int) -> None:
    """In order: pack most samples, add the rest, drop one shard and shrink another, loosen again."""
    every = sorted(keys_of(samples))
    first_shard = set(every[:2])
    kept = [set(every[:7]), set(every), set(every) - first_shard - {every[5]}, set(every) - {every[5]}][step]
    pack(store, samples, kept, 12_000, serial)


@pytest.fixture
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faster for hundreds of small files; power cuts are not tested here."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.parametrize("after", [False, True])
def test_killed_before_or_after_any_write_the_next_packing_ends_with_the_same_bytes(
    tmp_path: Path, no_fsync: None, after: bool
) -> None:
    samples = fill(Store(str(tmp_path / "0")), range(10))
    num_kills = 0
    for step in range(4):
        begin, end = tmp_path / str(step), tmp_path / str(step + 1)
        shutil.copytree(begin, end)
        history(Store(str(end)), samples, step)
        for lives in range(1, 100):
            root = tmp_path / f"{step}-{lives}"
            shutil.copytree(begin, root)
            try:
                history(MortalStore(str(root), lives, after), samples, step)
                break  # lived through it
            except Killed:
                num_kills += 1
            store = Store(str(root))
            with store.only_writer():
                history(store, samples, step)
            assert files(store) == files(Store(str(end))), f"step {step}, killed at change {lives}"
    assert num_kills > 40


def test_killed_again_and_again_it_still_ends_with_the_same_bytes(tmp_path: Path, no_fsync: None) -> None:
    undisturbed = Store(str(tmp_path / "undisturbed"))
    samples = fill(undisturbed, range(10))
    for step in range(4):
        history(undisturbed, samples, step)
    store = Store(str(tmp_path / "mortal"))
    fill(store, range(10))
    for step in range(4):
        for lives in range(1, 50):
            try:
                history(MortalStore(store.root, lives, after=bool(lives % 2)), samples, step)
                break
            except Killed:
                continue
    assert files(store) == files(undisturbed)


def test_stock_webdataset_reads_the_shards(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    samples = fill(store, range(12))
    pack(store, samples, keys_of(samples), 15_000, serial)
    urls = [str(tmp_path / name) for name in store.list("shards")]
    read = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [item["__key__"] for item in read] == sorted(keys_of(samples))
    by_seed = {json.loads(item["json"])["seed"]: item for item in read}
    assert sorted(by_seed) == list(range(12))
    for seed, item in by_seed.items():
        assert {name: item[name] for name in ("mp4", "flac", "json")} == make_members(seed)


@pytest.mark.parametrize("command", ["pack", "prune", "identify-languages"])
def test_a_file_in_a_datasets_place_is_said_in_words(tmp_path: Path, command: str) -> None:
    (tmp_path / "selection.parquet").write_bytes(b"PAR1")
    result = CliRunner().invoke(app, [command, str(tmp_path / "selection.parquet")])
    assert result.exit_code == 1 and "a file is where a folder is needed" in result.output, result.output
