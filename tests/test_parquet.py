"""Tables are read without ties between Arrow's threads and the interpreter, which may end before them."""

import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lipforge.datasets_manifest import parquet
from lipforge.datasets_manifest.parquet import parquet_bytes, parse_parquet
from lipforge.pipeline.sources import inputs
from lipforge.pipeline.sources.inputs import read_list


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Bytes whose memory Arrow was given to read from, while it does."""
    found: list[bytes] = []
    reader = pa.BufferReader

    def spy(source: Any) -> pa.BufferReader:
        if isinstance(source, bytes):
            found.append(source)
        return reader(source)

    monkeypatch.setattr(parquet.pa, "BufferReader", spy)
    return found


def test_no_thread_of_arrow_holds_memory_of_python(tmp_path: Path, held: list[bytes]) -> None:
    table = pa.table({"source_uri": ["/videos/a.mp4", "/videos/b.mp4"]})
    data = parquet_bytes(table)
    references = sys.getrefcount(data)
    reader = parquet.arrow_reader(data)
    assert sys.getrefcount(data) == references and reader.read() == data
    assert parse_parquet(data) == table
    (tmp_path / "list.parquet").write_bytes(data)
    assert inputs.pa is parquet.pa and [source.uri for source in read_list(str(tmp_path / "list.parquet"))] == [
        "/videos/a.mp4",
        "/videos/b.mp4",
    ]
    assert held == []
