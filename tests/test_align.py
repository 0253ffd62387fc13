"""Aligned crops: the published alignment, gaps, smoothing, and faces that are too small."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from lipforge.datasets_manifest.schema import Reason
from lipforge.model.faces.alignment import align, steady, template_points, template_size_px, to_square
from lipforge.model.faces.face import FaceLandmarks
from lipforge.model.faces.mediapipe import alignment_points
from lipforge.model.faces.picture import Picture
from lipforge.pipeline.config import (
    AlignConfig,
    CutConfig,
    FacesConfig,
)
from lipforge.pipeline.stages.align import AlignFace, fill_gaps, warp
from lipforge.pipeline.stages.cut import CutRuns
from tests.scripted_faces import (
    LEFT_BOX,
    FakeFaces,
    cut,
    everywhere,
    landmarks_in,
    make_unit,
)

SHARED = Path(__file__).parents[1].parent / "shared"


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
    """A long run is cut by frame count, so a clip may begin where the face was briefly lost."""
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
    """AlignFace on pieces equals warping the whole frame, except for the averaging of large faces."""
    frame = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8), (0, 0), 12)
    for box, tolerance in [((300.0, 200.0, 420.0, 350.0), 0), ((300.0, 100.0, 800.0, 720.0), 3)]:
        landmarks = landmarks_in(box)
        stage = CutRuns(CutConfig(), FacesConfig(), AlignConfig(), FakeFaces({}))
        piece = stage.piece(Picture.of(frame), FaceLandmarks(landmarks, 1.0))
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


def test_smoothing_halves_noise_and_keeps_a_steady_pan() -> None:
    rng = np.random.default_rng(0)
    noisy = rng.normal(size=(200, 3, 2))
    assert np.diff(steady(noisy, 0.7), axis=0).std() < 0.6 * np.diff(noisy, axis=0).std()
    pan = np.arange(50.0)[:, None, None] * np.ones((1, 3, 2))
    np.testing.assert_allclose(steady(pan, 0.7)[5:-5], pan[5:-5], atol=1e-9)
    assert steady(pan[:1], 0.7).shape == (1, 3, 2)
