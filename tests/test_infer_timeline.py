"""Which frame is shown when, which runs are drawn, and for which moment each face is drawn."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from lipforge.model.clock import FPS
from lipforge.pipeline.infer.plan import Grid, Run, Stretch, opacity, runs_of, spans_of
from lipforge.pipeline.infer.request import InferConfig
from lipforge.pipeline.infer.timeline import Timeline, length_of_result
from tests.golden import golden_json

TICK = Fraction(1, 90_000)


def timeline(fps: float, seconds: float, length_s: float | None = None, hold: bool = False) -> Timeline:
    edges = np.round(np.arange(round(fps * seconds) + 1) / fps / float(TICK)).astype(np.int64)
    return Timeline(edges[:-1], np.diff(edges), TICK, seconds if length_s is None else length_s, hold)


def stretch(first: int, num_frames: int, fades_in: bool = False, fades_out: bool = False) -> Stretch:
    return Stretch(1, first, np.zeros((num_frames, 3, 2)), fades_in, fades_out)


def test_a_long_sound_plays_the_video_forward_and_back_as_published():
    for name, expected in golden_json("train/loop_order.json").items():
        count, wanted = int(name.split("_")[0]), int(name.split("_")[2])
        made = Timeline(np.arange(count) * 3600, np.full(count, 3600), TICK, wanted / FPS, hold=False)
        assert [shown.source for shown in made.frames()] == expected


@pytest.mark.parametrize("hold", [False, True])
@pytest.mark.parametrize("length_s", [0.3, 1.0, 1.01, 2.47, 7.3])
@pytest.mark.parametrize("fps", [23.976, 25, 29.97, 59.94])
def test_the_result_is_as_long_as_asked_within_half_a_frame_and_has_no_gap(fps: float, length_s: float, hold: bool):
    made = timeline(fps, 1.0, length_s, hold)
    shown = list(made.frames())
    assert len(shown) == made.num_frames
    for before, after in pairwise(shown):
        assert before.pts + before.duration == after.pts
    assert abs(made.length_s - length_s) <= 0.5 / fps + 1e-4


def test_frames_of_unequal_length_stand_as_long_backward_as_forward():
    made = Timeline(np.array([0, 3, 4, 9]), np.array([3, 1, 5, 2]), Fraction(1, 25), 22 / 25, hold=False)
    found = [(shown.source, shown.pts, shown.duration) for shown in made.frames()]
    assert found == [(0, 0, 3), (1, 3, 1), (2, 4, 5), (3, 9, 2), (3, 11, 2), (2, 13, 5), (1, 18, 1), (0, 19, 3)]


@pytest.mark.parametrize(
    ("audio_s", "settings", "expected"),
    [
        (10.01, {}, 10.0),
        (12.0, {}, 12.0),
        (12.0, {"extend": "hold"}, 12.0),
        (12.0, {"extend": "trim"}, 10.0),
        (8.0, {}, 10.0),
        (8.0, {"audio_end": "stop"}, 8.0),
    ],
)
def test_the_length_follows_the_sound_as_asked(audio_s: float, settings: dict, expected: float):
    assert length_of_result(10.0, audio_s, InferConfig(**settings), 0.02) == expected


def test_a_run_goes_on_across_the_turns_of_a_loop():
    made = timeline(25, 4.0, 11.0)
    runs = runs_of([stretch(60, 40, fades_in=True), stretch(0, 20, fades_out=True)], made)
    assert [(run.stretch, run.first, run.end, run.fades_in, run.fades_out) for run in runs] == [
        (1, 0, 20, False, True),
        (0, 60, 140, True, True),
        (1, 180, 220, True, True),
        (0, 260, 275, True, False),
    ]


def test_a_held_last_frame_goes_on_speaking():
    made = timeline(25, 2.0, 5.0, hold=True)
    assert [(run.first, run.end) for run in runs_of([stretch(30, 20)], made)] == [(30, 125)]
    assert [(run.first, run.end) for run in runs_of([stretch(10, 20)], made)] == [(10, 30)]


@pytest.mark.parametrize("fps", [12, 15, 23.976, 24, 25, 29.97, 30, 48, 50, 59.94, 60])
def test_a_face_is_drawn_for_the_moment_of_the_frame_that_it_goes_to(fps: float):
    made = timeline(fps, 4.0)
    (run,) = runs_of([stretch(0, len(made.pts))], made)
    grid = Grid(run, made)
    assert grid.num_frames == 100
    assert np.abs(grid.heard_s - np.arange(100) / FPS).max() <= 0.02 + 1e-4 if fps >= 25 else True
    assert (np.diff(grid.heard_s) >= 0).all()
    for index, time_s in enumerate(grid.times_s):
        before, after, share = grid.neighbours(index)
        if before == after and share == 0 and grid.home[index] >= 0:
            assert grid.heard_s[after] == pytest.approx(time_s, abs=1e-9)
        elif before != after:
            carried_s = (1 - share) * grid.heard_s[before] + share * grid.heard_s[after]
            assert carried_s == pytest.approx(time_s, abs=1e-6)
    if fps <= 25:
        assert (grid.home >= 0).all()


def test_at_25_fps_each_frame_is_drawn_for_its_number():
    made = timeline(25, 2.0)
    grid = Grid(Run(0, 0, 50, False, False), made)
    np.testing.assert_array_equal(grid.shown, np.arange(50))
    np.testing.assert_allclose(grid.heard_s, np.arange(50) / FPS, atol=1e-9)


def test_a_mouth_fades_only_where_the_shot_goes_on():
    made = timeline(25, 2.0)
    run = Run(0, 10, 40, fades_in=True, fades_out=False)
    grid = Grid(run, made)
    shares = [opacity(run, grid, index) for index in range(30)]
    assert 0 < shares[0] < shares[1] < shares[2] < 1 and min(shares[4:]) == 1


def test_spans_are_the_stretches_of_true():
    assert spans_of(np.array([1, 1, 0, 0, 1, 0, 1], bool)) == [(0, 2), (4, 5), (6, 7)]
    assert spans_of(np.zeros(3, bool)) == []
