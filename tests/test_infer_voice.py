"""What a model hears: as in training and as published, without jumps, and silence where the sound has ended."""

import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch

from lipforge.model.audio.mel import mel_spectrogram
from lipforge.model.audio.tokens import mel_tokens
from lipforge.model.audio.whisper import WhisperFeatures
from lipforge.model.audio.windows import audio_rows
from lipforge.model.clock import FPS
from lipforge.pipeline.infer.live import Feed
from lipforge.pipeline.infer.sound import Spans
from lipforge.pipeline.infer.voice import LiveWhisperVoice, MelVoice, WhisperVoice
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
    assert found.shape == (16, 16, 80)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


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
    assert MelVoice(read_from(spoken), 2.0).tokens(times_s).max() == -1


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
