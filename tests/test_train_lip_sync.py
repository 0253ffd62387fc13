"""The trainer of the sync scorer: what it reads, what it pairs, and that what it writes can score."""

import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model import weights
from model.lip_points import NUM_SPEAKING, SYNC_LANDMARKS
from model.lip_sync import MEL_PER_FRAME, LipSync
from model.sync_score import SAMPLES_PER_FRAME
from tests.talking_photo import make_talking_photo
from tests.test_lip_sync import SPARE, talking_head
from train import lip_sync
from train.lip_sync import MARGIN, Clip, TrainConfig, draw_batch, load_clips, mean_head, pack, prepare, train_network


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    """Synthetic speakers, whose sound goes with their lips."""
    scorer = LipSync(weights.load("builtin")["lip_sync.safetensors"])
    made = []
    for seed in range(12):
        points, audio = talking_head(scorer, num_frames=50, seed=seed)
        padding = np.zeros((MARGIN - 15 - SPARE) * SAMPLES_PER_FRAME, np.float32)
        made.append(Clip(f"clip{seed}", points, np.concatenate([padding, audio, padding]), 27, 27))
    return made


def test_clips_survive_the_disk_and_known_offsets_are_read(tmp_path: Path, clips: list[Clip]) -> None:
    for clip in clips[:2]:
        lip_sync.save_clip(clip, tmp_path / f"{clip.name}.npz")
    (tmp_path / "offsets.csv").write_text("clip,offset_frames\nclip0,-2\nclip1,\n")
    first, second = load_clips(tmp_path, tmp_path / "offsets.csv")
    assert np.array_equal(first.points, clips[0].points)
    assert np.array_equal(first.audio, clips[0].audio)
    assert (first.frames_before, first.frames_after) == (27, 27)
    assert (first.offset_frames, first.is_known) == (-2.0, True)
    assert (second.offset_frames, second.is_known) == (0.0, False)


@pytest.mark.parametrize("offset", [-4.0, 0.0, 2.5])
def test_lips_are_paired_with_the_sound_that_their_offset_says(
    clips: list[Clip], monkeypatch: pytest.MonkeyPatch, offset: float
) -> None:
    monkeypatch.setattr(lip_sync, "vary_lips", lambda rng, lips: lips)
    monkeypatch.setattr(lip_sync, "vary_sound", lambda rng, power: power)
    frames = np.arange(50, dtype=np.float32)
    heard_at = np.arange((50 + 2 * MARGIN) * MEL_PER_FRAME, dtype=np.float32) / MEL_PER_FRAME - MARGIN
    numbered = replace(
        clips[0],
        lips=np.broadcast_to(frames[:, None, None], (50, NUM_SPEAKING, 3)),
        power=np.broadcast_to(heard_at[:, None], (len(heard_at), 40)),
        offset_frames=offset,
    )
    lips, sound = draw_batch(np.random.default_rng(0), [numbered], np.ones(1), TrainConfig(batch_size=4))
    # early audio (positive offset): what goes with frame t was heard at t - offset
    assert torch.allclose(lips[..., 0] - offset, sound[..., 0], atol=1e-3)
    assert sound.min() >= -27
    assert sound.max() <= 50 + 27


def test_mean_head_is_upright_and_symmetric(clips: list[Clip]) -> None:
    turned = clips[0].points[:20, NUM_SPEAKING:] @ np.array([[0.8, 0.6, 0], [-0.6, 0.8, 0], [0, 0, 1]]) * 3
    head = mean_head(turned)
    place = {int(landmark): index for index, landmark in enumerate(SYNC_LANDMARKS[NUM_SPEAKING:])}
    left_eye, right_eye, forehead, nose = (head[place[landmark]] for landmark in (33, 263, 10, 4))
    assert np.allclose(left_eye, right_eye * [-1, 1, 1])
    assert left_eye[0] < 0 < right_eye[0]
    assert forehead[1] < left_eye[1] < nose[1]
    assert np.sqrt((head**2).sum(axis=1).mean()) == pytest.approx(10)


def test_training_learns_and_what_it_writes_scores(clips: list[Clip]) -> None:
    head = mean_head(np.stack([clip.points[0, NUM_SPEAKING:] for clip in clips]))
    config = TrainConfig(batch_size=12, dropout=0.0)
    learned = train_network(prepare(clips, head), 60, 0, config)
    again = train_network(prepare(clips, head), 60, 0, config)
    assert all(torch.equal(a, b) for a, b in zip(learned.parameters(), again.parameters(), strict=True))
    scorer = LipSync(pack("mine", head, [learned]))
    assert scorer.name == "mine"
    errors = []
    for clip in clips:
        audio = clip.audio[(MARGIN - 15) * SAMPLES_PER_FRAME : -(MARGIN - 15) * SAMPLES_PER_FRAME]
        errors.append(abs(scorer.score(clip.points, audio).offset_frames))
    assert np.median(errors) <= 1  # chance: 7.5


def test_offsets_of_clips_are_found_by_networks_that_did_not_see_them(clips: list[Clip]) -> None:
    shifted = []
    for index, clip in enumerate(clips):
        early = [-2, 0, 2][index % 3]
        shifted.append(replace(clip, audio=np.roll(clip.audio, -early * SAMPLES_PER_FRAME), group=index))
    head = mean_head(np.stack([clip.points[0, NUM_SPEAKING:] for clip in clips]))
    config = TrainConfig(batch_size=12, num_offset_steps=80, dropout=0.0, min_offset_probability=0.0)
    found = {clip.name: clip.offset_frames for clip in lip_sync.correct_offsets(prepare(shifted, head), 0, config)}
    planted = {clip.name: [-2, 0, 2][index % 3] for index, clip in enumerate(clips)}
    correlation = np.corrcoef([found[name] for name in planted], list(planted.values()))[0, 1]
    assert correlation > 0.5


def test_videos_in_a_tar_become_clips(tmp_path: Path) -> None:
    if any(status.state is not weights.FileState.OK for status in weights.verify("builtin")):
        pytest.skip("the built-in model files are not fetched")
    video = make_talking_photo(tmp_path / "someone talks.mp4", duration_s=2.0, size_px=256)
    (tmp_path / "notes.txt").write_text("not a video")
    with tarfile.open(tmp_path / "videos.tar", "w") as archive:
        archive.add(video, "folder/someone talks.mp4")
        archive.add(tmp_path / "notes.txt", "folder/notes.txt")
    lip_sync.extract(tmp_path / "cache", [tmp_path / "videos.tar"])
    (clip,) = load_clips(tmp_path / "cache")
    assert clip.name == "someone talks"
    assert clip.points.shape == (50, len(SYNC_LANDMARKS), 3)
    assert clip.audio.shape == ((50 + 2 * MARGIN) * SAMPLES_PER_FRAME,)
    assert (clip.frames_before, clip.frames_after) == (0, 0)
    inside = clip.audio[MARGIN * SAMPLES_PER_FRAME : -MARGIN * SAMPLES_PER_FRAME]
    assert np.abs(inside).max() > 0.01
    assert np.array_equal(np.flatnonzero(clip.audio[: MARGIN * SAMPLES_PER_FRAME]), [])
