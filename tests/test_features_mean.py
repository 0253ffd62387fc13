"""VAE features without log-variance: half the bytes, the same means, and training that takes them as it took both."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from typer.testing import CliRunner

from lipforge.datasets_manifest.storage.store import Store
from lipforge.model.denoiser.vae import LOWEST_LOGVAR, open_vae, read_vae_files
from lipforge.train.features.command import app, compute_features
from lipforge.train.features.extract import ComputeUnit, LogVariance, ModelFiles
from lipforge.train.features.index import FeatureError
from lipforge.train.features.store import FeatureStore
from lipforge.train.features.units import plan
from lipforge.train.features.write import finished_shards, write_index
from lipforge.train.loop.data import _cached
from lipforge.train.stream.batches import Batch
from lipforge.train.stream.config import FeaturesConfig, StreamConfig
from lipforge.train.stream.stream import SampleStream
from tests.stream_clips import coded_dataset, key_of, select
from tests.tiny_vae import save_tiny_vae

pytest.importorskip("diffusers", reason="the package diffusers is not installed")

NUM_FRAMES = 12
SIDE = 128 // 8
KINDS: tuple[str, ...] = ("vae_target", "vae_masked")
BLOCKS = ModelFiles(vae=("blocks", *read_vae_files("blocks")))
CHANNELS: dict[LogVariance, tuple[int, int]] = {"both": (8, 8), "target": (8, 4), "none": (4, 4)}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    return coded_dataset(tmp_path_factory.mktemp("dataset"), [2], NUM_FRAMES)


@pytest.fixture(scope="module")
def selection(rows: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> str:
    return select(tmp_path_factory.mktemp("selection") / "s.parquet", rows)


def moments_of(rows: pa.Table, files: ModelFiles, folder: Path) -> dict[str, np.ndarray]:
    """Of the first clip."""
    store = Store(str(folder))
    (unit,) = plan(rows.slice(0, 1), finished_shards(store), KINDS)
    assert not ComputeUnit(store, files)(unit).damaged
    write_index(store, finished_shards(store))
    return FeatureStore(str(folder), files.by_kind()).read(key_of(0), KINDS)


def test_means_are_those_that_come_with_log_variances(rows: pa.Table, tmp_path: Path) -> None:
    both = ModelFiles(vae=("tiny", *read_vae_files(save_tiny_vae(tmp_path / "vae"))))
    whole = moments_of(rows, both, tmp_path / "both")
    assert (whole["vae_target"][:, 4:] > LOWEST_LOGVAR).all()
    for log_variance in ("target", "none"):
        found = moments_of(rows, replace(both, log_variance=log_variance), tmp_path / log_variance)
        for kind, channels in zip(KINDS, CHANNELS[log_variance], strict=True):
            assert found[kind].shape == (NUM_FRAMES, channels, SIDE, SIDE)
            assert np.array_equal(found[kind], whole[kind][:, :channels])


def one_pass(selection: str, folder: str, models: dict[str, str]) -> list[Batch]:
    features = {"folder": folder, "models": models}
    settings = {"selection": selection, "features": features, "num_frames": 5, "batch_size": 2, "num_workers": 0}
    return list(SampleStream(StreamConfig.model_validate(settings), num_epochs=1))


def test_training_sees_no_difference_where_the_autoencoder_is_sure(selection: str, tmp_path: Path) -> None:
    passes, sizes = [], []
    for log_variance in CHANNELS:
        files, folder = replace(BLOCKS, log_variance=log_variance), str(tmp_path / log_variance)
        report = compute_features(selection, folder, files, "local", None)
        sizes.append([report.size_bytes[kind] // (4 * 2 * NUM_FRAMES * 2 * SIDE**2) for kind in KINDS])
        wanted: dict[str, str] = dict.fromkeys(KINDS, open_vae("blocks").sha256)  # as a trainer asks
        models = _cached(folder, wanted)
        assert models == files.by_kind()
        passes.append(one_pass(selection, folder, models))
    assert sizes == [[channels // 4 for channels in pair] for pair in CHANNELS.values()]
    for batches in passes[1:]:
        for got, expected in zip(batches, passes[0], strict=True):
            for name in ("target_moments", "reference_moments", "masked_moments"):
                assert got[name].shape == (2, 5, 8, SIDE, SIDE)
                assert torch.equal(got[name], expected[name])


def test_a_folder_holds_them_with_or_without_log_variances(selection: str, tmp_path: Path) -> None:
    arguments = [selection, "--out", str(tmp_path / "f"), "--vae", "blocks", "--executor", "local"]
    sha256 = open_vae("blocks").sha256
    result = CliRunner().invoke(app, [*arguments, "--log-variance", "target"])
    assert result.exit_code == 0, result.output
    assert f"  vae_target: {sha256}\n  vae_masked: {sha256}+mean\n" in result.output
    for log_variance in ("both", "none"):
        result = CliRunner().invoke(app, [*arguments, "--log-variance", log_variance])
        assert result.exit_code == 1 and f"{sha256}+mean" in result.output, result.output
    with pytest.raises(FeatureError, match=r"\+mean"):
        FeatureStore(str(tmp_path / "f"), {"vae_masked": sha256})


def test_both_pictures_are_of_one_vae() -> None:
    FeaturesConfig(folder="f", models={"vae_target": "a", "vae_masked": "a+mean"})
    with pytest.raises(ValueError, match="made by one model"):
        FeaturesConfig(folder="f", models={"vae_target": "a", "vae_masked": "b+mean"})
