"""Computing features: batches cross clips and change nothing, workers load their models once, GPUs are asked for."""

import hashlib
import os
import pickle
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from typer.testing import CliRunner

from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.running.executors import make_executor
from lipforge.pipeline.running.local import LocalExecutor
from lipforge.train.features import extract, units
from lipforge.train.features.batches import RowBatches
from lipforge.train.features.command import app, compute_features
from lipforge.train.features.extract import ComputeUnit, ModelFiles
from lipforge.train.features.store import FeatureStore
from lipforge.train.features.units import plan
from lipforge.train.features.write import finished_shards, write_index
from tests.stream_clips import coded_dataset, key_of, select
from tests.tiny_models import tiny_model_files

pytest.importorskip("whisper", reason="the package openai-whisper is not installed")
pytest.importorskip("diffusers", reason="the package diffusers is not installed")

NUM_FRAMES = 11
KINDS = ["whisper", "mel", "vae_target", "vae_masked"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    return tiny_model_files(tmp_path_factory.mktemp("vae"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    return coded_dataset(tmp_path_factory.mktemp("dataset"), [3, 1], NUM_FRAMES)


@pytest.fixture(scope="module")
def selection(rows: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> str:
    return select(tmp_path_factory.mktemp("selection") / "s.parquet", rows)


def recorded(batch_rows: int) -> tuple[RowBatches, list[int]]:
    sizes: list[int] = []

    def double(batch: torch.Tensor) -> torch.Tensor:
        sizes.append(len(batch))
        return 2.0 * batch

    return RowBatches(double, batch_rows), sizes


def test_batches_cross_clips_and_each_clip_gets_its_rows_back() -> None:
    batches, sizes = recorded(4)
    clips = [
        torch.arange(first, first + count, dtype=torch.float32)[:, None] for first, count in ((0, 5), (5, 1), (6, 7))
    ]
    computed = [batches.add(clip) for clip in clips]
    assert [rows.is_complete for rows in computed] == [True, True, False]
    batches.finish()
    assert sizes == [4, 4, 4, 1]
    for clip, found in zip(clips, computed, strict=True):
        assert np.array_equal(found.join(), 2 * clip.numpy())


def test_rows_of_another_shape_begin_a_batch() -> None:
    batches, sizes = recorded(4)
    small, large = batches.add(torch.ones(3, 2)), batches.add(torch.ones(3, 5))
    assert (small.is_complete, large.is_complete) == (True, False)
    batches.finish()
    assert sizes == [3, 3]
    assert large.join().shape == (3, 5)


def test_features_are_the_same_in_batches_of_any_size(selection: str, files: ModelFiles, tmp_path: Path) -> None:
    """Near enough for other processors; docs/features.md says where their bits were found equal."""
    found = []
    for batch_frames in (1, 9):
        folder = str(tmp_path / f"{batch_frames}")
        assert not compute_features(selection, folder, files, "local", None, 0, batch_frames).damaged
        store = FeatureStore(folder, files.by_kind())
        found.append([store.read(key_of(clip), KINDS) for clip in range(4)])
    for clips in found[1:]:
        for got, expected in zip(clips, found[0], strict=True):
            for kind in KINDS:
                assert np.abs(got[kind] - expected[kind]).max() <= 2e-3 * expected[kind].std(), kind


def test_a_damaged_clip_spoils_no_other_of_its_batch(rows: pa.Table, files: ModelFiles, tmp_path: Path) -> None:
    dataset = coded_dataset(tmp_path / "dataset", [3], NUM_FRAMES)
    row = dataset.to_pylist()[1]
    path = tmp_path / "dataset" / row["shard"]
    content = bytearray(path.read_bytes())
    video = content.index(b"mdat", row["sample_offset"])
    content[video + 100 : video + 400] = bytes(300)
    path.write_bytes(content)
    frames_only = replace(files, whisper=None)
    (unit,) = plan(dataset, finished_shards(Store("/nowhere")), KINDS[1:])
    folder = Store(str(tmp_path / "f"))
    report = ComputeUnit(folder, frames_only, batch_frames=100)(unit)
    assert [damaged.key for damaged in report.damaged] == [key_of(1)]
    write_index(folder, finished_shards(folder))
    whole = str(tmp_path / "whole")
    compute_features(select(tmp_path / "s.parquet", rows.slice(0, 3)), whole, frames_only, "local", None)
    for clip in (0, 2):
        got, expected = (
            FeatureStore(place, frames_only.by_kind()).read(key_of(clip), KINDS[1:]) for place in (folder.root, whole)
        )
        for kind in KINDS[1:]:
            assert np.abs(got[kind] - expected[kind]).max() <= 2e-3 * expected[kind].std(), kind


def test_models_are_hashed_and_loaded_once(
    selection: str, files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert files.whisper is not None and files.vae is not None
    monkeypatch.setattr(units, "UNIT_FRAMES", NUM_FRAMES)
    weights = {files.whisper[1]: "whisper", files.vae[1]: "vae"}
    hashed: list[str] = []
    loaded: list[str] = []

    def counted(name: str) -> None:
        real = getattr(extract, name)

        def load(*arguments: Any) -> Any:
            loaded.append(name)
            return real(*arguments)

        monkeypatch.setattr(extract, name, load)

    def sha256(data: bytes = b"", real: Any = hashlib.sha256, **more: Any) -> Any:
        if data in weights:
            hashed.append(weights[data])
        return real(data, **more)

    counted("WhisperFeatures")
    counted("FrozenVae")
    monkeypatch.setattr("hashlib.sha256", sha256)
    fresh = ModelFiles(files.whisper, files.mel, files.vae)
    report = compute_features(selection, str(tmp_path), fresh, "local", None)
    assert len(list(tmp_path.glob("shards/*.tar"))) == 4
    assert sorted(loaded) == ["FrozenVae", "WhisperFeatures"] and report.num_loads == 1
    assert sorted(hashed) == ["vae", "whisper"]
    in_worker = pickle.loads(pickle.dumps(ComputeUnit(Store(str(tmp_path)), fresh)))
    in_worker.load_models()
    assert in_worker.files.by_kind() == fresh.by_kind()
    assert len(hashed) == 2


@pytest.mark.slow  # starts Ray for itself
def test_each_of_two_workers_on_ray_loads_its_models_once(
    rows: pa.Table, files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each load leaves a file named by its process."""
    monkeypatch.setattr(units, "UNIT_FRAMES", NUM_FRAMES)
    loads = tmp_path / "loads"
    loads.mkdir()

    class Counted(ComputeUnit):  # of a function: sent whole, not by name
        def load_models(self) -> None:
            real = extract.FrozenVae

            def counted(*arguments: Any) -> Any:
                (loads / f"{os.getpid()}-{uuid.uuid4().hex}").touch()
                return real(*arguments)

            extract.FrozenVae = counted  # type: ignore[assignment,misc]
            try:
                super().load_models()
            finally:
                extract.FrozenVae = real  # type: ignore[misc]

    work = plan(rows, finished_shards(Store("/nowhere")), KINDS)
    pool = make_executor(PrepareConfig.model_validate({"run": {"workers": 2}}))
    try:
        reports = list(pool.map(Counted(Store(str(tmp_path / "f")), files), 4 * work))
    finally:
        pool.close()
    processes = [path.name.partition("-")[0] for path in loads.iterdir()]
    assert len(reports) == 16
    assert len(processes) == len(set(processes)) == 2
    assert sum(report.num_loads for report in reports) == 2


def test_workers_are_given_gpus(
    selection: str, files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    class Recorder(LocalExecutor):
        def map(self, function: Any, items: list[Any], num_gpus: float = 0) -> Any:
            asked.append(num_gpus)
            return super().map(function, items, num_gpus)

    monkeypatch.setattr("lipforge.pipeline.running.executors.make_executor", lambda config: Recorder())
    monkeypatch.setenv("RAY_ADDRESS", "auto")  # GPUs may be elsewhere
    mel, whisper = ModelFiles(mel=True), ModelFiles(whisper=files.whisper)
    for number, (wanted, models, here, expected) in enumerate(
        (
            (0.25, whisper, False, 0.25),
            (None, whisper, False, 0),
            (None, whisper, True, 1),
            (0, whisper, True, 0),
            (None, mel, True, 0),
        )
    ):
        with monkeypatch.context() as patch:
            patch.setattr("torch.cuda.is_available", lambda here=here: here)
            patch.setattr(ComputeUnit, "device", "cpu")
            compute_features(selection, str(tmp_path / f"{number}"), models, "local", 1, wanted)
        assert asked[-1] == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_said_once_what_computes(
    selection: str, files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert files.whisper is not None
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "tiny.pt").write_bytes(files.whisper[1])
    arguments = [selection, "--out", str(tmp_path / "f"), "--whisper", str(tmp_path / "tiny.pt"), "--executor", "local"]
    result = CliRunner().invoke(app, [*arguments, "--gpus-per-worker", "1"])
    assert result.exit_code == 2 and "torch sees no GPU on this machine" in result.output
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    result = CliRunner().invoke(app, [*arguments, "--gpus-per-worker", "1"])
    assert result.exit_code == 0, result.output
    assert result.output.count("it computes on its CPU") == 1
    assert "computed on: cpu; models loaded: 1 time" in result.output


@pytest.mark.gpu
def test_a_gpu_gives_the_features_of_a_cpu_and_the_same_bytes_again(
    selection: str, files: ModelFiles, tmp_path: Path
) -> None:
    folders = [str(tmp_path / name) for name in ("cpu", "gpu", "again")]
    reports = [
        compute_features(selection, folder, files, "local", None, num_gpus)
        for folder, num_gpus in zip(folders, (0, 1, None), strict=True)
    ]
    assert [report.devices for report in reports] == [{"cpu"}, {"cuda"}, {"cuda"}]
    expected, got, again = (FeatureStore(folder, files.by_kind()) for folder in folders)
    for clip in range(4):
        for kind in KINDS:
            one, two, three = (store.read(key_of(clip), [kind])[kind] for store in (expected, got, again))
            assert np.abs(one - two).max() <= 5e-3 * one.std(), kind
            assert two.tobytes() == three.tobytes()
