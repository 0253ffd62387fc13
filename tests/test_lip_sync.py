"""The built-in sync scorer: sign, shifts, repeatability, loudness, and what it does with silence and nonsense."""

import cv2
import numpy as np
import pytest
import torch

from lipforge.model.clock import SAMPLES_PER_FRAME, SYNC_MARGIN_FRAMES
from lipforge.model.faces.lip_points import MOUTH_PX, NUM_SPEAKING, SYNC_LANDMARKS, mouth_images
from lipforge.model.sync.builtin import (
    MOUTH_WAVES,
    LipSyncScorer,
    SyncNetwork,
    confidence,
    lip_motion,
    mouth_motion,
    peak,
    similarity_by_shift,
    similarity_to,
)
from lipforge.model.sync.weights_file import DEFAULT_MIN_CONFIDENCE
from lipforge.model.weights import load as weights

NUM_FRAMES = 125
SPARE = 12  # frames of audio beyond what scoring needs, to shift it by


@pytest.fixture(scope="module")
def scorer() -> LipSyncScorer:
    return LipSyncScorer(weights.load("builtin")["lip_sync.safetensors"])


def synthetic_speech(rng: np.random.Generator, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """How far the mouth is open at 16 kHz (0..1), and a voice that goes with it: vowels open it, hisses close it."""
    times = np.arange(num_frames * SAMPLES_PER_FRAME) / 16_000
    turns = np.cumsum(rng.uniform(0.06, 0.25, int(times[-1] / 0.06)))  # the mouth opens and closes in no fixed rhythm
    heights = rng.random(len(turns)) * np.where(np.arange(len(turns)) % 2, 1.0, 0.2)
    opening = np.interp(times, turns, heights)
    opening = np.convolve(opening, np.hanning(1200) / np.hanning(1200).sum(), "same")
    formant = 300 + 600 * opening
    phase = 2 * np.pi * 130 * times
    voice = sum(
        np.sin(k * phase)
        * (np.exp(-(((130 * k - formant) / 150) ** 2)) + 0.3 * np.exp(-(((130 * k - 1500) / 300) ** 2)))
        for k in range(1, 25)
    )
    hiss = np.diff(rng.normal(size=len(times) + 1)) * (opening < 0.12)
    audio = 0.1 * voice * np.clip(opening - 0.05, 0, None) + 0.003 * hiss + 1e-4 * rng.normal(size=len(times))
    return opening, audio.astype(np.float32)


def talking_head(
    scorer: LipSyncScorer, num_frames: int = NUM_FRAMES, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points and mouth images as `score` takes them, and audio with SYNC_MARGIN_FRAMES + SPARE frames of margin."""
    rng = np.random.default_rng(seed)
    margin = SYNC_MARGIN_FRAMES + SPARE
    opening, audio = synthetic_speech(rng, num_frames + 2 * margin)
    gap = opening[(np.arange(num_frames) + margin) * SAMPLES_PER_FRAME + SAMPLES_PER_FRAME // 2][:, None]
    head = np.zeros((num_frames, len(SYNC_LANDMARKS), 3))
    head[:, NUM_SPEAKING:] = scorer.reference
    around = np.arange(20) / 20 * 2 * np.pi
    across, over = -np.cos(around), np.sin(around)  # from the left corner over the upper lip
    for start, half_width, upper, lower in ((0, 4.4, 1.3, 2.0), (20, 3.8, 0.4, 0.4)):
        head[:, start : start + 20, 0] = half_width * across * (1 - 0.15 * gap)
        rise = np.where(over > 0, upper + 0.4 * gap, lower + 2.8 * gap)
        head[:, start : start + 20, 1] = 15 - over * rise
    head[:, 40:NUM_SPEAKING, 0] = np.array([-5.4, -3.9, -2.3, 0, 2.1, 3.8, 5.3, -6.7, 6.6])
    head[:, 40:NUM_SPEAKING, 1] = np.array([18.5, 19.8, 20.7, 21, 20.7, 19.8, 18.5, 17.2, 17.2]) + 2.5 * gap
    head[:, :40, 2], head[:, 40:NUM_SPEAKING, 2] = 1.5, 7.0
    pixels = 8 * head + [400, 300, 0] + rng.normal(0, 0.3, head.shape)
    mouths = np.stack([drawn_mouth(float(value)) for value in gap[:, 0]])
    noisy = np.clip(mouths + rng.normal(0, 2, mouths.shape), 0, 255).astype(np.uint8)
    return pixels.astype(np.float32), noisy, audio


def drawn_mouth(gap: float) -> np.ndarray:
    """A mouth as `mouth_images` shows it, open by `gap` (0..1): uint8 [64, 64]."""
    image = np.full((MOUTH_PX, MOUTH_PX), 170, np.uint8)
    width = 17 * (1 - 0.15 * gap)
    cv2.ellipse(image, ((32, 22 + 4 * gap), (2 * width + 6, 10 + 14 * gap), 0), 110, -1, cv2.LINE_AA)
    cv2.ellipse(image, ((32, 22 + 4 * gap), (2 * width - 4, 1 + 14 * gap), 0), 40, -1, cv2.LINE_AA)
    cv2.ellipse(image, (32, round(48 + 6 * gap)), (20, 10), 0, 20, 160, 140, 2, cv2.LINE_AA)
    return image


def heard(audio: np.ndarray, early_by: int = 0) -> np.ndarray:
    """Audio as `score` takes it, made `early_by` frames earlier."""
    return audio[(SPARE + early_by) * SAMPLES_PER_FRAME : len(audio) - (SPARE - early_by) * SAMPLES_PER_FRAME]


@pytest.mark.parametrize("early_by", [-10, -6, -1, 0, 1, 6, 10])
def test_early_audio_has_positive_offset(scorer: LipSyncScorer, early_by: int) -> None:
    points, mouths, audio = talking_head(scorer)
    score = scorer.score(points, mouths, heard(audio, early_by))
    assert abs(score.offset_frames - early_by) <= 1
    assert score.confidence > DEFAULT_MIN_CONFIDENCE


def test_curve_peaks_at_the_offset_and_gives_confidence_and_distance(scorer: LipSyncScorer) -> None:
    points, mouths, audio = talking_head(scorer)
    score = scorer.score(points, mouths, heard(audio, 3))
    assert score.curve.shape == (2 * SYNC_MARGIN_FRAMES + 1,)
    assert score.curve.dtype == np.float32
    assert (
        abs(int(score.curve.argmax()) - SYNC_MARGIN_FRAMES - score.offset_frames) <= 1
    )  # 0 is where known clips have it
    assert score.distance == pytest.approx(1 - score.curve.max())


def test_other_speech_is_far_less_confident(scorer: LipSyncScorer) -> None:
    points, mouths, audio = talking_head(scorer)
    own = scorer.score(points, mouths, heard(audio)).confidence
    others = [
        scorer.score(points, mouths, heard(talking_head(scorer, seed=seed)[2])).confidence for seed in range(1, 6)
    ]
    assert max(others) < 0.6 * own


def test_loudness_and_image_size_do_not_matter(scorer: LipSyncScorer) -> None:
    points, mouths, audio = talking_head(scorer)
    normal = scorer.score(points, mouths, heard(audio))
    quiet_and_small = scorer.score(points * 0.25 - 30, mouths, heard(audio) * 0.01)
    assert quiet_and_small.offset_frames == normal.offset_frames
    assert quiet_and_small.confidence == pytest.approx(normal.confidence, rel=0.01)


def test_head_motion_is_taken_out(scorer: LipSyncScorer) -> None:
    points, _, _ = talking_head(scorer)
    still = lip_motion(points, scorer.reference)
    moved = points.copy()
    for frame in range(NUM_FRAMES):
        turn, _ = cv2.Rodrigues(np.array([0.2 * np.sin(frame / 9), 0.3 * np.sin(frame / 7), 0.2 * np.sin(frame / 5)]))
        moved[frame] = (1 + 0.2 * np.sin(frame / 11)) * points[frame] @ turn.T + [frame, 2 * frame, 0]
    assert np.abs(lip_motion(moved, scorer.reference) - still).max() < 0.01


def test_a_head_is_turned_and_never_mirrored() -> None:
    head = np.random.default_rng(0).normal(size=(25, 3))
    head -= head.mean(axis=0)
    turn, _ = similarity_to(head, (head * [-1, 1, 1])[None])
    assert np.linalg.det(turn[0]) == pytest.approx(1)


def test_same_clip_same_numbers(scorer: LipSyncScorer) -> None:
    points, mouths, audio = talking_head(scorer)
    first = scorer.score(points, mouths, heard(audio))
    again = LipSyncScorer(weights.load("builtin")["lip_sync.safetensors"]).score(
        points.copy(), mouths.copy(), heard(audio).copy()
    )
    assert np.array_equal(first.curve, again.curve)
    assert first.confidence == again.confidence


@pytest.mark.parametrize("what", ["silent", "still"])
def test_silence_and_still_lips_have_no_confidence(scorer: LipSyncScorer, what: str) -> None:
    points, mouths, audio = talking_head(scorer)
    if what == "silent":
        audio = np.zeros_like(audio)
    else:
        points, mouths = (np.repeat(part[:1], NUM_FRAMES, axis=0) for part in (points, mouths))
    score = scorer.score(points, mouths, heard(audio))
    assert score.confidence < 0.5 * DEFAULT_MIN_CONFIDENCE
    assert np.isfinite(score.curve).all()


def test_every_shift_is_judged_on_the_same_frames() -> None:
    seen = np.random.default_rng(0).normal(size=(20, 8))
    seen /= np.linalg.norm(seen, axis=1, keepdims=True)
    audio = np.zeros((50, 8))
    audio[11:31] = seen
    similar = similarity_by_shift(seen, audio)
    assert similar.shape == (20, 31)
    assert similar[:, 11] == pytest.approx(np.ones(20))


def test_vectors_see_thirteen_frames_and_no_padding() -> None:
    network = SyncNetwork().eval()
    frames = torch.randn(1, 40, 3 * NUM_SPEAKING + MOUTH_WAVES**2, generator=torch.Generator().manual_seed(0))
    whole = network.lips(frames)
    assert whole.shape[1] == 28
    assert torch.allclose(network.lips(frames[:, 5:18])[0, 0], whole[0, 5], atol=1e-5)


def test_the_peak_is_found_between_samples() -> None:
    places = np.arange(31)
    assert peak(1 - 0.01 * (places - 12.3) ** 2) == pytest.approx(12.3)
    assert peak(places.astype(float)) == 30


def similar_frames(rng: np.random.Generator, num_frames: int) -> np.ndarray:
    """Similarities of a face in sync at shift 15, with noise: [T, 31]."""
    similar = rng.normal(0, 0.3, (num_frames, 31))
    similar[:, 15] += 0.4
    return similar


def test_who_listens_for_some_seconds_is_not_trusted() -> None:
    speaker = similar_frames(np.random.default_rng(0), 238)
    listener = speaker.copy()
    listener[119:, 15] -= 0.4
    assert confidence(listener) < 0.5 * confidence(speaker)


def test_another_shift_in_between_is_not_trusted() -> None:
    similar = similar_frames(np.random.default_rng(0), 238)
    jumps = similar.copy()
    jumps[119:] = np.roll(similar[119:], 5, axis=1)
    assert confidence(jumps) < 0.5 * confidence(similar)


@pytest.mark.parametrize("best", [0, 30])
def test_the_edge_of_the_search_is_no_peak(best: int) -> None:
    similar = similar_frames(np.random.default_rng(0), 113)
    assert confidence(np.roll(similar, best - 15, axis=1)) == 0
    assert confidence(np.roll(similar, 14, axis=1)) > 1


def test_confidence_reads_the_same_for_long_clips() -> None:
    rng = np.random.default_rng(0)
    short = np.median([confidence(similar_frames(rng, 113)) for _ in range(20)])
    long = np.median([confidence(similar_frames(rng, 238)) for _ in range(20)])
    assert 0.8 * short < long <= short


def test_mouth_images_show_the_mouth_of_the_template() -> None:
    frames = np.zeros((2, 256, 256, 3), np.uint8)
    frames[:, 150:174, 108:148] = 255  # lips lie there in aligned crops
    for size in (256, 512):
        mouths = mouth_images(np.stack([cv2.resize(frame, (size, size)) for frame in frames]))
        assert mouths.shape == (2, MOUTH_PX, MOUTH_PX)
        bright = np.argwhere(mouths[0] > 128)
        assert bright.mean(axis=0) == pytest.approx([24.5, 31.5], abs=1)


def test_a_mouth_that_does_not_move_has_no_motion() -> None:
    still = np.repeat(drawn_mouth(0.5)[None], 30, axis=0)
    assert np.abs(mouth_motion(still)).max() < 1e-4
    moving = np.stack([drawn_mouth(frame % 2) for frame in range(30)])
    assert np.abs(mouth_motion(moving)).max() > 0.2


def test_wrong_shapes_and_values_are_refused(scorer: LipSyncScorer) -> None:
    points, mouths, audio = talking_head(scorer)
    with pytest.raises(ValueError, match="points"):
        scorer.score(points[:20], mouths[:20], heard(audio)[: 50 * SAMPLES_PER_FRAME])
    with pytest.raises(ValueError, match="mouths"):
        scorer.score(points, mouths[:-1], heard(audio))
    with pytest.raises(ValueError, match="audio"):
        scorer.score(points, mouths, heard(audio)[:-1])
    with pytest.raises(ValueError, match="finite"):
        scorer.score(np.full_like(points, np.nan), mouths, heard(audio))
    with pytest.raises(ValueError, match="finite"):
        scorer.score(points, mouths, np.full_like(heard(audio), np.inf))
