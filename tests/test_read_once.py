"""A remote source is asked for twice: once when it is probed, and once when its units are cut."""

from pathlib import Path

import pytest

from lipforge.pipeline.media import source_file
from lipforge.pipeline.media.source_file import SourceFile, read_once
from tests.coded import noise, write_coded
from tests.conftest import run_prepare
from tests.range_server import RangeServer, range_server


def test_a_source_is_read_at_most_twice(tmp_path: Path, models: dict) -> None:
    video = write_coded(tmp_path / "a.mkv", [n / 25 for n in range(75)], noise(48_000))
    (tmp_path / "list.txt").write_text("")
    with range_server(tmp_path) as server:
        (tmp_path / "list.txt").write_text(f"{server.url}/a.mkv\n")
        assert run_prepare([str(tmp_path / "list.txt")], tmp_path / "dataset").is_complete
    assert video.stat().st_size < server.num_bytes <= 2 * video.stat().st_size


def read_parts(server: RangeServer, parts: list[tuple[int, int]]) -> list[bytes]:
    found = []
    with SourceFile(f"{server.url}/x.bin") as file:
        for start, size in parts:
            file.seek(start)
            found.append(file.read(size))
        file.check()
    return found


def test_what_is_kept_is_what_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_file, "_BLOCK_BYTES", 1000)
    monkeypatch.setattr(source_file, "KEPT_BYTES", 3000)
    data = bytes(n * 7 % 251 for n in range(10_500))
    (tmp_path / "x.bin").write_bytes(data)
    parts = [(0, 10), (990, 20), (2500, 4000), (10_400, 500), (10_500, 5), (0, 10_500), (999, 1), (1000, 1), (9000, -1)]
    with range_server(tmp_path) as server, read_once(f"{server.url}/x.bin"):
        for (start, size), found in zip(parts, read_parts(server, parts), strict=True):
            assert found == data[start : len(data) if size < 0 else start + size]
        before = server.num_bytes
        assert read_parts(server, [(9500, 100), (10_000, 10)]) == [data[9500:9600], data[10_000:10_010]]
        assert server.num_bytes == before  # both are kept
