"""A dataset in an object store: conditional writes, the lease, and two writers with every request held up."""

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lipforge.datasets_manifest.manifest import read_manifest
from lipforge.datasets_manifest.storage import lease
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.cli import app
from lipforge.pipeline.ledger.records import DatasetError
from lipforge.pipeline.maintain import repack
from lipforge.pipeline.sources.inputs import Labels, find_sources
from lipforge.pipeline.stages.probe import fingerprints
from tests.made_dataset import MadeSource, add_sources, make_dataset, pack_dataset
from tests.test_two_writers import COMMANDS, FIRST, MORE, check

pytest.importorskip("s3fs")

from tests.s3_server import Gate, s3_server


@pytest.fixture(scope="module")
def s3() -> Iterator[Gate]:
    with s3_server() as gate:
        yield gate


@pytest.fixture
def root(request: pytest.FixtureRequest) -> str:
    return f"s3://bucket/{request.node.name}".replace("[", "-").replace("]", "")


@pytest.fixture
def fast_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.2)
    monkeypatch.setattr(lease, "EXPIRES_S", 1.5)


def test_of_many_writers_one_creates_a_file(s3: Gate, root: str) -> None:
    def create(number: int) -> bool:
        try:
            Store(root).create("x.json", b"%d" % number)
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(create, range(8)))
    assert won.count(True) == 1
    assert Store(root).read("x.json") == b"%d" % won.index(True)


def test_a_dataset_is_made_packed_and_read(s3: Gate, root: str, tmp_path: Path) -> None:
    store, local = make_dataset(root, FIRST), make_dataset(tmp_path / "d", FIRST)
    repack(root, ["min_sync_confidence=0"], None)
    repack(local.root, ["min_sync_confidence=0"], None)
    check(store, FIRST)
    names = [name for name in local.list("") if not name.startswith("runs/")]
    assert names == [name for name in store.list("") if not name.startswith(lease.FOLDER)]
    assert all(store.read(name) == local.read(name) for name in names)


def test_a_second_command_is_refused_while_the_first_works(s3: Gate, root: str, fast_lease: None) -> None:
    store = make_dataset(root, FIRST)
    with store.only_writer():
        assert store.is_being_written()
        start_s = time.monotonic()
        result = CliRunner().invoke(app, ["pack", root])
        assert result.exit_code == 1
        assert "is being written by another command (process" in result.output and "Wait for it" in result.output
        assert time.monotonic() - start_s < 30
    assert not store.is_being_written()
    assert CliRunner().invoke(app, ["pack", root]).exit_code == 0  # at once: the lease was given back


def test_the_lease_of_a_dead_command_expires_whatever_the_clocks_say(
    s3: Gate, root: str, fast_lease: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_dataset(root, FIRST)
    dead = {"host": "a", "pid": 1, "token": "x", "renewals": 3}
    store.create(f"{lease.FOLDER}/000007.json", lease.to_json(dead))
    for jump_s in (-86_400.0, 86_400.0):
        monkeypatch.setattr(lease.time, "time", lambda jump_s=jump_s: 1e9 + jump_s)
        start_s = time.monotonic()
        with store.only_writer():
            assert store.list(lease.FOLDER) == [f"{lease.FOLDER}/{8 if jump_s < 0 else 9:06d}.json"]
        assert (time.monotonic() - start_s > 1.0) == (jump_s < 0)  # the first waits, the second finds it released


def test_a_command_that_slept_too_long_is_refused_and_mixes_nothing(s3: Gate, root: str, fast_lease: None) -> None:
    store = Store(root)
    add_sources(store, FIRST)
    pack_dataset(store)
    late = store.only_writer()
    late.__enter__()
    newest = store.list(lease.FOLDER)[-1]
    store.write(newest.replace("000001", "000002"), lease.to_json({"pid": 2}))  # taken over meanwhile
    time.sleep(0.6)
    before = store.list(lease.FOLDER)
    late.__exit__(None, None, None)
    assert store.list(lease.FOLDER) == before


@pytest.mark.parametrize("seed", range(3))
def test_two_commands_at_once_with_every_request_held_up(s3: Gate, root: str, seed: int) -> None:
    """No lease is taken: this is what keeps the dataset whole when one is lost."""
    store = Store(root)
    add_sources(store, FIRST)
    pack_dataset(store)
    chance = random.Random(seed)
    s3.delay_s = lambda: chance.uniform(0, 0.02)
    names = chance.sample(sorted(COMMANDS), 2)

    def run(name: str) -> str | None:
        try:
            COMMANDS[name](Store(root))
        except DatasetError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(2) as pool:
        refusals = list(pool.map(run, names))
    s3.delay_s = lambda: 0.0
    assert all(refusal is None or "another command" in refusal or "pruned" in refusal for refusal in refusals)
    for name in names:
        assert run(name) is None or "prune" in names
    pack_dataset(store)
    check(store, FIRST + MORE if "add" in "".join(names) else FIRST)


def test_a_listing_tells_what_changed_without_a_request_per_source(s3: Gate, root: str) -> None:
    store = Store(root)
    for number in range(20):
        store.write(f"in/{number:02d}.mp4", b"%d" % number)
    s3.counts.clear()
    sources = find_sources([f"{root}/in"], Labels()).sources
    assert len(sources) == 20 and sum(s3.counts.values()) < 5
    assert [source.listed for source in sources] == fingerprints([source.uri for source in sources])
    listed = [source.listed for source in find_sources([f"{root}/in/*1.mp4"], Labels()).sources]
    assert listed == [sources[1].listed, sources[11].listed]


def test_requests_do_not_grow_with_the_clips(s3: Gate, root: str) -> None:
    """Sealing reads a part's clips one by one; all else is per segment."""
    counts: list[dict[str, int]] = []
    for number, num_clips in enumerate((2, 12)):
        s3.counts.clear()
        store = Store(f"{root}-{number}")
        add_sources(store, [MadeSource("one", [{}] * num_clips)])
        s3.counts.clear()
        pack_dataset(store)
        counts.append(dict(s3.counts))
    more = {kind: counts[1].get(kind, 0) - count for kind, count in counts[0].items()}
    assert {kind for kind, count in more.items() if count} <= {"GET parts", "PUT shards"}
    assert more["GET parts"] == 10
    assert len(read_manifest(f"{root}-1")) == 12
