"""Two commands on one dataset where nothing locks: one is refused in words, nothing is mixed, nothing is lost.

A command is stopped before each of its changes in turn; another one runs from its beginning to its end meanwhile; then
the first goes on. Both are run again afterwards, as people would.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import pytest

from lipforge.datasets_manifest.manifest import read_manifest
from lipforge.datasets_manifest.sample import read_clip
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.ledger.records import DatasetError, TakenOverError
from lipforge.pipeline.ledger.segments import Content, Segments
from lipforge.pipeline.ledger.settings import with_thresholds
from lipforge.pipeline.ledger.source_log import SourceLog
from lipforge.pipeline.publish.gc import delete_garbage, find_garbage
from lipforge.pipeline.publish.prune import delete_tars, find_prunable, prune_files
from lipforge.pipeline.stages.probe import to_record
from tests.made_dataset import CONFIG, MadeSource, add_sources, pack_dataset
from tests.made_dataset import write_parts as write_parts_of
from tests.tar_index import find_samples

WEAK = {"sync_confidence": 1.0}
FIRST = [MadeSource("one", [{}, WEAK, {}]), MadeSource("two", [{}, {}], "hi")]
MORE = [MadeSource("three", [{}, WEAK]), MadeSource("four", [{}], "hi")]


class PausedStore(Store):
    """Lets `meanwhile` run before its n-th change, once."""

    def __init__(self, root: str, before_change: int, meanwhile: Callable[[], None]) -> None:
        super().__init__(root)
        self.left = before_change
        self.meanwhile = meanwhile

    def _pause(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.meanwhile()

    def create(self, name: str, data: bytes) -> None:
        self._pause()
        super().create(name, data)

    @contextmanager
    def writing(self, name: str) -> Iterator[Any]:
        with super().writing(name) as file:
            yield file
            self._pause()

    @contextmanager
    def writing_hashed(self, name_of: Callable[[str], str]) -> Iterator[Any]:
        with super().writing_hashed(name_of) as file:
            yield file
            self._pause()

    def delete(self, name: str) -> None:
        self._pause()
        super().delete(name)

    def delete_all(self, names: Any) -> None:
        self._pause()
        super().delete_all(names)


def pack(min_sync: float) -> Callable[[Store], None]:
    def command(store: Store) -> None:
        pack_dataset(store, with_thresholds(CONFIG, [f"min_sync_confidence={min_sync}"], None))

    return command


def add(sources: list[MadeSource]) -> Callable[[Store], None]:
    """What a run does that knows nothing of the other: probe, plan if nobody did, process, seal, publish."""

    def command(store: Store) -> None:
        segments = Segments(store)
        planned = set(segments.claims()["source_id"].to_pylist())
        new = [source for source in sources if source.unit.video.source_id not in planned]
        log = SourceLog(store)
        for source in new:
            log.add(source.unit.video.source.entry_id, to_record(source.unit.video))
        log.write()
        if new:
            segments.plan([Content(source.unit.video, (source.unit,)) for source in new])
        sealed = [segments.sealed(number) for number in segments.numbers()]
        done = {unit for rows in sealed if rows for unit in rows.rows["unit_id"].to_pylist()}
        write_parts_of(store, [source for source in sources if source.unit.unit_id not in done])
        pack_dataset(store)

    return command


def prune(store: Store) -> None:
    prunable = find_prunable(store)
    prune_files(store, prunable)
    pack_dataset(store)
    delete_tars(store, prunable)


def gc(store: Store) -> None:
    delete_garbage(store, find_garbage(store))


COMMANDS: dict[str, Callable[[Store], None]] = {
    "add": add(MORE),
    "add the same": add(FIRST + MORE),
    "stricter": pack(9.0),
    "looser": pack(0.0),
    "gc": gc,
    "prune": prune,
}


def check(store: Store, sources: list[MadeSource]) -> None:
    rows = read_manifest(store.root).to_pylist()
    assert sorted(row["key"] for row in rows) == sorted(key for source in sources for key in source.keys)
    for row in rows:
        if row["shard"] and not row["shard"].startswith("stills/"):
            size = row["sample_size"]
            read_clip(store.read(row["shard"], row["sample_offset"], size), size, row["key"])
        assert row["status"] != "kept" or row["shard"].startswith("shards/")
    for name in store.list("shards"):
        find_samples(io.BytesIO(store.read(name)))


USUAL = [
    ("add", "add the same"),
    ("add", "gc"),
    ("add", "prune"),
    ("stricter", "looser"),
    ("looser", "stricter"),
    ("looser", "prune"),
    ("prune", "looser"),
]
"""Pairs of every run of the tests; the others are slow together."""
PAIRS = [pytest.param(*pair, marks=[] if pair in USUAL else pytest.mark.slow) for pair in product(COMMANDS, COMMANDS)]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_any_command_during_any_other(first: str, second: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    num_pauses = 0
    for before_change in range(1, 60):
        root = f"memory://two-writers/{first}-{second}-{before_change}".replace(" ", "-")
        store = Store(root)
        add_sources(store, FIRST)
        pack_dataset(store)
        ran = []

        def meanwhile(store: Store = store, ran: list[str] = ran) -> None:
            ran.append(second)
            COMMANDS[second](store)

        paused = PausedStore(root, before_change, meanwhile)
        try:
            COMMANDS[first](paused)
        except DatasetError as error:
            assert ran, error  # alone it is never refused
        if not ran:
            break  # it has fewer changes
        num_pauses += 1
        for name in (first, second):
            try:
                COMMANDS[name](store)
            except DatasetError as error:
                assert "pruned" in str(error)
        pack_dataset(store)
        check(store, FIRST + MORE if "add" in first + second else FIRST)
    assert num_pauses >= (0 if first == "gc" else 1)


def test_the_refusal_is_one_clear_sentence() -> None:
    store = Store("memory://two-writers/refusal")
    add_sources(store, FIRST)
    pack_dataset(store)
    paused = PausedStore(store.root, 2, lambda: pack(9.0)(store))
    with pytest.raises(
        TakenOverError, match=r"another command writes this dataset at the same time.*generation-000002"
    ):
        pack(2.5)(paused)
