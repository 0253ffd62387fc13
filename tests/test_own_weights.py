"""Custom weights for the built-in lip-sync scorer: they score under their own name, on their own scale."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lipforge.datasets_manifest.manifest import read_manifest
from lipforge.model.sync.builtin import LipSyncScorer, SyncNetwork
from lipforge.model.weights.load import ModelFileError
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.config_loader import load_config
from lipforge.pipeline.ledger.settings import load_models
from lipforge.train.scorers.lip_sync import pack_weights
from tests.conftest import run_prepare
from tests.talking_photo import make_talking_photo


@pytest.fixture
def own(tmp_path: Path, models: dict[str, bytes]) -> Path:
    torch.manual_seed(0)
    head = LipSyncScorer(models["lip_sync.safetensors"]).reference
    path = tmp_path / "mine.safetensors"
    path.write_bytes(pack_weights("mine-1", head, 0.0, [SyncNetwork().eval()]))
    return path


def settings(weights: Path, *more: str) -> PrepareConfig:
    return load_config(PrepareConfig, None, ["run.executor=local", f"sync.weights={weights}", *more])


def test_they_score_under_their_own_name(tmp_path: Path, own: Path) -> None:
    make_talking_photo(tmp_path / "someone.mp4", duration_s=6.0)
    config = settings(own, "thresholds.min_sync_confidence=-1", "thresholds.max_av_offset_frames=15")
    run_prepare([str(tmp_path / "someone.mp4")], tmp_path / "dataset", config)
    measured = read_manifest(str(tmp_path / "dataset")).to_pylist()
    assert {row["sync_model"] for row in measured if row["sync_confidence"] is not None} == {"mine-1"}
    assert np.isfinite([row["sync_confidence"] for row in measured if row["sync_model"]]).all()


def test_their_scale_needs_a_threshold(own: Path) -> None:
    with pytest.raises(ValueError, match="min_sync_confidence"):
        load_models(settings(own))


def test_they_are_for_the_built_in_scorer_only(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lipforge.model.weights import load as weights

    monkeypatch.setattr(weights, "load", lambda profile: {})
    with pytest.raises(ValueError, match="latentsync"):
        load_models(settings(own, "models=latentsync", "thresholds.min_sync_confidence=3"))


@pytest.mark.parametrize("content", [b"", b"no weights", b"\x08\0\0\0\0\0\0\0{}      "])
def test_other_files_are_refused(tmp_path: Path, content: bytes, models: dict[str, bytes]) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"broken\.safetensors"):
        load_models(settings(path, "thresholds.min_sync_confidence=2"))


def test_a_missing_file_is_named(tmp_path: Path, models: dict[str, bytes]) -> None:
    with pytest.raises(ModelFileError, match=r"nowhere\.safetensors"):
        load_models(settings(tmp_path / "nowhere.safetensors", "thresholds.min_sync_confidence=2"))


def test_the_name_of_the_shipped_scorer_is_taken(tmp_path: Path, models: dict[str, bytes]) -> None:
    shipped = LipSyncScorer(models["lip_sync.safetensors"])
    path = tmp_path / "same.safetensors"
    path.write_bytes(pack_weights(shipped.name, shipped.reference, 0.0, [SyncNetwork().eval()]))
    with pytest.raises(ValueError, match="--name"):
        load_models(settings(path, "thresholds.min_sync_confidence=2"))
