"""The voice encoder: the package's own numbers where its weights are at hand, and its rules with weights of ours."""

import io
import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from lipforge.model.audio.voice import FILE, WIDTH, VoiceEncoder, VoiceNetwork
from lipforge.model.weights.load import MissingModelError, ModelFileError, load_file
from lipforge.pipeline.publish.voices import SourceClips, assign
from tests import voice_golden
from tests.voice_golden import known_sounds

CLIPS = Path(__file__).parents[1].parent / "shared" / "data" / "clips"


@pytest.fixture(scope="module")
def published() -> VoiceEncoder:
    try:
        return VoiceEncoder(load_file(FILE))
    except MissingModelError:
        pytest.skip("`lipforge models fetch voice` was not run")


def small_file(**changes: torch.Tensor) -> bytes:
    """A file in the package's form, with weights that anyone can make."""
    torch.manual_seed(3)
    tensors = VoiceNetwork().state_dict()
    tensors["linear.weight"] = tensors["linear.weight"] * 20
    training = {"similarity_weight": torch.tensor([10.0]), "similarity_bias": torch.tensor([-5.0])}
    stream = io.BytesIO()
    torch.save({"step": 3, "model_state": {**tensors, **training, **changes}, "optimizer_state": {}}, stream)
    return stream.getvalue()


@pytest.fixture(scope="module")
def encoder() -> VoiceEncoder:
    return VoiceEncoder(small_file())


def test_sounds_have_the_voices_that_the_package_gives_them(published: VoiceEncoder) -> None:
    expected = json.loads(voice_golden.PATH.read_text())
    sounds = known_sounds()
    assert list(expected) == list(sounds)
    for name, sound in sounds.items():
        assert published.embed(sound)[::4] == pytest.approx(expected[name], abs=2e-6), name


@pytest.mark.skipif(not CLIPS.is_dir(), reason="the real clips are not next to the repository")
def test_halves_of_real_recordings_are_one_voice_and_other_people_another(published: VoiceEncoder) -> None:
    sources = []
    for name in ("sadtalker_hdtf_hill", "sadtalker_hdtf_markey", "headpose_31", "latentsync_demo1_vertical"):
        sound = read_sound(CLIPS / f"{name}.mp4")
        for half, samples in enumerate(np.array_split(sound, 2)):
            voice = published.embed(samples).astype(np.float16)
            sources.append(SourceClips([f"{name}{half}"], voice[None], [0], [len(samples) / 16000], [None]))
    halves = np.concatenate(assign(sources).of_clips).reshape(-1, 2)
    assert (halves[:, 0] == halves[:, 1]).all()
    assert len(set(halves[:, 0].tolist())) == 4


def read_sound(path: Path) -> np.ndarray:
    """float32 [N] mono 16 kHz."""
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("flt", "mono", 16_000)
        blocks = [block for frame in container.decode(audio=0) for block in resampler.resample(frame)]
    return np.concatenate([block.to_ndarray()[0] for block in blocks])


def test_a_voice_is_a_unit_vector_without_negative_numbers(encoder: VoiceEncoder) -> None:
    for sound in known_sounds().values():
        voice = encoder.embed(sound)
        assert voice.shape == (WIDTH,)
        assert voice.dtype == np.float32
        assert np.linalg.norm(voice) == pytest.approx(1, abs=1e-5)
        assert voice.min() >= 0


def test_clips_together_give_what_each_gives_alone(encoder: VoiceEncoder) -> None:
    sounds = [np.tile(sound, 3) for sound in known_sounds().values()]  # more partial utterances than one batch holds
    together = encoder.embed_clips([*sounds, np.zeros(16000, np.float32)])
    assert together[:-1] == pytest.approx(np.stack([encoder.embed(sound) for sound in sounds]), abs=1e-5)
    assert not together[-1].any()
    assert encoder.embed_clips([]).shape == (0, WIDTH)


def test_quiet_sound_is_raised_and_loud_sound_stays(encoder: VoiceEncoder) -> None:
    sound = known_sounds()["covered"]
    quiet = sound * np.float32(0.001 / np.sqrt(np.mean(sound**2)))
    assert encoder.embed(quiet) == pytest.approx(encoder.embed(quiet * 20), abs=1e-5)
    assert np.abs(encoder.embed(sound) - encoder.embed(sound * 3)).max() > 1e-4


def test_silence_has_no_voice(encoder: VoiceEncoder) -> None:
    assert not encoder.embed(np.full(32000, 9e-5, np.float32)).any()
    assert encoder.embed(np.full(32000, 2e-4, np.float32)).any()


@pytest.mark.parametrize(
    "samples", [np.zeros(0, np.float32), np.zeros((2, 16000), np.float32), np.array([0.1, np.nan], np.float32)]
)
def test_what_is_no_sound_is_refused(encoder: VoiceEncoder, samples: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected finite ones"):
        encoder.embed(samples)


def test_only_exactly_these_weights_are_taken() -> None:
    with pytest.raises(ModelFileError, match=r"1 unexpected: extra"):
        VoiceEncoder(small_file(extra=torch.ones(2)))
    with pytest.raises(ModelFileError, match=r"linear\.bias \[3\] instead of \[256\]"):
        VoiceEncoder(small_file(**{"linear.bias": torch.ones(3)}))
    with pytest.raises(ModelFileError, match="cut off or damaged"):
        VoiceEncoder(small_file()[:-100])
