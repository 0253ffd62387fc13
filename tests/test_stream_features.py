"""The stream takes fields from cached features where it can, of the same moments as media, and decodes the rest."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError

from lipforge.model.audio.mel import MEL_RECIPE
from lipforge.model.audio.windows import audio_rows
from lipforge.train.features.command import compute_features
from lipforge.train.features.extract import ModelFiles
from lipforge.train.features.index import FeatureError
from lipforge.train.features.store import FeatureStore
from lipforge.train.stream.batches import Batch
from lipforge.train.stream.config import StreamConfig
from lipforge.train.stream.decode import DamagedSampleError
from lipforge.train.stream.stream import SampleStream
from tests.range_server import range_server
from tests.stream_clips import coded_dataset, key_of, select
from tests.tiny_models import tiny_model_files

pytest.importorskip("whisper", reason="the package openai-whisper is not installed")
pytest.importorskip("diffusers", reason="the package diffusers is not installed")

NUM_CLIPS = 7
CLIP_FRAMES = 25
NUM_FRAMES = 5
LATENT_SIDE = 128 // 8


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    return tiny_model_files(tmp_path_factory.mktemp("vae"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    return coded_dataset(tmp_path_factory.mktemp("dataset"), [4, 3], CLIP_FRAMES)


@pytest.fixture(scope="module")
def selection(rows: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> str:
    return select(tmp_path_factory.mktemp("selection") / "s.parquet", rows)


@pytest.fixture(scope="module")
def folder(selection: str, files: ModelFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All features of all clips. Nobody may change it."""
    out = tmp_path_factory.mktemp("features")
    compute_features(selection, str(out), files, "local", None)
    return out


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def config_of(selection: str, features: object = None, **settings: Any) -> StreamConfig:
    defaults = {"selection": selection, "num_frames": NUM_FRAMES, "batch_size": 2, "num_workers": 0, "seed": 3}
    return StreamConfig.model_validate({**defaults, "features": features, **settings})


def features_of(folder: object, files: ModelFiles, *kinds: str) -> dict[str, Any]:
    models = {kind: model for kind, model in files.by_kind().items() if not kinds or kind in kinds}
    return {"folder": str(folder), "models": models}


def one_pass(config: StreamConfig, num_epochs: int = 1) -> list[Batch]:
    return list(SampleStream(config, num_epochs=num_epochs))


def places(batches: list[Batch], *names: str) -> list[tuple]:
    found = []
    for batch in batches:
        columns = [batch[name] if name == "key" else batch[name].tolist() for name in ("position", "key", *names)]
        found += zip(*columns, strict=True)
    return found


def test_fields_are_the_features_of_the_window(selection: str, folder: Path, files: ModelFiles) -> None:
    store = FeatureStore(str(folder), files.by_kind())
    at_edges = 0
    for batch in one_pass(config_of(selection, features_of(folder, files)), num_epochs=3):
        assert batch.keys() & {"target", "reference", "audio"} == set()
        assert batch["target_moments"].shape == (2, NUM_FRAMES, 8, LATENT_SIDE, LATENT_SIDE)
        assert batch["audio_features"].shape == (2, 2 * (NUM_FRAMES + 4), 2, 16)
        assert (batch["mel"].shape, batch["mel"].dtype) == ((2, 80, 16), torch.float32)
        for index, key in enumerate(batch["key"]):
            start, reference_start = int(batch["start"][index]), int(batch["reference_start"][index])
            whole = store.read(key, ["whisper", "vae_target", "vae_masked"])
            target, reference = slice(start, start + NUM_FRAMES), slice(reference_start, reference_start + NUM_FRAMES)
            assert np.array_equal(batch["target_moments"][index], whole["vae_target"][target])
            assert np.array_equal(batch["reference_moments"][index], whole["vae_target"][reference])
            assert np.array_equal(batch["masked_moments"][index], whole["vae_masked"][target])
            heard = batch["audio_features"][index][batch["audio_rows"][index]].numpy()
            assert np.array_equal(heard, whole["whisper"][audio_rows(start, NUM_FRAMES, CLIP_FRAMES)])
            at_edges += start < 2 or start > CLIP_FRAMES - NUM_FRAMES - 2
    assert at_edges > 0  # where rows repeat


@pytest.mark.parametrize("task", ["diffusion", "syncnet"])
def test_media_and_features_give_the_same_mel_of_the_same_samples(
    selection: str, folder: Path, files: ModelFiles, task: str
) -> None:
    decoded = one_pass(config_of(selection, task=task))
    cached = one_pass(config_of(selection, features_of(folder, files, "mel"), task=task))
    other = "reference_start" if task == "diffusion" else "negative_start"
    assert places(cached, "start", other) == places(decoded, "start", other)
    names = ("mel",) if task == "diffusion" else ("mel", "negative_mel")
    for before, after in zip(decoded, cached, strict=True):
        assert before.keys() == after.keys()
        assert torch.equal(before["target"], after["target"])
        for name in names:
            assert (before[name] - after[name]).abs().max() <= 2e-3  # half precision of values up to 4


def test_what_is_not_cached_is_decoded(selection: str, folder: Path, files: ModelFiles) -> None:
    (decoded, *_) = one_pass(config_of(selection))
    (audio, *_) = one_pass(config_of(selection, features_of(folder, files, "whisper", "mel")))
    assert decoded.keys() - audio.keys() == {"audio"} and audio.keys() - decoded.keys() == {"audio_features"}
    assert torch.equal(audio["reference"], decoded["reference"])
    (frames, *_) = one_pass(config_of(selection, features_of(folder, files, "vae_target", "vae_masked")))
    assert {"target_moments", "reference_moments", "masked_moments", "audio", "mel"} <= frames.keys()
    assert torch.equal(frames["mel"], decoded["mel"])
    (both, *_) = one_pass(config_of(selection, features_of(folder, files), decode_target=True))
    assert torch.equal(both["target"], decoded["target"]) and "reference" not in both


@pytest.mark.parametrize("num_workers", [0, 2])
def test_with_all_features_the_dataset_is_not_needed(
    folder: Path, files: ModelFiles, selection: str, rows: pa.Table, tmp_path: Path, num_workers: int
) -> None:
    at = rows.schema.get_field_index("dataset")
    gone = rows.set_column(at, rows.schema.field(at), pa.array(["/nowhere"] * NUM_CLIPS, pa.string()))
    elsewhere = select(tmp_path / "gone.parquet", gone)
    config = config_of(elsewhere, features_of(folder, files), num_workers=num_workers)
    assert len(places(one_pass(config))) == NUM_CLIPS + 1
    with pytest.raises(FileNotFoundError):
        one_pass(config_of(elsewhere, features_of(folder, files, "mel")))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_only_the_rows_of_windows_are_read_from_remote_storage(
    selection: str, folder: Path, files: ModelFiles, num_workers: int
) -> None:
    with range_server(folder) as server:
        features = features_of(server.url, files)
        stream = SampleStream(config_of(selection, features, num_workers=num_workers), num_epochs=1)
        index = len(server.requests)  # the index is read whole, and without ranges
        batches = list(stream)
        got = sum(end - start for _, start, end in server.requests[index:])
    wanted = 0
    for batch in batches:
        for name in ("target_moments", "masked_moments", "reference_moments"):
            wanted += batch[name].nbytes
        wanted += batch["mel"].nbytes // 2
        for start in batch["start"].tolist():
            heard = audio_rows(start, NUM_FRAMES, CLIP_FRAMES)
            wanted += (heard.max() - heard.min() + 1) * 2 * 16 * 2
    assert wanted <= got <= 1.04 * wanted


def test_a_state_fits_with_and_without_features(selection: str, folder: Path, files: ModelFiles) -> None:
    straight = places(one_pass(config_of(selection), num_epochs=4), "start", "reference_start")
    stream = SampleStream(config_of(selection))
    batches = iter(stream)
    seen = places([next(batches) for _ in range(3)], "start", "reference_start")
    state = json.loads(json.dumps(stream.state_dict()))
    for rank in range(3):
        cached = SampleStream(config_of(selection, features_of(folder, files), num_workers=rank), rank, 3)
        cached.load_state_dict(state)
        more = iter(cached)
        seen += places([next(more) for _ in range(3)], "start", "reference_start")
    assert sorted(seen) == straight[: len(seen)]


# --- what does not fit ---


def test_features_of_another_model_are_refused(selection: str, folder: Path, files: ModelFiles) -> None:
    features = features_of(folder, files, "whisper", "mel")
    features["models"]["whisper"] = "f" * 64
    with pytest.raises(FeatureError, match=files.by_kind()["whisper"]):
        SampleStream(config_of(selection, features))


def test_clips_without_features_are_named_before_training(
    rows: pa.Table, selection: str, tmp_path: Path, files: ModelFiles
) -> None:
    few = select(tmp_path / "few.parquet", rows.slice(1))
    compute_features(few, str(tmp_path / "f"), ModelFiles(mel=True), "local", None)
    SampleStream(config_of(few, features_of(tmp_path / "f", files, "mel")))
    with pytest.raises(FeatureError, match=key_of(0)):
        SampleStream(config_of(selection, features_of(tmp_path / "f", files, "mel")))


def test_requests_that_make_no_sense_are_refused(selection: str) -> None:
    for models, settings, words in (
        ({}, {}, "at least 1"),
        ({"pitch": "x"}, {}, "Input should be"),
        ({"vae_target": "x"}, {}, "go together"),
        ({"vae_target": "x", "vae_masked": "y"}, {}, "one model"),
        ({"whisper": "x", "mel": MEL_RECIPE}, {"task": "syncnet"}, "mel alone"),
    ):
        with pytest.raises(ValidationError, match=words):
            config_of(selection, {"folder": "f", "models": models}, **settings)


def damage(folder: Path, files: ModelFiles, clip: int, kind: str) -> None:
    place = FeatureStore(str(folder), files.by_kind())._find(key_of(clip), kind)
    path = folder / place.shard
    content = bytearray(path.read_bytes())
    size = place.num_rows * place.row_bytes
    content[place.offset : place.offset + size] = bytes(size)
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["whisper", "mel", "vae_target", "vae_masked"])
def test_damaged_features_are_an_error_with_the_clips_key(
    selection: str, copy: Path, files: ModelFiles, kind: str
) -> None:
    damage(copy, files, 2, kind)
    with pytest.raises(DamagedSampleError, match=f"its {kind} features are not what was written") as caught:
        one_pass(config_of(selection, features_of(copy, files)))
    assert caught.value.key == key_of(2) and caught.value.where.startswith(str(copy))


@pytest.mark.parametrize("kinds", [(), ("vae_target", "vae_masked")], ids=["all cached", "audio decoded"])
def test_skipping_damaged_features_keeps_ranks_in_step(
    selection: str, copy: Path, files: ModelFiles, kinds: tuple[str, ...]
) -> None:
    straight = places(one_pass(config_of(selection, batch_size=1)), "start", "reference_start")
    damage(copy, files, 2, "vae_masked")
    config = config_of(selection, features_of(copy, files, *kinds), batch_size=1, on_damage="skip")
    streams = [SampleStream(config, rank, 2, num_epochs=1) for rank in range(2)]
    passes = [list(stream) for stream in streams]
    assert len(passes[0]) == len(passes[1])
    assert [error.key for stream in streams for error in stream.damaged] == [key_of(2)]
    valid = [batch for batches in passes for batch in batches if bool(batch["valid"].all())]
    assert sorted(places(valid, "start", "reference_start")) == [seen for seen in straight if seen[1] != key_of(2)]
