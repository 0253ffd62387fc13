"""The file of a selection: the same bytes for the same choice, and clear errors for other files."""

from pathlib import Path
from xml.etree import ElementTree

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lipforge.datasets_manifest.report.selection_chart import draw_selection
from lipforge.datasets_manifest.select.choose import select
from lipforge.datasets_manifest.selection import (
    SELECTION_COLUMNS,
    SelectionError,
    describe,
    read_selection,
    selection_request,
    write_selection,
)
from lipforge.datasets_manifest.storage.trouble import UnreadableError
from tests.manifests import clip, dataset, varied
from tests.range_server import range_server


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    return select([dataset(tmp_path_factory.mktemp("data"), varied(300))], hours=0.2, val_hours=0.02)


def test_what_is_written_comes_back_in_its_order(chosen: pa.Table, tmp_path: Path) -> None:
    path = str(tmp_path / "new folder" / "a.parquet")
    write_selection(path, chosen, {"hours": 0.2})
    back = read_selection(path)
    assert back.equals(chosen) and back.schema.equals(SELECTION_COLUMNS)
    assert back.schema.field("split").metadata
    about = selection_request(back)
    assert about["request"] == {"hours": 0.2} and about["gave"] == describe(chosen) and about["lipforge"]


def test_splits_can_be_read_alone(chosen: pa.Table, tmp_path: Path) -> None:
    path = str(tmp_path / "a.parquet")
    write_selection(path, chosen, {})
    train, val = (read_selection(path, split) for split in ("train", "val"))
    assert set(train["split"].to_pylist()) == {"train"} and set(val["split"].to_pylist()) == {"val"}
    assert train.num_rows + val.num_rows == chosen.num_rows
    with pytest.raises(ValueError, match="'test', expected one of train, val"):
        read_selection(path, "test")


def test_same_choice_gives_the_same_bytes(chosen: pa.Table, tmp_path: Path) -> None:
    scattered = pa.concat_tables([chosen.slice(first, 7) for first in range(0, chosen.num_rows, 7)])
    for name, table in (("a", chosen), ("b", scattered)):
        write_selection(str(tmp_path / name), table, {"hours": 1.0, "seed": 0})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_another_selection_is_never_overwritten(chosen: pa.Table, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_selection(str(path), chosen, {})
    write_selection(str(path), chosen, {})
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"holds another selection: .* replace it with --overwrite"):
        write_selection(str(path), chosen.slice(1), {})
    with pytest.raises(FileExistsError, match="is no selection"):
        write_selection(str(tmp_path), chosen, {}, overwrite=True)
    assert path.read_bytes() == before


def test_selection_lives_at_a_url_too(chosen: pa.Table) -> None:
    url = "memory://selections/a.parquet"
    write_selection(url, chosen, {})
    assert read_selection(url).equals(chosen)
    fsspec.filesystem("memory").rm("/selections", recursive=True)


def test_chart_draws_hours_by_speaker_to_scale(tmp_path: Path) -> None:
    rows = [clip(number, speaker="a" if number < 4 else "b") for number in range(5)]
    rows += [clip(9, speaker=name, sync_confidence=8.0) for name in ["<x>"]]
    chart = draw_selection(select([dataset(tmp_path, rows)]), min_sync=4.0)
    svg = ElementTree.fromstring(chart)
    bars = [rect.attrib for rect in svg.iter("{http://www.w3.org/2000/svg}rect") if float(rect.attrib["y"]) > 60]
    texts = [text.text for text in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert [float(bar["height"]) for bar in bars] == [110.0, 27.5, 27.5, 110.0, 22.0, 110.0]
    assert "3 speakers, most 24.0 s" in texts and "5 clips" in texts and "4" in texts
    assert {bar["class"] for bar in bars} == {"train"}


def test_speakers_are_told_apart_from_sources_of_the_same_name(tmp_path: Path) -> None:
    rows = [
        clip(1, speaker="x", source_id="y"),
        clip(2, speaker=None, source_id="x"),
        clip(3, speaker="", source_id="x"),
    ]
    assert describe(select([dataset(tmp_path, rows)]))["train"]["speakers"] == 3


def test_what_is_no_selection_is_said(chosen: pa.Table, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no selection"):
        read_selection(str(tmp_path / "nowhere.parquet"))
    with pytest.raises(FileNotFoundError):
        read_selection(str(tmp_path))
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(SelectionError, match="not a Parquet file"):
        read_selection(str(tmp_path / "text.parquet"))
    pq.write_table(pa.table({"key": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(SelectionError, match="is not a selection"):
        read_selection(str(tmp_path / "other.parquet"))
    with pytest.raises(SelectionError, match="SELECTION_COLUMNS"):
        write_selection(str(tmp_path / "a.parquet"), chosen.drop_columns(["split"]), {})


@pytest.mark.parametrize(
    ("metadata", "words"), [(b'{"version": 2}', "version 2, this lipforge reads 1"), (b"[1]", "is not a selection")]
)
def test_other_versions_are_refused(chosen: pa.Table, tmp_path: Path, metadata: bytes, words: str) -> None:
    pq.write_table(chosen.replace_schema_metadata({"lipforge.selection": metadata}), tmp_path / "later.parquet")
    with pytest.raises(SelectionError, match=words):
        read_selection(str(tmp_path / "later.parquet"))


def test_one_wrong_bit_is_never_read_as_data(tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    write_selection(str(path), select([dataset(tmp_path / "ds", varied(600))]), {})
    whole, rows = path.read_bytes(), read_selection(str(path))
    footer_bytes = int.from_bytes(whole[-8:-4], "little") + 8
    num_refused = 0
    for place in range(4, len(whole) - footer_bytes, max(1, len(whole) // 100)):
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        path.write_bytes(data)
        try:
            assert read_selection(str(path)).equals(rows)
        except SelectionError:
            num_refused += 1
    assert num_refused > 50


def test_storage_that_fails_is_not_taken_for_damage(tmp_path: Path) -> None:
    write_selection(str(tmp_path / "s.parquet"), select([dataset(tmp_path / "ds", varied(6))]), {})
    with range_server(tmp_path) as server:
        assert read_selection(f"{server.url}/s.parquet").num_rows == 6
        server.failures_left = 9
        with pytest.raises(UnreadableError, match="503"):
            read_selection(f"{server.url}/s.parquet")
        server.failures_left = 0
        with pytest.raises(FileNotFoundError, match="no selection"):
            read_selection(f"{server.url}/other.parquet")
