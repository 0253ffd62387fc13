"""What a model hears: as in training and as published, without jumps, and silence where the sound has ended."""

import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention

from lipforge.model.audio.mel import mel_spectrogram
from lipforge.model.audio.tokens import MEL_WIDTH, mel_tokens
from lipforge.model.audio.whisper import WhisperFeatures
from lipforge.model.audio.windows import audio_rows
from lipforge.model.clock import FPS
from lipforge.model.sync.builtin import LipSyncScorer
from lipforge.model.sync.hearing import LipHearing
from lipforge.model.weights import load as weights
from lipforge.pipeline.infer.live import Feed
from lipforge.pipeline.infer.sound import Spans
from lipforge.pipeline.infer.voice import LipVoice, LiveWhisperVoice, MelVoice, WhisperVoice, open_hearing
from lipforge.train.loop.audio import LipTokens
from tests.talking_photo import babble
from tests.whisper_file import whisper_file

Read = Callable[[int, int], np.ndarray]


def read_from(samples: np.ndarray) -> Read:
    def read(first: int, end: int) -> np.ndarray:
        found = np.zeros(end - first, np.float32)
        low, high = max(first, 0), min(end, len(samples))
        if low < high:
            found[low - first : high - first] = samples[low:high]
        return found

    return read


@pytest.fixture(scope="module")
def features() -> WhisperFeatures:
    return WhisperFeatures(whisper_file(), "tiny")


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return babble(6.0, seed=1)


def test_mel_columns_of_a_window_are_those_of_training(speech: np.ndarray):
    voice = MelVoice(read_from(speech), 6.0)
    start = 25
    found = voice.tokens(np.arange(start, start + 16) / FPS)
    expected = mel_tokens(torch.from_numpy(mel_spectrogram(speech)[:, 80 : 80 + 52].copy()))
    assert found.shape == (16, 16, 96)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_attention_can_tell_what_comes_before_a_frame_from_what_comes_after_it():
    torch.manual_seed(0)
    hears = Attention(query_dim=32, cross_attention_dim=MEL_WIDTH, heads=2, dim_head=16)
    mel, frame = torch.randn(80, 52), torch.randn(1, 1, 32)
    backwards = mel.clone()
    backwards[:, 20:36] = mel[:, 20:36].flip(1)  # the columns of frame 8
    forth, back = (mel_tokens(sound)[8:9] for sound in (mel, backwards))
    assert (hears(frame, forth) - hears(frame, back)).abs().max() > 1e-3
    forth[..., 80:] = back[..., 80:] = 0
    torch.testing.assert_close(hears(frame, forth), hears(frame, back))


@pytest.fixture(scope="module")
def hearing() -> LipHearing:
    return open_hearing()


def test_what_the_scorer_hears_is_its_own_vectors_around_each_frame(hearing: LipHearing, speech: np.ndarray):
    scorer = LipSyncScorer(weights.load("builtin")["lip_sync.safetensors"])
    own = scorer.embed_audio(speech)  # of frames 6 to T - 7
    token = LipVoice(hearing, read_from(speech), 6.0).tokens(np.arange(6, 144) / FPS)
    assert token.shape == (138, 1, 384)
    parts = token[:, 0].reshape(138, 4, 96)[..., 64:] / 32**0.5 / 2
    assert np.abs(parts.reshape(138, 128).numpy() - own).max() < 1e-5


def test_lip_tokens_of_a_window_are_those_of_training(hearing: LipHearing, speech: np.ndarray):
    encoder = LipTokens()
    assert (encoder.sha256, encoder.width, encoder.kind) == (hearing.sha256, 384, None)
    batch = {
        "audio": [torch.from_numpy(speech)],
        "start": torch.tensor([134]),
        "audio_rows": torch.zeros((1, 16, 10), dtype=torch.int64),
    }
    found = LipVoice(hearing, read_from(speech), 6.0).tokens(np.arange(134, 150) / FPS)
    torch.testing.assert_close(encoder.tokens(batch)[0], found, atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder.voice(speech).tokens(np.arange(134, 150) / FPS), found, atol=1e-5, rtol=0)


def test_how_loud_a_sound_is_and_what_follows_it_changes_no_lip_token(hearing: LipHearing, speech: np.ndarray):
    times_s = np.arange(100, 116) / FPS
    found = LipVoice(hearing, read_from(speech), 6.0).tokens(times_s)
    quiet = LipVoice(hearing, read_from(speech * 0.05), 6.0).tokens(times_s)
    torch.testing.assert_close(quiet, found, atol=2e-2, rtol=0)
    moved = LipVoice(hearing, read_from(speech), 6.0).tokens(times_s + 0.02)
    assert (moved - found).abs().max() > 0.1


def test_a_live_sound_is_as_loud_as_its_last_seconds(hearing: LipHearing, speech: np.ndarray):
    times_s = np.arange(100, 116) / FPS
    live = LipVoice(hearing, read_from(speech), float("inf")).tokens(times_s)
    whole = LipVoice(hearing, read_from(speech[: 4 * 16_000 + 9_600]), 4.6).tokens(times_s)
    torch.testing.assert_close(live[:8], whole[:8], atol=2e-2, rtol=0)
    begins = LipVoice(hearing, read_from(speech), float("inf")).tokens(np.arange(16) / FPS)
    assert torch.isfinite(begins).all()


def test_a_frame_between_two_of_the_grid_hears_its_own_moment(speech: np.ndarray):
    voice = MelVoice(read_from(speech), 6.0)
    times_s = np.arange(25, 41) / FPS
    later = times_s.copy()
    later[8] += 0.02
    plain, moved = voice.tokens(times_s), voice.tokens(later)
    changed = [index for index in range(16) if not torch.equal(plain[index], moved[index])]
    assert changed == [8]


def test_up_to_half_a_minute_whispers_states_are_the_published_ones(features: WhisperFeatures, speech: np.ndarray):
    num_frames = 150
    expected = torch.from_numpy(features.encode(speech))
    rows = torch.from_numpy(audio_rows(0, num_frames, num_frames))
    voice = WhisperVoice(features, read_from(speech), 6.0)
    found = voice.tokens(np.arange(num_frames) / FPS)
    torch.testing.assert_close(found, expected[rows].flatten(1, 2), atol=1e-4, rtol=1e-4)


def test_nothing_jumps_where_published_code_begins_another_half_minute(features: WhisperFeatures, speech: np.ndarray):
    long = np.tile(speech, 12)[: 16_000 * 70]
    published = torch.from_numpy(features.encode(long))
    voice = WhisperVoice(features, read_from(long), 70.0)
    ours = torch.cat([voice._states(first, first + 50) for first in range(0, 3500, 50)])

    def jump(states: torch.Tensor) -> float:
        steps = (states[1:] - states[:-1]).flatten(1).norm(dim=1)
        return float(steps[1499] / steps[1440:1560].median())

    assert jump(published) > 1.8 * jump(ours)
    assert jump(ours) < 2


def test_states_do_not_depend_on_how_they_are_asked_for(features: WhisperFeatures, speech: np.ndarray):
    long = np.tile(speech, 8)
    times_s = np.arange(0, 1000) / FPS
    whole = WhisperVoice(features, read_from(long), 48.0).tokens(times_s)
    voice = WhisperVoice(features, read_from(long), 48.0)
    parts = [voice.tokens(times_s[first : first + 16]) for first in range(0, 1000, 16)]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-5, rtol=0)
    assert len(voice._kept) <= 2


def test_after_its_end_a_sound_is_silent(features: WhisperFeatures, speech: np.ndarray):
    spoken = speech[: 16_000 * 2]
    silent = np.concatenate([spoken, np.zeros(16_000 * 4, np.float32)])
    times_s = np.arange(60, 76) / FPS
    found = WhisperVoice(features, read_from(spoken), 6.0).tokens(times_s)
    expected = WhisperVoice(features, read_from(silent), 6.0).tokens(times_s)
    assert torch.equal(found, expected)
    assert MelVoice(read_from(spoken), 2.0).tokens(times_s)[..., :80].max() == -1


def test_a_sound_is_read_in_spans_of_which_two_are_kept():
    asked: list[tuple[int, int]] = []

    def read(first: int, end: int) -> np.ndarray:
        asked.append((first, end))
        return np.arange(first * 640, end * 640, dtype=np.float32)

    spans = Spans(read)
    for first in range(-1000, 3_000_000, 7_000):
        found = spans.samples(first, first + 20_000)
        expected = np.arange(first, first + 20_000, dtype=np.float32)
        np.testing.assert_array_equal(found, np.where(expected < 0, 0, expected))
        assert len(spans._kept) <= 2
    assert len(asked) == len(set(asked))


def test_live_sound_is_waited_for_and_heard_as_it_is(speech: np.ndarray):
    feed = Feed()
    voice = MelVoice(feed.read, float("inf"))
    times_s = np.arange(0, 16) / FPS
    found: list[torch.Tensor] = []
    listener = threading.Thread(target=lambda: found.append(voice.tokens(times_s)))
    listener.start()
    for first in range(0, 16_000, 1_600):
        assert first > 10_400 or not found
        feed.put(speech[first : first + 1_600])
    listener.join(10)
    assert torch.equal(found[0], MelVoice(read_from(speech), 6.0).tokens(times_s))


def test_a_feed_forgets_what_is_old_and_ends():
    feed = Feed()
    numbers = np.arange(3_000_000, dtype=np.float32)
    for first in range(0, len(numbers), 50_000):
        feed.put(numbers[first : first + 50_000])
        feed.read(first, first + 50_000)
    np.testing.assert_array_equal(feed.read(2_999_000, 3_000_000), numbers[-1000:])
    feed.finish()
    assert not feed.has_until(3_000_001) and feed.has_until(3_000_000)
    assert not feed.read(3_000_000, 3_000_100).any()


def test_live_whisper_hears_the_last_seconds(features: WhisperFeatures, speech: np.ndarray):
    times_s = np.arange(100, 116) / FPS
    live = LiveWhisperVoice(features, read_from(speech)).tokens(times_s)
    whole = WhisperVoice(features, read_from(speech[: round(16_000 * 4.72)]), 4.72).tokens(times_s)
    assert live.shape == whole.shape
    assert torch.nn.functional.cosine_similarity(live.flatten(), whole.flatten(), dim=0) > 0.95


def test_sound_that_comes_faster_than_it_is_read_waits_and_none_is_lost():
    feed = Feed()
    numbers = np.arange(2_500_000, dtype=np.float32)

    def speak() -> None:
        for first in range(0, len(numbers), 50_000):
            feed.put(numbers[first : first + 50_000])
        feed.finish()

    threading.Thread(target=speak, daemon=True).start()
    for first in range(0, len(numbers), 10_000):
        np.testing.assert_array_equal(feed.read(first, first + 10_000), numbers[first : first + 10_000])
