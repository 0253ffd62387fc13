"""Face tracks become clips, and every frame has a row."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from lipforge.datasets_manifest.schema import Reason, Status
from lipforge.model.faces.face import FaceLandmarks
from lipforge.model.faces.picture import Picture
from lipforge.pipeline.clip import FacePiece, Frame, Unit
from lipforge.pipeline.config import (
    AlignConfig,
    CutConfig,
    FacePolicy,
    FacesConfig,
)
from lipforge.pipeline.sources.seams import open_ends, plan_seams
from lipforge.pipeline.stages.cut import CutRuns, split_run
from lipforge.pipeline.stages.faces import TrackFaces
from tests.scripted_faces import (
    LEFT_BOX,
    RIGHT_BOX,
    Box,
    FakeFaces,
    Script,
    check_every_frame_has_a_row,
    cut,
    everywhere,
    landmarks_in,
    make_frames,
    make_unit,
    numbered_frame,
    outcomes,
    track,
)

# --- faces ----------------------------------------------------------------------------------------


def test_a_face_keeps_its_track_while_it_moves() -> None:
    script = {n: [(60.0 + n, 60.0, 150.0 + n, 180.0)] for n in range(100)}
    frames = track(script, make_unit(100))
    assert all(list(frame.faces) == [0] for frame in frames)
    np.testing.assert_allclose(frames[70].faces[0].points, landmarks_in(script[70][0]))


@pytest.mark.parametrize(("missing", "same_track"), [(1, True), (5, True), (6, False), (30, False)])
def test_a_face_that_returns_soon_is_the_same_track(missing: int, same_track: bool) -> None:
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


def test_a_second_face_is_found_at_the_next_detection_up_to_max_tracks() -> None:
    script = {n: [LEFT_BOX, RIGHT_BOX] if n >= 30 else [LEFT_BOX] for n in range(100)}
    frames = track(script, make_unit(100), FacesConfig(detect_every_frames=25))
    first = next(frame.index for frame in frames if len(frame.faces) == 2)
    assert 30 <= first < 55
    assert all(len(frame.faces) == 1 for frame in track(script, make_unit(100), FacesConfig(max_tracks=1)))


def test_detection_is_rare_while_a_face_is_tracked() -> None:
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


# --- cut ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shortest", "longest"), [(50, 250), (125, 250), (25, 50), (20, 41)])
def test_split_run_loses_nothing_and_cuts_no_clip_needlessly_short(shortest: int, longest: int) -> None:
    for num_frames in range(1, 8 * longest):
        lengths = split_run(num_frames, shortest, longest)
        if num_frames < shortest:
            assert lengths == []
            continue
        assert sum(lengths) == num_frames
        assert all(min(num_frames, longest // 2) <= length <= longest for length in lengths)
        assert len(lengths) == -(-num_frames // longest)


def test_a_run_that_is_too_long_for_a_clip_gives_even_ones() -> None:
    assert split_run(275, 50, 250) == [138, 137]
    assert split_run(300, 50, 250) == [150, 150]  # 12 s, and not 10 + 2
    assert split_run(650, 50, 250) == [250, 250, 150]
    assert split_run(11 * 24, 2 * 24, 10 * 24) == [132, 132]


@pytest.mark.parametrize("num_frames", [49, 50, 124, 125, 251, 300, 374, 375, 640])
def test_cutting_while_a_run_goes_on_gives_what_split_run_says(num_frames: int) -> None:
    unit = make_unit(num_frames, start_frame=1000)
    source = replace(unit.video.source, start_s=40.0)  # all of it is wanted: no border to another unit
    unit = replace(unit, video=replace(unit.video, source=source))
    script = {1000 + n: [LEFT_BOX] for n in range(num_frames)}
    clips = cut(script, unit)
    lengths = split_run(num_frames, 50, 250)
    assert [clip.num_frames for clip in clips if clip.status is Status.KEPT] == lengths
    check_every_frame_has_a_row(clips, unit)
    if not lengths:
        assert outcomes(clips) == [(1000, 1049, "too_short")]


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
    script = everywhere(235, LEFT_BOX)
    for number in range(150, 190):
        del script[number]
    unit = make_unit(235)
    clips = cut(script, unit)
    check_every_frame_has_a_row(clips, unit)
    found = outcomes(clips)
    assert found[0] == (0, 150, "kept")
    assert found[1][0] == 150 and found[1][2] == "no_face" and 190 <= found[1][1] <= 195
    assert found[2][1:] == (235, "too_short")


def test_a_short_run_before_a_loss_is_face_lost() -> None:
    clips = cut(everywhere(49, LEFT_BOX), make_unit(100))
    assert outcomes(clips) == [(0, 49, "face_lost"), (49, 100, "no_face")]


def test_runs_end_at_shots_and_at_damage() -> None:
    unit = make_unit(400)
    clips = cut(everywhere(400, LEFT_BOX), unit, cuts=(130,), undecoded=range(270, 352))
    assert outcomes(clips) == [
        (0, 130, "kept"),
        (130, 270, "kept"),
        (270, 352, "decode_error"),
        (352, 400, "too_short"),
    ]
    assert [clip.status for clip in clips if clip.reason is Reason.DECODE_ERROR] == [Status.FAILED]
    check_every_frame_has_a_row(clips, unit)


@pytest.mark.parametrize(
    ("cuts", "wanted"),
    [
        ((), [(0, 250), (250, 400), (400, 650), (650, 800)]),  # long on both sides: nothing waits
        ((310, 460), [(0, 155), (155, 310), (310, 460), (460, 630), (630, 800)]),  # 3.6 + 2.4 s are one clip of 6 s
        ((310,), [(0, 155), (155, 310), (310, 400), (400, 650), (650, 800)]),  # 3.6 s, and a long run beyond
        ((460,), [(0, 250), (250, 400), (400, 460), (460, 630), (630, 800)]),  # 2.4 s, and a long run before
        ((370, 430), [(0, 185), (185, 370), (370, 430), (430, 615), (615, 800)]),  # 1.2 + 1.2 s
        ((355,), [(0, 178), (178, 355), (400, 650), (650, 800)]),  # 1.8 s are too short
    ],
)
def test_what_a_border_between_units_leaves_short_is_cut_once_and_accounted_for(
    cuts: tuple[int, ...], wanted: list[tuple[int, int]]
) -> None:
    whole = make_unit(800)
    script = everywhere(800, LEFT_BOX)
    units = [Unit(whole.video, 0, 400), Unit(whole.video, 400, 800)]
    found = [cut(script, unit, cuts=cuts) for unit in units]
    records = [
        {"start_frame": unit.start_frame, "end_frame": unit.end_frame, "open_ends": open_ends(clips)}
        for unit, clips in zip(units, found, strict=True)
    ]
    for seam in plan_seams(whole.video, records, 50):
        found.append(cut(script, seam, cuts=cuts))
    clips = [clip for those in found for clip in those]
    check_every_frame_has_a_row(clips, whole)
    kept = [(clip.start_frame, clip.end_frame) for clip in clips if clip.status is Status.KEPT]
    assert sorted(kept) == wanted


def test_a_face_at_the_edge_is_cut_off() -> None:
    def moved_left(number: int) -> Box:
        shift_px = 4 * min(number - 130, 35)
        return LEFT_BOX[0] - shift_px, 60.0, LEFT_BOX[2] - shift_px, 180.0

    beyond = (-80.0, 60.0, 10.0, 180.0)
    script = everywhere(130, LEFT_BOX) | {n: [moved_left(n)] for n in range(130, 200)}
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


def test_a_piece_knows_where_its_pixels_are() -> None:
    frame = numbered_frame(3)
    stage = CutRuns(CutConfig(), FacesConfig(), AlignConfig(), FakeFaces({}))
    piece = stage.piece(Picture.of(frame), FaceLandmarks(landmarks_in(LEFT_BOX), 1.0))
    assert isinstance(piece, FacePiece) and piece.step == 1
    height, width = piece.rgb.shape[:2]
    np.testing.assert_array_equal(piece.rgb, frame[piece.top : piece.top + height, piece.left : piece.left + width])
