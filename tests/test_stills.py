"""Frozen pictures are told from slow ones, wherever and however they freeze, and every frame keeps its row."""

from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from lipforge.datasets_manifest.schema import Reason, Status
from lipforge.model.clock import FPS
from lipforge.model.faces.picture import Picture
from lipforge.model.weights import load as weights
from lipforge.pipeline.clip import Clip, FacePiece, Source, Unit, Video
from lipforge.pipeline.config import CutConfig, PrepareConfig, Thresholds
from lipforge.pipeline.media.probe import probe
from lipforge.pipeline.recipe import CutOperator
from lipforge.pipeline.stages.cut import CutRuns
from lipforge.pipeline.stages.faces import TrackFaces
from lipforge.pipeline.stages.stills import StillFace
from tests import media
from tests.scripted_faces import (
    LEFT_BOX,
    RIGHT_BOX,
    FakeFaces,
    Script,
    check_every_frame_has_a_row,
    everywhere,
    make_frames,
    make_unit,
    numbered_frame,
    outcomes,
)

CASES = Path(__file__).parents[1].parent / "shared" / "data" / "cases"
SHORT_CLIPS = PrepareConfig(cut=CutConfig(min_run_s=1, max_clip_s=2), thresholds=Thresholds(min_clip_s=1))


@pytest.fixture(scope="module")
def base(talking_clip: Path) -> Path:
    return talking_clip


@pytest.fixture(scope="module")
def operator() -> CutOperator:
    return CutOperator(SHORT_CLIPS, weights.load("builtin"))


def unit_of(path: Path, start_frame: int = 0, end_frame: int | None = None) -> Unit:
    info = probe(str(path))
    return Unit(Video(Source(str(path)), "ab" * 32, info), start_frame, end_frame or info.num_frames)


def spans_s(clips: list[Clip], reason: Reason | None) -> list[tuple[float, float]]:
    """Spans with this outcome; those of clips without a gap in between are one."""
    spans: list[tuple[float, float]] = []
    for clip in sorted(clips, key=lambda clip: clip.start_frame):
        if clip.reason is reason:
            start_s, end_s = clip.start_frame / FPS, clip.end_frame / FPS
            if spans and spans[-1][1] == start_s:
                start_s = spans.pop()[0]
            spans.append((start_s, end_s))
    return spans


@pytest.mark.parametrize("how", media.FREEZES_S)
def test_a_freeze_is_found_where_it_is_and_the_rest_is_kept(
    tmp_path: Path, base: Path, operator: CutOperator, how: str
) -> None:
    unit = unit_of(media.frozen(tmp_path, base, how))
    clips = operator.process(unit).clips
    check_every_frame_has_a_row(clips, unit)
    found, wanted = spans_s(clips, Reason.FROZEN), media.FREEZES_S[how]
    assert np.array(found).shape == np.array(wanted).shape, found
    np.testing.assert_allclose(found, wanted, atol=0.13)
    kept = [clip for clip in clips if clip.status is Status.KEPT]
    for start_s, end_s in wanted:
        assert not any(clip.end_frame > start_s * FPS + 4 and clip.start_frame < end_s * FPS - 4 for clip in kept)
    if how != "hiccups":  # between those, it is too short for clips
        assert sum(clip.num_frames for clip in kept) > 3.5 * FPS


@pytest.mark.parametrize("rate", ["15", "25/2", "10", "8"])
def test_a_slow_frame_rate_is_no_freeze(tmp_path: Path, base: Path, operator: CutOperator, rate: str) -> None:
    unit = unit_of(media.at_rate(tmp_path, base, rate, "slow"))
    assert not spans_s(operator.process(unit).clips, Reason.FROZEN)


def test_both_units_find_a_freeze_across_their_border(tmp_path: Path, base: Path, operator: CutOperator) -> None:
    path = media.frozen(tmp_path, base, "repeated")
    first, second = (operator.process(unit_of(path, *span)).clips for span in ((0, 75), (75, 160)))
    np.testing.assert_allclose(spans_s(first, Reason.FROZEN), [(2.0, 3.0)], atol=0.05)
    np.testing.assert_allclose(spans_s(second, Reason.FROZEN), [(3.0, 4.0)], atol=0.05)


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not here")
def test_the_shared_cases_freeze_where_they_should(operator: CutOperator) -> None:
    frozen = operator.process(unit_of(CASES / "09-freeze-2.5s.mp4")).clips
    np.testing.assert_allclose(spans_s(frozen, Reason.FROZEN), [(3.0, 5.5)], atol=0.05)
    zoomed = operator.process(unit_of(CASES / "22-pass-still-slow-zoom.mp4")).clips
    assert not spans_s(zoomed, Reason.FROZEN)


# --- the cutter, on scripted faces ----------------------------------------------------------------


def cut_with_freezes(script: Script, unit: Unit, *freezes: tuple[int, int], only_left: bool = False) -> list[Clip]:
    """Clips of a unit in which the picture, or its left half, stands still over these spans of frames."""
    config = PrepareConfig()
    backend = FakeFaces(script)
    frames = []
    for frame in make_frames(unit):
        rgb = numbered_frame(frame.index)
        for first, end in freezes:
            if first <= frame.index < end:
                width = rgb.shape[1] // 2 if only_left else rgb.shape[1]
                rgb[:, :width] = numbered_frame(first)[:, :width]
                rgb[0, 0] = numbered_frame(frame.index)[0, 0]
        frames.append(replace(frame, picture=Picture.of(rgb)))
    tracked = TrackFaces(config.faces, backend).process(frames)
    return list(CutRuns(config.cut, config.faces, config.align, backend).process(unit, tracked))


@pytest.mark.parametrize(("num_still", "is_frozen"), [(12, False), (13, True)])
def test_a_face_may_stand_still_for_half_a_second(num_still: int, is_frozen: bool) -> None:
    unit = make_unit(300)
    clips = cut_with_freezes(everywhere(300, LEFT_BOX), unit, (150, 151 + num_still))
    check_every_frame_has_a_row(clips, unit)
    if is_frozen:
        assert outcomes(clips) == [(0, 151, "kept"), (151, 164, "frozen"), (164, 300, "kept")]
    else:
        assert outcomes(clips) == [(0, 150, "kept"), (150, 300, "kept")]


def test_a_freeze_at_the_start_of_a_unit_is_frozen_from_its_first_frame() -> None:
    unit = make_unit(300, start_frame=1000)
    script: Script = {1000 + number: [LEFT_BOX] for number in range(300)}
    clips = cut_with_freezes(script, unit, (1000, 1040))
    assert outcomes(clips) == [(1000, 1040, "frozen"), (1040, 1170, "kept"), (1170, 1300, "kept")]
    check_every_frame_has_a_row(clips, unit)


def test_another_caller_who_moves_does_not_hide_a_frozen_one() -> None:
    unit = make_unit(300)
    clips = cut_with_freezes(everywhere(300, LEFT_BOX, RIGHT_BOX), unit, (45, 260), only_left=True)
    check_every_frame_has_a_row(clips, unit)
    assert spans_s(clips, Reason.FROZEN) == [(46 / FPS, 260 / FPS)]
    assert spans_s(clips, None) == [(0, 12.0)]


def test_no_clip_is_taken_while_its_end_may_be_frozen() -> None:
    """A freeze that begins just before a clip of full length could be taken."""
    for start in (362, 367, 373):
        unit = make_unit(600)
        clips = cut_with_freezes(everywhere(600, LEFT_BOX), unit, (start, start + 100))
        assert spans_s(clips, Reason.FROZEN) == [((start + 1) / FPS, (start + 100) / FPS)]
        assert spans_s(clips, None) == [(0, (start + 1) / FPS), ((start + 100) / FPS, 24.0)]


def test_a_face_that_is_missed_in_a_frozen_picture_is_still_frozen() -> None:
    script = {number: [LEFT_BOX] for number in range(400) if number not in (205, 206)}
    clips = cut_with_freezes(script, make_unit(400), (200, 250))
    assert outcomes(clips) == [(0, 201, "kept"), (201, 250, "frozen"), (250, 400, "kept")]


def test_frozen_scenery_without_a_face_stays_no_face() -> None:
    unit = make_unit(100)
    assert outcomes(cut_with_freezes({}, unit, (0, 100))) == [(0, 100, "no_face")]


# --- the rule itself ------------------------------------------------------------------------------

SIDE = 160
PIECE = FacePiece(np.zeros((SIDE, SIDE, 3), np.uint8), 20, 10, 1, None)


def picture(seed: int = 0, contrast: float = 1.0) -> np.ndarray:
    """uint8 [200, 200, 3]: smooth and random."""
    rough = np.random.default_rng(seed).uniform(0, 255, (13, 13))
    grey = cv2.resize(rough, (200, 200), interpolation=cv2.INTER_CUBIC).clip(0, 255) * contrast
    return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)


def still_counts(pictures: list[np.ndarray]) -> list[int]:
    face = StillFace(Picture.of(pictures[0]), PIECE)
    return [face.follow(Picture.of(rgb), PIECE) for rgb in pictures[1:]]


@pytest.mark.parametrize("contrast", [1.0, 0.4])
def test_slow_motion_adds_up_and_coding_noise_does_not(contrast: float) -> None:
    rng = np.random.default_rng(1)
    shown = picture(contrast=contrast)
    noisy = [(shown + rng.normal(0, 1.5 * contrast, shown.shape)).clip(0, 255).astype(np.uint8) for _ in range(40)]
    assert still_counts(noisy)[-1] == 39
    zoomed = [
        cv2.warpAffine(shown, np.array([[1 + n / 2000, 0, -n / 20], [0, 1 + n / 2000, -n / 20]]), (200, 200))
        for n in range(40)
    ]
    assert max(still_counts(zoomed)) < 12


def test_a_key_frame_inside_a_freeze_does_not_end_it_but_motion_does() -> None:
    shown = picture()
    fresh = (shown.astype(int) + 6).clip(0, 255).astype(np.uint8)
    assert still_counts([shown] * 20 + [fresh] * 20) == list(range(1, 40))
    assert max(still_counts([shown, fresh] * 20)) == 0
    assert still_counts([shown] * 20 + [picture(2)] * 3)[-3:] == [0, 1, 2]


def test_only_moving_lips_are_motion() -> None:
    """A mouth of 20 x 10 pixels in a face of 160."""
    shown = picture()
    opened = shown.copy()
    opened[120:130, 80:100] = 20
    assert max(still_counts([shown, shown, opened] * 10)) <= 2


def test_the_factory_freezes_what_it_says(tmp_path: Path, base: Path) -> None:
    for how, freezes in media.FREEZES_S.items():
        with av.open(str(media.frozen(tmp_path, base, how))) as container:
            frames = [(frame.time, frame.to_ndarray(format="gray").astype(int)) for frame in container.decode(video=0)]
        assert frames[-1][0] == pytest.approx(6.36, abs=0.05)
        for start_s, end_s in freezes:
            inside = [grey for time_s, grey in frames if start_s - 0.001 <= time_s < end_s - 0.045]
            assert len(inside) == 1 if how == "time_gap" else len(inside) >= 19
            assert all(np.abs(grey - inside[0]).mean() < 2.5 for grey in inside)
