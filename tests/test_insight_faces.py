"""The InsightFace backend on stand-in files: output of the published graphs goes through the real code."""

import numpy as np
import onnx
import pytest

from lipforge.model.faces.face import FaceLandmarks
from lipforge.model.faces.insight import InsightFaces
from lipforge.model.faces.picture import Picture
from lipforge.model.weights.load import ModelFileError
from tests.stand_ins import GREEN, KEYPOINTS, POINTS, RED, draw_face, face_files

Box = tuple[int, int, int, int]
BOX: Box = (500, 300, 640, 480)
ELSEWHERE: Box = (1300, 200, 1450, 400)


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return face_files()


@pytest.fixture(scope="module")
def faces(files: dict[str, bytes]) -> InsightFaces:
    return InsightFaces(files)


def image(*boxes: tuple[Box, tuple[int, int, int]], size: tuple[int, int] = (1920, 1080)) -> Picture:
    frame = np.full((size[1], size[0], 3), 90, np.uint8)
    for box, colour in boxes:
        draw_face(frame, box, colour)
    return Picture.of(frame)


def within(points: np.ndarray, box: Box) -> np.ndarray:
    """Points of the stand-ins, given as shares of a box, in pixels."""
    low, high = np.array(box[:2]), np.array(box[2:])
    return low + points * (high - low)


@pytest.mark.parametrize(
    ("box", "size"),
    [
        (BOX, (1920, 1080)),
        ((100, 60, 500, 560), (640, 640)),
        ((20, 1500, 420, 1900), (1080, 1920)),
        ((10, 10, 100, 130), (200, 160)),
    ],
)
def test_a_face_is_found_once_where_it_is(faces: InsightFaces, box: Box, size: tuple[int, int]) -> None:
    (found,) = faces.detect(image((box, GREEN), size=size))
    one_px = max(size) / 512  # of what the network sees
    assert np.abs(np.array(found.box) - box).max() <= 1.5 * one_px
    assert np.abs(found.keypoints - within(KEYPOINTS, box)).max() <= 1.5 * one_px
    assert found.score > 0.9


def test_two_faces_are_two_best_score_first_and_colours_keep_their_order(faces: InsightFaces) -> None:
    found = faces.detect(image((BOX, (190, 0, 0)), (ELSEWHERE, GREEN)))
    assert [round(face.x0, -2) for face in found] == [1300, 500]
    assert found[0].score > found[1].score
    assert faces.detect(image((BOX, (0, 0, 255)))) == []  # blue is no face; red would be, if channels were swapped


@pytest.mark.parametrize(("brightness", "found"), [(120, False), (136, True)])
def test_a_face_needs_half_a_score(faces: InsightFaces, brightness: int, found: bool) -> None:
    assert bool(faces.detect(image((BOX, (0, brightness, 0))))) == found


@pytest.mark.parametrize(("width", "found"), [(280, True), (320, False), (20, False)])
def test_a_box_of_no_faces_shape_is_none(faces: InsightFaces, width: int, found: bool) -> None:
    assert bool(faces.detect(image(((300, 300, 300 + width, 500), GREEN)))) == found


def test_points_lie_on_the_face_and_its_size_is_the_detectors(faces: InsightFaces) -> None:
    frame = image((BOX, GREEN))
    landmarks = faces.landmarks(frame, faces.detect(frame)[0])
    assert landmarks is not None
    assert landmarks.points.shape == (106, 2) and landmarks.points.dtype == np.float32
    assert np.abs(landmarks.points - within(POINTS, BOX)).max() < 2.5
    assert landmarks.height_px == pytest.approx(BOX[3] - BOX[1], abs=4)
    assert np.ptp(landmarks.points[:, 1]) < landmarks.height_px  # the points alone would make it smaller
    assert landmarks.score > 0.9


def follow(faces: InsightFaces, picture: Picture, box: Box) -> FaceLandmarks | None:
    prior = FaceLandmarks(within(POINTS, box).astype(np.float32), 0.9, tuple(map(float, box)))  # type: ignore[arg-type]
    return faces.landmarks(picture, prior)


@pytest.mark.parametrize("place", [(0, 0), (1700, 0), (1780, 900), (-40, 500)])
def test_a_face_is_followed_also_to_the_edge_of_the_image(faces: InsightFaces, place: tuple[int, int]) -> None:
    """It moves by a tenth of its size from one frame to the next."""
    x, y = place
    now: Box = (max(0, x), y, x + 140, min(1080, y + 180))
    found = follow(faces, image((now, GREEN)), (x + 14, y - 18, x + 154, y + 162))
    assert found is not None
    assert np.abs(np.array(found.box) - now).max() < 4
    assert np.abs(found.points - within(POINTS, now)).max() < 5


def test_a_face_that_is_gone_has_no_points(faces: InsightFaces) -> None:
    assert follow(faces, image(), BOX) is None
    assert follow(faces, image((ELSEWHERE, GREEN)), BOX) is None
    assert follow(faces, image((BOX, (0, 120, 0))), BOX) is None  # too unlike a face by now
    assert follow(faces, image((BOX, GREEN)), (-500, -400, -300, -200)) is None
    beside: Box = (650, 300, 760, 480)  # seen, but not where the face was
    assert follow(faces, image((beside, GREEN)), BOX) is None


def test_of_two_faces_the_followed_one_stays(faces: InsightFaces) -> None:
    neighbour: Box = (650, 300, 760, 480)
    found = follow(faces, image((BOX, (0, 180, 0)), (neighbour, RED)), BOX)
    assert found is not None and np.abs(np.array(found.box) - BOX).max() < 4


def test_alignment_points_are_brows_and_nose_in_order(faces: InsightFaces) -> None:
    shape = within(POINTS, BOX)
    many = faces.alignment_points(np.stack([shape, shape + 1]))
    assert many.shape == (2, 3, 2) and many.dtype == np.float32
    np.testing.assert_allclose(many[0], within(np.array([[0.3, 0.25], [0.7, 0.25], [0.5, 0.55]]), BOX), rtol=1e-5)
    np.testing.assert_allclose(many[1], many[0] + 1, rtol=1e-5)
    numbered = np.arange(106)[:, None] * np.ones(2)  # each point at its own number: which ones are taken
    taken = faces.alignment_points(numbered)[:, 0]
    np.testing.assert_allclose(taken, [(43 + 48 + 49 + 51 + 50) / 5, 103, (74 + 77 + 83 + 86) / 4])
    assert faces.sync_points(many) is None


@pytest.mark.parametrize("name", ["det_10g.onnx", "2d106det.onnx"])
def test_files_that_are_no_such_network_are_refused_by_name(files: dict[str, bytes], name: str) -> None:
    other = {"det_10g.onnx": "2d106det.onnx", "2d106det.onnx": "det_10g.onnx"}[name]
    for content in (b"", files[name][:1000], files[other]):
        with pytest.raises(ModelFileError, match=name):
            InsightFaces({**files, name: content})


def test_stand_ins_have_the_published_inputs_and_outputs(files: dict[str, bytes]) -> None:
    """As InsightFace prints them for buffalo_l: [1, 3, ?, ?], mean 127.5, deviation 128; [None, 3, 192, 192], 0, 1."""
    detector, points = (onnx.load_from_string(files[name]).graph for name in ("det_10g.onnx", "2d106det.onnx"))
    sizes = [dimension.dim_value for dimension in detector.input[0].type.tensor_type.shape.dim]
    assert sizes == [1, 3, 0, 0] and len(detector.output) == 9
    sizes = [dimension.dim_value for dimension in points.input[0].type.tensor_type.shape.dim]
    assert sizes == [0, 3, 192, 192]
    assert points.output[0].type.tensor_type.shape.dim[1].dim_value == 212
