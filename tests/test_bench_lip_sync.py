"""The arithmetic behind the lip-sync results page: what it counts, and what it calls clean."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from benchmarks.lip_sync import cases as lip_sync_cases
from benchmarks.lip_sync import clips as lip_sync_clips
from benchmarks.lip_sync import lengths, page_scores
from benchmarks.lip_sync import media as lip_sync_media
from benchmarks.lip_sync.clips import CLEAN, MARGIN, Track
from benchmarks.lip_sync.measures import (
    SHIFTS,
    Pairs,
    Scorer,
    Scores,
    auc,
    estimate,
    kept_at,
    measure,
    rejected_at,
    rejected_where_kept,
    weighted_auc,
    weighted_quantile,
    window_starts,
    windows,
    within,
)
from lipforge.model.clock import SAMPLES_PER_FRAME, SYNC_MARGIN_FRAMES
from lipforge.model.faces.lip_points import SYNC_LANDMARKS
from lipforge.model.sync.score import SyncScore

ABOUT = {"trainable": "no", "natural_sync": "yes", "native_av_offset_frames": "2", "language": "en"}


def track(
    file: str = "a.mp4", num_frames: int = 100, eyes_px: float = 90.0, yaw_deg: float = 0.0, **about: str
) -> Track:
    """A face that stands still; audio sample i is the number of its frame, counted from the start of the margin."""
    points = np.zeros((num_frames, len(SYNC_LANDMARKS), 3), np.float32)
    right = int(np.flatnonzero(SYNC_LANDMARKS == 263)[0])
    points[:, right] = [eyes_px, 0, eyes_px * np.tan(np.radians(yaw_deg))]
    audio = np.repeat(np.arange(num_frames + 2 * MARGIN, dtype=np.float32), SAMPLES_PER_FRAME)
    return Track(file, ABOUT | about, 0, 0, points, np.zeros((num_frames, 64, 64), np.uint8), audio)


class Oracle:
    """Reads from such audio how far it was shifted; sure of a speaker's own audio only."""

    min_confidence = 2.0

    def embed_lips(self, window: Any) -> Any:
        return window

    def embed_audio(self, audio: np.ndarray) -> np.ndarray:
        return audio

    def match(self, window: Any, audio: np.ndarray) -> SyncScore:
        shift = int(audio[0]) - (window.start + MARGIN - SYNC_MARGIN_FRAMES)
        near = abs(shift) <= SYNC_MARGIN_FRAMES
        return SyncScore(2 + shift if near else 0, 3.0 if near else 1.0, 0.0, np.zeros(31, np.float32), 0.0)


def scores(own: list[float], speakers: list[str], errors: np.ndarray | None = None) -> Scores:
    """Windows with some mismatches: the lips of each with each other speaker's audio, confidence 1."""
    pairs = [(i, j) for i, a in enumerate(speakers) for j, b in enumerate(speakers) if a != b]
    other = Pairs(np.array([i for i, _ in pairs]), np.array([j for _, j in pairs]), np.ones(len(pairs)))
    nothing = Pairs(np.zeros(0, int), np.zeros(0, int), np.zeros(0))
    errors = np.zeros((len(own), len(SHIFTS)), int) if errors is None else errors
    return Scores(125, speakers, np.array(own), errors, other, nothing)


def test_windows_overlap_by_half_and_reach_both_ends() -> None:
    assert window_starts(125, 125) == [0]
    assert window_starts(124, 125) == []
    starts = window_starts(310, 100)
    assert starts[0] == 0 and starts[-1] == 210
    assert max(np.diff(starts)) <= 50


def test_a_scorer_that_finds_each_shift_has_no_errors() -> None:
    found = measure(cast(Scorer, Oracle()), windows([track(num_frames=160)], 75))
    assert found.errors.shape == (len(found.own), len(SHIFTS))
    assert (found.errors == 0).all()
    assert within(0)(found, np.ones(len(found.own))) == 1.0


def test_errors_are_counted_only_where_there_is_a_reference() -> None:
    clips = [track(), track("b.mp4", native_av_offset_frames="")]
    found = measure(cast(Scorer, Oracle()), windows(clips, 75))
    known = np.array([speaker == "a" for speaker in found.speakers])
    assert (found.errors[known] == 0).all() and (found.errors[~known] == Scores.OUT).all()
    assert within(0)(found, np.ones(len(found.own))) == 1.0
    assert np.isnan(within(0)(found, (~known).astype(float)))


def test_the_same_speaker_at_another_time_is_out_of_reach_of_any_shift() -> None:
    parts = windows([track(num_frames=300)], 75)
    found = measure(cast(Scorer, Oracle()), parts)
    apart = [abs(parts[i].start - parts[j].start) for i, j in zip(found.same.lips, found.same.audio, strict=True)]
    assert min(apart) >= 75 + SYNC_MARGIN_FRAMES
    assert (found.same.confidence == 1.0).all()
    assert len(found.other.confidence) == 0


def test_auc_counts_ties_half_and_weights() -> None:
    one = np.ones(1)
    assert weighted_auc(np.array([2.0]), one, np.array([1.0]), one) == 1.0
    assert weighted_auc(np.array([1.0]), one, np.array([1.0]), one) == 0.5
    assert weighted_auc(np.array([0.0]), one, np.array([1.0]), one) == 0.0
    assert weighted_auc(np.array([2.0, 0.0]), np.array([3.0, 1.0]), np.array([1.0]), one) == 0.75
    assert np.isnan(weighted_auc(np.array([2.0]), one, np.zeros(0), np.zeros(0)))


def test_quantile_by_weight() -> None:
    values = np.array([3.0, 1.0, 2.0])
    assert weighted_quantile(values, np.array([1.0, 1.0, 1.0]), 0.5) == 2.0
    assert weighted_quantile(values, np.array([1.0, 8.0, 1.0]), 0.5) == 1.0
    assert weighted_quantile(values, np.array([1.0, 0.0, 1.0]), 0.0) in (1.0, 2.0)


def test_both_sides_of_the_threshold() -> None:
    found = scores([3.0, 2.0, 0.5, 3.0], ["a", "a", "b", "b"])
    everyone = np.ones(4)
    assert kept_at(2.0)(found, everyone) == 0.75
    assert kept_at(2.01)(found, everyone) == 0.5
    assert rejected_at(1.0)(found, everyone) == 0.0
    assert rejected_at(1.01)(found, everyone) == 1.0
    assert rejected_where_kept(0.75)(found, everyone) == 0.0  # the threshold that keeps three is 0.5 or below
    assert auc()(found, everyone) == 0.75


def test_the_interval_is_over_speakers_not_over_windows() -> None:
    agreed = estimate(kept_at(2.0), scores([3.0, 1.0] * 3, ["a", "a", "b", "b", "c", "c"]))
    assert agreed.value == agreed.low == agreed.high == agreed.per_speaker == 0.5
    split = estimate(kept_at(2.0), scores([3.0, 3.0, 3.0, 1.0], ["a", "a", "a", "b"]))
    assert split.value == 0.75 and split.per_speaker == 0.5
    assert split.low == 0.0 and split.high == 1.0
    assert estimate(kept_at(2.0), scores([3.0, 1.0], ["a", "b"])) == estimate(
        kept_at(2.0), scores([3.0, 1.0], ["a", "b"])
    )


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        ({}, CLEAN),
        ({"natural_sync": "probable"}, CLEAN),
        ({"trainable": "yes"}, "may have shaped the weights"),
        ({"natural_sync": "probable-ADR"}, "dubbed or re-voiced"),
        ({"natural_sync": "no-generated"}, "generated"),
        ({"natural_sync": "no-silent", "trainable": "yes"}, "silent audio"),
        ({"natural_sync": "n/a", "language": "none"}, "music or noise, no speech"),
        ({"natural_sync": "n/a", "language": "ja?"}, "drawn"),
        ({"natural_sync": "uncertain"}, "film music"),
        ({"natural_sync": ""}, "sync not known"),
        ({"natural_sync": "yes-partly"}, "rap, cuts to the audience"),
        ({"eyes_px": 59}, "small face"),
        ({"eyes_px": 60}, CLEAN),
        ({"yaw_deg": -31}, "turned head"),
        ({"yaw_deg": 29}, CLEAN),
    ],
)
def test_what_counts_as_clean(made: dict[str, Any], kind: str) -> None:
    assert list(lip_sync_clips.kinds([track(**made)]).values()) == [kind]


def test_two_faces_at_one_time_are_not_clean_and_one_after_the_other_are() -> None:
    together = [track(), track()]
    assert set(lip_sync_clips.kinds(together).values()) == {"several faces"}
    other_file = [track(), track("b.mp4")]
    assert set(lip_sync_clips.kinds(other_file).values()) == {CLEAN}


def test_missing_clips_csv_says_what_it_is_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"clips\.csv is missing.*trainable"):
        lip_sync_clips.read_about(tmp_path)


@pytest.mark.parametrize(
    ("confidence", "offset", "num_frames", "speech", "verdict"),
    [
        (2.0, 6, 125, 0.9, "kept"),
        (1.9, 0, 125, 0.9, "low_sync_confidence"),
        (2.3, 0, 50, 0.9, "low_sync_confidence"),  # 2 s need more
        (2.4, 0, 50, 0.9, "kept"),
        (5.0, 7, 125, 0.9, "av_offset_too_large"),
        (5.0, 0, 125, 0.1, "no_speech"),
    ],
)
def test_verdicts_are_those_of_the_engine(
    confidence: float, offset: int, num_frames: int, speech: float, verdict: str
) -> None:
    score = SyncScore(offset, confidence, 0.0, np.zeros(31, np.float32), 0.0)
    assert lip_sync_cases.verdict(score, num_frames, speech, min_confidence=2.0) == verdict


def at_length(num_frames: int, chance: float) -> lengths.AtLength:
    """Two windows of which one passes; all wrong audio reads `chance`."""
    found = scores([1.0, 9.0], ["a", "b"], np.array([[9] * len(SHIFTS), [1] * len(SHIFTS)]))
    pairs = replace(found.other, confidence=np.full(2, chance))
    return lengths.AtLength(replace(found, length=num_frames, other=pairs), lengths.needed_at(num_frames))


def test_the_factor_is_read_off_the_worst_length_up_to_four_seconds() -> None:
    found = [at_length(50, 1.9), at_length(75, 2.4), at_length(110, 9.0), at_length(125, 2.0), at_length(250, 0.1)]
    assert lengths.fitted_factor(found) == pytest.approx(1.2)


def test_the_page_by_length_counts_what_the_default_thresholds_accept() -> None:
    short, long = at_length(75, 2.4), at_length(125, 2.4)
    assert (short.accepted(2.2), short.accepted(short.needed), long.accepted(long.needed)) == (1.0, 0.0, 1.0)
    assert (short.near(0), short.near(short.needed)) == (0.5, 1.0)  # shifts are missed where it does not pass
    text = lengths.page([short, long], [short, long], "scorer", "folder")
    row = next(line for line in text.splitlines() if line.startswith("| 3 s "))
    assert "| 2.64 | **0.0 %** (0.0 to 0.0) | **50 %** | 0.50 / 1.00 |" in row
    assert lengths.draw([short, long]).axes[0].get_ylabel() == "wrong audio accepted, %"


def test_noise_has_the_power_that_was_asked_for() -> None:
    audio = np.sin(np.arange(160_000) / 7).astype(np.float32)
    added = lip_sync_media.with_noise(audio, 10.0, seed=0) - audio
    assert 10 * np.log10(np.mean(audio**2) / np.mean(added**2)) == pytest.approx(10.0, abs=0.1)


def test_a_codec_gives_the_audio_back_in_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    audio = np.convolve(rng.standard_normal(16_000), np.ones(16) / 16, "same").astype(np.float32) * 0.3
    for suffix, options in (("mp3", ("-b:a", "64k")), ("wav", ("-ar", "8000"))):
        back = lip_sync_media.through_codec(audio, tmp_path, suffix, *options)
        assert len(back) == len(audio)
        lags = np.fft.irfft(np.fft.rfft(back, 32_000) * np.conj(np.fft.rfft(audio, 32_000)))
        assert min(int(lags.argmax()), 32_000 - int(lags.argmax())) <= 16  # 1 ms


def test_not_met_is_said() -> None:
    words = [page_scores.met_or_not(value, 0.85) for value in (0.85, 0.84, float("nan"))]
    assert words == ["met", "**not met**", "not measured"]
