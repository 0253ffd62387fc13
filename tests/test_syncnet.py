"""SyncNet v2: the numbers of the published code, its files, and whole clips."""

import io
import math

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from lipforge.model.audio.mfcc import mfcc
from lipforge.model.clock import SAMPLES_PER_FRAME, SYNC_MARGIN_FRAMES
from lipforge.model.sync.syncnet_v2 import SyncNetScorer, SyncNetV2, lip_crops, sync_score
from lipforge.model.weights import load as weights
from tests.golden import difference, golden_arrays, golden_fill, golden_json, same_keys

CLOSE = 1e-4  # of the expected output's deviation
MARGIN = SYNC_MARGIN_FRAMES * SAMPLES_PER_FRAME


def test_embeddings_and_keys_are_the_published_ones() -> None:
    fill = golden_fill()
    expected = golden_arrays("syncnet_v2.npz")
    network = SyncNetV2().eval()
    assert same_keys(network, "syncnet_v2.keys.json")
    fill.fill_(network, 3)
    with torch.inference_mode():
        lips = network.embed_lips(fill.draw(3, "lip", (2, 3, 5, 224, 224)) * 50 + 110)
        audio = network.embed_audio(fill.draw(3, "aud", (2, 1, 13, 20)) * 10)
    assert difference(lips.numpy(), expected["lip"]) <= CLOSE
    assert difference(audio.numpy(), expected["audio"]) <= CLOSE


def test_offset_and_confidence_are_the_published_ones() -> None:
    draw, expected = golden_fill().draw, golden_json("syncnet_v2.offset.json")
    lips = draw(3, "f1", (60, 64))
    score = sync_score(lips, lips.roll(4, 0) + 0.3 * draw(3, "f2", (60, 64)))
    assert score.offset_frames == expected["av_offset"]
    assert score.distance == pytest.approx(expected["min_distance"], rel=1e-5)
    assert score.confidence == pytest.approx(expected["confidence"], rel=1e-5)


@pytest.mark.parametrize("early_frames", [-15, -4, 0, 1, 15])
def test_early_audio_has_a_positive_offset(early_frames: int) -> None:
    generator = torch.Generator().manual_seed(0)
    everything = torch.randn(100 + 60, 64, generator=generator)
    lips = everything[30:130]
    first = 15 + early_frames  # what belongs to the first frame lies this much before its own place
    score = sync_score(lips, everything[first : first + 130])
    assert score.offset_frames == early_frames
    assert score.curve.argmax() == early_frames + SYNC_MARGIN_FRAMES
    assert score.curve.max() == pytest.approx(-score.distance)
    assert score.confidence == pytest.approx(-np.median(score.curve) - score.distance, abs=1e-4)
    assert score.confidence > 5


def test_sequences_that_do_not_fit_are_refused() -> None:
    for num_lips, num_audio in ((10, 39), (10, 41), (0, 0), (0, 30)):
        with pytest.raises(ValueError, match="vectors of lips"):
            sync_score(torch.zeros(num_lips, 8), torch.zeros(num_audio, 8))


def chirp() -> np.ndarray:
    n = np.arange(2000)
    sweep = 9000 * np.sin(2 * np.pi * (200 * n / 16000 + 3000 * (n / 16000) ** 2))
    return np.rint(sweep + 500 * np.sin(n * n * 0.7)).astype(np.int16)


def test_mfcc_has_the_numbers_of_python_speech_features() -> None:
    rows = mfcc(chirp())
    assert rows.shape == (11, 13)
    # What python_speech_features 0.6 returned for rows 0, 5 and -1 of its mfcc(chirp(), 16000).
    expected = [
        [18.800666, -4.076189, 22.949329, 11.344852, -0.760161, -14.735807, -22.011801,
         -27.259871, -21.376808, -18.958264, -16.351417, -3.751732, -1.333085],
        [19.932386, -1.542248, 11.616985, -19.161416, -35.946621, -30.977705, -8.863503,
         11.576967, 21.644607, 17.640247, 8.879214, -9.508416, -12.065809],
        [20.700263, -3.132252, -4.577969, -34.222374, -24.840678, 8.850523, 33.277305,
         22.006812, -7.159628, -22.8915, -14.775278, -2.068569, 11.683902],
    ]  # fmt: skip
    np.testing.assert_allclose(rows[[0, 5, -1]], expected, atol=2e-6)


@pytest.mark.parametrize(("num_samples", "num_rows"), [(1, 1), (400, 1), (401, 2), (640, 3), (16_000, 99)])
def test_a_row_of_mfcc_starts_every_10_ms_until_the_audio_is_over(num_samples: int, num_rows: int) -> None:
    assert mfcc(np.ones(num_samples, np.int16)).shape == (num_rows, 13)


def test_silence_has_finite_mfcc() -> None:
    assert np.isfinite(mfcc(np.zeros(1600, np.int16))).all()


def test_the_crop_is_the_published_rule_on_the_box_of_an_aligned_face() -> None:
    image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    half, x, y, scale = 0.455 * 256, 0.5 * 256, 0.4365 * 256, 0.4
    top, bottom = math.floor(y - half), math.floor(y + half * (1 + 2 * scale))
    left, right = math.floor(x - half * (1 + scale)), math.floor(x + half * (1 + scale))
    expected = np.full((bottom - top, right - left, 3), 110, np.uint8)
    expected[-top : 256 - top, -left : 256 - left] = image[:, :, ::-1]
    np.testing.assert_array_equal(lip_crops(image[None])[0], cv2.resize(expected, (224, 224)))


def test_the_crop_puts_the_mouth_in_its_middle_and_grey_beyond_the_image() -> None:
    image = np.zeros((1, 256, 256, 3), np.uint8)
    image[:, 155:165, 123:133] = (255, 0, 0)  # a red mouth, at 0.625 of the height
    crop = lip_crops(image)[0]
    blue, _, red = np.moveaxis(crop, -1, 0)  # the order that OpenCV reads
    mouth = np.argwhere((red > 200) & (blue < 50))
    assert np.abs(mouth.mean(axis=0) - 112).max() < 4
    assert (crop[-30:] == 110).all()
    assert (crop[:, :15] == 110).all()
    assert (crop[:, -15:] == 110).all()
    assert (crop[100, 30] == 0).all()


def test_a_larger_image_is_cropped_alike() -> None:
    small = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8), (0, 0), 5)
    large = cv2.resize(small, (512, 512), interpolation=cv2.INTER_LINEAR)
    difference_px = lip_crops(large[None]).astype(int) - lip_crops(small[None]).astype(int)
    assert np.abs(difference_px).max() <= 2


@pytest.fixture(scope="module")
def network() -> SyncNetV2:
    """Random weights, with norms that know their inputs, so that vectors differ as much as a trained network's."""
    torch.manual_seed(0)
    network = SyncNetV2()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            module.momentum = 1.0
    with torch.no_grad():
        frames, audio = clip(12)
        network.embed_clip(torch.from_numpy(lip_crops(frames)).float().permute(3, 0, 1, 2))
        rows = torch.from_numpy(mfcc((audio * 32768).astype(np.int16))).float()
        network.embed_audio(rows.unfold(0, 20, 4)[:, None])
    return network.eval()


def saved(network: SyncNetV2, as_zip: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(network.state_dict(), file, _use_new_zipfile_serialization=as_zip)
    return file.getvalue()


@pytest.fixture(scope="module")
def scorer(network: SyncNetV2) -> SyncNetScorer:
    return SyncNetScorer(saved(network))


def clip(num_frames: int, size: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Moving noise and audio, with silence in the margins."""
    rng = np.random.default_rng(num_frames)
    small = rng.integers(0, 256, (num_frames, 8, 8, 3), dtype=np.uint8)
    frames = np.stack([cv2.resize(image, (size, size)) for image in small])
    audio = np.zeros(num_frames * SAMPLES_PER_FRAME + 2 * MARGIN, np.float32)
    audio[MARGIN:-MARGIN] = rng.normal(scale=0.1, size=num_frames * SAMPLES_PER_FRAME)
    return frames, audio


@torch.inference_mode()
def published_distances(network: SyncNetV2, crops: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """`SyncNetInstance.evaluate` in plain loops: mean distance at each shift from +15 down, zeros beyond the ends."""
    rows = torch.from_numpy(mfcc(samples)).float()
    lips, audio = [], []
    for frame in range(len(crops) - 5):
        window = torch.from_numpy(crops[frame : frame + 5].astype(np.float32)).permute(3, 0, 1, 2)
        lips.append(network.embed_lips(window[None])[0])
        audio.append(network.embed_audio(rows[4 * frame : 4 * frame + 20].T[None, None])[0])
    padded = [torch.zeros(1024)] * 15 + audio + [torch.zeros(1024)] * 15
    return np.array(
        [
            np.mean(
                [float(functional.pairwise_distance(lips[i], padded[i + shift], eps=1e-6)) for i in range(len(lips))]
            )
            for shift in range(31)
        ]
    )


def test_a_clip_is_scored_as_the_published_evaluation_does(network: SyncNetV2, scorer: SyncNetScorer) -> None:
    frames, audio = clip(12)
    samples = np.rint(audio[MARGIN:-MARGIN] * 32768).astype(np.int16)
    published = published_distances(network, lip_crops(frames), samples)
    score = scorer.score(frames, audio)
    assert -score.curve[SYNC_MARGIN_FRAMES] == pytest.approx(published[SYNC_MARGIN_FRAMES], rel=1e-5)
    # At other offsets the published evaluation compares with zeros, here with the audio of the margin.
    assert not np.isclose(-score.curve[0], published[-1], rtol=1e-3)


def test_the_audio_of_the_margin_counts(scorer: SyncNetScorer) -> None:
    frames, audio = clip(12)
    before = scorer.score(frames, audio).curve
    audio[:MARGIN] = np.random.default_rng(0).normal(scale=0.1, size=MARGIN)
    after = scorer.score(frames, audio).curve
    assert after[SYNC_MARGIN_FRAMES + 10] != before[SYNC_MARGIN_FRAMES + 10]
    assert (
        after[SYNC_MARGIN_FRAMES - 10] == before[SYNC_MARGIN_FRAMES - 10]
    )  # late audio is looked for in the other margin


def test_audio_that_is_moved_moves_the_curve(scorer: SyncNetScorer) -> None:
    frames, _ = clip(8)
    audio = np.random.default_rng(1).normal(scale=0.1, size=38 * SAMPLES_PER_FRAME).astype(np.float32)
    later = np.roll(audio, 3 * SAMPLES_PER_FRAME)
    before, after = scorer.score(frames, audio).curve, scorer.score(frames, later).curve
    np.testing.assert_allclose(after[:27], before[3:30], rtol=1e-4)


def test_a_score_repeats_exactly_and_leaves_torch_as_it_was(scorer: SyncNetScorer) -> None:
    threads = torch.get_num_threads()
    first, second = scorer.score(*clip(8)), scorer.score(*clip(8))
    assert first.confidence == second.confidence and (first.curve == second.curve).all()
    assert torch.get_num_threads() == threads


def test_windows_are_the_same_in_any_batch(network: SyncNetV2, scorer: SyncNetScorer) -> None:
    frames, _ = clip(13)  # 9 windows: a full batch and one more
    crops = torch.from_numpy(lip_crops(frames)).float().permute(3, 0, 1, 2)
    windows = torch.stack([crops[:, first : first + 5] for first in range(9)])
    with torch.inference_mode():
        expected = network.embed_lips(windows).numpy()
        assert difference(scorer._embed_lips(frames, lip_crops).numpy(), expected) <= CLOSE


def test_silence_gives_no_confidence(scorer: SyncNetScorer) -> None:
    frames, audio = clip(10)
    assert scorer.score(frames, np.zeros_like(audio)).confidence == pytest.approx(0, abs=1e-4)


def test_six_frames_are_enough_for_a_score(scorer: SyncNetScorer) -> None:
    score = scorer.score(*clip(6))
    assert np.isfinite(score.curve).all() and score.curve.shape == (31,)


@pytest.mark.parametrize("fault", ["too short", "other size", "floats", "no margin", "not finite"])
def test_clips_that_cannot_be_scored_are_refused(scorer: SyncNetScorer, fault: str) -> None:
    frames, audio = clip(8)
    if fault == "too short":
        frames, audio = clip(5)
    elif fault == "other size":
        frames = frames[:, :200]
    elif fault == "floats":
        frames = frames.astype(np.float32)
    elif fault == "no margin":
        audio = audio[MARGIN:-MARGIN]
    else:
        audio[3] = np.nan
    with pytest.raises(ValueError, match="expected"):
        scorer.score(frames, audio)


def test_files_of_both_formats_give_the_same_scorer(network: SyncNetV2, scorer: SyncNetScorer) -> None:
    assert SyncNetScorer(saved(network, as_zip=True)).score(*clip(6)).distance == scorer.score(*clip(6)).distance


def test_other_files_are_refused(network: SyncNetV2) -> None:
    lacking = {key: value for key, value in network.state_dict().items() if key != "netfclip.3.bias"}
    file = io.BytesIO()
    torch.save(lacking, file)
    with pytest.raises(weights.ModelFileError, match=r"netfclip\.3\.bias"):
        SyncNetScorer(file.getvalue())
    with pytest.raises(weights.ModelFileError):
        SyncNetScorer(saved(network)[:100_000])
