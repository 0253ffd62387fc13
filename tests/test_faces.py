"""The built-in face backend on a real photograph: found once, at every size, and followed."""

import cv2
import numpy as np
import pytest
from skimage import data

from lipforge.model.faces.face import DetectedFace, FaceLandmarks
from lipforge.model.faces.mediapipe import MediaPipeFaces, alignment_points
from lipforge.model.faces.picture import Area, Picture
from lipforge.model.weights import load as weights

LEFT_EYE, RIGHT_EYE, MOUTH, CHIN = [33, 133], [263, 362], [13, 14, 61, 291], [152]  # FaceMesh indices


@pytest.fixture(scope="module")
def faces() -> MediaPipeFaces:
    return MediaPipeFaces(weights.load("builtin"))


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """uint8 [512, 512, 3]: one face, 104 px from the top of the forehead to the chin."""
    return data.astronaut()


def canvas(photo: np.ndarray, face_px: int, size: tuple[int, int], corner: tuple[int, int]) -> np.ndarray:
    """The photograph's head, scaled, with its corner at x, y in a grey image of width x height."""
    scale, (width, height), (x, y) = face_px / 104, size, corner
    head = cv2.resize(photo[30:260, 120:340], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    image = np.full((height, width, 3), 90, np.uint8)
    part = head[: height - y, : width - x]
    image[y : y + part.shape[0], x : x + part.shape[1]] = part
    return image


def middle(landmarks: FaceLandmarks, indices: list[int]) -> np.ndarray:
    return landmarks.points[indices, :2].mean(axis=0)


def only(found: list[DetectedFace]) -> DetectedFace:
    assert len(found) == 1
    return found[0]


def test_face_is_found_once_and_its_points_lie_on_it(faces: MediaPipeFaces, photo: np.ndarray) -> None:
    found = only(faces.detect(Picture.of(photo)))
    assert found.score > 0.8
    landmarks = faces.landmarks(Picture.of(photo), found)
    assert landmarks is not None
    assert landmarks.points.shape == (468, 3)
    assert landmarks.points.dtype == np.float32
    assert landmarks.score > 0.9
    # positions read off the photograph by eye, within 6 px
    for indices, place in ((LEFT_EYE, (203, 101)), (RIGHT_EYE, (246, 103)), (MOUTH, (222, 145)), (CHIN, (222, 178))):
        assert np.abs(middle(landmarks, indices) - place).max() < 6
    assert np.abs(found.keypoints[0] - middle(landmarks, LEFT_EYE)).max() < 8
    assert landmarks.height_px == pytest.approx(104, rel=0.1)


@pytest.mark.parametrize("size", [(4096, 31), (1, 400), (31, 31)])
def test_a_strip_too_thin_for_a_face_costs_nothing(faces: MediaPipeFaces, size: tuple[int, int]) -> None:
    def converted(_area: Area) -> tuple[Area, np.ndarray]:
        raise AssertionError("somebody looked at it")

    assert faces.detect(Picture(*size, converted)) == []


@pytest.mark.parametrize(
    ("face_px", "size", "corner"),
    [
        (80, (1920, 1080), (100, 800)),
        (80, (1920, 1080), (1700, 40)),
        (80, (1080, 1920), (500, 1600)),
        (300, (1920, 1080), (700, 200)),
        (600, (1920, 1080), (600, 0)),
        (420, (700, 700), (0, 0)),
    ],
)
def test_faces_of_all_sizes_are_found_once(
    faces: MediaPipeFaces, photo: np.ndarray, face_px: int, size: tuple[int, int], corner: tuple[int, int]
) -> None:
    image = canvas(photo, face_px, size, corner)
    landmarks = faces.landmarks(Picture.of(image), only(faces.detect(Picture.of(image))))
    assert landmarks is not None
    assert landmarks.height_px == pytest.approx(face_px, rel=0.1)


def test_face_that_fills_the_frame_is_found(faces: MediaPipeFaces, photo: np.ndarray) -> None:
    close_up = np.ascontiguousarray(photo[70:190, 165:285])
    assert faces.landmarks(Picture.of(close_up), only(faces.detect(Picture.of(close_up)))) is not None


def test_two_faces_are_two(faces: MediaPipeFaces, photo: np.ndarray) -> None:
    found = faces.detect(Picture.of(np.hstack([photo, photo[:, ::-1]])))
    assert len(found) == 2
    assert abs(found[0].x0 - found[1].x0) > 300


@pytest.mark.parametrize("name", ["coffee", "rocket", "chelsea", "brick"])
def test_images_without_people_have_no_face(faces: MediaPipeFaces, name: str) -> None:
    image = getattr(data, name)()
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    assert [face for face in faces.detect(Picture.of(image)) if faces.landmarks(Picture.of(image), face)] == []


def test_following_reaches_the_same_points_as_finding(faces: MediaPipeFaces, photo: np.ndarray) -> None:
    followed = faces.landmarks(Picture.of(photo), only(faces.detect(Picture.of(photo))))
    assert followed is not None
    for step in range(1, 9):  # a head that moves 4 px right and 2 px down per frame
        moved = np.roll(photo, (2 * step, 4 * step), axis=(0, 1))
        followed = faces.landmarks(Picture.of(moved), followed)
        assert followed is not None
    found = faces.landmarks(Picture.of(moved), only(faces.detect(Picture.of(moved))))
    assert found is not None
    assert np.abs(followed.points - found.points)[:, :2].mean() < 1.0


def test_tilted_head_gets_the_turned_points(faces: MediaPipeFaces, photo: np.ndarray) -> None:
    upright = faces.landmarks(Picture.of(photo), only(faces.detect(Picture.of(photo))))
    assert upright is not None
    turn = cv2.getRotationMatrix2D((226, 130), 25, 1)
    tilted_photo = cv2.warpAffine(photo, turn, (512, 512))
    tilted = faces.landmarks(Picture.of(tilted_photo), only(faces.detect(Picture.of(tilted_photo))))
    assert tilted is not None
    expected = upright.points[:, :2] @ turn[:, :2].T + turn[:, 2]
    assert np.abs(tilted.points[:, :2] - expected).mean() < 2.5


def test_face_that_is_gone_has_no_landmarks(faces: MediaPipeFaces, photo: np.ndarray) -> None:
    followed = faces.landmarks(Picture.of(photo), only(faces.detect(Picture.of(photo))))
    assert followed is not None
    assert faces.landmarks(Picture.of(np.full_like(photo, 128)), followed) is None


def test_alignment_points_are_brows_and_nose_in_order(faces: MediaPipeFaces, photo: np.ndarray) -> None:
    landmarks = faces.landmarks(Picture.of(photo), only(faces.detect(Picture.of(photo))))
    assert landmarks is not None
    many = alignment_points(np.stack([landmarks.points, landmarks.points + 1]))
    assert many.shape == (2, 3, 2)
    assert many.dtype == np.float32
    left_brow, right_brow, nose = many[0]
    assert np.allclose(many[1], many[0] + 1, atol=1e-3)
    assert left_brow[0] < nose[0] < right_brow[0]
    assert max(left_brow[1], right_brow[1]) < middle(landmarks, LEFT_EYE)[1] < nose[1] < middle(landmarks, MOUTH)[1]
    assert np.array_equal(faces.alignment_points(landmarks.points), many[0])
