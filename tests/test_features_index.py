"""The index of features: little memory, the right row, and folders of earlier versions."""

import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lipforge.datasets_manifest.storage.store import Store
from lipforge.model.audio.mel import MEL_RECIPE
from lipforge.train.features.command import compute_features
from lipforge.train.features.extract import ModelFiles
from lipforge.train.features.index import INDEX_COLUMNS, OLD_INDEX_COLUMNS, FeatureError, read_index, row_checks
from lipforge.train.features.places import Places
from lipforge.train.features.store import FeatureRows, FeatureStore
from lipforge.train.features.write import finished_shards
from lipforge.train.stream.config import StreamConfig
from lipforge.train.stream.decode import DamagedSampleError
from lipforge.train.stream.stream import SampleStream
from tests.range_server import range_server
from tests.stream_clips import coded_dataset, key_of, select

NUM_FRAMES = 25
MEL_ONLY = ModelFiles(mel=True)
MODELS = {"mel": MEL_RECIPE}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    return coded_dataset(tmp_path_factory.mktemp("dataset"), [2, 1], NUM_FRAMES)


@pytest.fixture
def selection(rows: pa.Table, tmp_path: Path) -> str:
    return select(tmp_path / "s.parquet", rows)


@pytest.fixture
def folder(selection: str, tmp_path: Path) -> Path:
    compute_features(selection, str(tmp_path / "f"), MEL_ONLY, "local", None)
    return tmp_path / "f"


@pytest.fixture
def old_folder(folder: Path) -> Path:
    """As earlier versions left it: checksums in the Parquet files."""
    store = FeatureStore(str(folder), MODELS)
    for path in (*folder.glob("shards/*.parquet"), folder / "index.parquet"):
        index = pq.read_table(path).drop_columns("checks_offset").to_pylist()
        for row in index:
            row["row_crc32"] = row_checks(store.read(row["key"], ["mel"])["mel"]).tobytes()
        pq.write_table(pa.Table.from_pylist(index, OLD_INDEX_COLUMNS), path)
    return folder


def made_index(num_clips: int) -> pa.Table:
    columns = {
        "key": [f"clip-{number % num_clips:030d}" for number in range(2 * num_clips)],
        "kind": ["mel"] * num_clips + ["whisper"] * num_clips,
        "model": ["m"] * 2 * num_clips,
        "num_frames": [number % 100 + 1 for number in range(2 * num_clips)],
        "config_hash": [None if number % 3 == 0 else f"c{number % 2}" for number in range(2 * num_clips)],
        "shard": [f"shards/{number // 20}.tar" for number in range(2 * num_clips)],
        "offset": list(range(2 * num_clips)),
        "size": [0] * 2 * num_clips,
        "dtype": ["<f2"] * 2 * num_clips,
        "shape": [[number % 7 + 1, 80] for number in range(num_clips)] + [[9, 5, 4]] * num_clips,
        "checks_offset": [None if number % 5 == 0 else number for number in range(2 * num_clips)],
    }
    return pa.table(columns, INDEX_COLUMNS)


def test_each_key_finds_its_row() -> None:
    index = made_index(200)
    for kind in ("mel", "whisper"):
        places = Places(index, kind)
        assert len(places) == 200
        for row in index.to_pylist():
            if row["kind"] != kind:
                continue
            place = places.place(row["key"])
            assert place is not None
            assert [place.num_rows, *place.row_shape] == row["shape"]
            assert {name: getattr(place, name) for name in ("shard", "offset", "checks_offset", "config_hash")} == {
                name: row[name] for name in ("shard", "offset", "checks_offset", "config_hash")
            }
            assert (place.num_frames, place.dtype.str, place.row_bytes) == (
                row["num_frames"],
                "<f2",
                2 * np.prod(row["shape"][1:]),
            )
    assert places.place("clip-elsewhere") is None
    assert places.find(["clip-elsewhere", f"clip-{7:030d}"])[0] == -1
    assert Places(index, "vae_target").place(f"clip-{7:030d}") is None
    configs = pa.chunked_array([["c0", None, "c1", "unknown"]], pa.string())
    nulls = Places(index.slice(0, 4), "mel")  # config hashes null, c1, c0, null
    found = nulls.find([f"clip-{number:030d}" for number in (2, 0, 2, 1)])
    assert nulls.have_config(found, configs).tolist() == [True, True, False, False]


def test_the_last_of_several_arrays_of_a_key_counts() -> None:
    index = made_index(3)
    double = pa.concat_tables([index, index.set_column(6, "offset", pa.array([90, 91, 92, 93, 94, 95], pa.int64()))])
    place = Places(double, "mel").place(f"clip-{1:030d}")
    assert place is not None and place.offset == 91


def test_an_index_takes_few_bytes_for_an_array() -> None:
    index = made_index(20_000)
    tracemalloc.start()
    try:
        places = Places(index, "mel")
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(places) == 20_000
    assert held < 80 * len(places)


def test_a_folder_of_an_earlier_version_is_read(old_folder: Path, selection: str, rows: pa.Table) -> None:
    store = FeatureStore(str(old_folder), MODELS)
    store.require(rows)
    whole = store.read(key_of(1), ["mel"])["mel"]
    (window,) = store.read_rows([FeatureRows(key_of(1), "mel", 30, 40)])
    assert np.array_equal(window, whole[30:40])
    settings = {"selection": selection, "num_frames": 5, "num_workers": 0}
    features = {"folder": str(old_folder), "models": MODELS}
    old = list(SampleStream(StreamConfig.model_validate({**settings, "features": features}), num_epochs=1))
    none = list(SampleStream(StreamConfig.model_validate(settings), num_epochs=1))
    for got, expected in zip(old, none, strict=True):
        assert got["key"] == expected["key"]
        assert (got["mel"] - expected["mel"]).abs().max() <= 2e-3
    with range_server(old_folder) as server:
        assert np.array_equal(FeatureStore(server.url, MODELS).read(key_of(1), ["mel"])["mel"], whole)


def test_a_folder_of_an_earlier_version_is_continued(old_folder: Path, selection: str, rows: pa.Table) -> None:
    before = FeatureStore(str(old_folder), MODELS).read(key_of(2), ["mel"])["mel"]
    assert compute_features(selection, str(old_folder), MEL_ONLY, "local", None).num_clips == 0
    assert pq.read_schema(old_folder / "index.parquet").equals(INDEX_COLUMNS)
    assert read_index(Store(str(old_folder)), "index.parquet")["checks_offset"].null_count == 3
    assert np.array_equal(FeatureStore(str(old_folder), MODELS).read(key_of(2), ["mel"])["mel"], before)
    first = sorted(old_folder.glob("shards/*.tar"))[0]
    first.unlink()
    assert compute_features(selection, str(old_folder), MEL_ONLY, "local", None).num_clips > 0
    mixed = finished_shards(Store(str(old_folder)))["checks_offset"]
    assert 0 < mixed.null_count < 3
    store = FeatureStore(str(old_folder), MODELS)
    store.require(rows)
    store.read_rows([FeatureRows(key_of(clip), "mel", 3, 9) for clip in range(3)])


def test_damage_in_a_folder_of_an_earlier_version_is_found(old_folder: Path) -> None:
    place = FeatureStore(str(old_folder), MODELS)._find(key_of(1), "mel")
    path = old_folder / place.shard
    content = bytearray(path.read_bytes())
    content[place.offset + 5 * place.row_bytes] ^= 1
    path.write_bytes(content)
    store = FeatureStore(str(old_folder), MODELS)
    store.read_rows([FeatureRows(key_of(1), "mel", 0, 5), FeatureRows(key_of(1), "mel", 6, 81)])
    with pytest.raises(DamagedSampleError, match="not what was written"):
        store.read_rows([FeatureRows(key_of(1), "mel", 5, 6)])
    index = path.with_suffix(".parquet")
    index.write_bytes(index.read_bytes()[:-9])
    with pytest.raises(FeatureError, match=f"the index of .*{place.shard}: .* damaged"):
        FeatureStore(str(old_folder), MODELS).read(key_of(1), ["mel"])
    index.unlink()
    with pytest.raises(FileNotFoundError, match="makes what is missing"):
        FeatureStore(str(old_folder), MODELS).read(key_of(1), ["mel"])


def test_damaged_checksums_are_damage(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    place = FeatureStore(str(copy), MODELS)._find(key_of(1), "mel")
    assert place.checks_offset is not None
    path = copy / place.shard
    content = bytearray(path.read_bytes())
    content[place.checks_offset + 4 * 7] ^= 1
    path.write_bytes(content)
    store = FeatureStore(str(copy), MODELS)
    store.read_rows([FeatureRows(key_of(1), "mel", 0, 7), FeatureRows(key_of(1), "mel", 8, 81)])
    with pytest.raises(DamagedSampleError, match="not what was written"):
        store.read_rows([FeatureRows(key_of(1), "mel", 0, 8)])
    path.write_bytes(content[: place.checks_offset + 4 * 3])
    with pytest.raises(DamagedSampleError):
        store.read_rows([FeatureRows(key_of(1), "mel", 3, 8)])
