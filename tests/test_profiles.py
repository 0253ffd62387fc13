"""Sets of models: their thresholds, and a whole run with the published set, on stand-in files."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from lipforge.datasets_manifest.manifest import read_manifest
from lipforge.datasets_manifest.schema import Reason, Status
from lipforge.model.audio.speech import SpeechDetector
from lipforge.model.clock import SAMPLES_PER_FRAME, SYNC_MARGIN_FRAMES
from lipforge.model.sync.syncnet_v2 import SyncNetScorer
from lipforge.model.sync.weights_file import DEFAULT_MIN_CONFIDENCE
from lipforge.model.weights import load as weights
from lipforge.model.weights import table
from lipforge.pipeline.cli import app
from lipforge.pipeline.clip import Clip
from lipforge.pipeline.config import EncodeConfig, PrepareConfig, Thresholds
from lipforge.pipeline.config_loader import load_config
from lipforge.pipeline.ledger.records import DatasetError
from lipforge.pipeline.ledger.settings import resolve
from lipforge.pipeline.media.clips import decode_mp4, encode_mp4
from lipforge.pipeline.profiles import PROFILES
from lipforge.pipeline.publish.decide import decide
from lipforge.pipeline.running.explain import explain
from lipforge.pipeline.stages.sync import MeasureSync
from tests.conftest import LOCAL, run_prepare
from tests.scripted_faces import make_unit
from tests.stand_ins import draw_face, latentsync_files
from tests.talking_photo import render, write_clip

OPEN = {
    "min_clip_s": 0.0,
    "min_speech_ratio": 0.0,
    "min_sync_confidence": -1.0,
    "max_av_offset_frames": 15,
    "min_quality": 0.0,
}
SHORT = PrepareConfig.model_validate(
    {**LOCAL.model_dump(), "models": "latentsync", "cut": {"min_run_s": 1.0, "max_clip_s": 2.0}, "thresholds": OPEN}
)


@pytest.fixture(scope="module")
def stand_ins() -> dict[str, bytes]:
    return latentsync_files()


@pytest.fixture(scope="module")
def cache(stand_ins: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    (folder / "models").mkdir()
    for name, content in stand_ins.items():
        (folder / "models" / name).write_bytes(content)
    return folder


@contextmanager
def in_use(cache: Path) -> Iterator[None]:
    """The cache holds the stand-ins, and their hashes are taken for the published ones."""

    def pinned(file: table.ModelFile) -> table.ModelFile:
        path = cache / "models" / file.name
        if not path.exists():
            return file
        return dataclasses.replace(file, sha256=hashlib.sha256(path.read_bytes()).hexdigest())

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIPFORGE_CACHE", str(cache))
        patch.setattr(table, "MODEL_FILES", tuple(map(pinned, table.MODEL_FILES)))
        yield


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1.6 s of the talking photograph, its face framed in the green that the stand-ins look for."""
    frames, audio = render(1.6)
    for frame in frames:
        inside = frame[172:448, 212:428].copy()
        draw_face(frame, (200, 160, 440, 460))
        frame[172:448, 212:428] = inside
    path = tmp_path_factory.mktemp("talker") / "talker.mp4"
    write_clip(path, iter(frames), audio)
    return path


@pytest.fixture(scope="module")
def dataset(cache: Path, talker: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nobody may change it for good."""
    out = tmp_path_factory.mktemp("latentsync") / "dataset"
    with in_use(cache):
        run_prepare([str(talker)], out, SHORT)
    return out


def rows(out: Path) -> list[dict[str, Any]]:
    return read_manifest(str(out)).to_pylist()


# --- the published profile ----------------------------------------------------------------------------------------


def test_the_published_chain_makes_clips_and_names_its_models(dataset: Path) -> None:
    (row,) = rows(dataset)
    assert row["status"] == Status.KEPT and row["num_frames"] == 40 and row["accounted_s"] == pytest.approx(1.6)
    assert (row["sync_model"], row["quality_model"]) == ("syncnet_v2", "hyperiqa")
    assert row["face_size_px"] == pytest.approx(300, abs=6)  # the detector's box, not the extent of the points
    assert row["crop_px"] == 256 and (dataset / row["shard"]).is_file()
    story = "\n".join(explain(str(dataset), row["key"]))
    assert "(syncnet_v2)" in story and "(hyperiqa)" in story
    config = json.loads((dataset / "ledger" / "dataset.json").read_text())["config"]
    assert config["models"] == "latentsync" and config["faces"]["min_width_px"] == 50
    assert (config["thresholds"]["sync_model"], config["thresholds"]["quality_model"]) == ("syncnet_v2", "hyperiqa")


def test_lip_sync_is_scored_on_the_stored_frames(stand_ins: dict[str, bytes]) -> None:
    rng = np.random.default_rng(0)
    frames = np.repeat(rng.integers(0, 256, (10, 64, 64, 3), dtype=np.uint8), 4, axis=1).repeat(4, axis=2)
    audio = rng.normal(0, 0.1, (10 + 2 * SYNC_MARGIN_FRAMES) * SAMPLES_PER_FRAME).astype(np.float32)
    clip = Clip(make_unit(10), 0, 10, mp4=encode_mp4(frames, EncodeConfig()), audio=audio)
    (measured,) = MeasureSync(PROFILES["latentsync"].sync(stand_ins)).process(clip)
    score = SyncNetScorer(stand_ins["syncnet_v2.model"]).score(decode_mp4(clip.mp4), audio)
    assert measured.measures == {
        "av_offset_frames": score.offset_frames,
        "av_drift_frames": score.drift_frames,
        "sync_confidence": score.confidence,
        "sync_distance": score.distance,
        "sync_model": "syncnet_v2",
    }


def test_each_threshold_of_a_pack_says_whose_scale_it_is_on(dataset: Path) -> None:
    def pack(*changes: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["pack", str(dataset), *(f"--set={change}" for change in changes)])
        return result.exit_code, " ".join(result.output.split())

    code, output = pack("min_sync_confidence=50")
    assert code == 0 and "min_sync_confidence=50.0 (syncnet_v2)" in output and "min_quality=0.0 (hyperiqa)" in output
    (row,) = rows(dataset)
    assert row["reason"] == Reason.LOW_SYNC_CONFIDENCE and "(syncnet_v2); 50 is needed" in row["detail"]
    code, output = pack("sync_model=lipforge")
    assert code == 2 and "expected one of" in output
    code, output = pack("min_sync_confidence=-1")
    assert code == 0 and rows(dataset)[0]["status"] == Status.KEPT


def test_a_dataset_has_one_set_of_models(dataset: Path, talker: Path, models: dict[str, bytes]) -> None:
    builtin = PrepareConfig.model_validate({**SHORT.model_dump(), "models": "builtin"})
    with pytest.raises(DatasetError, match=r"with the models `latentsync`, not with `builtin`.*--models latentsync"):
        run_prepare([str(talker)], dataset, builtin)


def test_a_narrow_face_is_too_small_for_the_published_set(cache: Path, talker: Path, tmp_path: Path) -> None:
    wide = {**SHORT.model_dump(), "faces": {"min_width_px": 260}}  # the face is 240 px wide
    with in_use(cache):
        run_prepare([str(talker)], tmp_path / "out", PrepareConfig.model_validate(wide))
    (row,) = rows(tmp_path / "out")
    assert (row["stage"], row["reason"]) == ("align", Reason.FACE_TOO_SMALL)
    assert "px wide; 260 px are needed" in row["detail"]


@pytest.mark.slow
def test_the_published_chain_gives_the_same_bytes_on_ray(
    cache: Path, dataset: Path, talker: Path, tmp_path: Path
) -> None:
    config = PrepareConfig.model_validate({**SHORT.model_dump(), "run": {"executor": "ray", "workers": 1}})
    with in_use(cache):
        run_prepare([str(talker)], tmp_path / "out", config)
    assert rows(tmp_path / "out") == rows(dataset)
    for shard in dataset.glob("shards/*/*.tar"):
        assert (tmp_path / "out" / shard.relative_to(dataset)).read_bytes() == shard.read_bytes()


def test_missing_files_are_told_before_anything_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIPFORGE_CACHE", str(tmp_path / "empty"))
    arguments = ["prepare", str(tmp_path / "any.mp4"), "--out", str(tmp_path / "out"), "--models", "latentsync"]
    result = CliRunner().invoke(app, arguments)
    output = " ".join(result.output.split())
    assert result.exit_code == 1 and not (tmp_path / "out").exists()
    for words in ("syncnet_v2.model", "koniq_pretrained.pkl", "det_10g.onnx", "2d106det.onnx", "NON-COMMERCIAL"):
        assert words in output


def test_files_that_are_no_such_networks_are_told_by_the_driver(stand_ins: dict[str, bytes]) -> None:
    for name in stand_ins:
        with pytest.raises(weights.ModelFileError, match=name):
            resolve(SHORT, {**stand_ins, name: b"not a network"})


# --- thresholds and their scales ----------------------------------------------------------------------------------


def test_what_nobody_set_comes_with_the_models(stand_ins: dict[str, bytes], models: dict[str, bytes]) -> None:
    latentsync, hashes = resolve(PrepareConfig(models="latentsync"), stand_ins)
    limits = latentsync.thresholds
    assert (limits.min_sync_confidence, limits.max_av_offset_frames, limits.min_quality) == (3.0, 6, 40.0)
    assert (latentsync.faces.min_height_px, latentsync.faces.min_width_px) == (80, 50)
    assert (limits.sync_model, limits.quality_model) == ("syncnet_v2", "hyperiqa")
    builtin, other_hashes = resolve(PrepareConfig(), models)
    assert builtin.thresholds.min_sync_confidence == DEFAULT_MIN_CONFIDENCE
    assert builtin.thresholds.min_quality == 40.0 and builtin.faces.min_width_px is None
    assert builtin.thresholds.quality_model == "lipforge_nss"
    assert hashes["models_hash"] != other_hashes["models_hash"] and hashes["config_hash"] != other_hashes["config_hash"]
    own = PrepareConfig.model_validate({"models": "latentsync", "thresholds": {"min_sync_confidence": 4.5}})
    limits = resolve(own, stand_ins)[0].thresholds
    assert (limits.min_sync_confidence, limits.min_quality) == (4.5, 40.0)


def test_a_models_hash_is_of_its_own_set_and_the_voice_detector(stand_ins: dict[str, bytes]) -> None:
    voice = SpeechDetector().model_file
    exactly = weights.models_hash({**stand_ins, voice.name: voice.read_bytes()})[:16]
    assert resolve(SHORT, stand_ins)[1]["models_hash"] == exactly


def test_a_threshold_for_another_model_is_refused(stand_ins: dict[str, bytes]) -> None:
    for field in ("sync_model", "quality_model"):
        config = SHORT.model_copy(update={"thresholds": Thresholds.model_validate({**OPEN, field: "lipforge"})})
        with pytest.raises(ValueError, match=rf"thresholds.{field} is lipforge, and models=latentsync"):
            resolve(config, stand_ins)
    config = SHORT.model_copy(update={"thresholds": Thresholds.model_validate({**OPEN, "sync_model": "syncnet_v2"})})
    assert resolve(config, stand_ins)[0].thresholds.sync_model == "syncnet_v2"


def test_measures_of_another_model_are_refused() -> None:
    limits = Thresholds(min_sync_confidence=3.0, sync_model="syncnet_v2", min_quality=40.0, quality_model="hyperiqa")
    good = {
        "start_frame": 0,
        "end_frame": 125,
        "speech_ratio": 1.0,
        "sync_confidence": 9.0,
        "av_offset_frames": 0,
        "quality": 90.0,
    }
    named = {"sync_model": "syncnet_v2", "quality_model": "hyperiqa"}
    assert decide({**good, **named}, limits).status is Status.KEPT
    for field, words in (("sync_model", "sync confidence"), ("quality_model", "quality")):
        with pytest.raises(ValueError, match=rf"{words} was measured by mine.* on the scale of {named[field]}"):
            decide({**good, **named, field: "mine"}, limits)


def test_the_set_is_chosen_on_the_command_line_and_in_a_file(tmp_path: Path) -> None:
    assert load_config(PrepareConfig, None, []).models == "builtin"
    assert load_config(PrepareConfig, None, ["models=latentsync"]).models == "latentsync"
    (tmp_path / "settings.yaml").write_text("models: latentsync\n")
    assert load_config(PrepareConfig, tmp_path / "settings.yaml", []).models == "latentsync"
    result = CliRunner().invoke(app, ["prepare", "x.mp4", "--out", str(tmp_path / "out"), "--models", "mine"])
    assert result.exit_code == 2 and "'builtin' or 'latentsync'" in " ".join(result.output.split())


def test_all_settings_as_text_are_settings(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["config"])
    (tmp_path / "all.yaml").write_text(result.output)
    assert load_config(PrepareConfig, tmp_path / "all.yaml", []) == PrepareConfig()
