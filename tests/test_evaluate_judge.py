"""The numbers of one clip: what moves them, what does not, and when there are none."""

import numpy as np
import pytest

from lipforge.model.clock import SAMPLES_PER_FRAME, SYNC_MARGIN_FRAMES
from lipforge.model.faces.lip_points import NUM_SPEAKING, SYNC_LANDMARKS
from lipforge.pipeline.evaluate import judge as judge_module
from lipforge.pipeline.evaluate.clip import AlignedClip, Unmeasurable
from lipforge.pipeline.evaluate.judge import Judge, delayed
from lipforge.pipeline.evaluate.metrics import METRICS
from lipforge.pipeline.evaluate.mouth import jitter_px, leak, lip_distance_px, movement, opening_curve
from lipforge.pipeline.evaluate.numbers import interval, numbers_of
from tests.evaluated import crops_of
from tests.talking_photo import render

CHEAP = frozenset(METRICS) - {
    "lpips",
    "lpips_mouth",
    "st_lpips",
    "st_lpips_mouth",
    "fid",
    "fvd",
    "csim",
    "identity_drift",
}


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge(only=CHEAP)


@pytest.fixture(scope="module")
def clip(judge: Judge) -> AlignedClip:
    """3.2 s of the talking photograph at 128 px, as a trainer may have it."""
    frames, audio = render(3.2, 0, 1, 256)
    margin = SYNC_MARGIN_FRAMES * SAMPLES_PER_FRAME
    return judge.aligned("talk", crops_of(frames, judge, 128), np.pad(audio, margin))


def test_sound_that_is_delayed_lowers_the_offset_by_as_much(judge: Judge, clip: AlignedClip):
    own = judge.sync(clip)
    assert own.confidence > 2.2 and abs(own.offset_frames) <= 1
    for shift in (-4, 3):
        moved = judge.sync(clip, shift)
        assert moved.offset_frames == own.offset_frames - shift


def test_a_smaller_crop_is_judged_at_256_px_and_against_itself_all_is_equal(
    judge: Judge, clip: AlignedClip, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(judge_module, "PICTURES", 4)
    assert clip.frames.shape == (80, 256, 256, 3)
    found = judge.measured(clip, clip)
    assert found.reasons == {}
    assert found.values["ssim"] == pytest.approx(1, abs=1e-5) and found.values["psnr_db_mouth"] == 100
    assert found.values["lip_distance_px"] == pytest.approx(0, abs=1e-9) and found.values["jitter_excess"] == 0
    assert found.values["shift_error_frames"] < 1 and found.values["mouth_movement"] > 0.01
    assert set(found.values) <= CHEAP


def test_only_what_is_wanted_is_measured(judge: Judge, clip: AlignedClip):
    few = Judge(only=frozenset({"sync_confidence", "psnr_db"}))
    assert set(few.measure(clip, clip)) == {"sync_confidence", "psnr_db"}
    assert few.missing == []


@pytest.mark.parametrize(("frames", "sound", "reason"), [(24, 1.0, "shorter than 1 s"), (30, 0.0, "no sound")])
def test_a_clip_that_cannot_be_scored_says_why_and_the_rest_is_measured(
    judge: Judge, clip: AlignedClip, frames: int, sound: float, reason: str
):
    samples = (frames + 2 * SYNC_MARGIN_FRAMES) * SAMPLES_PER_FRAME
    part = AlignedClip("part", clip.frames[:frames], clip.audio[:samples] * np.float32(sound), clip.points[:frames])
    found = judge.measured(part)
    silent = ("sync_confidence", "sync_offset_frames", "shift_error_frames")
    assert found.reasons == dict.fromkeys(silent if sound == 0 else (*silent, "mouth_movement"), reason)
    assert "mouth_opening" in found.values
    with pytest.raises(Unmeasurable, match=reason):
        judge.sync(part)


def test_a_picture_without_a_face_is_unmeasurable(judge: Judge):
    grey = np.full((4, 256, 256, 3), 120, np.uint8)
    with pytest.raises(Unmeasurable, match="no face"):
        judge.aligned("grey", grey, np.zeros(34 * SAMPLES_PER_FRAME, np.float32))


def test_missing_files_are_named_with_the_command_that_gets_them(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setenv("LIPFORGE_CACHE", str(tmp_path))
    judge = Judge(only=frozenset({"lpips", "syncnet_v2_confidence"}))
    assert [(one.metrics[0], one.how) for one in judge.missing] == [
        ("syncnet_v2_confidence", "lipforge models fetch latentsync"),
        ("lpips", "lipforge models fetch lpips"),
    ]


def test_sound_moves_by_whole_frames_with_zeros_behind():
    audio = np.arange(1, 3 * SAMPLES_PER_FRAME + 1, dtype=np.float32)
    late, early = delayed(audio, 1), delayed(audio, -1)
    assert not late[:SAMPLES_PER_FRAME].any() and (late[SAMPLES_PER_FRAME:] == audio[:-SAMPLES_PER_FRAME]).all()
    assert not early[-SAMPLES_PER_FRAME:].any() and (early[:-SAMPLES_PER_FRAME] == audio[SAMPLES_PER_FRAME:]).all()


def test_a_head_that_moves_is_no_lip_distance_and_lips_that_move_are(clip: AlignedClip):
    turn, moved = np.array([[0.98, -0.2], [0.2, 0.98]]) * 1.1, clip.points.copy()
    moved[..., :2] = moved[..., :2] @ turn.T + [20, -5]
    assert lip_distance_px(moved, clip.points) == pytest.approx(0, abs=1e-4)
    lower = clip.points.copy()
    lower[:, SYNC_LANDMARKS[:NUM_SPEAKING], 1] += 3
    assert lip_distance_px(lower, clip.points) == pytest.approx(3, abs=1e-4)


def test_what_glides_does_not_jitter_and_what_shakes_does(clip: AlignedClip):
    still = np.repeat(clip.points[:1], 20, axis=0)
    gliding = still.copy()
    gliding[:, SYNC_LANDMARKS[:NUM_SPEAKING], 1] += np.arange(20)[:, None]
    shaking = still.copy()
    shaking[::2, SYNC_LANDMARKS[:NUM_SPEAKING], 1] += 1
    assert jitter_px(still) < 1e-3 and jitter_px(gliding) < 1e-3
    assert jitter_px(shaking) == pytest.approx(2, abs=1e-3)


def test_leak_is_the_share_of_the_old_movement_that_is_left():
    rng = np.random.default_rng(0)
    old, other = (np.convolve(rng.random(400), np.hanning(9) / 4, "same") * 0.1 for _ in range(2))
    assert leak(old, old) == pytest.approx(1, abs=0.05)
    assert leak(0.5 * old + 0.02, old) == pytest.approx(0.5, abs=0.05)
    assert leak(np.full(400, 0.03), old) == pytest.approx(0, abs=1e-6)
    assert abs(leak(other, old)) < 0.2
    assert leak(0.3 * old + 0.7 * other, old) > 0.15
    with pytest.raises(ValueError, match="does not move"):
        leak(old, np.full(400, 0.03))
    with pytest.raises(ValueError, match="shorter than"):
        leak(old[:50], old[:50])


def test_an_open_mouth_that_is_held_does_not_move(clip: AlignedClip):
    held = np.repeat(clip.points[:1], 80, axis=0)
    assert movement(opening_curve(held)) < 1e-6 < movement(opening_curve(clip.points))


def test_intervals_cover_the_mean_as_often_as_they_promise():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        low, high = interval(rng.normal(5, 2, 40), resamples=400)
        assert low is not None and high is not None
        covered += low <= 5 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_one_clip_has_no_interval_and_speakers_widen_it():
    assert interval(np.array([3.0])) == (None, None)
    assert interval(np.array([3.0, 4.0]), ["anna", "anna"]) == (None, None)
    values, speakers = np.repeat([1.0, 2.0, 3.0, 4.0], 10), np.repeat(["a", "b", "c", "d"], 10)
    low, high = interval(values)
    wide_low, wide_high = interval(values, list(speakers))
    assert low is not None and high is not None and wide_low is not None and wide_high is not None
    assert wide_high - wide_low > 2 * (high - low)
    assert interval(values, list(speakers)) == (wide_low, wide_high)


def test_groups_count_what_was_measured_and_why_the_rest_was_not():
    rows = [
        {"language": "hi", "speaker": "anna", "sync_confidence": 3.0, "reasons": {}},
        {"language": "hi", "speaker": None, "sync_confidence": 5.0, "reasons": {}},
        {"language": "de", "speaker": "ben", "reasons": {"sync_confidence": "no sound"}},
    ]
    found = {number.group: number for number in numbers_of(rows, ["language"], ["sync_confidence"])}
    assert (found["all"].n, found["all"].value, found["all"].unmeasured) == (2, 4.0, {"no sound": 1})
    assert found["language=de"].value is None and found["language=hi"].unmeasured == {}
    assert found["all"].low == 3.0 and found["all"].high == 5.0
