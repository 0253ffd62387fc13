"""Whisper's encoder states: the numbers of the published chain, their place in time, the checkpoints that are read."""

import hashlib
import io
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from lipforge.model.audio.whisper import WhisperFeatures
from lipforge.model.weights.load import ModelFileError
from tests.golden import difference, golden_arrays, golden_fill, golden_json
from tests.whisper_file import DIMS, whisper_file

pytest.importorskip("whisper", reason="the package openai-whisper is not installed")

REAL = Path(__file__).parents[2] / "shared" / "models" / "whisper-tiny.en.pt"


@cache
def golden_model() -> WhisperFeatures:
    """whisper-tiny with the golden weights, by way of a file in the published format."""
    from whisper.model import ModelDimensions, Whisper

    layout = golden_json("whisper_tiny.keys.json")
    network = golden_fill().fill_(Whisper(ModelDimensions(**layout["dims"])), 6)
    buffer = io.BytesIO()
    torch.save({"dims": layout["dims"], "model_state_dict": network.state_dict()}, buffer)
    return WhisperFeatures(buffer.getvalue(), "golden.pt")


@pytest.mark.parametrize(("seconds", "samples"), [("3.2", 51_200), ("33", 528_000)])
def test_states_are_those_of_the_published_chain(seconds: str, samples: int) -> None:
    expected = golden_arrays("whisper_tiny_features.npz")[f"features_{seconds.replace('.', '_')}s"]
    audio = (0.1 * golden_fill().draw(6, f"wave{seconds}s", (samples,))).numpy()
    got = golden_model().encode(audio)
    assert got.dtype == np.float32
    assert difference(got[:, :, ::32], expected) <= 1e-4


def test_two_rows_a_frame() -> None:
    features = WhisperFeatures(whisper_file(), "tiny.pt")
    for num_frames in (1, 40, 250):
        states = features.encode(np.zeros(num_frames * 640, np.float32))
        assert states.shape == (2 * num_frames, DIMS["n_audio_layer"] + 1, DIMS["n_audio_state"])


def test_audio_changes_only_the_input_rows_around_it() -> None:
    features = WhisperFeatures(whisper_file(), "tiny.pt")
    rng = np.random.default_rng(0)
    audio = (0.1 * rng.standard_normal(64_000)).astype(np.float32)
    changed = audio.copy()
    changed[32_000:33_000] = 0.1 * rng.standard_normal(1000)
    difference_of_rows = np.abs(features.encode(audio) - features.encode(changed))[:, 0].max(axis=1)
    rows = np.flatnonzero(difference_of_rows > 1e-4)
    assert rows.min() >= 100 - 4
    assert rows.max() <= 103 + 4


def test_the_name_of_the_model_is_the_hash_of_its_file() -> None:
    content = whisper_file()
    assert WhisperFeatures(content, "x").sha256 == hashlib.sha256(content).hexdigest()


def test_what_is_no_checkpoint_is_refused() -> None:
    with pytest.raises(ModelFileError):
        WhisperFeatures(b"not a model", "x.pt")


@pytest.mark.parametrize("audio", [np.zeros((2, 1000), np.float32), np.zeros(319, np.float32), np.full(640, np.nan)])
def test_bad_audio_is_refused(audio: np.ndarray) -> None:
    with pytest.raises(ValueError, match="mono audio"):
        WhisperFeatures(whisper_file(), "tiny.pt").encode(audio)


def test_the_published_english_checkpoint_is_read_and_hears_a_difference() -> None:
    if not REAL.exists():
        pytest.skip(f"{REAL} is not there")
    features = WhisperFeatures(REAL.read_bytes(), REAL.name)
    t = np.arange(32_000) / 16_000
    low, high = (features.encode((0.3 * np.sin(2 * np.pi * hz * t)).astype(np.float32)) for hz in (200, 2000))
    assert low.shape == (100, 5, 384)
    assert np.isfinite(low.astype(np.float16)).all()  # what the feature shards store
    assert np.abs(low - high).mean() > 0.1 * low.std()
