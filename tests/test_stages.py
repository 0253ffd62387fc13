"""Shots, encoding, thresholds, audio, and running clips through stages."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from lipforge.datasets_manifest.schema import Reason, Status
from lipforge.model.clock import SAMPLES_PER_FRAME, SYNC_MARGIN_FRAMES
from lipforge.pipeline.clip import Clip
from lipforge.pipeline.config import (
    EncodeConfig,
    ShotsConfig,
    Thresholds,
)
from lipforge.pipeline.media.probe import probe
from lipforge.pipeline.media.video import SourceFrame, decode_video
from lipforge.pipeline.publish.decide import decide
from lipforge.pipeline.stages.commit import shift_audio
from lipforge.pipeline.stages.encode import EncodeClip
from lipforge.pipeline.stages.resample import audio_of
from lipforge.pipeline.stages.shots import SplitShots
from lipforge.pipeline.stages.stage import StageClock, apply
from tests.scripted_faces import make_unit

SHARED = Path(__file__).parents[1].parent / "shared" / "data"

# --- shots ----------------------------------------------------------------------------------------


def source_frames(images: list[np.ndarray | None]) -> Iterator[SourceFrame]:
    for number, rgb in enumerate(images):
        yield SourceFrame(number / 25, None if rgb is None else av.VideoFrame.from_ndarray(rgb, format="rgb24"))


def scene(seed: int, num_frames: int) -> list[np.ndarray | None]:
    """A slow pan over smooth random colours."""
    rng = np.random.default_rng(seed)
    wide = cv2.resize(rng.integers(0, 256, (6, 12, 3), dtype=np.uint8), (400, 120), interpolation=cv2.INTER_CUBIC)
    return [np.ascontiguousarray(wide[:, 2 * n : 2 * n + 160]) for n in range(num_frames)]


def test_cuts_are_found_at_their_frame_and_a_pan_has_none() -> None:
    images = scene(1, 40) + scene(2, 33) + scene(3, 40)
    shots = [frame.shot_index for frame in SplitShots(ShotsConfig()).process(source_frames(images))]
    assert shots == [0] * 40 + [1] * 33 + [2] * 40


def cuts_in(images: list[np.ndarray | None]) -> list[int]:
    shots = [frame.shot_index for frame in SplitShots(ShotsConfig()).process(source_frames(images))]
    assert len(shots) == len(images)
    return [number for number in range(1, len(shots)) if shots[number] != shots[number - 1]]


def gestures(num_frames: int, seed: int = 5) -> list[np.ndarray | None]:
    """A wide shape waves fast before a bright wall: no shot ends."""
    rng = np.random.default_rng(seed)
    wall = cv2.resize(rng.integers(120, 256, (6, 8, 3), dtype=np.uint8), (160, 120), interpolation=cv2.INTER_CUBIC)
    images: list[np.ndarray | None] = []
    for n in range(num_frames):
        image = wall.copy()
        x = 44 + abs(18 * n % 144 - 72)
        image[20:, x - 35 : x + 35] = (40, 90, 160)
        images.append(image)
    return images


def repeated(images: list[np.ndarray | None], times: int, noise: float = 0.0) -> list[np.ndarray | None]:
    """Each frame several times, as a recorder stores a slower source; noise: as it looks encoded again."""
    rng = np.random.default_rng(0)
    again = [image for image in images for _ in range(times)]
    if not noise:
        return again
    return [
        None if image is None else (image + rng.normal(0, noise, image.shape)).clip(0, 255).astype(np.uint8)
        for image in again
    ]


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_repeated_frames_make_no_cuts_and_hide_none(times: int, noise: float) -> None:
    """In 25 fps video recorded at 50, every other frame changes nothing, so any change exceeds its neighbours'."""
    assert cuts_in(repeated(gestures(60), times, noise)) == []
    images = scene(1, 20) + scene(2, 17) + scene(3, 20)
    assert cuts_in(repeated(images, times, noise)) == [20 * times, 37 * times]


def test_a_cut_to_a_picture_that_stands_still_is_found() -> None:
    still = scene(2, 1) * 30
    assert cuts_in(scene(1, 30) + still) == [30]
    assert cuts_in(still + scene(1, 30)) == [30]
    assert cuts_in(scene(1, 30) + still[:3]) == [30]


def test_a_key_frame_that_is_sharper_is_no_cut() -> None:
    """Cameras' encoders blur the picture more and more, and a key frame brings its grain and colours back."""
    rng = np.random.default_rng(2)
    base = [image for image in scene(1, 40) if image is not None]
    grain = rng.normal(0, 22, base[0].shape)
    images = [image if n < 20 else (image + grain).clip(0, 255).astype(np.uint8) for n, image in enumerate(base)]
    assert cuts_in(list(images)) == []


@pytest.mark.parametrize("gain", [0.7, 1.3])
def test_a_change_of_exposure_is_no_cut(gain: float) -> None:
    rng = np.random.default_rng(3)
    base = [image * 0.7 + rng.normal(0, 2, image.shape) for image in scene(1, 1) * 40 if image is not None]
    images = [(image * (gain if n >= 20 else 1)).clip(0, 255).astype(np.uint8) for n, image in enumerate(base)]
    assert cuts_in(list(images)) == []


def decoded(path: Path) -> Iterator[SourceFrame]:
    info = probe(str(path))
    return decode_video(str(path), info, 0, info.num_frames)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared videos are not here")
@pytest.mark.parametrize(
    ("name", "cuts_s"),
    [
        ("cases/07-25fps-in-60fps.mp4", []),
        ("cases/12-mediarecorder-keyframe-pop.webm", []),
        ("clips/av2av_gen_es-en.webm", []),
        ("clips/facerec_hamilton_cuts.mp4", [0.68, 2.72, 7.04]),
        ("clips/moviepy_audrey_cuts.mp4", [1.92]),
    ],
)
def test_real_videos_are_cut_where_their_shots_end(name: str, cuts_s: list[float]) -> None:
    frames = list(SplitShots(ShotsConfig()).process(decoded(SHARED / name)))
    found_s = [b.time_s for a, b in pairwise(frames) if a.shot_index != b.shot_index]
    if "audrey" in name:  # a wipe at 7 s and a dissolve at the end
        found_s = [time_s for time_s in found_s if time_s < 6]
    assert found_s == pytest.approx(cuts_s, abs=0.025)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared videos are not here")
@pytest.mark.parametrize("times", [2, 3])
def test_doubled_and_tripled_frames_change_no_cut_of_a_real_video(times: int) -> None:
    frames = [frame.image for frame in decoded(SHARED / "clips" / "facerec_hamilton_cuts.mp4")]
    many = (SourceFrame(n / 60, image) for n, image in enumerate(image for image in frames for _ in range(times)))
    shots = [frame.shot_index for frame in SplitShots(ShotsConfig()).process(many)]
    assert [n for n in range(1, len(shots)) if shots[n] != shots[n - 1]] == [20 * times, 82 * times, 211 * times]


def test_shots_pass_every_frame_in_order_and_hold_back_only_a_few() -> None:
    taken = 0

    def counted() -> Iterator[SourceFrame]:
        nonlocal taken
        for frame in source_frames([*scene(1, 30), None, None, *scene(1, 30)]):
            taken += 1
            yield frame

    times_s = []
    for frame in SplitShots(ShotsConfig()).process(counted()):
        times_s.append(frame.time_s)
        assert taken - len(times_s) < 10
    assert times_s == [n / 25 for n in range(62)]


# --- encode ---------------------------------------------------------------------------------------


def test_encode_counts_its_generation_and_keeps_three_frames() -> None:
    frames = np.stack([np.full((64, 64, 3), n, np.uint8) for n in range(20)])
    (clip,) = EncodeClip(EncodeConfig()).process(replace(Clip(make_unit(20), 0, 20), frames=frames))
    assert clip.measures["lossy_generations"] == 1 and clip.mp4
    assert clip.quality_frames is not None
    assert clip.quality_frames[:, 0, 0, 0].tolist() == [0, 10, 19]


# --- decide ---------------------------------------------------------------------------------------

GOOD = {
    "start_frame": 1000,
    "end_frame": 1125,
    "speech_ratio": 0.5,
    "sync_confidence": 2.0,
    "av_offset_frames": 0,
    "quality": 60.0,
}
LIMITS = Thresholds(
    max_outside_ratio=0.25,
    min_clip_s=2.04,
    min_speech_ratio=0.5,
    min_sync_confidence=2.0,
    short_sync_factor=1.5,
    max_av_offset_frames=6,
    min_quality=60.0,
)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),  # exactly at every threshold
        ({"end_frame": 1051, "sync_confidence": 9.0}, None),  # 51 frames are 2.04 s
        ({"end_frame": 1050, "sync_confidence": 9.0}, Reason.TOO_SHORT),
        ({"end_frame": 1050, "speech_ratio": 0.0}, Reason.TOO_SHORT),  # the first stage decides
        ({"speech_ratio": 0.499}, Reason.NO_SPEECH),
        ({"sync_confidence": 1.999}, Reason.LOW_SYNC_CONFIDENCE),
        ({"av_offset_frames": 6}, None),
        ({"av_offset_frames": -6}, None),
        ({"av_offset_frames": 7}, Reason.AV_OFFSET_TOO_LARGE),
        ({"av_offset_frames": -7}, Reason.AV_OFFSET_TOO_LARGE),
        ({"av_drift_frames": 2.0}, None),
        ({"av_drift_frames": -2.0}, None),
        ({"av_drift_frames": 2.5}, Reason.AV_DRIFT),
        ({"av_drift_frames": -2.5, "sync_confidence": 1.0}, Reason.AV_DRIFT),  # drift takes confidence away
        ({"av_drift_frames": None}, None),  # a record of an earlier version
        ({"outside_ratio": 0.25}, None),
        ({"outside_ratio": 0.26, "speech_ratio": 0.0}, Reason.FACE_CUT_OFF),  # align comes first
        ({"outside_ratio": None}, None),  # a record of an earlier version
        ({"quality": 59.99}, Reason.LOW_QUALITY),
        ({"quality": 0.0, "speech_ratio": 0.0, "sync_confidence": 0.0}, Reason.NO_SPEECH),  # the first stage decides
    ],
)
def test_each_threshold_keeps_what_reaches_it(changes: dict, reason: Reason | None) -> None:
    verdict = decide(GOOD | changes, LIMITS)
    assert verdict.reason == reason
    assert verdict.status == (Status.KEPT if reason is None else Status.REJECTED)
    assert bool(verdict.detail) == (reason is not None)


@pytest.mark.parametrize(
    ("num_frames", "needed"), [(51, 3.0), (100, 3.0), (105, 2.8), (120, 2.2), (125, 2.0), (250, 2.0)]
)
def test_a_short_clip_needs_more_confidence(num_frames: int, needed: float) -> None:
    """Up to 4 s by the whole factor, from 5 s on none, and in proportion between them."""
    measures = GOOD | {"end_frame": 1000 + num_frames}
    assert decide(measures | {"sync_confidence": needed + 1e-9}, LIMITS).status is Status.KEPT
    refused = decide(measures | {"sync_confidence": needed - 1e-3}, LIMITS)
    assert refused.reason is Reason.LOW_SYNC_CONFIDENCE and f"{needed:g} is needed" in refused.detail
    earlier = LIMITS.model_copy(update={"short_sync_factor": None})  # a dataset of an earlier version
    assert decide(measures, earlier).status is Status.KEPT


# --- audio ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [-15, -6, -1, 0, 1, 6, 15])
def test_early_audio_is_delayed_by_whole_samples(offset: int) -> None:
    """Sample k of the source's clip becomes sample k + offset * 640 of the delivered one."""
    num_frames = 50
    audio = np.arange((num_frames + 2 * SYNC_MARGIN_FRAMES) * SAMPLES_PER_FRAME, dtype=np.float32)
    margin = SYNC_MARGIN_FRAMES * SAMPLES_PER_FRAME
    got = shift_audio(audio, offset)
    assert len(got) == num_frames * SAMPLES_PER_FRAME
    np.testing.assert_array_equal(got, audio[margin - offset * SAMPLES_PER_FRAME :][: len(got)])


def test_a_clip_gets_its_own_audio_from_its_unit() -> None:
    unit = make_unit(500, start_frame=1000)
    audio = np.arange((500 + 2 * SYNC_MARGIN_FRAMES) * SAMPLES_PER_FRAME, dtype=np.float32)
    got = audio_of(Clip(unit, 1100, 1225), audio)
    assert len(got) == (125 + 2 * SYNC_MARGIN_FRAMES) * SAMPLES_PER_FRAME
    assert shift_audio(got, 0)[0] == (100 + SYNC_MARGIN_FRAMES) * SAMPLES_PER_FRAME


# --- running stages -------------------------------------------------------------------------------


class Refuses:
    name = "refuses"

    def process(self, clip: Clip) -> list[Clip]:
        return [clip.rejected(self.name, Reason.NO_SPEECH, "silence")]


class Counts:
    name = "counts"
    seen = 0

    def process(self, clip: Clip) -> list[Clip]:
        self.seen += 1
        return [clip]


def test_a_rejected_clip_skips_the_other_stages() -> None:
    counts = Counts()
    (clip,) = apply([Refuses(), counts], Clip(make_unit(10), 0, 10), StageClock())
    assert (clip.status, clip.stage, clip.reason) == (Status.REJECTED, "refuses", Reason.NO_SPEECH)
    assert counts.seen == 0
