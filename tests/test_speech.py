"""What counts as speech: real talkers at any level; not silence, noise, tones, clicks or music."""

from pathlib import Path

import av
import numpy as np
import pytest

from lipforge.model.audio.speech import SpeechDetector

CLIPS = Path(__file__).parents[1].parent / "shared" / "data" / "clips"
needs_clips = pytest.mark.skipif(not CLIPS.is_dir(), reason="the real clips are not next to the repository")


@pytest.fixture(scope="module")
def detector() -> SpeechDetector:
    return SpeechDetector()


def read_audio(path: Path) -> np.ndarray:
    """float32 [N] mono 16 kHz."""
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("flt", "mono", 16_000)
        blocks = [b for frame in container.decode(audio=0) for b in resampler.resample(frame)] + resampler.resample(
            None
        )
    return np.concatenate([block.to_ndarray()[0] for block in blocks])


def seconds(count: float) -> np.ndarray:
    return np.arange(int(count * 16_000)) / 16_000


@pytest.mark.parametrize(
    "audio",
    [
        np.zeros(0),
        np.zeros(64_000),
        np.random.default_rng(0).integers(-1, 2, 64_000) / 32_768,  # dither
        np.random.default_rng(0).normal(0, 0.0005, 64_000),  # the hiss of a quiet room, which gets the full gain
        np.random.default_rng(0).normal(0, 0.1, 64_000),
        0.3 * np.sin(2 * np.pi * 440 * seconds(4)),
        0.9 * (np.arange(64_000) % 16_000 < 16),
    ],
    ids=["empty", "silence", "dither", "hiss", "noise", "tone", "clicks"],
)
def test_audio_without_a_voice_is_not_speech(detector: SpeechDetector, audio: np.ndarray) -> None:
    assert detector.speech_ratio(audio.astype(np.float32)) == 0.0


def test_bad_input_is_refused(detector: SpeechDetector) -> None:
    with pytest.raises(ValueError, match="mono"):
        detector.speech_ratio(np.zeros((2, 16_000), np.float32))
    with pytest.raises(ValueError, match="finite"):
        detector.speech_ratio(np.full(16_000, np.nan, np.float32))


@needs_clips
@pytest.mark.parametrize("name", ["headpose_31.mp4", "latentsync_demo1_vertical.mp4", "av2av_mtedx_es.webm"])
def test_real_talkers_are_speech(detector: SpeechDetector, name: str) -> None:
    assert detector.speech_ratio(read_audio(CLIPS / name)) > 0.8


@needs_clips
@pytest.mark.parametrize(
    "name", ["liveportrait_d14_music.mp4", "moviepy_chaplin_music.mp4", "autoeditor_minecraft_60fps.mp4"]
)
def test_music_and_noises_are_not_speech(detector: SpeechDetector, name: str) -> None:
    assert detector.speech_ratio(read_audio(CLIPS / name)) < 0.05


@needs_clips
def test_a_very_quiet_talker_counts_like_a_loud_one(detector: SpeechDetector) -> None:
    quiet = read_audio(CLIPS / "spectre_mead_w015_lowvol.mp4")
    assert np.abs(quiet).max() < 0.04
    assert detector.speech_ratio(quiet) > 0.9
    assert detector.speech_ratio(quiet * 0.2) == pytest.approx(detector.speech_ratio(quiet), abs=0.02)


@needs_clips
def test_a_clip_does_not_depend_on_the_one_before(detector: SpeechDetector) -> None:
    talker = read_audio(CLIPS / "av2av_lrs3_en2.webm")
    music = read_audio(CLIPS / "liveportrait_d14_music.mp4")
    alone = detector.speech_probabilities(talker)
    detector.speech_ratio(music)
    np.testing.assert_array_equal(detector.speech_probabilities(talker), alone)
