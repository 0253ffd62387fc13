"""Faces for new lips: where heads are turned to, covered mouths, which frames are drawn."""

import cv2
import numpy as np
import pytest
from skimage import data

from lipforge.model.faces.covered import CoveredMouths, mouth_patch, small_face_matrix
from lipforge.model.faces.face import FaceLandmarks
from lipforge.model.faces.mediapipe import MediaPipeFaces
from lipforge.model.faces.picture import Picture
from lipforge.model.faces.pose import _HEAD, head_pose, pose_of_parts
from lipforge.model.weights import load as weights
from lipforge.model.weights.load import ModelFileError
from lipforge.pipeline.clip import Frame
from lipforge.pipeline.infer.request import PassReason
from lipforge.pipeline.infer.usable import (
    MEASURES,
    FaceLog,
    TrackMeasures,
    UsableConfig,
    covered_frames,
    usable_frames,
)
from tests.scripted_faces import LEFT_BOX, RIGHT_BOX, FakeFaces, everywhere, make_unit, track


@pytest.fixture(scope="module")
def faces() -> MediaPipeFaces:
    return MediaPipeFaces(weights.load("builtin"))


@pytest.fixture(scope="module")
def covered() -> CoveredMouths:
    return CoveredMouths(weights.load_file("mouth_cover.safetensors"))


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """uint8 [512, 512, 3]: a person who smiles at the camera."""
    return data.astronaut()


@pytest.fixture(scope="module")
def face(faces: MediaPipeFaces, photo: np.ndarray) -> FaceLandmarks:
    found = faces.landmarks(Picture.of(photo), faces.detect(Picture.of(photo))[0])
    assert found is not None
    return found


def turned(points: np.ndarray, yaw_deg: float, pitch_deg: float) -> np.ndarray:
    """Points [..., 3] of a head that looks at the camera, turned to the picture's right by yaw, up by pitch."""
    yaw, pitch = np.radians([-yaw_deg, -pitch_deg])
    nod = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    shake = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    return points @ (shake @ nod).T


# --- pose ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("yaw", [-50.0, -20.0, 35.0, 60.0])
@pytest.mark.parametrize("pitch", [-15.0, 10.0])
def test_pose_follows_a_turned_head(face: FaceLandmarks, yaw: float, pitch: float) -> None:
    start = head_pose(face.points)
    level = turned(turned(face.points, -start.yaw_deg, 0), 0, -start.pitch_deg)
    level = turned(level, -head_pose(level).yaw_deg, 0)
    before = head_pose(level)
    found = head_pose(turned(level, yaw, pitch))
    assert abs(before.yaw_deg) < 0.1
    assert found.yaw_deg == pytest.approx(yaw, abs=6)
    assert found.pitch_deg > before.pitch_deg if pitch > 0 else found.pitch_deg < before.pitch_deg


@pytest.mark.parametrize("yaw", [-70.0, -40.0, 0.0, 30.0, 60.0])
@pytest.mark.parametrize("pitch", [-20.0, 0.0, 20.0])
def test_pose_is_found_without_depth(yaw: float, pitch: float) -> None:
    zero = pose_of_parts(_HEAD[:, :2])
    seen = turned(_HEAD, yaw, pitch)[:, :2] @ np.array([[0.96, 0.28], [-0.28, 0.96]]) * 80 + 300
    found = pose_of_parts(seen)
    assert found.yaw_deg == pytest.approx(yaw, abs=2)
    assert found.pitch_deg - zero.pitch_deg == pytest.approx(pitch, abs=2)


def test_mirrored_faces_look_the_other_way(face: FaceLandmarks) -> None:
    mirrored = face.points * (-1, 1, 1)
    swapped = mirrored.copy()
    for left, right in ((33, 263), (133, 362), (127, 356), (234, 454), (54, 284)):
        swapped[[left, right]] = mirrored[[right, left]]
    assert head_pose(swapped).yaw_deg == pytest.approx(-head_pose(face.points).yaw_deg, abs=0.1)


def test_points_of_an_unknown_model_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \[468, 3\] or \[106, 2\], got \[68, 2\]"):
        head_pose(np.zeros((68, 2)))


# --- covered mouths -----------------------------------------------------------------------------------


def score(faces: MediaPipeFaces, covered: CoveredMouths, rgb: np.ndarray) -> float:
    picture = Picture.of(rgb)
    found = faces.landmarks(picture, faces.detect(picture)[0])
    assert found is not None
    patch = mouth_patch(picture, small_face_matrix(faces.alignment_points(found.points)))
    return float(covered.scores(patch[None])[0])


def test_a_hand_and_a_microphone_cover_a_mouth_and_a_smile_does_not(
    faces: MediaPipeFaces, covered: CoveredMouths, photo: np.ndarray, face: FaceLandmarks
) -> None:
    x, y = (int(value) for value in face.points[[13, 14], :2].mean(axis=0))
    hand, microphone = photo.copy(), photo.copy()
    for finger in range(4):
        cv2.line(hand, (x - 40, y - 15 + 11 * finger), (x + 26, y - 15 + 11 * finger), (214, 160, 140), 11)
        cv2.line(hand, (x - 40, y - 9 + 11 * finger), (x + 26, y - 9 + 11 * finger), (150, 100, 85), 2)
    cv2.line(microphone, (x, y), (x + 10, y + 120), (30, 30, 32), 14)
    cv2.circle(microphone, (x, y), 22, (38, 38, 40), -1)
    free = score(faces, covered, photo)
    grey = np.repeat(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    assert max(free, score(faces, covered, grey), score(faces, covered, photo // 3)) < 0
    assert min(score(faces, covered, hand), score(faces, covered, microphone)) > 3


def test_another_file_is_not_taken_for_the_network() -> None:
    with pytest.raises(ModelFileError, match="not a network for covered mouths"):
        CoveredMouths(weights.load_file("lip_sync.safetensors"))
    with pytest.raises(ModelFileError, match="not a network for covered mouths"):
        CoveredMouths(b"\x00" * 40)


def times(count: int, rate: float = 25.0) -> np.ndarray:
    return np.arange(count) / rate


def test_a_cover_counts_from_its_arrival_to_its_leaving() -> None:
    logits = np.full(100, -3.0)
    logits[40:60] = 6.0
    logits[37:40] = logits[60:63] = 2.0
    (found,) = (np.flatnonzero(covered_frames(logits, times(100))),)
    assert found.min() in range(34, 39)
    assert found.max() in range(61, 66)
    assert len(found) == found.max() - found.min() + 1


@pytest.mark.parametrize("rate", [25.0, 60.0])
def test_a_single_odd_frame_is_no_cover(rate: float) -> None:
    logits = np.full(200, -3.0)
    logits[50] = 8.0
    assert not covered_frames(logits, times(200, rate)).any()


def test_a_doubtful_mouth_is_not_covered() -> None:
    assert not covered_frames(np.full(200, 2.0), times(200)).any()


# --- which frames are drawn ----------------------------------------------------------------------------


def rows(count: int = 100, rate: float = 25.0) -> np.ndarray:
    """A face of 100 px that looks at the camera."""
    made = np.zeros(count, MEASURES)
    made["frame"], made["time_s"] = np.arange(count), times(count, rate)
    made["box"], made["covered"], made["score"] = (100, 100, 180, 200), -4, 1
    return made


def reasons(made: np.ndarray, config: UsableConfig | None = None) -> list[str]:
    usable, why = usable_frames(TrackMeasures(1, 0, made), config or UsableConfig())
    assert [reason is None for reason in why] == usable.tolist()
    return [reason.value if reason else "" for reason in why]


def test_a_plain_face_is_drawn_in_every_frame() -> None:
    assert set(reasons(rows())) == {""}


def test_each_reason_passes_its_own_frames() -> None:
    made = rows(200)
    made["covered"][20:40] = 8
    made["yaw_deg"][60:80] = -75
    made["outside"][100:120] = 0.5
    made["hidden"][140:160] = 0.2
    found = reasons(made)
    assert found[30] == PassReason.MOUTH_COVERED
    assert found[70] == PassReason.SIDE_FACE
    assert found[110] == found[150] == PassReason.FACE_CUT_OFF
    assert found[50] == found[90] == found[130] == found[199] == ""
    assert set(reasons(made, UsableConfig(max_yaw_deg=80))[60:80]) == {""}


def test_small_faces_pass() -> None:
    made = rows()
    made["box"] = 100, 100, 120, 125
    assert set(reasons(made)) == {PassReason.FACE_TOO_SMALL}


def test_a_face_at_the_limit_does_not_flicker() -> None:
    made = rows(200)
    made["yaw_deg"] = 60 + 3 * np.sin(np.arange(200) * 0.9)
    found = np.array(reasons(made)) == ""
    assert np.count_nonzero(np.diff(found)) <= 2


def test_a_blink_of_use_between_two_covers_passes_too() -> None:
    made = rows()
    made["outside"][:50] = made["outside"][53:] = 0.5
    assert set(reasons(made)) == {PassReason.FACE_CUT_OFF}


# --- the log --------------------------------------------------------------------------------------------


class _FirstValue(CoveredMouths):
    """In the place of the network: the score is the patch's first value."""

    def __init__(self) -> None:
        pass

    def scores(self, patches: np.ndarray) -> np.ndarray:
        return patches[:, 0, 0, 2].astype(np.float32) / 10


def test_the_log_keeps_each_face_of_each_shot() -> None:
    unit = make_unit(90)
    frames = track(everywhere(90, LEFT_BOX, RIGHT_BOX), unit, cuts=(30,))
    log = FaceLog(FakeFaces({}), _FirstValue())
    for frame in frames:
        log.add(frame, frame.index / 25)
    tracks = log.finish()
    assert [(one.number, one.shot_index, len(one.rows)) for one in tracks] == [
        (1, 0, 30),
        (2, 0, 30),
        (3, 1, 60),
        (4, 1, 60),
    ]
    assert tracks[2].rows["frame"].tolist() == list(range(30, 90))
    assert (tracks[3].rows["covered"] == np.float16(9.9)).all()  # every row has its score
    assert tracks[0].rows["time_s"][-1] == pytest.approx(29 / 25)
    assert MEASURES.itemsize <= 100


def test_a_face_at_the_edge_is_measured_as_cut_off(
    faces: MediaPipeFaces, covered: CoveredMouths, photo: np.ndarray, face: FaceLandmarks
) -> None:
    x0 = int(face.points[:, 0].mean())
    half = np.ascontiguousarray(photo[:, x0:])
    moved = FaceLandmarks(face.points - np.array([x0, 0, 0], np.float32), face.score)
    log = FaceLog(faces, covered)
    log.add(Frame(0, Picture.of(photo), faces={0: face}), 0.0)
    log.add(Frame(0, Picture.of(half), faces={1: moved}), 0.0)
    whole, cut = log.finish()
    assert usable_frames(whole, UsableConfig())[1] == [None]
    assert usable_frames(cut, UsableConfig())[1] == [PassReason.FACE_CUT_OFF]
