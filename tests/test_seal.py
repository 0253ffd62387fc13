"""From parts to shards and manifest: the same bytes wherever it was stopped, shards that never change, none lost."""

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import webdataset
from typer.testing import CliRunner

from lipforge.datasets_manifest.display import counted
from lipforge.datasets_manifest.generations import last_generation
from lipforge.datasets_manifest.manifest import read_manifest
from lipforge.datasets_manifest.sample import END_OF_TAR, read_clip
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline import maintain
from lipforge.pipeline.cli import app
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.ledger.parts import part_name, read_record
from lipforge.pipeline.ledger.records import DatasetError, TakenOverError
from lipforge.pipeline.ledger.segments import Segments
from lipforge.pipeline.ledger.settings import with_thresholds
from lipforge.pipeline.maintain import collect_garbage, prune, repack
from lipforge.pipeline.publish.gc import find_garbage, left_over_shards
from lipforge.pipeline.publish.prune import find_prunable
from tests.made_dataset import CONFIG, MadeSource, add_sources, make_dataset, pack_dataset, seal_dataset
from tests.mortal_store import Killed, MortalStore
from tests.tar_index import find_samples

WEAK = {"sync_confidence": 1.0}
"""A clip that the threshold refuses."""
SOURCES = [MadeSource("one", [{}, WEAK, {}]), MadeSource("two", [{}] * 4, "hi"), MadeSource("three", [WEAK], "hi")]


def files(store: Store, *folders: str) -> dict[str, bytes]:
    names = folders or ("shards", "refused", "stills", "parts", "manifest", "ledger/segments", "ledger/moves")
    return {name: store.read(name) for folder in names for name in store.list(folder)}


def strict(min_sync: float) -> PrepareConfig:
    return with_thresholds(CONFIG, [f"min_sync_confidence={min_sync}"], None)


def check(store: Store) -> None:
    """The manifest names every measured clip's media, all of it can be read, and shards hold no clip twice."""
    rows = read_manifest(store.root).to_pylist()
    for row in rows:
        assert row["shard"].startswith("shards/" if row["status"] == "kept" else ("shards/", "refused/"))
        read_clip(store.read(row["shard"], row["sample_offset"], row["sample_size"]), row["sample_size"], row["key"])
    found = [key for name in store.list("shards") for key in find_samples(io.BytesIO(store.read(name)))]
    assert len(set(found)) == len(found)
    assert {row["key"] for row in rows if row["status"] == "kept"} <= set(found)
    assert store.list("parts") == []


def test_kept_clips_are_in_shards_by_language_and_key(tmp_path: Path) -> None:
    store = make_dataset(tmp_path, [MadeSource("one", [{}] * 30), MadeSource("two", [{}] * 3, "hi")])
    check(store)
    assert len(store.list("shards/und")) > 2 and len(store.list("shards/hi")) == 1
    limit = CONFIG.pack.shard_size_mb * 1e6
    for name, size in store.sizes("shards").items():
        keys = list(find_samples(io.BytesIO(store.read(name))))
        assert size <= limit and keys == sorted(keys)


def test_a_sample_larger_than_a_shard_gets_one_of_its_own(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    add_sources(store, SOURCES[:1])
    pack_dataset(store, with_thresholds(CONFIG, ["min_sync_confidence=0"], 0.0001))
    assert len(store.list("shards")) == 3


def test_an_object_store_serves_as_well(tmp_path: Path) -> None:
    folder, remote = make_dataset(tmp_path, SOURCES), make_dataset(f"memory://seal/{tmp_path.name}", SOURCES)
    check(remote)
    assert files(remote) == files(folder)


def test_packing_again_does_nothing_and_adding_leaves_what_is_there(tmp_path: Path) -> None:
    store = make_dataset(tmp_path, SOURCES)
    before = files(store)
    pack_dataset(store)
    assert files(store) == before
    add_sources(store, [MadeSource("more", [{}, WEAK]), MadeSource("hindi", [{}], "hi")])
    pack_dataset(store)
    assert before.items() <= files(store).items()
    check(store)
    generation = last_generation(store)
    assert generation is not None and generation.number == 2 and len(generation.files) == 2
    assert generation.files[0]["name"] in before


def test_stricter_and_looser_again(tmp_path: Path) -> None:
    """No shard ever changes; a clip that comes in is copied once, and none is lost."""
    store = make_dataset(tmp_path, SOURCES)
    before = files(store, "shards")
    for min_sync, kept, shards in ((6.0, 0, 0), (2.0, 6, 0), (0.0, 8, 2), (6.0, 0, 2), (0.0, 8, 2)):
        pack_dataset(store, strict(min_sync))
        rows = read_manifest(store.root)
        assert rows["status"].to_pylist().count("kept") == kept
        now = files(store, "shards")
        assert before.items() <= now.items() and len(now) == len(before) + shards
        check(store)
    generation = last_generation(store)
    assert generation is not None and generation.number == 6


def test_the_thresholds_in_force_are_those_of_the_manifest(tmp_path: Path) -> None:
    store = make_dataset(tmp_path, SOURCES)
    repack(store.root, ["min_quality=50"], None)
    thresholds, *_ = repack(store.root, ["min_speech_ratio=0.3"], None)
    assert (thresholds.min_quality, thresholds.min_speech_ratio) == (50.0, 0.3)
    generation = last_generation(store)
    assert generation is not None
    store.delete(generation.name)  # then the manifest before it is in force, and its thresholds
    thresholds, *_ = repack(store.root, [], None)
    assert (thresholds.min_quality, thresholds.min_speech_ratio) == (50.0, 0.2)


def test_pruned_media_is_asked_for_in_words_and_leaves_stills_out_of_reach_of_shards(tmp_path: Path) -> None:
    store = make_dataset(tmp_path, SOURCES)
    shards = files(store, "shards")
    prune(store.root)
    assert store.list("refused") == [] and files(store, "shards") == shards
    with pytest.raises(DatasetError, match="2 clips pass these thresholds but their media is gone: it was pruned"):
        pack_dataset(store, strict(0.0))
    pack_dataset(store, strict(6.0))  # stricter ones still work
    pack_dataset(store, strict(2.0))
    assert files(store, "shards") == shards


def test_copies_of_clips_that_came_in_are_pruned(tmp_path: Path) -> None:
    store = make_dataset(tmp_path, SOURCES)
    repack(store.root, ["min_sync_confidence=0"], None)
    prune(store.root)
    check(store)
    assert store.list("refused") == [] and read_manifest(store.root)["status"].to_pylist().count("kept") == 8


def test_gc_deletes_old_manifests_and_what_is_left_over_and_nothing_else(tmp_path: Path) -> None:
    store = make_dataset(tmp_path, SOURCES)
    repack(store.root, ["min_sync_confidence=0"], None)
    wanted = files(store)
    left = {"shards/en/en-0123456789abcdef.tar": b"1", "refused/000001-0123456789abcdef.tar": b"2"}
    for name, data in left.items():
        store.write(name, data)
    (tmp_path / "shards" / "notes.txt").write_bytes(b"the user's")
    garbage = find_garbage(store)
    assert set(garbage.left_over) == set(left) and garbage.generations == [1]
    collect_garbage(store.root)
    assert (tmp_path / "shards" / "notes.txt").exists()
    now = files(store)
    assert {name for name in wanted if name not in now} == set(garbage.manifests)
    assert now.items() <= {**wanted, "shards/notes.txt": b"the user's"}.items()
    assert len(read_manifest(store.root)) == 8
    assert find_garbage(store).names == []


@pytest.mark.parametrize("damage", [lambda data: data[:700], lambda data: b"", lambda data: b"\x01" * len(data)])
def test_a_damaged_part_is_named(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    store = Store(str(tmp_path))
    add_sources(store, SOURCES)
    name = part_name(SOURCES[0].unit.unit_id)
    store.write(name, damage(store.read(name)))
    with pytest.raises(DatasetError, match=r"is damaged.*Delete this file"):
        pack_dataset(store)
    assert store.list("shards") == []


def test_media_in_a_part_is_checked(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    add_sources(store, SOURCES)
    record = read_record(store, SOURCES[1].unit.unit_id)
    assert record is not None
    name = part_name(record["unit_id"])
    data = bytearray(store.read(name))
    data[record["media_start"]] ^= 1
    store.write(name, bytes(data))
    with pytest.raises(DatasetError, match=r"is (damaged|missing or damaged)"):
        pack_dataset(store)


@pytest.mark.parametrize("damage", ["gone", "cut off"])
@pytest.mark.parametrize("what", ["000001.plan", "000001.000"])
def test_a_segment_that_is_gone_or_cut_off_is_said_in_one_sentence(tmp_path: Path, what: str, damage: str) -> None:
    store = make_dataset(tmp_path, SOURCES)
    before = files(store, "shards", "manifest")
    name = f"ledger/segments/{what}.parquet"
    data = store.read(name)
    store.delete(name)
    if damage == "cut off":
        store.write(name, data[:-50])
        with pytest.raises(DatasetError, match=rf"{what}\.parquet is damaged.*[Rr]estore it"):
            repack(store.root, ["min_quality=50"], None)
    else:
        names = {segment: Segments(store).revision(segment) for segment in Segments(store).numbers()}
        assert names == ({1: 0} if what.endswith("plan") else {1: -1})
    assert before.items() <= files(store, "shards", "manifest").items()
    assert len(read_manifest(store.root)) == 8


def test_another_command_that_sealed_first_is_said(tmp_path: Path) -> None:
    """Two writers, one of whom lost its lease: the second is refused, and what the first made stays."""
    store = Store(str(tmp_path))
    add_sources(store, SOURCES)
    late = Segments(store)
    pack_dataset(store)
    sealed = Segments(store).sealed(1)
    assert sealed is not None
    before = files(store)
    with pytest.raises(TakenOverError, match=r"another command writes this dataset.*Nothing was mixed or lost"):
        late.seal(type(sealed)(1, 0, sealed.rows.slice(1), {}))
    with pytest.raises(TakenOverError):
        late.plan(late.contents(1))  # as number 2, which is free: but then number 2 again
        Segments(store).plan(late.contents(1)[:1])
        late.plan(late.contents(1)[:2])
    assert before.items() <= files(store).items()


def test_a_segment_that_is_gone_stops_every_change_and_deletes_nothing(tmp_path: Path) -> None:
    """Else its clips would vanish from the next manifest, and their shards with the next `gc`."""
    store = make_dataset(tmp_path, SOURCES)
    store.delete("ledger/segments/000001.000.parquet")
    before = files(store)
    for command in (lambda: repack(store.root, [], None), lambda: find_garbage(store), lambda: prune(store.root)):
        with pytest.raises(DatasetError, match=r"000001\.000\.parquet is gone.*Restore it from a copy"):
            command()
    assert files(store) == before


def test_gc_leaves_what_the_manifest_in_force_names_whatever_the_ledger_says(tmp_path: Path) -> None:
    store = make_dataset(tmp_path, SOURCES)
    repack(store.root, ["min_sync_confidence=0"], None)
    store.delete("ledger/moves/000001.parquet")
    collect_garbage(store.root)
    check(store)


def test_gc_leaves_what_is_not_ours(tmp_path: Path) -> None:
    store = make_dataset(tmp_path, SOURCES)
    repack(store.root, ["min_quality=50"], None)
    names = ["manifest/notes.txt", "manifest/old/generation-000001.json", "runs/mine/attempts/n.txt", "parts/x.txt"]
    for name in names:
        store.write(name, b"the user's")
    collect_garbage(store.root)
    assert all(store.exists(name) for name in names)


@pytest.mark.parametrize("damage", ["gone", "cut off"])
def test_rows_of_the_manifest_that_are_gone_are_written_again(tmp_path: Path, damage: str) -> None:
    store = make_dataset(tmp_path, SOURCES)
    before = files(store, "manifest")
    name = next(name for name in store.list("manifest") if "rows-" in name)
    data = store.read(name)
    store.delete(name)
    if damage == "cut off":
        store.write(name, data[:100])
    pack_dataset(store)
    assert files(store, "manifest") == before


def test_a_prune_that_was_stopped_is_finished_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_dataset(tmp_path, SOURCES)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(maintain, "delete_tars", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        prune(store.root)
    assert find_prunable(store).tars
    prune(store.root)
    assert store.list("refused") == [] and find_prunable(store).tars == []


VAGUE = [MadeSource("one", [{}, WEAK, {"sync_confidence": 0.5}, WEAK]), MadeSource("two", [{}], "hi")]


def kill_a_looser_pack(root: str) -> Store:
    """A dataset with a shard that nothing refers to."""
    store = make_dataset(root, VAGUE)
    for lives in range(1, 9):
        with pytest.raises(Killed):
            pack_dataset(MortalStore(root, lives, after=True), strict(0.0))
        if len(left := left_over_shards(store)) > 0:
            assert not (left.keys() & {row["shard"] for row in read_manifest(root).to_pylist()})
            return store
    raise AssertionError("no shard was left")


def test_pack_deletes_shards_of_a_killed_pack_with_other_thresholds(tmp_path: Path) -> None:
    store = kill_a_looser_pack(str(tmp_path / "d"))
    left = set(left_over_shards(store))
    (tmp_path / "d/shards/und/mine-0123456789abcdef.txt").write_bytes(b"the user's")
    result = CliRunner().invoke(app, ["pack", store.root, "--set", "min_sync_confidence=0.8"])
    assert (
        result.exit_code == 0 and f"deleted {counted(len(left), 'shard')} that a stopped command left" in result.output
    )
    assert not left & set(store.list("shards"))
    (tmp_path / "d/shards/und/mine-0123456789abcdef.txt").unlink()
    check(store)
    assert read_manifest(store.root)["status"].to_pylist().count("kept") == 4
    assert "stopped command" not in CliRunner().invoke(app, ["pack", store.root]).output


def test_in_an_object_store_pack_only_says_so(tmp_path: Path) -> None:
    store = kill_a_looser_pack(f"memory://left/{tmp_path.name}")
    left = set(left_over_shards(store))
    result = CliRunner().invoke(app, ["pack", store.root, "--set", "min_sync_confidence=0.8"])
    assert (
        result.exit_code == 0
        and f"note: {counted(len(left), 'shard is', 'shards are')} left from a stopped command" in result.output
    )
    assert f"lipforge gc {store.root}" in result.output and left <= set(store.list("shards"))


def test_shards_of_a_segment_that_is_being_sealed_are_written_again(tmp_path: Path) -> None:
    """A killed prepare, then a pack that deletes what it left, then prepare again: nothing is lost."""
    store = make_dataset(tmp_path, VAGUE)
    add_sources(store, [MadeSource("new", [{}, {}])])
    with pytest.raises(Killed):
        seal_dataset(MortalStore(store.root, 1, after=True))
    left = set(left_over_shards(store))
    assert len(left) == 1 and repack(store.root, [], None).left_over == sorted(left)
    assert not left & set(store.list("shards"))
    pack_dataset(store)
    assert left <= set(store.list("shards"))
    check(store)


# --- killed anywhere


def history(store: Store, step: int) -> None:
    """In order: seal and publish, add sources, be stricter, be looser than ever."""
    if step == 0:
        seal_dataset(store)
    if step == 1:
        if len(Segments(store).numbers()) < 2:
            add_sources(store, [MadeSource("four", [{}, WEAK]), MadeSource("five", [{}, {}], "hi")])
        seal_dataset(store)
    pack_dataset(store, [CONFIG, CONFIG, strict(6.0), strict(0.0)][step])


@pytest.fixture
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faster for hundreds of small files; power cuts are not tested here."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.parametrize("after", [False, True])
def test_killed_before_or_after_any_write_the_next_command_ends_with_the_same_bytes(
    tmp_path: Path, no_fsync: None, after: bool
) -> None:
    add_sources(Store(str(tmp_path / "0")), SOURCES)
    num_kills = 0
    for step in range(4):
        begin, end = tmp_path / str(step), tmp_path / str(step + 1)
        shutil.copytree(begin, end)
        history(Store(str(end)), step)
        for lives in range(1, 100):
            root = tmp_path / f"{step}-{lives}"
            shutil.copytree(begin, root)
            try:
                history(MortalStore(str(root), lives, after), step)
                break  # lived through it
            except Killed:
                num_kills += 1
            store = Store(str(root))
            with store.only_writer():
                history(store, step)
                collect_garbage_of(store)
            check_against = Store(str(end))
            collect_garbage_of(check_against)
            assert files(store) == files(check_against), f"step {step}, killed at change {lives}"
    assert num_kills > 20


def collect_garbage_of(store: Store) -> None:
    """What stays of a killed command is swept: parts of sealed segments, and nothing else that is looked at here."""
    store.delete_all([name for name in find_garbage(store).left_over if name.startswith("parts/")])


def test_stock_webdataset_reads_the_shards(tmp_path: Path) -> None:
    store = make_dataset(tmp_path, SOURCES)
    urls = [str(tmp_path / name) for name in store.list("shards")]
    read = list(webdataset.WebDataset(urls, shardshuffle=False))
    rows = {row["key"]: row for row in read_manifest(store.root).to_pylist() if row["status"] == "kept"}
    assert sorted(item["__key__"] for item in read) == sorted(rows)
    for item in read:
        row = rows[item["__key__"]]
        members = read_clip(
            store.read(row["shard"], row["sample_offset"], row["sample_size"]), row["sample_size"], row["key"]
        )
        assert {name: item[name] for name in ("mp4", "flac", "json")} == members
    assert all(store.read(name).endswith(END_OF_TAR) for name in store.list("shards"))
