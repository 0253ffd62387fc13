"""What the stream reads: the bytes of its samples and hardly any other, once where a cache is there."""

import multiprocessing
import os
import random
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

from lipforge.datasets_manifest.storage import ranges
from lipforge.datasets_manifest.storage.cache import SampleCache
from lipforge.datasets_manifest.storage.ranges import RangeReader, Span, merge, whole
from lipforge.datasets_manifest.storage.trouble import UnreadableError
from lipforge.train.stream.config import StreamConfig
from lipforge.train.stream.decode import DamagedSampleError
from lipforge.train.stream.stream import SampleStream
from tests.range_server import range_server
from tests.stream_clips import Moment, coded_dataset, moment_of, select

MAX_BYTES_RATIO = 1.05


def at_url(rows: pa.Table, url: str) -> pa.Table:
    return rows.set_column(rows.schema.get_field_index("dataset"), "dataset", pa.array([url] * len(rows), pa.string()))


def sample_bytes_of(rows: pa.Table) -> int:
    return sum(rows["sample_size"].to_pylist())


def drain(stream: SampleStream) -> list[str]:
    return [key for batch in stream for key, valid in zip(batch["key"], batch["valid"].tolist(), strict=True) if valid]


def test_neighbours_become_one_request_and_others_do_not() -> None:
    def span(start: int, end: int, shard: str = "a") -> Span:
        return Span("d", shard, start, end)

    spans = [span(3000, 4000), span(0, 1000), span(1000, 2000), span(2050, 3000), span(9000, 9500), span(0, 10, "b")]
    assert merge(spans) == [
        [span(0, 1000), span(1000, 2000), span(2050, 3000), span(3000, 4000)],
        [span(9000, 9500)],
        [span(0, 10, "b")],
    ]


def test_requests_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "MAX_READ_BYTES", 2500)
    spans = [Span("d", "a", start, start + 1000) for start in range(0, 10_000, 1000)]
    assert [len(group) for group in merge(spans)] == [2] * 5


@pytest.mark.parametrize("seed", range(5))
def test_what_is_read_for_nothing_is_bounded(seed: int) -> None:
    rng = random.Random(seed)
    spans, position = [], 0
    for _ in range(300):
        position += rng.choice([0, 0, 20, 100, 5000])
        size = rng.randrange(200, 2000)
        spans.append(Span("d", "a", position, position + size))
        position += size
    requests = [whole(group) for group in merge(spans)]
    read = sum(request.end - request.start for request in requests)
    assert read <= 1.04 * sum(span.end - span.start for span in spans)
    assert len(requests) < len(spans)


def test_local_file_memory_and_web_give_the_same_bytes(tmp_path: Path) -> None:
    content = os.urandom(5000)
    (tmp_path / "a.tar").write_bytes(content)
    fsspec.filesystem("memory").pipe("/lipforge-test/a.tar", content)
    with range_server(tmp_path) as server:
        for dataset in (str(tmp_path), f"file://{tmp_path}", "memory://lipforge-test", server.url):
            wanted = [Span(dataset, "a.tar", start, end) for start, end in ((10, 20), (4000, 4500), (20, 100))]
            got = RangeReader().read(wanted)
            assert {span: content[span.start : span.end] for span in wanted} == got
            beyond = [Span(dataset, "a.tar", 4900, 5100), Span(dataset, "a.tar", 6000, 6100)]
            assert [RangeReader().read([span])[span] for span in beyond] == [content[4900:], b""]
            with pytest.raises(FileNotFoundError):
                RangeReader().read([Span(dataset, "missing.tar", 0, 10)])


def test_a_failed_request_is_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "_PAUSES_S", (0.0, 0.0))
    (tmp_path / "a.tar").write_bytes(bytes(range(100)))
    with range_server(tmp_path) as server:
        span = Span(server.url, "a.tar", 5, 9)
        server.failures_left = 2
        assert RangeReader().read([span]) == {span: bytes([5, 6, 7, 8])}
        server.failures_left = 3
        with pytest.raises(UnreadableError, match=r"a.tar cannot be read: 503"):
            RangeReader().read([span])


def test_a_server_without_ranges_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(bytes(100))
    with range_server(tmp_path) as server:
        server.knows_ranges = False
        with pytest.raises(UnreadableError, match="range requests"):
            RangeReader().read([Span(server.url, "a.tar", 5, 9)])


def test_a_sparse_subset_costs_its_own_bytes(tmp_path: Path) -> None:
    rows = coded_dataset(tmp_path / "dataset", [60, 60])
    with range_server(tmp_path / "dataset") as server:
        subset = at_url(rows.take([7, 58, 100]), server.url)  # 2.5 %
        selection = select(tmp_path / "subset.parquet", subset)
        drain(SampleStream(StreamConfig(selection=selection, batch_size=1, num_workers=0), num_epochs=1))
        assert len(server.requests) == 3
        assert server.num_bytes <= MAX_BYTES_RATIO * sample_bytes_of(subset)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_with_a_cache_neighbours_come_together_and_once(tmp_path: Path, num_workers: int) -> None:
    rows = coded_dataset(tmp_path / "dataset", [20, 20])
    with range_server(tmp_path / "dataset") as server:
        selection = select(tmp_path / "all.parquet", at_url(rows, server.url))
        config = StreamConfig(
            selection=selection, batch_size=2, num_workers=num_workers, cache_dir=tmp_path / "cache", num_frames=5
        )
        ranks = [SampleStream(config, rank, 2, num_epochs=2) for rank in range(2)]
        keys = [key for rank in ranks for key in drain(rank)]
        assert sorted(keys) == sorted(rows["key"].to_pylist() * 2)
        assert server.num_bytes <= MAX_BYTES_RATIO * sample_bytes_of(rows)
        assert len(server.requests) < 0.75 * len(rows)


def test_a_cache_too_small_for_the_samples_costs_only_time(tmp_path: Path) -> None:
    rows = coded_dataset(tmp_path / "dataset", [6])
    largest = max(rows["sample_size"].to_pylist())
    with range_server(tmp_path / "dataset") as server:
        selection = select(tmp_path / "all.parquet", at_url(rows, server.url))
        config = StreamConfig(
            selection=selection, batch_size=3, num_workers=0, cache_dir=tmp_path / "cache", cache_gb=1.5 * largest / 1e9
        )
        keys = drain(SampleStream(config, num_epochs=2))
    assert sorted(keys) == sorted(rows["key"].to_pylist() * 2)


@pytest.mark.parametrize("how", ["zeros", "short"])
@pytest.mark.parametrize("cached", [True, False])
def test_a_wrong_answer_is_asked_for_again_and_never_cached(tmp_path: Path, how: str, cached: bool) -> None:
    rows = coded_dataset(tmp_path / "dataset", [9])
    cache = tmp_path / "cache" if cached else None
    with range_server(tmp_path / "dataset") as server:
        selection = select(tmp_path / "all.parquet", at_url(rows, server.url))
        config = StreamConfig(selection=selection, batch_size=3, num_workers=0, cache_dir=cache, num_frames=5)
        server.spoiled = [how]
        assert sorted(drain(SampleStream(config, num_epochs=1))) == sorted(rows["key"].to_pylist())
        assert server.spoiled == []
        server.spoiled = [how]
        assert sorted(drain(SampleStream(config, num_epochs=2))) == sorted(rows["key"].to_pylist() * 2)
        server.spoiled = [how] * 1000
        whole_from_cache = cached and drain(SampleStream(config, num_epochs=1))
        if not cached:
            with pytest.raises(DamagedSampleError):
                drain(SampleStream(config, num_epochs=1))
    assert bool(whole_from_cache) == cached


def test_a_forged_cache_entry_is_fetched_again(tmp_path: Path) -> None:
    rows = coded_dataset(tmp_path / "dataset", [4])
    with range_server(tmp_path / "dataset") as server:
        selection = select(tmp_path / "all.parquet", at_url(rows, server.url))
        cache = tmp_path / "cache"
        config = StreamConfig(selection=selection, num_workers=0, cache_dir=cache, num_frames=5)
        drain(SampleStream(config, num_epochs=1))
        entries = [path for path in cache.iterdir() if not path.name.startswith(".")]
        contents = [path.read_bytes() for path in entries]
        for path, content in zip(entries, [*contents[1:], contents[0]], strict=True):
            path.write_bytes(content)
        before = len(server.requests)
        batches = list(SampleStream(config, num_epochs=1))
        assert len(server.requests) > before
    for batch in batches:
        clip, start = int(batch["key"][0][8:], 16), int(batch["start"])
        assert moment_of(batch["target"][0, 0].numpy()) == Moment(clip, start)


def test_a_cache_that_cannot_be_written_is_said_once_and_costs_only_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(self: SampleCache, name: str, content: bytes, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SampleCache, "_put", full)
    rows = coded_dataset(tmp_path / "dataset", [6])
    with range_server(tmp_path / "dataset") as server:
        selection = select(tmp_path / "all.parquet", at_url(rows, server.url))
        config = StreamConfig(selection=selection, num_workers=0, cache_dir=tmp_path / "cache", num_frames=5)
        assert sorted(drain(SampleStream(config, num_epochs=2))) == sorted(rows["key"].to_pylist() * 2)
        # the first request brings companions along, in vain; then nothing is read that is not wanted
        assert server.num_bytes <= 3.1 * sample_bytes_of(rows)
    (said,) = [record.message for record in caplog.records if "cannot be written" in record.message]
    assert str(tmp_path / "cache") in said and "No space left" in said


def test_the_cache_does_not_write_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    cache = SampleCache(tmp_path / "cache", 10_000)
    (tmp_path / "cache" / ".new").symlink_to(tmp_path / "mine")
    cache.put("one", b"content")
    assert (tmp_path / "mine").read_bytes() == b"mine" and cache.get("one") == b"content"


def test_whatever_else_lies_in_the_cache_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_bytes(bytes(9000))
    (tmp_path / "folder.sample").mkdir()
    cache = SampleCache(tmp_path, 2500)
    for number in range(5):
        cache.put(f"entry{number}", bytes(1000))
    assert cache.get("entry4") and cache.get("entry0") is None and cache.get("folder") is None
    assert cache.is_writable and (tmp_path / "thesis.txt").exists() and (tmp_path / "folder.sample").is_dir()


def test_a_cache_folder_that_cannot_be_is_said_before_training(tmp_path: Path) -> None:
    selection = select(tmp_path / "all.parquet", coded_dataset(tmp_path / "dataset", [2]))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cache_dir .*file/cache cannot be made: Not a directory"):
        SampleStream(StreamConfig(selection=selection, cache_dir=tmp_path / "file" / "cache"))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_server_that_fails_ends_the_stream_and_is_no_damage(
    tmp_path: Path, num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "_PAUSES_S", (0.0, 0.0))
    rows = coded_dataset(tmp_path / "dataset", [4])
    with range_server(tmp_path / "dataset") as server:
        selection = select(tmp_path / "all.parquet", at_url(rows, server.url))
        config = StreamConfig(selection=selection, num_workers=num_workers, on_damage="skip")
        server.failures_left = 1000
        with pytest.raises(UnreadableError, match="503"):
            drain(SampleStream(config, num_epochs=1))


def test_a_damaged_cache_entry_is_fetched_again(tmp_path: Path) -> None:
    cache = SampleCache(tmp_path, 10_000)
    cache.put("one", b"content")
    assert cache.get("one") == b"content"
    (path,) = tmp_path.glob("*.sample")
    path.write_bytes(path.read_bytes()[:-1] + b"X")
    assert cache.get("one") is None
    assert not path.exists()


def test_the_cache_forgets_what_was_not_used_for_longest(tmp_path: Path) -> None:
    cache = SampleCache(tmp_path, 4 * 1016)
    for number in range(4):
        cache.put(f"entry{number}", bytes(1000))
        os.utime(tmp_path / f"entry{number}.sample", (number, number))
    cache.get("entry0")
    cache.put("entry4", bytes(1000))
    assert held_bytes(tmp_path) <= cache.max_bytes
    assert cache.get("entry0") is not None
    assert cache.get("entry1") is None


def test_an_entry_larger_than_the_cache_is_not_stored(tmp_path: Path) -> None:
    cache = SampleCache(tmp_path, 1000)
    cache.put("small", bytes(100))
    cache.put("large", bytes(1000))
    assert "large" not in cache
    assert "small" in cache


def _fill(folder: Path, max_bytes: int, name: str) -> None:
    cache = SampleCache(folder, max_bytes)
    for number in range(60):
        content = f"{name} {number}".encode() * 100
        cache.put(f"{name}{number}", content)
        assert cache.get(f"{name}{number}") in (content, None)
        shared = f"shared{number}"
        if cache.get(shared) is None:
            cache.put(shared, f"shared {number}".encode() * 100)


def held_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if not path.name.startswith("."))


def test_several_processes_share_a_cache_within_its_limit(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_fill, args=(tmp_path, 20_000, name)) for name in ("a", "b", "c")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert 10_000 < held_bytes(tmp_path) <= 20_000
    cache = SampleCache(tmp_path, 20_000)
    for path in tmp_path.iterdir():
        if path.name.startswith("shared"):
            number = path.stem.removeprefix("shared")
            assert cache.get(path.stem) == f"shared {number}".encode() * 100


def test_what_a_dead_process_left_does_not_count(tmp_path: Path) -> None:
    cache = SampleCache(tmp_path, 5000)
    (tmp_path / ".new").write_bytes(bytes(4000))  # died while writing
    (tmp_path / ".total").write_text("not a num")
    for number in range(4):
        cache.put(f"entry{number}", bytes(1000))
    assert all(cache.get(f"entry{number}") is not None for number in range(4))
