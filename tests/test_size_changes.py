"""A face is followed through changes of the picture's size: one clip, in native pixels throughout."""

import cv2
import numpy as np
import pytest

from lipforge.model.faces.face import FaceLandmarks
from lipforge.model.faces.picture import Picture
from lipforge.pipeline.clip import Clip, Frame
from lipforge.pipeline.config import AlignConfig, CutConfig, FacesConfig
from lipforge.pipeline.stages.align import AlignFace
from lipforge.pipeline.stages.cut import CutRuns
from lipforge.pipeline.stages.faces import TrackFaces
from tests.scripted_faces import (
    LEFT_BOX,
    FakeFaces,
    Script,
    everywhere,
    make_unit,
    number_of,
    numbered_frame,
    outcomes,
)

NUM_FRAMES = 140


def resized(factor: float, boxes: Script, first: int, gap: range = range(0)) -> tuple[list[Frame], Script]:
    """Frames and the script of their faces, `factor` times as large from the frame `first` on."""
    frames, script = [], {}
    for number in range(NUM_FRAMES):
        scale = factor if number >= first else 1.0
        rgb = numbered_frame(number)
        if scale != 1:
            rgb = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            rgb[0, 0] = numbered_frame(number)[0, 0]
        frames.append(Frame(number, Picture.of(rgb), scale=scale))
        assert number_of(Picture.of(rgb)) == number
        if number not in gap:
            script[number] = [tuple(edge * scale for edge in box) for box in boxes[number]]
    return frames, script


def clips_of(frames: list[Frame], script: Script) -> list[Clip]:
    faces, backend = FacesConfig(), FakeFaces(script)
    tracked = TrackFaces(faces, backend).process(frames)
    return list(CutRuns(CutConfig(), faces, AlignConfig(), backend).process(make_unit(NUM_FRAMES), tracked))


def aligned(clip: Clip) -> Clip:
    (done,) = AlignFace(AlignConfig(max_upscale_ratio=8), FacesConfig(min_height_px=10), FakeFaces({})).process(clip)
    assert done.frames is not None
    return done


@pytest.mark.parametrize("factor", [0.5, 0.75, 2.0])
@pytest.mark.parametrize("gap", [range(0), range(67, 71)])
def test_a_face_is_followed_through_a_change_of_size(factor: float, gap: range) -> None:
    """Also where it is lost for a moment around the change."""
    plain = everywhere(NUM_FRAMES, LEFT_BOX)
    (steady,) = clips_of(*resized(1.0, plain, 70, gap))
    (changed,) = clips_of(*resized(factor, plain, 70, gap))
    assert outcomes([changed]) == [(0, NUM_FRAMES, "kept")]
    before, after = aligned(steady).frames, aligned(changed).frames
    assert before is not None and after is not None
    difference = np.abs(before.astype(int) - after.astype(int))
    assert difference[:60].max() == 0
    # The gradient rises by one per pixel of the first size: a shift of a pixel would show as a difference of one.
    assert difference[80:, 20:-20, 20:-20].mean() < 1
    np.testing.assert_allclose(
        alignment(changed), alignment(steady), atol=0.6
    )  # a face sits where it sat, to half a pixel


def alignment(clip: Clip) -> np.ndarray:
    return np.stack([piece.landmarks[:5, :2] for piece in clip.pieces if piece.landmarks is not None])


@pytest.mark.parametrize(("factor", "first", "height", "ratio"), [(0.5, 20, 60.0, 2.0), (2.0, 100, 120.0, 1.0)])
def test_sizes_are_those_of_most_frames_in_native_pixels(
    factor: float, first: int, height: float, ratio: float
) -> None:
    plain = everywhere(NUM_FRAMES, LEFT_BOX)
    steady = aligned(clips_of(*resized(1.0, plain, 0))[0]).measures
    changed = aligned(clips_of(*resized(factor, plain, first))[0]).measures
    assert changed["face_size_px"] == pytest.approx(height, abs=0.1)
    assert changed["upscale_ratio"] == pytest.approx(ratio * steady["upscale_ratio"], rel=0.01)


def test_landmarks_keep_their_place_in_a_larger_image() -> None:
    """Pixel centres: the middle of a 4 px wide image is 1.5, of one twice as wide 3.5."""
    face = FaceLandmarks(np.array([[1.5, 0.0, 2.0]], np.float32), 0.9, (0.0, 0.0, 1.5, 1.5))
    twice = face.scaled(2)
    np.testing.assert_allclose(twice.points, [[3.5, 0.5, 4.0]])
    assert twice.detected_box == (0.5, 0.5, 3.5, 3.5)
    np.testing.assert_allclose(twice.scaled(0.5).points, face.points)
