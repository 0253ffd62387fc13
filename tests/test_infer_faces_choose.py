"""Who gets new lips: the one who fits the old sound, the largest, or who is named; and the picture of the numbers."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from lipforge.model.faces.face import FaceLandmarks
from lipforge.model.faces.picture import Picture
from lipforge.model.sync.score import SyncScore
from lipforge.pipeline.clip import Clip, Frame
from lipforge.pipeline.config import AlignConfig, FacesConfig
from lipforge.pipeline.infer.choose import StretchScore, choose_faces, common_offset
from lipforge.pipeline.infer.faces_picture import ShotPictures, clock, faces_picture, save_faces_picture
from lipforge.pipeline.infer.stretches import SyncStretches
from lipforge.pipeline.infer.usable import MEASURES, TrackMeasures
from lipforge.pipeline.stages.align import AlignFace
from tests.scripted_faces import LEFT_BOX, RIGHT_BOX, FakeFaces, cut, everywhere, make_unit, track

MIN = 2.2


def seen(number: int, shot: int, height_px: float = 200.0, count: int = 100) -> TrackMeasures:
    rows = np.zeros(count, MEASURES)
    rows["box"], rows["time_s"] = (0, 0, height_px * 0.8, height_px), shot * 10 + np.arange(count) / 25
    return TrackMeasures(number, shot, rows)


def stretch(confidence: float, offset: int = 0, frames: int = 100, speech: float = 0.9) -> StretchScore:
    return StretchScore(0, frames, confidence, offset, speech)


def test_the_speaker_of_each_shot_is_who_fits_the_sound() -> None:
    tracks = [seen(1, 0, 300), seen(2, 0, 150), seen(3, 1, 300), seen(4, 1, 150)]
    scores = {1: [stretch(1.2, 7)], 2: [stretch(3.5)], 3: [stretch(4.0, 1)], 4: [stretch(1.0, -4)]}
    choice = choose_faces("speaker", tracks, scores, MIN)
    assert choice.tracks == {0: [2], 1: [3]}
    assert choice.notes == []


def test_a_match_at_an_offset_of_its_own_is_chance() -> None:
    tracks = [seen(1, 0), seen(2, 0)]
    scores = {1: [stretch(2.6, -12), stretch(1.0, 3)], 2: [stretch(2.5, 5), stretch(3.0, 6)]}
    assert common_offset(scores, MIN) in (5, 6)
    assert choose_faces("speaker", tracks, scores, MIN).tracks == {0: [2]}


def test_a_listener_passes_while_another_shot_has_the_speaker() -> None:
    tracks = [seen(1, 0), seen(2, 1)]
    scores = {1: [stretch(3.5)], 2: [stretch(0.8, 9)]}
    choice = choose_faces("speaker", tracks, scores, MIN)
    assert choice.tracks == {0: [1], 1: []}
    assert choice.notes == ["In one shot whoever is seen listens while another speaks, and stays as they are."]


@pytest.mark.parametrize(
    ("height_px", "doubtful"),
    [
        (200, stretch(1.5, 0)),  # weak, but at the video's own offset
        (200, stretch(0.8, 9, frames=50)),  # too short to tell
        (200, stretch(0.8, 9, speech=0.2)),  # nobody speaks
        (200, stretch(2.6, 9)),  # a match, with an offset of its own
        (70, stretch(0.8, 9)),  # too small to tell
    ],
)
def test_who_may_be_speaking_is_no_listener(height_px: float, doubtful: StretchScore) -> None:
    tracks = [seen(1, 0), seen(2, 1, height_px)]
    assert choose_faces("speaker", tracks, {1: [stretch(3.5)], 2: [doubtful]}, MIN).tracks == {0: [1], 1: [2]}


def test_without_a_match_the_largest_is_taken_and_a_note_says_so() -> None:
    tracks = [seen(1, 0, 100), seen(2, 0, 200)]
    silent = choose_faces("speaker", tracks, {}, MIN)
    unmatched = choose_faces("speaker", tracks, {1: [stretch(1.4)], 2: [stretch(0.4)]}, MIN)
    assert silent.tracks == unmatched.tracks == {0: [2]}
    assert "there is no old sound" in silent.notes[0]
    assert "no face fits the old sound" in unmatched.notes[0]


def test_people_who_speak_in_turn_are_noted() -> None:
    tracks = [seen(1, 0), seen(2, 0)]
    choice = choose_faces("speaker", tracks, {1: [stretch(3.5), stretch(3.0)], 2: [stretch(3.2)]}, MIN)
    assert choice.tracks == {0: [1]}
    assert "several people speak" in choice.notes[0]


def test_largest_all_and_numbers() -> None:
    tracks = [seen(1, 0, 100), seen(2, 0, 200), seen(3, 1, 50)]
    assert choose_faces("largest", tracks, {}, MIN).tracks == {0: [2], 1: [3]}
    assert choose_faces("all", tracks, {}, MIN).tracks == {0: [1, 2], 1: [3]}
    assert choose_faces("track:1", tracks, {}, MIN).tracks == {0: [1], 1: []}
    assert choose_faces("track:3,1", tracks, {}, MIN).tracks == {0: [1], 1: [3]}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("track:4", "no face has the number 4; there are faces 1 to 3; faces.jpg shows them"),
        ("track:0", "no face has the number 0"),
        ("track:one", "expected speaker, largest, all or track:N"),
        ("loudest", "face=loudest: expected speaker, largest, all or track:N"),
        ("track:", "expected speaker"),
    ],
)
def test_a_wrong_choice_names_the_right_ones(how: str, message: str) -> None:
    tracks = [seen(1, 0), seen(2, 0), seen(3, 1)]
    with pytest.raises(ValueError, match=r"^face=") as caught:
        choose_faces(how, tracks, {}, MIN, Path("faces.jpg"))
    assert message in str(caught.value)


# --- stretches ----------------------------------------------------------------------------------------


class _Scorer:
    """Remembers the clips."""

    name = "fake"

    def __init__(self) -> None:
        self.clips: list[Clip] = []

    def score(self, clip: Clip) -> SyncScore:
        self.clips.append(clip)
        return SyncScore(1, 3.0, 0.5, np.zeros(31, np.float32), 0.0)


def scored(frames: list[Frame], script: dict, num_frames: int) -> tuple[_Scorer, dict[int, list[StretchScore]]]:
    scorer = _Scorer()

    def sound(start: int, end: int) -> np.ndarray:
        return np.repeat(np.arange(start, end, dtype=np.float32), 640)

    stretches = SyncStretches(make_unit(num_frames), FakeFaces(script), scorer, sound)
    for frame in frames:
        stretches.add(frame)
    return scorer, stretches.finish()


def test_stretches_are_4_s_and_end_with_their_shot() -> None:
    script = everywhere(300, LEFT_BOX, RIGHT_BOX)
    scorer, scores = scored(track(script, make_unit(300), cuts=(150,)), script, 300)
    spans = {number: [(one.start_frame, one.num_frames) for one in those] for number, those in scores.items()}
    first, second = [(0, 100), (100, 50)], [(150, 100), (250, 50)]
    assert spans == {0: first, 1: first, 2: second, 3: second}
    for clip in scorer.clips:  # each with the sound of its own time, and the scorer's margin
        assert clip.audio is not None
        assert clip.audio[0] == clip.start_frame - 15
        assert clip.audio[-1] == clip.end_frame + 14


def test_a_stretch_looks_as_prepare_sees_it() -> None:
    x0, y0, x1, y1 = LEFT_BOX
    script = {n: [(x0 + n % 7, y0 + n % 3, x1 + n % 5, y1 + n % 2)] for n in range(125) if n not in (40, 41, 77)}
    frames = track(script, make_unit(125))
    scorer, _ = scored(frames[:100], script, 125)
    (clip,) = cut(script, make_unit(125))
    (aligned,) = AlignFace(AlignConfig(), FacesConfig(), FakeFaces(script)).process(clip)
    ours = scorer.clips[0]
    assert ours.lip_points is not None
    assert aligned.lip_points is not None
    assert ours.mouths is not None
    assert aligned.mouths is not None
    assert np.array_equal(ours.lip_points, aligned.lip_points[:100])
    same = [number for number in range(94) if number not in (40, 41, 77)]  # the last are smoothed with fewer neighbours
    assert np.abs(ours.mouths[same].astype(int) - aligned.mouths[same]).max() <= 2


def test_faces_that_are_seen_for_less_than_a_second_are_not_scored() -> None:
    script = everywhere(24, LEFT_BOX)
    scorer, scores = scored(track(script, make_unit(24)), script, 24)
    assert scores == {}
    assert scorer.clips == []


# --- the picture ----------------------------------------------------------------------------------------


def crowd(num_faces: int, num_shots: int) -> tuple[ShotPictures, list[TrackMeasures]]:
    shots, tracks = ShotPictures(), []
    side = 60
    for number in range(num_faces):
        shot = number * num_shots // num_faces
        tracks.append(seen(number + 1, shot, side))
    for shot in range(num_shots):
        faces = {}
        for place, one in enumerate(one for one in tracks if one.shot_index == shot):
            x, y = 20 + 90 * (place % 6), 40 + 100 * (place // 6)
            faces[one.number - 1] = FaceLandmarks(np.array([[x, y, 0], [x + side, y + side, 0]], np.float32), 0.9)
        shots.add(Frame(shot * 250, Picture.of(np.full((360, 640, 3), 120, np.uint8)), shot, faces=faces), shot * 10.0)
    return shots, tracks


@pytest.mark.parametrize(("num_faces", "num_shots"), [(1, 1), (40, 9), (12, 1)])
def test_the_picture_highlights_who_gets_new_lips(tmp_path: Path, num_faces: int, num_shots: int) -> None:
    shots, tracks = crowd(num_faces, num_shots)
    choice = choose_faces("track:1", tracks, {}, MIN)
    save_faces_picture(tmp_path / "faces.jpg", shots, tracks, choice)
    chosen = cv2.imread(str(tmp_path / "faces.jpg"))
    nobody = cv2.imdecode(np.frombuffer(faces_picture(shots, tracks, None), np.uint8), cv2.IMREAD_COLOR)
    assert chosen is not None
    assert nobody is not None
    assert chosen.shape == nobody.shape
    assert chosen.shape[1] == 1440
    green = [
        np.count_nonzero((one[..., 1] > 150) & (one[..., 2] < 110) & (one[..., 0] < 120)) for one in (chosen, nobody)
    ]
    assert green[0] > 300
    assert green[1] == 0


def test_a_face_that_is_seen_alone_and_later_gets_a_picture_too() -> None:
    shots = ShotPictures()
    rgb = np.zeros((100, 100, 3), np.uint8)
    face = FaceLandmarks(np.array([[10, 10, 0], [40, 50, 0]], np.float32), 0.9)
    shots.add(Frame(0, Picture.of(rgb), 0, faces={0: face, 1: face}), 0.0)
    shots.add(Frame(1, Picture.of(rgb), 0, faces={2: face}), 1.0)
    assert [list(numbers) for _, numbers in shots.by_number()] == [[1, 2], [3]]


def test_times_read_as_people_write_them() -> None:
    assert [clock(time_s) for time_s in (0, 7.44, 59.96, 725, 3723.5)] == [
        "0:00.0",
        "0:07.4",
        "1:00.0",
        "12:05.0",
        "1:02:03.5",
    ]
