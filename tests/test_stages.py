"""Each stage alone, on frames whose faces are known: a fake backend sees what a script says."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from lipforge.datasets_manifest.schema import Reason, Status
from lipforge.model.clock import SAMPLES_PER_FRAME, SYNC_MARGIN_FRAMES
from lipforge.model.faces.alignment import align, steady, template_points, template_size_px, to_square
from lipforge.model.faces.lip_points import SYNC_LANDMARKS
from lipforge.model.faces.mediapipe import DetectedFace, FaceLandmarks, alignment_points
from lipforge.pipeline.clip import Clip, FacePiece, Frame, Source, Unit, Video
from lipforge.pipeline.config import (
    AlignConfig,
    CutConfig,
    EncodeConfig,
    FacePolicy,
    FacesConfig,
    ShotsConfig,
    Thresholds,
)
from lipforge.pipeline.media.reader import SourceFrame, VideoInfo
from lipforge.pipeline.publish import accounts
from lipforge.pipeline.publish.decide import decide
from lipforge.pipeline.sources.plan import joint_share
from lipforge.pipeline.stages.align import AlignFace, fill_gaps, warp
from lipforge.pipeline.stages.commit import shift_audio
from lipforge.pipeline.stages.cut import CutRuns, split_run
from lipforge.pipeline.stages.encode import EncodeClip
from lipforge.pipeline.stages.faces import TrackFaces
from lipforge.pipeline.stages.resample import audio_of
from lipforge.pipeline.stages.shots import SplitShots
from lipforge.pipeline.stages.stage import StageClock, apply

SHARED = Path(__file__).parents[1].parent / "shared"
HEIGHT, WIDTH = 240, 480

Box = tuple[float, float, float, float]
Script = dict[int, list[Box]]
"""Frame number -> the boxes of its faces. Frames that are not in it have none."""

LEFT_BOX: Box = (60.0, 60.0, 150.0, 180.0)
RIGHT_BOX: Box = (280.0, 50.0, 385.0, 190.0)


def _face_shape() -> np.ndarray:
    shape = np.random.default_rng(0).uniform(0, 1, (468, 2))
    shape[[70, 63, 105, 66, 107]] = (0.3, 0.2)
    shape[[300, 293, 334, 296, 336]] = (0.7, 0.2)
    shape[[168, 197, 5, 4, 129, 98, 2, 327, 358]] = (0.5, 0.5)
    shape[0], shape[1] = (0, 0), (1, 1)
    return shape


SHAPE = _face_shape()


def landmarks_in(box: Box) -> np.ndarray:
    """float32 [468, 3]: an upright face that fills the box."""
    x0, y0, x1, y1 = box
    flat = SHAPE * (x1 - x0, y1 - y0) + (x0, y0)
    return np.column_stack([flat, np.zeros(468)]).astype(np.float32)


class FakeFaces:
    """Reads the frame's number from its first pixel, and looks up in the script what is there."""

    name = "fake"

    def __init__(self, script: Script) -> None:
        self.script = script
        self.looks: list[int] = []

    def _boxes(self, rgb: np.ndarray) -> list[Box]:
        return self.script.get(number_of(rgb), [])

    def detect(self, frame: np.ndarray) -> list[DetectedFace]:
        self.looks.append(number_of(frame))
        return [DetectedFace(*box, 0.9, np.zeros((6, 2), np.float32)) for box in self._boxes(frame)]

    def landmarks(self, frame: np.ndarray, prior: DetectedFace | FaceLandmarks) -> FaceLandmarks | None:
        boxes = self._boxes(frame)
        best = max(boxes, key=lambda box: joint_share(box, prior.box), default=None)
        if best is None or joint_share(best, prior.box) == 0:
            return None
        return FaceLandmarks(landmarks_in(best), 0.9)

    def alignment_points(self, points: np.ndarray) -> np.ndarray:
        return alignment_points(points)

    def sync_points(self, points: np.ndarray) -> np.ndarray:
        return points[:, SYNC_LANDMARKS]


GRADIENT = np.stack([*np.mgrid[:HEIGHT, :WIDTH] % 256, np.full((HEIGHT, WIDTH), 99)], axis=2).astype(np.uint8)


def picture(number: int) -> np.ndarray:
    """uint8 [240, 480, 3] with its number in the first pixel and something to look at elsewhere."""
    rgb = GRADIENT.copy()
    rgb[0, 0] = number >> 8, number & 255, 0
    return rgb


def number_of(rgb: np.ndarray) -> int:
    return int(rgb[0, 0, 0]) << 8 | int(rgb[0, 0, 1])


def make_unit(num_frames: int, start_frame: int = 0) -> Unit:
    end = start_frame + num_frames
    info = VideoInfo(WIDTH, HEIGHT, 0, 25.0, end, 0.0, (0.0,), True, "h264", "aac")
    return Unit(Video(Source("/videos/a.mp4"), "ab" * 32, info), start_frame, end)


def make_frames(unit: Unit, undecoded: range = range(0), cuts: tuple[int, ...] = ()) -> Iterator[Frame]:
    for index in range(unit.start_frame, unit.end_frame):
        shot = sum(index >= cut for cut in cuts)
        yield Frame(index, None if index in undecoded else picture(index), shot)


def everywhere(num_frames: int, *boxes: Box) -> Script:
    return {number: list(boxes) for number in range(num_frames)}


def track(script: Script, unit: Unit, config: FacesConfig | None = None, **how) -> list[Frame]:
    return list(TrackFaces(config or FacesConfig(), FakeFaces(script)).process(make_frames(unit, **how)))


def cut(
    script: Script, unit: Unit, faces: FacesConfig | None = None, crop: AlignConfig | None = None, **how
) -> list[Clip]:
    faces, backend = faces or FacesConfig(), FakeFaces(script)
    tracked = TrackFaces(faces, backend).process(make_frames(unit, **how))
    return list(CutRuns(CutConfig(), faces, crop or AlignConfig(), backend).process(unit, tracked))


def outcomes(clips: list[Clip]) -> list[tuple[int, int, str]]:
    """(first frame, end, reason or `kept`), by time."""
    return sorted((clip.start_frame, clip.end_frame, clip.reason.value if clip.reason else "kept") for clip in clips)


def check_every_frame_has_a_row(clips: list[Clip], unit: Unit) -> None:
    rows = [
        {
            "status": clip.status.value,
            "start_frame": clip.start_frame,
            "end_frame": clip.end_frame,
            "track_index": clip.track_index,
        }
        for clip in clips
    ]
    accounts.account(rows, unit.start_frame, unit.end_frame)
    assert sum(row["accounted_frames"] for row in rows) == unit.num_frames
    assert len({clip.key for clip in clips}) == len(clips)


# --- shots -------------------------------------------------------------------------------------------------------------------------


def source_frames(pictures: list[np.ndarray | None]) -> Iterator[SourceFrame]:
    for number, rgb in enumerate(pictures):
        yield SourceFrame(number / 25, None if rgb is None else av.VideoFrame.from_ndarray(rgb, format="rgb24"))


def scene(seed: int, num_frames: int) -> list[np.ndarray | None]:
    """A slow pan over smooth random colours."""
    rng = np.random.default_rng(seed)
    wide = cv2.resize(rng.integers(0, 256, (6, 12, 3), dtype=np.uint8), (400, 120), interpolation=cv2.INTER_CUBIC)
    return [np.ascontiguousarray(wide[:, 2 * n : 2 * n + 160]) for n in range(num_frames)]


def test_cuts_are_found_at_their_frame_and_a_pan_has_none() -> None:
    pictures = scene(1, 40) + scene(2, 33) + scene(3, 40)
    shots = [frame.shot_index for frame in SplitShots(ShotsConfig()).process(source_frames(pictures))]
    assert shots == [0] * 40 + [1] * 33 + [2] * 40


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


# --- faces -------------------------------------------------------------------------------------------------------------------------


def test_a_face_keeps_its_track_while_it_moves() -> None:
    script = {n: [(60.0 + n, 60.0, 150.0 + n, 180.0)] for n in range(100)}
    frames = track(script, make_unit(100))
    assert all(list(frame.faces) == [0] for frame in frames)
    np.testing.assert_allclose(frames[70].faces[0].points, landmarks_in(script[70][0]))


@pytest.mark.parametrize(("missing", "same_track"), [(1, True), (5, True), (6, False), (30, False)])
def test_a_face_that_was_away_for_a_moment_is_the_same_track(missing: int, same_track: bool) -> None:
    script = everywhere(120, LEFT_BOX)
    for number in range(50, 50 + missing):
        del script[number]
    frames = track(script, make_unit(120))
    assert all(not frame.faces for frame in frames[50 : 50 + missing])
    assert list(frames[49].faces) == [0]
    assert list(frames[119].faces) == [0 if same_track else 1]
    if same_track:
        assert list(frames[50 + missing].faces) == [0]


def test_every_face_is_a_track_of_its_own() -> None:
    script = everywhere(60, LEFT_BOX, RIGHT_BOX)
    frames = track(script, make_unit(60))
    assert all(set(frame.faces) == {0, 1} for frame in frames)
    np.testing.assert_allclose(frames[30].faces[0].points, landmarks_in(RIGHT_BOX))  # the larger one comes first


def test_a_second_face_is_found_at_the_next_look_and_only_as_many_as_allowed() -> None:
    script = {n: [LEFT_BOX, RIGHT_BOX] if n >= 30 else [LEFT_BOX] for n in range(100)}
    frames = track(script, make_unit(100), FacesConfig(detect_every_frames=25))
    first = next(frame.index for frame in frames if len(frame.faces) == 2)
    assert 30 <= first < 55
    assert all(len(frame.faces) == 1 for frame in track(script, make_unit(100), FacesConfig(max_tracks=1)))


def test_faces_are_looked_for_rarely_while_one_is_followed() -> None:
    backend = FakeFaces(everywhere(101, LEFT_BOX))
    list(TrackFaces(FacesConfig(detect_every_frames=25), backend).process(make_frames(make_unit(101))))
    assert len(backend.looks) == 5
    backend = FakeFaces({})
    list(TrackFaces(FacesConfig(search_every_frames=5), backend).process(make_frames(make_unit(101))))
    assert len(backend.looks) == 21


def test_a_track_ends_with_its_shot_and_with_damage() -> None:
    frames = track(everywhere(100, LEFT_BOX), make_unit(100), cuts=(50,))
    assert list(frames[49].faces) == [0] and list(frames[50].faces) == [1]
    frames = track(everywhere(100, LEFT_BOX), make_unit(100), undecoded=range(50, 53))
    assert list(frames[49].faces) == [0] and not frames[51].faces and list(frames[53].faces) == [1]


# --- cut ---------------------------------------------------------------------------------------------------------------------------


def test_split_run_loses_nothing_of_five_seconds_or_more() -> None:
    for num_frames in range(1, 2000):
        lengths = split_run(num_frames, 125, 250)
        if num_frames < 125:
            assert lengths == []
            continue
        assert sum(lengths) == num_frames
        assert all(125 <= length <= 250 for length in lengths)
        assert len(lengths) == -(-num_frames // 250)
    assert split_run(275, 125, 250) == [138, 137]
    assert split_run(11 * 24, 5 * 24, 10 * 24) == [132, 132]


@pytest.mark.parametrize("num_frames", [124, 125, 251, 374, 375, 640])
def test_cutting_while_a_run_goes_on_gives_what_split_run_says(num_frames: int) -> None:
    unit = make_unit(num_frames, start_frame=1000)
    script = {1000 + n: [LEFT_BOX] for n in range(num_frames)}
    clips = cut(script, unit)
    lengths = split_run(num_frames, 125, 250)
    assert [clip.num_frames for clip in clips if clip.status is Status.KEPT] == lengths
    check_every_frame_has_a_row(clips, unit)
    if not lengths:
        assert outcomes(clips) == [(1000, 1124, "too_short")]


def test_a_clip_comes_before_the_video_ends_so_memory_is_bounded() -> None:
    unit = make_unit(700)
    backend = FakeFaces(everywhere(700, LEFT_BOX))
    taken = 0

    def counted() -> Iterator[Frame]:
        nonlocal taken
        for frame in TrackFaces(FacesConfig(), backend).process(make_frames(unit)):
            taken += 1
            yield frame

    ends = []
    for clip in CutRuns(CutConfig(), FacesConfig(), AlignConfig(), backend).process(unit, counted()):
        ends.append((clip.end_frame, taken))
    assert all(seen - end <= 125 for end, seen in ends[:-1])


def test_a_frame_without_a_face_does_not_kill_its_neighbours() -> None:
    script = everywhere(200, LEFT_BOX)
    for number in (60, 61, 100):
        del script[number]
    (clip,) = cut(script, make_unit(200))
    assert clip.status is Status.KEPT and clip.num_frames == 200
    assert [n for n, piece in enumerate(clip.pieces) if piece.landmarks is None] == [60, 61, 100]


def test_a_face_that_is_lost_ends_its_run_and_every_frame_is_accounted_for() -> None:
    script = everywhere(300, LEFT_BOX)
    for number in range(150, 190):
        del script[number]
    unit = make_unit(300)
    clips = cut(script, unit)
    check_every_frame_has_a_row(clips, unit)
    found = outcomes(clips)
    assert found[0] == (0, 150, "kept")
    assert found[1][0] == 150 and found[1][2] == "no_face" and 190 <= found[1][1] <= 195
    assert found[2][1:] == (300, "too_short")


def test_a_short_run_before_a_loss_is_face_lost() -> None:
    clips = cut(everywhere(60, LEFT_BOX), make_unit(100))
    assert outcomes(clips) == [(0, 60, "face_lost"), (60, 100, "no_face")]


def test_runs_end_at_shots_and_at_damage() -> None:
    unit = make_unit(400)
    clips = cut(everywhere(400, LEFT_BOX), unit, cuts=(130,), undecoded=range(270, 280))
    assert outcomes(clips) == [
        (0, 130, "kept"),
        (130, 270, "kept"),
        (270, 280, "decode_error"),
        (280, 400, "too_short"),
    ]
    assert [clip.status for clip in clips if clip.reason is Reason.DECODE_ERROR] == [Status.FAILED]
    check_every_frame_has_a_row(clips, unit)


def test_a_face_at_the_edge_is_cut_off() -> None:
    beyond = (-80.0, 60.0, 10.0, 180.0)
    script = everywhere(130, LEFT_BOX) | {n: [(LEFT_BOX[0] - min(n - 130, 35) * 4, 60.0, LEFT_BOX[2] - min(n - 130, 35) * 4, 180.0)] for n in range(130, 200)}  # fmt: skip
    assert script[199] == [beyond]
    unit = make_unit(200)
    clips = cut(script, unit)
    check_every_frame_has_a_row(clips, unit)
    (kept, lost) = outcomes(clips)
    assert kept[0] == 0 and 130 < kept[1] < 165 and kept[2] == "kept"
    assert lost == (kept[1], 200, "face_cut_off")


def test_policies_for_several_faces() -> None:
    unit, script = make_unit(200), everywhere(200, LEFT_BOX, RIGHT_BOX)
    assert outcomes(cut(script, unit)) == [(0, 200, "kept")] * 2
    assert outcomes(cut(script, unit, FacesConfig(policy=FacePolicy.SINGLE))) == [(0, 200, "many_faces")] * 2
    largest = cut(script, unit, FacesConfig(policy=FacePolicy.LARGEST))
    assert outcomes(largest) == [(0, 200, "kept"), (0, 200, "many_faces")]
    (kept,) = [clip for clip in largest if clip.status is Status.KEPT]
    assert kept.measures["face_size_px"] == pytest.approx(RIGHT_BOX[3] - RIGHT_BOX[1])
    for clips in (largest, cut(script, unit)):
        check_every_frame_has_a_row(clips, unit)


def test_random_comings_and_goings_leave_no_frame_without_a_row() -> None:
    rng = np.random.default_rng(5)
    for trial in range(6):
        num_frames = int(rng.integers(200, 500))
        script: Script = {}
        for box in (LEFT_BOX, RIGHT_BOX):
            there = np.repeat(rng.random(num_frames // 10 + 1) < 0.7, 10)[:num_frames]
            for number in np.flatnonzero(there):
                script.setdefault(int(number), []).append(box)
        unit = make_unit(num_frames, start_frame=40 * trial)
        script = {number + 40 * trial: boxes for number, boxes in script.items()}
        dark = int(rng.integers(0, num_frames)) + unit.start_frame
        clips = cut(script, unit, cuts=(unit.start_frame + 90,), undecoded=range(dark, dark + 7))
        check_every_frame_has_a_row(clips, unit)


# --- align -------------------------------------------------------------------------------------------------------------------------


def test_matrices_are_those_of_the_published_alignment() -> None:
    path = SHARED / "golden" / "affine.json"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    golden = json.loads(path.read_text())
    assert list(template_size_px(golden["resolution"])) == golden["face_size_wh"]
    np.testing.assert_allclose(template_points(golden["resolution"]), golden["template"])
    got = align(np.array(golden["landmarks"]), golden["resolution"])
    np.testing.assert_allclose(got[:, :, :2], np.array(golden["matrices"])[:, :, :2], atol=1e-6)
    np.testing.assert_allclose(got[:, :, 2], np.array(golden["matrices"])[:, :, 2], atol=1e-3)


def test_smoothing_begins_afresh_with_each_clip() -> None:
    """The second clip of a run comes out as if the first one did not exist."""
    rng = np.random.default_rng(0)
    script = {n: [tuple(np.array(LEFT_BOX) + rng.uniform(-3, 3, 4))] for n in range(400)}
    stage = AlignFace(AlignConfig(), FacesConfig(), FakeFaces({}))
    first, second = cut(script, make_unit(400))
    after = stage.process(first) and stage.process(second)
    (alone,) = AlignFace(AlignConfig(), FacesConfig(), FakeFaces({})).process(second)
    np.testing.assert_array_equal(after[0].frames, alone.frames)


def test_a_clip_that_begins_in_a_gap_has_finite_landmarks() -> None:
    """A long run is cut by counting frames, so a clip may begin where the face was lost for a moment."""
    script = everywhere(400, LEFT_BOX)
    for number in range(248, 252):
        del script[number]
    _, second = cut(script, make_unit(400))
    assert second.start_frame == 250 and second.pieces[0].landmarks is None
    (aligned,) = AlignFace(AlignConfig(), FacesConfig(), FakeFaces({})).process(second)
    assert aligned.frames is not None and aligned.lip_points is not None
    np.testing.assert_allclose(aligned.lip_points[0], aligned.lip_points[5], atol=1e-3)


def test_gaps_are_straight_lines_between_neighbours() -> None:
    a, b = np.zeros((2, 3), np.float32), np.full((2, 3), 4.0, np.float32)
    got = fill_gaps([None, a, None, None, None, b, None])
    assert [frame[0, 0] for frame in got] == [0, 0, 1, 2, 3, 4, 4]


def test_crop_is_taken_from_source_pixels_in_one_step() -> None:
    """What AlignFace makes from pieces is the warp of the whole frame, up to how a large face is averaged down."""
    frame = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8), (0, 0), 12)
    for box, tolerance in [((300.0, 200.0, 420.0, 350.0), 0), ((300.0, 100.0, 800.0, 720.0), 3)]:
        landmarks = landmarks_in(box)
        stage = CutRuns(CutConfig(), FacesConfig(), AlignConfig(), FakeFaces({}))
        piece = stage.piece(frame, landmarks)
        assert piece is not None
        assert piece.step == (1 if tolerance == 0 else 2)
        matrix = to_square(align(alignment_points(landmarks)[None], 256), 256)[0]
        whole = cv2.warpAffine(frame, matrix, (256, 256), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        assert np.abs(warp(piece, matrix, 256).astype(int) - whole).max() <= tolerance + 1


def test_points_land_on_the_template() -> None:
    landmarks = landmarks_in((200.0, 100.0, 320.0, 250.0))
    matrix = to_square(align(alignment_points(landmarks)[None], 256), 256)[0]
    placed = alignment_points(landmarks) @ matrix[:, :2].T + matrix[:, 2]
    width, height = template_size_px(256)
    wanted = template_points(256) * (256 / width, 256 / height)
    assert placed[0, 0] < placed[2, 0] < placed[1, 0] and placed[2, 1] > placed[0, 1]
    np.testing.assert_allclose(placed.mean(axis=0), wanted.mean(axis=0), atol=12)


@pytest.mark.parametrize(("height_px", "kept"), [(79, False), (81, True)])
def test_small_faces_are_rejected_by_their_native_height(height_px: int, kept: bool) -> None:
    box = (100.0, 60.0, 180.0, 60.0 + height_px)
    (clip,) = cut(everywhere(130, box), make_unit(130))
    (aligned,) = AlignFace(AlignConfig(max_upscale_ratio=10), FacesConfig(min_height_px=80), FakeFaces({})).process(
        clip
    )
    assert aligned.measures["face_size_px"] == pytest.approx(height_px, abs=0.1)
    assert aligned.reason == (None if kept else Reason.FACE_TOO_SMALL)


def test_enlarging_is_measured_and_can_reject() -> None:
    (clip,) = cut(everywhere(130, LEFT_BOX), make_unit(130))
    ratios = {}
    for resolution in (256, 512):
        config = AlignConfig(resolution=resolution, max_upscale_ratio=100)
        (aligned,) = AlignFace(config, FacesConfig(), FakeFaces({})).process(clip)
        assert aligned.frames is not None and aligned.frames.shape == (130, resolution, resolution, 3)
        ratios[resolution] = aligned.measures["upscale_ratio"]
        (refused,) = AlignFace(
            config.model_copy(update={"max_upscale_ratio": ratios[resolution] - 0.01}), FacesConfig(), FakeFaces({})
        ).process(clip)
        assert refused.reason is Reason.FACE_TOO_SMALL and refused.measures["upscale_ratio"] == ratios[resolution]
    assert ratios[512] == pytest.approx(2 * ratios[256])


# --- encode ------------------------------------------------------------------------------------------------------------------------


def test_encode_counts_its_generation_and_keeps_three_frames() -> None:
    frames = np.stack([np.full((64, 64, 3), n, np.uint8) for n in range(20)])
    (clip,) = EncodeClip(EncodeConfig()).process(replace(Clip(make_unit(20), 0, 20), frames=frames))
    assert clip.measures["lossy_generations"] == 1 and clip.mp4
    assert clip.quality_frames is not None
    assert clip.quality_frames[:, 0, 0, 0].tolist() == [0, 10, 19]


# --- decide ------------------------------------------------------------------------------------------------------------------------

GOOD = {"speech_ratio": 0.5, "sync_confidence": 2.0, "av_offset_frames": 0, "quality": 60.0}
LIMITS = Thresholds(min_speech_ratio=0.5, min_sync_confidence=2.0, max_av_offset_frames=6, min_quality=60.0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),  # exactly at every threshold
        ({"speech_ratio": 0.499}, Reason.NO_SPEECH),
        ({"sync_confidence": 1.999}, Reason.LOW_SYNC_CONFIDENCE),
        ({"av_offset_frames": 6}, None),
        ({"av_offset_frames": -6}, None),
        ({"av_offset_frames": 7}, Reason.AV_OFFSET_TOO_LARGE),
        ({"av_offset_frames": -7}, Reason.AV_OFFSET_TOO_LARGE),
        ({"quality": 59.99}, Reason.LOW_QUALITY),
        ({"quality": 0.0, "speech_ratio": 0.0, "sync_confidence": 0.0}, Reason.NO_SPEECH),  # the first stage says why
    ],
)
def test_each_threshold_keeps_what_reaches_it(changes: dict, reason: Reason | None) -> None:
    verdict = decide(GOOD | changes, LIMITS)
    assert verdict.reason == reason
    assert verdict.status == (Status.KEPT if reason is None else Status.REJECTED)
    assert bool(verdict.detail) == (reason is not None)


# --- sound -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [-15, -6, -1, 0, 1, 6, 15])
def test_early_sound_is_delayed_by_whole_samples(offset: int) -> None:
    """What was heard k samples into the source's clip is heard k + offset * 640 into the delivered one."""
    num_frames = 50
    audio = np.arange((num_frames + 2 * SYNC_MARGIN_FRAMES) * SAMPLES_PER_FRAME, dtype=np.float32)
    margin = SYNC_MARGIN_FRAMES * SAMPLES_PER_FRAME
    got = shift_audio(audio, offset)
    assert len(got) == num_frames * SAMPLES_PER_FRAME
    np.testing.assert_array_equal(got, audio[margin - offset * SAMPLES_PER_FRAME :][: len(got)])


def test_a_clip_takes_its_own_part_of_the_units_sound() -> None:
    unit = make_unit(500, start_frame=1000)
    sound = np.arange((500 + 2 * SYNC_MARGIN_FRAMES) * SAMPLES_PER_FRAME, dtype=np.float32)
    got = audio_of(Clip(unit, 1100, 1225), sound)
    assert len(got) == (125 + 2 * SYNC_MARGIN_FRAMES) * SAMPLES_PER_FRAME
    assert shift_audio(got, 0)[0] == (100 + SYNC_MARGIN_FRAMES) * SAMPLES_PER_FRAME


# --- running stages ----------------------------------------------------------------------------------------------------------------


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


def test_a_refused_clip_goes_straight_to_the_end() -> None:
    counts = Counts()
    (clip,) = apply([Refuses(), counts], Clip(make_unit(10), 0, 10), StageClock())
    assert (clip.status, clip.stage, clip.reason) == (Status.REJECTED, "refuses", Reason.NO_SPEECH)
    assert counts.seen == 0


def test_a_piece_says_where_its_pixels_lie() -> None:
    frame = picture(3)
    stage = CutRuns(CutConfig(), FacesConfig(), AlignConfig(), FakeFaces({}))
    piece = stage.piece(frame, landmarks_in(LEFT_BOX))
    assert isinstance(piece, FacePiece) and piece.step == 1
    height, width = piece.rgb.shape[:2]
    np.testing.assert_array_equal(piece.rgb, frame[piece.top : piece.top + height, piece.left : piece.left + width])


def test_steadying_halves_noise_and_keeps_a_steady_pan() -> None:
    rng = np.random.default_rng(0)
    noisy = rng.normal(size=(200, 3, 2))
    assert np.diff(steady(noisy, 0.7), axis=0).std() < 0.6 * np.diff(noisy, axis=0).std()
    pan = np.arange(50.0)[:, None, None] * np.ones((1, 3, 2))
    np.testing.assert_allclose(steady(pan, 0.7)[5:-5], pan[5:-5], atol=1e-9)
    assert steady(pan[:1], 0.7).shape == (1, 3, 2)
