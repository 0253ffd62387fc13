"""An exported dataset holds the chosen clips, byte for byte, and their provenance; doubtful input is refused."""

import errno
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import webdataset
from typer.testing import CliRunner

import lipforge.__main__  # noqa: F401 - joins the commands of both apps
from lipforge.datasets_manifest.cli import app as manifest_app
from lipforge.datasets_manifest.languages import languages
from lipforge.datasets_manifest.manifest import read_manifest
from lipforge.datasets_manifest.report.page import write_report
from lipforge.datasets_manifest.schema import COLUMNS
from lipforge.datasets_manifest.select.choose import choose
from lipforge.datasets_manifest.select.request import Request
from lipforge.datasets_manifest.selection import SELECTION_COLUMNS, read_selection, write_selection
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.cli import app
from lipforge.pipeline.ledger.records import DatasetError
from lipforge.pipeline.maintain import repack
from lipforge.pipeline.publish import export as export_module
from lipforge.pipeline.publish.export import Exported, export
from lipforge.pipeline.running.explain import explain
from lipforge.pipeline.running.status import read_status
from tests.conftest import LOCAL, run_prepare
from tests.made_dataset import MadeSource, make_dataset

SOURCES = (
    MadeSource("anna", language="hi", speaker="anna"),
    MadeSource("ben", [{}, {"quality": 5.0}, {}], language="en", speaker="ben"),
    MadeSource("carl", speaker="carl"),
)
SMALL_MB = 0.1
"""Two or three samples per shard."""


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.unlink(missing_ok=True)
    write_selection(str(path), pa.Table.from_pylist(rows, SELECTION_COLUMNS), {"seed": 7})
    return str(path)


def kept_rows(*stores: Store) -> list[dict[str, Any]]:
    """Kept clips of datasets, in another order; the first is for validation."""
    rows = [
        {**row, "dataset": store.root}
        for store in stores
        for row in read_manifest(store.root).to_pylist()
        if row["status"] == "kept"
    ]
    rows.sort(key=lambda row: row["key"][::-1])
    return [{**row, "split": "train" if number else "val"} for number, row in enumerate(rows)]


def sample(root: str, row: dict[str, Any]) -> bytes:
    return Store(root).read(row["shard"], row["sample_offset"], row["sample_size"])


def content(store: Store, but: str = "runs/") -> dict[str, bytes]:
    return {name: store.read(name) for name in store.list("") if not name.startswith(but)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Read only."""
    return make_dataset(tmp_path_factory.mktemp("made") / "source", SOURCES)


@pytest.fixture
def source(made: Store, tmp_path: Path) -> Store:
    """A copy that a test may change."""
    shutil.copytree(made.root, tmp_path / "source")
    return Store(str(tmp_path / "source"))


@pytest.fixture
def selection(source: Store, tmp_path: Path) -> str:
    return write_rows(tmp_path / "chosen.parquet", kept_rows(source))


# --- what comes out ---


def test_it_holds_the_same_samples_and_rows_at_new_places(source: Store, selection: str, tmp_path: Path) -> None:
    before = content(source, "?")
    out = Store(str(tmp_path / "out"))
    wanted = {row["key"]: row for row in kept_rows(source)}
    made = export(selection, out.root, SMALL_MB)
    assert (made.clips, made.hours) == (8, pytest.approx(8 / 3600))
    rows = {row["key"]: row for row in read_manifest(out.root).to_pylist()}
    assert rows.keys() == wanted.keys()
    for key, row in rows.items():
        assert sample(out.root, row) == sample(source.root, wanted[key])
        where = {"shard", "sample_offset", "sample_size", "dataset", "split"}
        assert {n: v for n, v in row.items() if n not in where} == {
            n: v for n, v in wanted[key].items() if n not in where
        }
    names = out.list("shards")
    assert made.shards == len(names) > 3 and {name.split("/")[1] for name in names} == {"hi", "en", "und"}
    assert made.size_bytes == sum(out.size(name) or 0 for name in names)
    assert all((out.size(name) or 0) <= SMALL_MB * 1e6 for name in names)
    assert content(source, "?") == before


def test_shards_are_plain_sorted_tars_that_a_stock_reader_reads(selection: str, tmp_path: Path) -> None:
    out = Store(str(tmp_path / "out"))
    export(selection, out.root, SMALL_MB)
    for name in out.list("shards"):
        keys = [item["__key__"] for item in webdataset.WebDataset([out.path(name)], shardshuffle=False)]
        assert keys == sorted(keys)
        with tarfile.open(out.path(name)) as tar:
            assert {(member.mtime, member.uid, member.uname) for member in tar} == {(0, 0, "")}


def test_splits_and_order_are_kept_in_a_selection_of_the_new_dataset(selection: str, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    export(selection, out)
    old, new = read_selection(selection), read_selection(f"{out}/selection.parquet")
    for column in ("key", "split", "num_frames", "speaker"):
        assert new[column].to_pylist() == old[column].to_pylist()
    assert set(new["dataset"].to_pylist()) == {out}
    manifest = {row["key"]: row["shard"] for row in read_manifest(out).to_pylist()}
    assert dict(zip(new["key"].to_pylist(), new["shard"].to_pylist(), strict=True)) == manifest


def test_it_says_where_it_came_from(source: Store, selection: str, tmp_path: Path) -> None:
    out = Store(str(tmp_path / "out"))
    export(selection, out.root)
    record = json.loads(out.read("ledger/export.json"))
    (facts,) = record["datasets"]
    assert (facts["dataset"], facts["clips"], facts["sync_model"], facts["config_hash"]) == (
        source.root,
        8,
        ["s"],
        ["c" * 16],
    )
    assert (
        record["request"] == {"seed": 7}
        and record["gave"]["val"]["clips"] == 1
        and len(record["selection_sha256"]) == 64
    )


def test_several_datasets_become_one(source: Store, tmp_path: Path) -> None:
    other = make_dataset("memory://export/other", [MadeSource("dora", language="hi", speaker="dora")])
    selection = write_rows(tmp_path / "both.parquet", kept_rows(source, other))
    out = Store("memory://export/out")
    assert export(selection, out.root).clips == 11
    rows = read_manifest(out.root).to_pylist()
    assert len({row["shard"] for row in rows if row["language"] == "hi"}) == 1
    before = {row["key"]: sample(row["dataset"], row) for row in kept_rows(source, other)}
    assert {row["key"]: sample(out.root, row) for row in rows} == before
    assert [facts["clips"] for facts in json.loads(out.read("ledger/export.json"))["datasets"]] == [8, 3]


def test_labels_of_an_old_dataset_become_canonical(tmp_path: Path) -> None:
    source = make_dataset(tmp_path / "old", [MadeSource("anna", language="en"), MadeSource("ben", language="en")])
    rows = [{**row, "language": label} for row, label in zip(kept_rows(source), ["eng", "EN"] * 3, strict=True)]
    out = str(tmp_path / "out")
    export(write_rows(tmp_path / "all.parquet", rows), out)
    found = {(row["language"], row["shard"].rpartition("-")[0]) for row in read_manifest(out).to_pylist()}
    assert found == {("en", "shards/en/en")}
    assert read_selection(f"{out}/selection.parquet")["language"].unique().to_pylist() == ["en"]


def test_an_export_can_be_selected_from_and_exported_again(source: Store, selection: str, tmp_path: Path) -> None:
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    export(selection, first, SMALL_MB)
    chosen = choose(Request(datasets=(first,), languages=("hi",), window_frames=12))
    write_selection(str(tmp_path / "hi.parquet"), chosen.table, {})
    assert export(str(tmp_path / "hi.parquet"), second).clips == 3
    wanted = {row["key"]: sample(source.root, row) for row in kept_rows(source) if row["language"] == "hi"}
    assert {row["key"]: sample(second, row) for row in read_manifest(second).to_pylist()} == wanted


def test_other_commands_read_it(selection: str, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    export(selection, out)
    state = read_status(out)
    assert state.words.startswith("finished") and (state.seconds_kept, state.clips_by_outcome) == (8.0, {"kept": 8})
    key = read_manifest(out)["key"][0].as_py()
    assert any("kept in shards/" in line for line in explain(out, key))
    assert any("3.00 s in = 3.00 kept" in line for line in explain(out, "anna.mp4"))
    table, warnings = languages([out])
    assert {row["language"]: row["clips"] for row in table.to_pylist()} == {"hi": 3, "und": 3, "en": 2} and not warnings
    assert "only kept clips are here" in Path(write_report(out)).read_text()


def test_what_cannot_be_done_with_it_is_said(selection: str, tmp_path: Path, models: dict) -> None:
    out = str(tmp_path / "out")
    export(selection, out)
    (tmp_path / "new.mp4").write_bytes(b"a video")
    before = content(Store(out), "?")
    with pytest.raises(DatasetError, match=r"was made by `lipforge export`.*ledger/export\.json says which"):
        repack(out, ["min_quality=1"], None)
    with pytest.raises(DatasetError, match="was made by `lipforge export`"):
        run_prepare([str(tmp_path / "new.mp4")], Path(out), LOCAL)
    for command in (["prune", out], ["identify-languages", out]):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 1 and "was made by `lipforge export`" in result.output
    assert content(Store(out), "?") == before


# --- again and again ---


def test_stopped_anywhere_the_same_command_ends_with_the_same_bytes(
    selection: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Store(str(tmp_path / "out"))
    export(selection, out.root, SMALL_MB)
    wanted = content(out)
    num_writes = 2 * len(out.list("shards")) + len(["the record", "selection", "rows", "generation", "summary"])
    kinds = ("writing", "writing_hashed", "create")
    originals = {kind: getattr(Store, kind) for kind in kinds}

    def full_after(lives: int, kind: str) -> Any:
        def write(self: Store, *arguments: Any) -> Any:
            left.append(kind)
            if len(left) == lives:
                raise OSError(errno.ENOSPC, "No space left on device")
            return originals[kind](self, *arguments)

        return write

    for lives in range(1, num_writes + 1):
        (tmp_path / "out").rename(tmp_path / f"before{lives}")
        left: list[str] = []
        with monkeypatch.context() as patch:
            for kind in kinds:
                patch.setattr(Store, kind, full_after(lives, kind))
            with pytest.raises(OSError, match="No space left"):
                export(selection, out.root, SMALL_MB)
        in_force = any(name.startswith("manifest/generation") for name in out.list("manifest"))
        assert in_force == (lives == num_writes)  # it is written after all clips
        export(selection, out.root, SMALL_MB)
        assert content(out) == wanted


def test_a_repeat_never_takes_the_selection_away(
    selection: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    export(selection, str(out))
    (out / "selection.parquet").write_bytes(b"of the folder's old name")
    deleted = []
    monkeypatch.setattr(Store, "delete", lambda self, name: deleted.append(name))
    export(selection, str(out))
    assert deleted == [] and len(read_selection(str(out / "selection.parquet"))) == 8


def test_what_is_there_is_not_copied_again(
    source: Store, selection: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Store(str(tmp_path / "out"))
    export(selection, out.root, SMALL_MB)
    before = content(out)
    lost = out.list("shards")[0]
    out.write(lost, b"cut off")
    read = []
    read_sample = export_module.read_sample
    monkeypatch.setattr(export_module, "read_sample", lambda *a: read.append(a[1]) or read_sample(*a))
    seen = []
    export(selection, out.root, SMALL_MB, lambda done, total: seen.append((done, total)))
    assert content(out) == before
    assert read == [
        row["key"] for row in read_manifest(out.root).sort_by("sample_offset").to_pylist() if row["shard"] == lost
    ]
    assert seen == [(8 - len(read), 8), (8, 8)]
    for name in source.list("shards"):
        source.delete(name)  # everything is copied already
    assert export(selection, out.root, SMALL_MB) == Exported(
        8, pytest.approx(8 / 3600), before_size(out), len(out.list("shards"))
    )


def before_size(store: Store) -> int:
    return sum(store.size(name) or 0 for name in store.list("shards"))


def test_a_folder_with_anything_else_is_refused_and_left_alone(source: Store, selection: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("all of it")
    for place in (mine, Path(source.root)):
        before = content(Store(str(place)), "?")
        with pytest.raises(DatasetError, match=r"holds something else .*Nothing in it was changed"):
            export(selection, str(place))
        assert content(Store(str(place)), "?") == before
    assert [path.name for path in mine.iterdir()] == ["thesis.txt"]
    out = str(tmp_path / "out")
    export(selection, out)
    other = write_rows(tmp_path / "other.parquet", kept_rows(source)[:3])
    for arguments in ((other, out), (selection, out, SMALL_MB)):
        with pytest.raises(
            DatasetError, match="holds the export of another selection, or of the same one with other settings"
        ):
            export(*arguments)
    Store(out).write("ledger/export.json", b"{")
    with pytest.raises(DatasetError, match="holds the export of another selection"):
        export(selection, out)


# --- hostile input ---


def damaged(store: Store, row: dict[str, Any], change: Callable[[bytearray], None]) -> None:
    data = bytearray(sample(store.root, row))
    change(data)
    path = Path(store.path(row["shard"]))
    whole = bytearray(path.read_bytes())
    whole[row["sample_offset"] : row["sample_offset"] + row["sample_size"]] = data
    path.write_bytes(whole)


def overwrite(find: bytes, put: bytes) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        at = data.index(find)
        data[at : at + len(put)] = put

    return change


def rename_all(data: bytearray) -> None:
    """A valid sample, but of another key."""
    with tarfile.open(fileobj=io.BytesIO(bytes(data))) as tar:
        members = [(member.name.partition(".")[2], tar.extractfile(member)) for member in tar]
    from lipforge.datasets_manifest.sample import sample_bytes

    data[:] = sample_bytes("f" * 12, {suffix: file.read() for suffix, file in members if file is not None})


@pytest.mark.parametrize(
    "change",
    [
        overwrite(b"ustar", b"XXXXX"),
        overwrite(b".flac", b".wave"),
        overwrite(b'"key":"', b'"yek":"'),
        overwrite(b"fLaC", b"fLaX"),
        rename_all,
        lambda data: data.__setitem__(slice(None), bytes(len(data))),
    ],
    ids=["header", "member", "description", "sound", "another clip", "zeros"],
)
def test_a_damaged_sample_stops_it_and_is_named(
    source: Store, selection: str, tmp_path: Path, change: Callable
) -> None:
    row = kept_rows(source)[4]
    damaged(source, row, change)
    out = Store(str(tmp_path / "out"))
    with pytest.raises(
        DatasetError, match=rf"clip {row['key']} cannot be exported: .*damaged.*--where \"key <> '{row['key']}'\""
    ):
        export(selection, out.root)
    assert not out.list("manifest") and not [name for name in out.list("shards") if row["language"] in name]


def test_missing_short_or_moved_shards_are_told_before_anything_is_written(
    source: Store, selection: str, tmp_path: Path
) -> None:
    name = source.list("shards/en")[0]
    data, out = source.read(name), tmp_path / "out"
    source.write(name, data[:900])
    with pytest.raises(FileNotFoundError, match=r"1 of the \d+ shards .*en-[0-9a-f]{16}\.tar ends at byte 900 of"):
        export(selection, str(out))
    source.delete(name)
    with pytest.raises(FileNotFoundError, match=r"en-[0-9a-f]{16}\.tar is gone"):
        export(selection, str(out))
    (tmp_path / "source").rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match=r"is gone.*make the selection anew: lipforge select /.* --out NAME"):
        export(selection, str(out))
    assert Store(str(out)).list("") == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"key": "../../x"}, "key that lipforge does not write"),
        ({"key": None}, "key that lipforge does not write"),
        ({"language": "../../../tmp"}, "was not made by lipforge"),
        ({"shard": "../../secret.tar"}, "is in no shard"),
        ({"shard": "shards/../x.tar"}, "is in no shard"),
        ({"shard": None}, "is in no shard"),
        ({"status": "rejected"}, "was not made by lipforge"),
        ({"sample_size": 0}, "sample_size is 0"),
        ({"sample_size": None}, "sample_size is None"),
        ({"sample_offset": 2**62}, "sample_offset is"),
        ({"num_frames": 2**31 - 1}, "num_frames is"),
        ({"crop_px": None}, "crop_px is None"),
        ({"duration_s": None}, "was not made by lipforge"),
        ({"sample_offset": -512}, "sample_offset is -512"),
        ({"dataset": ""}, "is in no dataset"),
    ],
)
def test_a_selection_that_points_anywhere_else_is_refused(
    source: Store, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    rows = kept_rows(source)
    path = write_rows(tmp_path / "bad.parquet", [{**rows[0], **change}, *rows[1:]])
    with pytest.raises(ValueError, match=words):
        export(path, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_clip_twice_or_none_at_all(source: Store, tmp_path: Path) -> None:
    rows = kept_rows(source)
    with pytest.raises(ValueError, match="is in it twice"):
        export(write_rows(tmp_path / "twice.parquet", [*rows, rows[2]]), str(tmp_path / "out"))
    with pytest.raises(ValueError, match="holds no clips"):
        export(write_rows(tmp_path / "none.parquet", []), str(tmp_path / "out"))


def test_on_the_command_line(source: Store, selection: str, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    result = CliRunner().invoke(app, ["export", selection, "--out", out])
    assert (
        result.exit_code == 0
        and "8 clips, 0.00 hours, 3 shards" in result.output
        and "selection.parquet" in result.output
    )
    for arguments, code, words in (
        ([selection, "--out", source.root], 1, "holds something else"),
        ([str(tmp_path / "nothing.parquet"), "--out", out], 1, "no selection"),
        ([selection, "--out", ""], 2, "--out is empty"),
        ([selection, "--out", out, "--shard-size-mb", "0"], 2, "expected more than 0"),
        ([source.path("ledger/dataset.json"), "--out", out], 2, "not a Parquet file"),
    ):
        result = CliRunner().invoke(app, ["export", *arguments])
        assert result.exit_code == code and words in result.output, result.output
    assert read_manifest(out).schema == COLUMNS


def test_a_selection_of_a_shard_that_is_gone_says_so(source: Store, tmp_path: Path) -> None:
    words = ["select", source.root, "--window-frames", "1", "--out"]
    assert "cannot be trained on" not in CliRunner().invoke(manifest_app, [*words, str(tmp_path / "a.parquet")]).output
    source.delete(source.list("shards")[0])
    result = CliRunner().invoke(manifest_app, [*words, str(tmp_path / "b.parquet")])
    assert "shards of this selection cannot be trained on" in result.output and "is gone" in result.output
