"""Cached features: what is stored is what the models give, once, whatever is killed; what does not fit is refused."""

import hashlib
import io
import pickle
import re
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from lipforge.datasets_manifest.sample import read_clip
from lipforge.datasets_manifest.storage.store import Store
from lipforge.datasets_manifest.storage.trouble import UnreadableError
from lipforge.model.audio.mel import mel_spectrogram
from lipforge.model.audio.whisper import WhisperFeatures
from lipforge.model.denoiser.mask import hide_mouth, mouth_mask, to_pixels
from lipforge.model.denoiser.vae import FrozenVae, open_vae
from lipforge.pipeline.media.clips import decode_flac, decode_mp4
from lipforge.train.features import extract, units
from lipforge.train.features.command import app, compute_features
from lipforge.train.features.extract import ComputeUnit, ModelFiles
from lipforge.train.features.index import INDEX_COLUMNS, FeatureError, read_index, row_checks
from lipforge.train.features.store import FeatureRows, FeatureStore
from lipforge.train.features.units import plan
from lipforge.train.features.write import ClipFeatures, finished_shards, write_index, write_shard
from lipforge.train.stream.decode import DamagedSampleError
from tests.conftest import snapshot
from tests.range_server import range_server
from tests.stream_clips import coded_dataset, key_of, select
from tests.tiny_models import tiny_model_files
from tests.whisper_file import whisper_file

pytest.importorskip("whisper", reason="the package openai-whisper is not installed")
pytest.importorskip("diffusers", reason="the package diffusers is not installed")

NUM_FRAMES = 25
KINDS = ("whisper", "mel", "vae_target", "vae_masked")
MEL_ONLY = ModelFiles(mel=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    return tiny_model_files(tmp_path_factory.mktemp("vae"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """Four clips of one second in two shards."""
    return coded_dataset(tmp_path_factory.mktemp("dataset"), [3, 1], NUM_FRAMES)


@pytest.fixture(scope="module")
def selection(rows: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> str:
    return select(tmp_path_factory.mktemp("selection") / "s.parquet", rows)


@pytest.fixture(scope="module")
def folder(selection: str, files: ModelFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All features of the four clips. Nobody may change it."""
    out = tmp_path_factory.mktemp("features")
    compute_features(selection, str(out), files, "local", None)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(Path(path).relative_to(folder)): content for path, (content, _) in snapshot(folder).items()}


def members_of(rows: pa.Table, clip: int) -> dict[str, bytes]:
    row = rows.slice(clip, 1).to_pylist()[0]
    shard = (Path(row["dataset"]) / row["shard"]).read_bytes()
    data = shard[row["sample_offset"] : row["sample_offset"] + row["sample_size"]]
    return read_clip(data, len(data), row["key"])


def test_features_are_what_the_models_give(folder: Path, files: ModelFiles, rows: pa.Table) -> None:
    assert files.whisper is not None and files.vae is not None
    members = members_of(rows, 1)
    audio, frames = decode_flac(members["flac"]), decode_mp4(members["mp4"])
    vae = FrozenVae(*files.vae[1:], "tiny")
    pixels = to_pixels(torch.from_numpy(frames), frames.shape[1])
    expected = {
        "whisper": WhisperFeatures(files.whisper[1], "tiny.pt").encode(audio),
        "mel": mel_spectrogram(audio).T,
        "vae_target": vae.moments(pixels).numpy(),
        "vae_masked": vae.moments(hide_mouth(pixels, mouth_mask(frames.shape[1]))).numpy(),
    }
    got = FeatureStore(str(folder), files.by_kind()).read(key_of(1), KINDS)
    assert {kind: array.shape for kind, array in got.items()} == {kind: array.shape for kind, array in expected.items()}
    assert len(got["whisper"]) == 2 * NUM_FRAMES
    assert len(got["vae_target"]) == NUM_FRAMES
    for kind, array in expected.items():
        assert got[kind].dtype == np.float16
        assert np.abs(got[kind] - array).max() <= 2e-3 * array.std(), kind
    assert not np.array_equal(got["vae_target"], got["vae_masked"])


def test_any_tool_can_read_the_shards(folder: Path, files: ModelFiles) -> None:
    store = FeatureStore(str(folder), files.by_kind())
    seen = []
    for path in sorted(folder.glob("shards/*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, kind = member.name.removesuffix(".npy").partition(".")
                content = tar.extractfile(member)
                assert content is not None
                array = np.load(io.BytesIO(content.read()), allow_pickle=False)
                if kind == "row_crc32":
                    whole = store.read(key, KINDS).values()
                    assert np.array_equal(array, np.concatenate([row_checks(rows) for rows in whole]))
                    continue
                assert np.array_equal(array, store.read(key, [kind])[kind])
                seen.append((key, kind))
    assert sorted(seen) == sorted((key_of(clip), kind) for clip in range(4) for kind in KINDS)


def test_windows_are_rows_of_the_whole(folder: Path, files: ModelFiles) -> None:
    store = FeatureStore(str(folder), files.by_kind())
    wanted = [
        FeatureRows(key_of(0), "vae_target", 3, 19),
        FeatureRows(key_of(3), "whisper", 0, 50),
        FeatureRows(key_of(0), "mel", 80, 81),
    ]
    for window, got in zip(wanted, store.read_rows(wanted), strict=True):
        assert np.array_equal(got, store.read(window.key, [window.kind])[window.kind][window.start : window.stop])
    assert store.num_rows(key_of(0), "mel") == 81
    for start, stop in ((-1, 3), (3, 3), (20, 26)):
        with pytest.raises(IndexError, match="of the 25 of vae_target"):
            store.read_rows([FeatureRows(key_of(0), "vae_target", start, stop)])


def test_a_window_reads_its_own_bytes_only(folder: Path, files: ModelFiles) -> None:
    with range_server(folder) as server:
        store = FeatureStore(server.url, files.by_kind())
        (got,) = store.read_rows([FeatureRows(key_of(2), "vae_masked", 5, 21)])
        assert store._ranges.num_bytes == got.nbytes + 4 * len(got)
    assert np.array_equal(
        got, FeatureStore(str(folder), files.by_kind()).read(key_of(2), ["vae_masked"])["vae_masked"][5:21]
    )


@pytest.mark.slow  # starts Ray for itself
def test_the_same_bytes_on_ray_as_in_one_process(selection: str, tmp_path: Path) -> None:
    for executor in ("ray", "local"):
        compute_features(selection, str(tmp_path / executor), MEL_ONLY, executor, 1)
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")


def test_workers_get_files_and_not_networks(rows: pa.Table, files: ModelFiles, tmp_path: Path) -> None:
    compute = ComputeUnit(Store(str(tmp_path / "sent")), files)
    fresh = pickle.dumps(compute)
    compute.load_models()
    assert pickle.dumps(compute) == fresh
    units = plan(rows, finished_shards(Store(str(tmp_path))), KINDS)
    for unit in units:
        assert pickle.loads(fresh)(unit).num_clips == len(unit.clips)


def test_a_second_run_computes_nothing(selection: str, tmp_path: Path) -> None:
    compute_features(selection, str(tmp_path), MEL_ONLY, "local", None)
    before = {name: value for name, value in snapshot(tmp_path).items() if "/shards/" in name}
    again = compute_features(selection, str(tmp_path), MEL_ONLY, "local", None)
    assert again.num_clips == 0
    assert {name: value for name, value in snapshot(tmp_path).items() if "/shards/" in name} == before


@pytest.mark.parametrize("kill_at", range(7))
def test_killed_anywhere_it_ends_with_the_same_bytes(
    kill_at: int, rows: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three units of a tar and an index each, then the index of all: the process dies before one of these seven
    appears.
    """
    monkeypatch.setattr(units, "UNIT_FRAMES", 2 * NUM_FRAMES)
    selection = select(tmp_path / "s.parquet", rows)
    compute_features(selection, str(tmp_path / "straight"), MEL_ONLY, "local", None)
    assert len(list((tmp_path / "straight" / "shards").glob("*.tar"))) == 3

    class Killed(BaseException):
        pass

    appeared = []

    def replace_or_die(old: str, new: str, real: Any = extract.os.replace) -> None:
        if len(appeared) == kill_at:
            raise Killed
        appeared.append(new)
        real(old, new)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", replace_or_die)
        with pytest.raises(Killed):
            compute_features(selection, str(tmp_path / "killed"), MEL_ONLY, "local", None)
    second = compute_features(selection, str(tmp_path / "killed"), MEL_ONLY, "local", None)
    finished_units = [path for path in appeared if path.endswith(".parquet")]
    clips_by_unit = (2, 1, 1)
    assert second.num_clips == sum(clips_by_unit[len(finished_units) :])
    assert contents(tmp_path / "killed") == contents(tmp_path / "straight")


def test_units_end_where_they_end_whatever_is_done(rows: pa.Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "UNIT_FRAMES", 2 * NUM_FRAMES)
    nothing = plan(rows, finished_shards(Store("/nowhere")), ["mel"])
    assert [[clip.key for clip in unit.clips] for unit in nothing] == [
        [key_of(0), key_of(1)],
        [key_of(2)],
        [key_of(3)],
    ]
    about = {"kind": "mel", "model": "m", "num_frames": NUM_FRAMES}
    about |= {"dtype": "<f2", "shape": [81, 80], "shard": "shards/s.tar", "offset": 0}
    done = pa.Table.from_pylist([{**about, "key": key_of(0)}], INDEX_COLUMNS)
    assert [[clip.key for clip in unit.clips] for unit in plan(rows, done, ["mel"])] == [
        [key_of(1)],
        [key_of(2)],
        [key_of(3)],
    ]


def test_more_kinds_and_more_clips_are_added(rows: pa.Table, files: ModelFiles, tmp_path: Path) -> None:
    out = tmp_path / "features"
    few, all_clips = select(tmp_path / "few.parquet", rows.slice(1, 1)), select(tmp_path / "all.parquet", rows)
    compute_features(few, str(out), MEL_ONLY, "local", None)
    old = contents(out / "shards")
    more = compute_features(all_clips, str(out), replace(files, vae=None), "local", None)
    assert more.num_clips == 4
    assert more.size_bytes["mel"] == 3 * 81 * 80 * 2
    assert old.items() <= contents(out / "shards").items()
    store = FeatureStore(str(out), replace(files, vae=None).by_kind())
    store.require(rows)
    assert store.read(key_of(1), ["mel", "whisper"])["mel"].shape == (81, 80)


def test_a_lost_or_cut_off_shard_is_made_again(rows: pa.Table, tmp_path: Path) -> None:
    out = tmp_path / "features"
    selection = select(tmp_path / "s.parquet", rows)
    compute_features(selection, str(out), MEL_ONLY, "local", None)
    whole = contents(out)
    first, second = sorted(out.glob("shards/*.tar"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-600])
    compute_features(selection, str(out), MEL_ONLY, "local", None)
    assert contents(out) == whole


def test_features_of_another_model_are_refused(folder: Path, files: ModelFiles, selection: str) -> None:
    other = replace(files, whisper=("other.pt", whisper_file(seed=1)))
    both = rf"{files.by_kind()['whisper']}.*{other.by_kind()['whisper']}"
    with pytest.raises(FeatureError, match=both):
        FeatureStore(str(folder), other.by_kind())
    before = contents(folder)
    with pytest.raises(FeatureError, match=both):
        compute_features(selection, str(folder), other, "local", None)
    assert contents(folder) == before


def test_missing_features_are_named(rows: pa.Table, tmp_path: Path) -> None:
    out = tmp_path / "features"
    with pytest.raises(FileNotFoundError, match="lipforge features"):
        FeatureStore(str(out), {"mel": "mel-1"})
    compute_features(select(tmp_path / "s.parquet", rows.slice(0, 1)), str(out), MEL_ONLY, "local", None)
    with pytest.raises(FeatureError, match="no whisper features"):
        FeatureStore(str(out), {"mel": "mel-1", "whisper": "x"})
    store = FeatureStore(str(out), MEL_ONLY.by_kind())
    store.require(rows.slice(0, 1))
    with pytest.raises(FeatureError, match=rf"3 of 4 clips have no mel features .*\(first: {key_of(1)}\)"):
        store.require(rows)
    with pytest.raises(FeatureError, match=f"{key_of(1)} has no mel features"):
        store.read_rows([FeatureRows(key_of(1), "mel", 0, 1)])


def test_the_same_key_cut_otherwise_is_another_clip(
    folder: Path, files: ModelFiles, rows: pa.Table, tmp_path: Path
) -> None:
    at = rows.schema.get_field_index("config_hash")
    other = rows.set_column(at, rows.schema.field(at), pa.array(["larger pictures"] * len(rows), pa.string()))
    with pytest.raises(FeatureError, match="cut with other settings"):
        FeatureStore(str(folder), files.by_kind()).require(other)
    with pytest.raises(FeatureError, match="cut with other settings"):
        compute_features(select(tmp_path / "s.parquet", other), str(folder), files, "local", None)


def test_damaged_features_are_found(folder: Path, files: ModelFiles, tmp_path: Path) -> None:
    copy = tmp_path / "features"
    shutil.copytree(folder, copy)
    index = {(row["key"], row["kind"]): row for row in pq.read_table(copy / "index.parquet").to_pylist()}
    place = index[key_of(0), "vae_target"]
    path = copy / place["shard"]
    damaged = bytearray(path.read_bytes())
    row_bytes = place["size"] // NUM_FRAMES
    damaged[place["offset"] + 10 * row_bytes] ^= 1
    path.write_bytes(damaged)
    store = FeatureStore(str(copy), files.by_kind())
    store.read_rows([FeatureRows(key_of(0), "vae_target", 0, 10), FeatureRows(key_of(0), "vae_target", 11, NUM_FRAMES)])
    with pytest.raises(DamagedSampleError, match=f"{key_of(0)} .*not what was written"):
        store.read_rows([FeatureRows(key_of(0), "vae_target", 5, 11)])
    path.write_bytes(damaged[: place["offset"] + 5])
    with pytest.raises(DamagedSampleError, match=f"{key_of(0)} .*ends within"):
        store.read_rows([FeatureRows(key_of(0), "vae_target", 0, 10)])
    path.unlink()
    with pytest.raises(FileNotFoundError):
        store.read_rows([FeatureRows(key_of(0), "vae_target", 0, 10)])


def test_a_damaged_index_is_said_and_written_again(
    folder: Path, files: ModelFiles, selection: str, tmp_path: Path
) -> None:
    copy = tmp_path / "features"
    shutil.copytree(folder, copy)
    index = copy / "index.parquet"
    whole, rows = index.read_bytes(), pq.read_table(index)
    for wrong, words in (
        ({"dtype": "O"}, "column dtype: 'O'"),
        ({"shape": []}, "do not fit"),
        ({"shape": [None, 3]}, "do not fit"),
        ({"checks_offset": None, "offset": -1}, "do not fit"),
        ({"shape": [2**62, 2**62]}, "do not fit"),
        ({"offset": -1}, "do not fit"),
        ({"size": 1}, "do not fit"),
        ({"checks_offset": -1}, "do not fit"),
        ({"shard": "../../secret.tar"}, "column shard: '../../secret.tar'"),
        ({"key": None}, "null in required column key"),
    ):
        first, *others = rows.to_pylist()
        for name, value in wrong.items():
            first[name] = value
        pq.write_table(pa.Table.from_pylist([first, *others], rows.schema), index)
        with pytest.raises(FeatureError, match=rf"index.parquet: .*{re.escape(words)}.*writes it again"):
            FeatureStore(str(copy), files.by_kind())
    for cut in (whole[:-100], whole[: len(whole) // 2], b"", whole[:200] + bytes(50) + whole[250:]):
        index.write_bytes(cut)
        with pytest.raises(FeatureError, match=r"index.parquet: .*writes it again"):
            FeatureStore(str(copy), files.by_kind())
    assert compute_features(selection, str(copy), files, "local", None).num_clips == 0
    assert index.read_bytes() == whole


def test_one_wrong_bit_of_the_index_is_never_read_as_data(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "index.parquet").read_bytes()
    rows = pq.read_table(folder / "index.parquet")
    footer_bytes = int.from_bytes(whole[-8:-4], "little") + 8
    num_refused = 0
    for place in range(4, len(whole) - footer_bytes, max(1, len(whole) // 100)):
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        (tmp_path / "index.parquet").write_bytes(data)
        try:
            assert read_index(Store(str(tmp_path)), "index.parquet").cast(INDEX_COLUMNS).equals(rows)
        except FeatureError:
            num_refused += 1
    assert num_refused > 20  # the others lie in statistics and the like


def test_storage_that_fails_is_not_taken_for_damage(
    folder: Path, files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "features"
    shutil.copytree(folder, copy)

    def too_late(*_: Any, **__: Any) -> bytes:
        raise TimeoutError

    with monkeypatch.context() as patch:
        patch.setattr("fsspec.implementations.local.LocalFileSystem.cat_file", too_late)
        with pytest.raises(UnreadableError, match=r"index.parquet cannot be read"):
            FeatureStore(str(copy), files.by_kind())
        with pytest.raises(UnreadableError):
            finished_shards(Store(str(copy)))
    assert contents(copy) == contents(folder)
    with range_server(folder) as server:
        server.failures_left = 99
        with pytest.raises(UnreadableError, match="503"):
            FeatureStore(server.url, files.by_kind())


def test_a_wrong_answer_of_a_server_is_asked_for_again(
    rows: pa.Table, folder: Path, files: ModelFiles, tmp_path: Path
) -> None:
    with range_server(folder) as server:
        store = FeatureStore(server.url, files.by_kind())
        for how in ("zeros", "short"):
            server.spoiled = [how]
            (got,) = store.read_rows([FeatureRows(key_of(2), "mel", 5, 21)])
            assert got.shape == (16, 80) and got.any()
    at = rows.schema.get_field_index("dataset")
    with range_server(Path(rows["dataset"][0].as_py())) as server:
        remote = rows.set_column(at, rows.schema.field(at), pa.array([server.url] * len(rows), pa.string()))
        server.spoiled = ["zeros"]
        selection = select(tmp_path / "remote.parquet", remote)
        assert compute_features(selection, str(tmp_path / "f"), MEL_ONLY, "local", None).damaged == []


def test_features_that_are_not_as_long_as_the_clip_are_refused(
    rows: pa.Table, folder: Path, files: ModelFiles, tmp_path: Path
) -> None:
    for kind, num_rows in (("whisper", 2 * NUM_FRAMES), ("mel", 81), ("vae_target", NUM_FRAMES)):
        index = pq.read_table(folder / "index.parquet").to_pylist()
        row = next(row for row in index if (row["key"], row["kind"]) == (key_of(2), kind))
        assert row["shape"][0] == num_rows
        row.update(shape=[4, *row["shape"][1:]], size=row["size"] // num_rows * 4)
        write_index(Store(str(tmp_path)), pa.Table.from_pylist(index, INDEX_COLUMNS))
        with pytest.raises(FeatureError, match=f"{kind} features of clip {key_of(2)} .* are 4 rows for 25 frames"):
            FeatureStore(str(tmp_path), files.by_kind()).require(rows)


def test_bytes_of_another_type_are_not_taken_for_features(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    clips = [ClipFeatures("k", 3, "h", {"a": np.ones((3, 4, 2), np.float32)})]
    index = write_shard(store, "s", clips, {"a": "m"})
    (row,) = index.to_pylist()
    for wrong in ({"dtype": "<f2", "shape": [3, 16]}, {"shape": [3, 8]}, {"shape": [3, 2, 4]}):
        write_index(store, pa.Table.from_pylist([{**row, **wrong}], index.schema))
        with pytest.raises(DamagedSampleError, match="not what was written"):
            FeatureStore(str(tmp_path), {"a": "m"}).read("k", ["a"])


def test_a_shard_whose_own_index_is_damaged_is_made_again(rows: pa.Table, tmp_path: Path) -> None:
    out, selection = tmp_path / "features", select(tmp_path / "s.parquet", rows)
    compute_features(selection, str(out), MEL_ONLY, "local", None)
    whole = contents(out)
    first, second = sorted(out.glob("shards/*.parquet"))
    first.write_bytes(first.read_bytes()[:-100])
    second.write_bytes(b"")
    assert compute_features(selection, str(out), MEL_ONLY, "local", None).num_clips == 4
    assert contents(out) == whole


def test_a_folder_with_anything_else_is_refused_and_left_alone(selection: str, rows: pa.Table, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    dataset = rows["dataset"][0].as_py()
    for name in ("tables/shards/0123456789abcdef01234567.parquet", "shards/shards/00000.parquet", "one/index.parquet"):
        (tmp_path / name).parent.mkdir(parents=True)
        pq.write_table(pa.table({"mine": [1, 2]}), tmp_path / name)
    for out, words in (
        (str(tmp_path / "mine"), "holds something else (thesis.txt)"),
        (str(tmp_path / "tables"), "its columns are not those of a feature index"),
        (str(tmp_path / "one"), "its columns are not those of a feature index"),
        (str(tmp_path / "shards"), "holds something else (shards/00000.parquet)"),
        (dataset, "holds something else (shards/en/en-000000.tar)"),
        (str(tmp_path / "mine" / "thesis.txt"), "is a file"),
        ("", "--out is empty"),
    ):
        before = contents(Path(dataset)), contents(tmp_path)
        result = CliRunner().invoke(app, [selection, "--out", out, "--mel", "--executor", "local"])
        assert result.exit_code in (1, 2) and words in result.output, result.output
        assert (contents(Path(dataset)), contents(tmp_path)) == before


def test_a_server_that_fails_ends_the_run_and_blames_no_clip(
    rows: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lipforge.datasets_manifest.storage.ranges._PAUSES_S", (0.0, 0.0))
    at = rows.schema.get_field_index("dataset")
    with range_server(Path(rows["dataset"][0].as_py())) as server:
        for url, words in ((server.url, "503"), ("foo://x", "foo"), (server.url, "range requests")):
            server.failures_left, server.knows_ranges = (99, True) if words == "503" else (0, False)
            remote = rows.set_column(at, rows.schema.field(at), pa.array([url] * len(rows), pa.string()))
            (tmp_path / "s.parquet").unlink(missing_ok=True)
            arguments = [
                select(tmp_path / "s.parquet", remote),
                "--out",
                str(tmp_path / "f"),
                "--mel",
                "--executor",
                "local",
            ]
            result = CliRunner().invoke(app, arguments)
            assert result.exit_code == 1 and words in result.output and "skipped" not in result.output, result.output


def test_damaged_clips_are_reported_and_left_out(tmp_path: Path) -> None:
    rows = coded_dataset(tmp_path / "dataset", [3], NUM_FRAMES)
    second = rows.to_pylist()[1]
    path = tmp_path / "dataset" / second["shard"]
    content = bytearray(path.read_bytes())
    audio = content.index(b"fLaC", second["sample_offset"])
    content[audio + 12_000 : audio + 12_100] = bytes(100)  # beyond the padding in front of the samples
    path.write_bytes(content)
    out = tmp_path / "features"
    arguments = [select(tmp_path / "s.parquet", rows), "--out", str(out), "--mel", "--executor", "local"]
    for num_to_do in (3, 1):  # what is damaged is tried again, and nothing else
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 1, result.output
        assert f"3 clips, {num_to_do} to do" in result.output
        assert f"skipped: sample {key_of(1)}" in result.output
        assert "1 clip is damaged" in result.output
    assert sorted(finished_shards(Store(str(out)))["key"].to_pylist()) == sorted([key_of(0), key_of(2)])
    assert FeatureStore(str(out), MEL_ONLY.by_kind()).read(key_of(2), ["mel"])["mel"].shape == (81, 80)


def test_a_dataset_without_its_shard_ends_the_run(tmp_path: Path) -> None:
    rows = coded_dataset(tmp_path / "dataset", [1, 1], NUM_FRAMES)
    (tmp_path / "dataset" / rows["shard"][1].as_py()).unlink()
    arguments = [select(tmp_path / "s.parquet", rows), "--out", str(tmp_path / "f"), "--mel", "--executor", "local"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "en-000001.tar is missing" in result.output


def test_the_command_says_what_it_costs(selection: str, tmp_path: Path) -> None:
    model = tmp_path / "tiny.pt"
    model.write_bytes(whisper_file())
    arguments = [selection, "--out", str(tmp_path / "f"), "--whisper", str(model), "--mel", "--executor", "local"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "4 clips, 4 to do, in 2 units" in result.output
    costs = {
        line.split()[0]: line.split()[1] for line in result.output.splitlines() if line.startswith(("whisper", "mel"))
    }
    assert costs == {"whisper": f"{50 * 2 * 16 * 2:,}", "mel": f"{81 * 80 * 2:,}"}
    assert f"  whisper: {hashlib.sha256(whisper_file()).hexdigest()}\n  mel: mel-1\n" in result.output
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    assert "4 clips, 0 to do" in result.output


def test_an_autoencoder_without_a_file_makes_features(selection: str, files: ModelFiles, tmp_path: Path) -> None:
    folder = str(tmp_path / "f")
    result = CliRunner().invoke(app, [selection, "--out", folder, "--vae", "blocks", "--executor", "local"])
    assert result.exit_code == 0, result.output
    blocks = open_vae("blocks")
    assert f"  vae_target: {blocks.sha256}\n" in result.output
    names = {"vae_target": blocks.sha256, "vae_masked": blocks.sha256}
    got = FeatureStore(folder, names).read(key_of(0), ["vae_target", "vae_masked"])
    assert got["vae_target"].shape == (NUM_FRAMES, 8, *got["vae_target"].shape[2:])
    assert not np.array_equal(got["vae_target"], got["vae_masked"])
    assert (got["vae_target"][:, 4:] == -30).all()
    with pytest.raises(FeatureError):  # features of one autoencoder are not those of another
        FeatureStore(folder, {**names, "vae_target": files.by_kind()["vae_target"]})


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "nothing to compute"),
        (["--whisper", "nowhere.pt"], 1, "no Whisper checkpoint nowhere.pt"),
        (["--vae", "nowhere"], 1, "no VAE at nowhere"),
    ],
)
def test_wrong_requests_are_refused(
    selection: str, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    result = CliRunner().invoke(app, [selection, "--out", str(tmp_path / "f"), *arguments])
    assert result.exit_code == code
    assert words in result.output


def test_a_file_that_is_no_model_ends_the_run_at_once(selection: str, tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"no model")
    result = CliRunner().invoke(app, [selection, "--out", str(tmp_path / "f"), "--whisper", str(tmp_path / "x.pt")])
    assert result.exit_code == 1
    assert "x: cut off, damaged, or no file with weights" in result.output


def test_two_writers_do_not_meet(selection: str, tmp_path: Path) -> None:
    with Store(str(tmp_path)).only_writer():
        result = CliRunner().invoke(app, [selection, "--out", str(tmp_path), "--mel", "--executor", "local"])
    assert result.exit_code == 1
    assert "is being written by another command" in result.output


def test_a_folder_that_cannot_be_written_is_said_so(
    selection: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lipforge.train.features.extract.write_shard", full)
    result = CliRunner().invoke(app, [selection, "--out", str(tmp_path / "f"), "--mel", "--executor", "local"])
    assert result.exit_code == 1
    assert "No space left on device" in result.output


def test_values_beyond_float16_are_no_features(rows: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract, "mel_spectrogram", lambda audio: np.full((80, 81), 70_000, np.float32))
    (unit,) = plan(rows.slice(3, 1), finished_shards(Store(str(tmp_path))), ["mel"])
    outcome = ComputeUnit(Store(str(tmp_path)), MEL_ONLY)(unit)
    assert "exceed the range of float16" in outcome.damaged[0].detail
    assert contents(tmp_path) == {}


def test_names_do_not_depend_on_where_clips_lie(rows: pa.Table) -> None:
    stored = finished_shards(Store("/nowhere"))
    (unit,) = plan(rows.slice(0, 3), stored, ["mel"])
    at = rows.schema.get_field_index("dataset")
    elsewhere = rows.set_column(at, rows.schema.field(at), pa.array(["s3://far/away"] * 4, pa.string()))
    (other,) = plan(elsewhere.slice(0, 3), stored, ["mel"])
    assert unit.name({"mel": "a"}) == other.name({"mel": "a"}) != unit.name({"mel": "b"})


def test_arrays_of_any_shape_come_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "a": rng.random((3, 4, 5)),
        "b": rng.random((7, 2)).astype(np.float32).T,
        "c": np.arange(5, dtype=np.int16),
    }
    store = Store(str(tmp_path))
    clips = [ClipFeatures(f"k{number}", 3, "h", arrays) for number in range(3)]
    models = dict.fromkeys(arrays, "m")
    write_index(store, write_shard(store, "s", clips, models))
    got = FeatureStore(str(tmp_path), models).read("k2", list(arrays))
    assert all(np.array_equal(got[kind], array) and got[kind].dtype == array.dtype for kind, array in arrays.items())
