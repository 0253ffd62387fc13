"""The quality score falls with every kind of damage, means the same for everyone, and is quick enough."""

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import skimage.data
from scipy.stats import spearmanr

from lipforge.model.quality.builtin import ImageQuality, image_statistics
from lipforge.model.weights import load as weights
from lipforge.train.scorers.quality import DAMAGES, fit

CLIPS = Path(__file__).parents[1].parent / "shared" / "data" / "clips"
needs_clips = pytest.mark.skipif(not CLIPS.is_dir(), reason="the real clips are not next to the repository")

STRENGTHS = {
    "blur": [0, 0.7, 1.2, 1.8, 2.5, 3.5, 5, 7],
    "enlarge": [1, 1.5, 2, 2.7, 3.5, 4.5, 6, 8],
    "noise": [0, 4, 8, 12, 18, 25, 35, 50],
    "jpeg": [5, 40, 60, 75, 85, 90, 94, 97],  # 100 - quality
    "h264": [18, 25, 29, 33, 37, 41, 45, 50],
}
FACES = {  # clips that were not trained on: centre x, centre y and side of the face in the first frame
    "ditto_celebv_man.mp4": (796, 481, 482),
    "spectre_mead_w023.mp4": (1023, 537, 518),
    "headpose_31.mp4": (538, 352, 360),
    "w2lgfpgan_kim_raw.mp4": (972, 342, 385),
}


@pytest.fixture(scope="module")
def quality() -> ImageQuality:
    return ImageQuality(weights.load("builtin")["quality.json"])


def astronaut_face() -> np.ndarray:
    return cv2.resize(skimage.data.astronaut()[56:186, 159:289], (256, 256), interpolation=cv2.INTER_CUBIC)


def face_of(name: str) -> np.ndarray:
    x, y, side = FACES[name]
    with av.open(str(CLIPS / name)) as container:
        frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
    face = frame[max(0, y - side // 2) :, max(0, x - side // 2) :][:side, :side]
    return cv2.resize(face, (256, 256), interpolation=cv2.INTER_AREA)


def scores_of_damage(quality: ImageQuality, face: np.ndarray, kind: str) -> list[float]:
    rng = np.random.default_rng(1)
    return [quality.score(DAMAGES[kind](face, strength, rng)[None]) for strength in STRENGTHS[kind]]


@pytest.mark.parametrize("kind", STRENGTHS)
def test_score_falls_with_damage(quality: ImageQuality, kind: str) -> None:
    face = astronaut_face()
    scores = scores_of_damage(quality, face, kind)
    assert spearmanr(STRENGTHS[kind], scores).statistic <= -0.9
    assert 70 < quality.score(face[None]) < 95
    assert scores[-1] < 25


@needs_clips
@pytest.mark.parametrize("kind", STRENGTHS)
@pytest.mark.parametrize("name", FACES)
def test_score_falls_with_damage_on_unseen_speakers(quality: ImageQuality, name: str, kind: str) -> None:
    face = face_of(name)
    scores = scores_of_damage(quality, face, kind)
    assert spearmanr(STRENGTHS[kind], scores).statistic <= -0.9
    assert 70 < quality.score(face[None]) < 95
    assert scores[-1] < 25


@needs_clips
def test_a_face_enlarged_many_times_is_below_the_threshold(quality: ImageQuality) -> None:
    with av.open(str(CLIPS / "sparsesync_lrs3_uncropped.mp4")) as container:
        frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
    face = cv2.resize(frame[40:74, 278:312], (256, 256), interpolation=cv2.INTER_CUBIC)
    assert quality.score(face[None]) < 40


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_blank_image_is_worthless(quality: ImageQuality, level: int) -> None:
    assert quality.score(np.full((1, 256, 256, 3), level, np.uint8)) < 5


def test_score_is_the_mean_over_frames(quality: ImageQuality) -> None:
    sharp = astronaut_face()
    soft = cv2.GaussianBlur(sharp, (0, 0), 3)
    each = [quality.score(sharp[None]), quality.score(soft[None])]
    assert quality.score(np.stack([sharp, soft])) == pytest.approx(np.mean(each))


def test_512_px_means_the_same_as_256_px(quality: ImageQuality) -> None:
    face = astronaut_face()
    large = cv2.resize(face, (512, 512), interpolation=cv2.INTER_CUBIC)
    assert quality.score(large[None]) == pytest.approx(quality.score(face[None]), abs=5)


def test_exposure_hardly_matters(quality: ImageQuality) -> None:
    face = astronaut_face()
    dim = (face * 0.6).astype(np.uint8)
    assert quality.score(dim[None]) == pytest.approx(quality.score(face[None]), abs=8)


def test_wrong_input_is_refused(quality: ImageQuality) -> None:
    for frames in (np.zeros((0, 256, 256, 3), np.uint8), np.zeros((256, 256, 3), np.uint8), np.zeros((1, 256, 256, 3))):
        with pytest.raises(ValueError, match="uint8 frames"):
            quality.score(frames)


def test_statistics_of_gaussian_noise_have_the_gaussian_shape() -> None:
    noise = np.random.default_rng(0).normal(128, 30, (256, 256, 1)).clip(0, 255).astype(np.uint8)
    shape = np.exp(image_statistics(noise.repeat(3, axis=2))[0])
    assert 1.8 < shape < 3.5  # 2 for a Gaussian; dividing by the local deviation makes it rounder


def test_a_fit_is_repeatable() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 41))
    scores = 50 + 20 * np.tanh(features[:, 0])
    assert fit(features, scores, num_steps=20) == fit(features, scores, num_steps=20)
