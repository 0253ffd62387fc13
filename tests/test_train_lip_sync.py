"""The trainer of the sync scorer: what it reads, what it pairs, and that what it writes can score."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lipforge.model.clock import SAMPLES_PER_FRAME, SYNC_MARGIN_FRAMES
from lipforge.model.faces.lip_points import MOUTH_PX, NUM_SPEAKING, SYNC_LANDMARKS
from lipforge.model.sync.builtin import MEL_PER_FRAME, MOUTH_WAVES, LipSyncScorer, mouth_motion
from lipforge.model.weights import load as weights
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.config_loader import load_config
from lipforge.train.scorers import augmentation, lip_sync
from lipforge.train.scorers.augmentation import BatchSampler
from lipforge.train.scorers.clip_features import add_features, mean_head
from lipforge.train.scorers.clips import TrainingClip, extract_clips, load_clips, save_clip
from lipforge.train.scorers.config import ScorerTrainingConfig
from lipforge.train.scorers.evaluation import area_under_curve
from lipforge.train.scorers.lip_sync import pack_weights
from lipforge.train.scorers.offsets import correct_offsets, zero_offset
from lipforge.train.scorers.training import train_network
from tests.conftest import run_prepare
from tests.talking_photo import make_talking_photo
from tests.test_lip_sync import SPARE, talking_head

NUM_FRAMES = 50
SMALL = ScorerTrainingConfig(batch_size=12, dropout=0.0, num_framings=2)


@pytest.fixture(scope="module")
def talkers() -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Points, mouths and audio (with margin) of synthetic speakers, whose audio goes with their lips."""
    scorer = LipSyncScorer(weights.load("builtin")["lip_sync.safetensors"])
    return [talking_head(scorer, NUM_FRAMES, seed) for seed in range(12)]


def own_audio(audio: np.ndarray, early_by: int = 0) -> np.ndarray:
    first = (SYNC_MARGIN_FRAMES + SPARE + early_by) * SAMPLES_PER_FRAME
    return audio[first : first + NUM_FRAMES * SAMPLES_PER_FRAME]


@pytest.fixture(scope="module")
def clips(talkers) -> list[TrainingClip]:
    return [
        TrainingClip(f"clip{index}", f"{index}.mp4", None, 0, points, mouths, own_audio(audio))
        for index, (points, mouths, audio) in enumerate(talkers)
    ]


def test_clips_survive_the_disk(tmp_path: Path, clips: list[TrainingClip]) -> None:
    written = replace(clips[0], speaker="anna", corrected_frames=-3)
    save_clip(written, tmp_path / "clip0.npz")
    (read,) = load_clips(tmp_path)
    for name in ("points", "mouths", "audio"):
        assert np.array_equal(getattr(read, name), getattr(written, name))
    assert (read.name, read.source, read.speaker, read.corrected_frames) == ("clip0", "0.mp4", "anna", -3)


def test_an_empty_cache_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="extract"):
        next(load_clips(tmp_path))


@pytest.mark.parametrize("damage", ["text", "cut off", "flipped bits", "other arrays", "empty"])
def test_a_damaged_clip_is_named(tmp_path: Path, clips: list[TrainingClip], damage: str) -> None:
    path = tmp_path / "clip0.npz"
    save_clip(clips[0], path)
    content = path.read_bytes()
    if damage == "other arrays":
        np.savez(path, points=np.zeros(3))
    else:
        middle = len(content) // 2
        flipped = (
            content[:middle] + bytes(255 - byte for byte in content[middle : middle + 99]) + content[middle + 99 :]
        )
        path.write_bytes({"text": b"no clip", "cut off": content[:-99], "flipped bits": flipped, "empty": b""}[damage])
    with pytest.raises(ValueError, match=r"clip0\.npz: not a clip written by `extract`"):
        list(load_clips(tmp_path))


def test_what_the_end_of_training_needs_is_checked_before_it(tmp_path: Path, clips: list[TrainingClip]) -> None:
    table = tmp_path / "known.csv"
    for content in ("file,offset\na.mp4,1\n", "source,offset_frames\na.mp4,early\n", "source,offset_frames\na.mp4\n"):
        table.write_text(content)
        with pytest.raises(ValueError, match="columns source and offset_frames"):
            lip_sync.train_scorer(tmp_path, tmp_path / "weights.safetensors", "mine", table)
    with pytest.raises(ValueError, match=r"there is no folder .*missing"):
        lip_sync.train_scorer(tmp_path, tmp_path / "missing" / "weights.safetensors", "mine")


def test_known_sources_that_no_clip_comes_from_are_named(
    tmp_path: Path, clips: list[TrainingClip], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lip_sync, "add_features", lambda clips, config: (list(clips), None))
    save_clip(clips[0], tmp_path / "clip0.npz")
    table = tmp_path / "known.csv"
    table.write_text("source,offset_frames\n0.mp4,1\nother.mp4,2\n")
    with pytest.raises(ValueError, match=r"comes from other\.mp4$"):
        lip_sync.train_scorer(tmp_path, tmp_path / "weights.safetensors", "mine", table)


def test_one_speaker_is_not_enough(clips: list[TrainingClip]) -> None:
    seen, _ = add_features([replace(clip, speaker="anna") for clip in clips], SMALL)
    with pytest.raises(ValueError, match="all clips are of one speaker"):
        correct_offsets(seen, 0, SMALL)


@pytest.mark.parametrize("offset", [-4.0, 0.0, 2.5])
def test_lips_are_paired_with_the_audio_that_their_offset_says(
    clips: list[TrainingClip], monkeypatch: pytest.MonkeyPatch, offset: float
) -> None:
    monkeypatch.setattr(augmentation, "vary_lips", lambda rng, lips, mirrored: lips)
    monkeypatch.setattr(augmentation, "vary_waves", lambda rng, waves, mirrored: waves)
    monkeypatch.setattr(augmentation, "vary_audio", lambda rng, power: power)
    frames = np.arange(NUM_FRAMES, dtype=np.float32)
    heard_at = np.arange(NUM_FRAMES * MEL_PER_FRAME, dtype=np.float32) / MEL_PER_FRAME
    numbered = replace(
        clips[0],
        lips=np.broadcast_to(frames[:, None, None], (NUM_FRAMES, NUM_SPEAKING, 3)),
        waves=np.broadcast_to(frames[None, :, None], (2, NUM_FRAMES, MOUTH_WAVES**2)),
        power=np.broadcast_to(heard_at[:, None], (len(heard_at), 40)),
        offset_frames=offset,
    )
    lips, audio = BatchSampler([numbered], ScorerTrainingConfig(batch_size=4)).draw_batch(np.random.default_rng(0))
    # early audio (positive offset): what goes with frame t was heard at t - offset
    assert torch.allclose(lips[..., 0] - offset, audio[..., 0], atol=1e-3)
    assert torch.allclose(lips[..., -1], lips[..., 0], atol=1e-3)
    assert audio.min() >= 0
    assert audio.max() <= NUM_FRAMES


def test_a_batch_takes_several_clips_of_a_speaker(clips: list[TrainingClip]) -> None:
    grouped = [replace(clip, group=index // 4) for index, clip in enumerate(clips)]
    chosen = BatchSampler(grouped, ScorerTrainingConfig(batch_size=8, clips_per_group=4)).draw_clips(
        np.random.default_rng(0)
    )
    groups = [clip.group for clip in chosen]
    assert groups[0] == groups[1] == groups[2] == groups[3]
    assert len({clip.name for clip in chosen[:4]}) == 4


def test_named_speakers_are_groups(clips: list[TrainingClip]) -> None:
    named = [replace(clip, speaker=f"speaker{index % 3}") for index, clip in enumerate(clips)]
    seen, _ = add_features(named, SMALL)
    assert [clip.group for clip in seen] == [index % 3 for index in range(12)]


def test_a_mirror_image_has_the_waves_of_the_mirrored_image(clips: list[TrainingClip]) -> None:
    mouths = clips[0].mouths.copy()
    mouths[:, :, :20] //= 2  # not the same on both sides
    rng = np.random.default_rng(0)
    plain, mirrored = mouth_motion(mouths), mouth_motion(mouths[:, :, ::-1])
    still: Any = _Still()
    varied = augmentation.vary_waves(still, np.stack([plain, plain]), np.array([False, True]))
    assert np.allclose(varied[0], plain, atol=1e-5)
    assert np.allclose(varied[1], mirrored, atol=1e-4)
    assert not np.allclose(augmentation.vary_waves(rng, plain[None], np.array([False])), plain, atol=1e-2)


class _Still:
    """A random generator that varies nothing."""

    def random(self, shape, dtype=np.float64):
        return np.zeros(shape, dtype)

    def uniform(self, low, high, shape):
        return np.zeros(shape)

    normal = uniform

    def standard_normal(self, shape, dtype=np.float64):
        return np.zeros(shape, dtype)


def test_mean_head_is_upright_and_symmetric(clips: list[TrainingClip]) -> None:
    turned = clips[0].points[:20, NUM_SPEAKING:] @ np.array([[0.8, 0.6, 0], [-0.6, 0.8, 0], [0, 0, 1]]) * 3
    head = mean_head(turned)
    place = {int(landmark): index for index, landmark in enumerate(SYNC_LANDMARKS[NUM_SPEAKING:])}
    left_eye, right_eye, forehead, nose = (head[place[landmark]] for landmark in (33, 263, 10, 4))
    assert np.allclose(left_eye, right_eye * [-1, 1, 1])
    assert left_eye[0] < 0 < right_eye[0]
    assert forehead[1] < left_eye[1] < nose[1]
    assert np.sqrt((head**2).sum(axis=1).mean()) == pytest.approx(10)


@pytest.mark.slow
def test_training_learns_and_what_it_writes_scores(clips: list[TrainingClip], talkers) -> None:
    seen, head = add_features(clips, SMALL)
    learned = train_network(seen, 60, 0, SMALL)
    again = train_network(seen, 60, 0, SMALL)
    assert all(torch.equal(a, b) for a, b in zip(learned.parameters(), again.parameters(), strict=True))
    scorer = LipSyncScorer(pack_weights("mine", head, 0.0, [learned]))
    assert scorer.name == "mine"
    errors = []
    for points, mouths, audio in talkers:
        heard = audio[SPARE * SAMPLES_PER_FRAME : -SPARE * SAMPLES_PER_FRAME]
        errors.append(abs(scorer.score(points, mouths, heard).offset_frames))
    assert np.median(errors) <= 1  # chance: 7.5


def test_zero_is_where_known_clips_have_it(clips: list[TrainingClip], talkers) -> None:
    seen, head = add_features(clips, SMALL)
    network = train_network(seen, 60, 0, SMALL)
    known = {clip.source: 2.0 for clip in clips}  # as if all of them had been 2 frames early
    shift = zero_offset([network], seen, known) - zero_offset([network], seen, {clip.source: 0 for clip in clips})
    assert shift == pytest.approx(-2)
    points, mouths, audio = talkers[0]
    heard = audio[SPARE * SAMPLES_PER_FRAME : -SPARE * SAMPLES_PER_FRAME]
    plain, moved = (
        LipSyncScorer(pack_weights("mine", head, zero, [network])).score(points, mouths, heard) for zero in (0.0, -2.0)
    )
    assert moved.offset_frames == plain.offset_frames + 2


def test_offsets_of_clips_are_found_by_networks_that_did_not_see_them(talkers) -> None:
    planted = [[-2, 0, 2][index % 3] for index in range(len(talkers))]
    shifted = [
        TrainingClip(f"clip{index:02d}", "", f"speaker{index}", 0, points, mouths, own_audio(audio, early))
        for index, ((points, mouths, audio), early) in enumerate(zip(talkers, planted, strict=True))
    ]
    config = SMALL.model_copy(update={"num_offset_steps": 80, "min_offset_probability": 0.0})
    seen, _ = add_features(shifted, config)
    found = [clip.offset_frames for clip in correct_offsets(seen, 0, config)]
    assert np.corrcoef(np.array(found, float), planted)[0, 1] > 0.5


def test_clips_of_a_dataset_are_taken_out(tmp_path: Path, models: dict[str, bytes]) -> None:
    make_talking_photo(tmp_path / "someone.mp4", duration_s=6.0, av_offset_frames=2)
    config = load_config(
        PrepareConfig, None, ["run.executor=local", "thresholds.min_quality=0", "thresholds.min_speech_ratio=0"]
    )
    run_prepare([str(tmp_path / "someone.mp4")], tmp_path / "dataset", config)
    extract_clips(str(tmp_path / "dataset"), tmp_path / "cache")
    (clip,) = load_clips(tmp_path / "cache")
    assert clip.source == "someone.mp4"
    assert clip.points.shape == (clip.num_frames, len(SYNC_LANDMARKS), 3)
    assert clip.mouths.shape == (clip.num_frames, MOUTH_PX, MOUTH_PX)
    assert clip.audio.shape == (clip.num_frames * SAMPLES_PER_FRAME,)
    assert abs(clip.corrected_frames - 2) <= 1
    # the face found again in the crop opens its mouth as the mouth image does
    gap = np.linalg.norm(clip.points[:, 35] - clip.points[:, 25], axis=1)
    dark = (clip.mouths[:, 16:40, 16:48] < 60).mean(axis=(1, 2))
    assert np.corrcoef(gap, dark)[0, 1] > 0.5


def test_area_under_curve_counts_pairs() -> None:
    assert area_under_curve(np.array([1.0, 3.0]), np.array([0.0, 2.0])) == 0.75
    assert area_under_curve(np.array([1.0]), np.array([1.0])) == 0.5
