"""`--face-points`: a drawn face is where its file says, and every mistake in the file is named with its line."""

import math
from pathlib import Path

import numpy as np
import pytest

from lipforge.model.faces.alignment import align, to_square
from lipforge.pipeline.infer.points_file import COLUMNS, NO_FACE_HINT, read_face_points
from lipforge.pipeline.infer.usable import UsableConfig, usable_frames

HEADER = ",".join(COLUMNS)
FACE = "100,100,160,100,130,160"


def written(folder: Path, *lines: str, header: str = HEADER) -> Path:
    path = folder / "points.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def test_one_row_is_a_still_face(tmp_path: Path) -> None:
    points = read_face_points(written(tmp_path, f"5,{FACE}"))
    for time_s in (0.0, 5.0, 3600.0):
        assert np.array_equal(points.at(time_s), [[100, 100], [160, 100], [130, 160]])


def test_rows_interpolate_and_end_where_a_row_is_empty(tmp_path: Path) -> None:
    lines = (f"1,{FACE}", "2,110,100,170,100,140,160", "3", "4,,,,,,", f"5,{FACE}")
    points = read_face_points(written(tmp_path, *lines))
    at = {time_s: points.at(time_s) for time_s in (0.0, 1.5, 2.5, 3.0, 4.5, 9.0)}
    assert at[0.0][0, 0] == 100
    assert at[1.5][0, 0] == pytest.approx(105)
    assert at[2.5][0, 0] == 110  # it stays until the empty row
    assert at[3.0] is at[4.5] is None
    assert at[9.0][0, 0] == 100


def test_a_face_does_not_glide_across_a_cut(tmp_path: Path) -> None:
    points = read_face_points(written(tmp_path, f"1,{FACE}", "3,300,100,360,100,330,160"))
    assert points.at(1.9, (0, 2))[0, 0] == 100
    assert points.at(2.1, (2, 4))[0, 0] == 300
    assert points.at(5.0, (4, math.inf)) is None
    frames = [(number, number / 25, int(number >= 50)) for number in range(100)]
    first, second = points.tracks(frames, (640, 360), Path("points.csv"))
    assert [first.number, first.shot_index, len(first.rows)] == [1, 0, 50]
    assert [second.number, second.shot_index, len(second.rows)] == [2, 1, 50]
    assert np.ptp(first.rows["points"], axis=0).max() == np.ptp(second.rows["points"], axis=0).max() == 0


def test_a_pointed_face_is_aligned_as_a_found_one_is(tmp_path: Path) -> None:
    (track,) = read_face_points(written(tmp_path, f"0,{FACE}")).tracks([(0, 0.0, 0)], (640, 360), tmp_path)
    matrix = to_square(align(track.rows["points"], 256), 256)[0]
    eyes_and_mouth = np.array([[100, 100], [160, 100], [130, 160]]) @ matrix[:, :2].T + matrix[:, 2]
    assert eyes_and_mouth == pytest.approx(np.array([[75, 75], [181, 75], [128, 160]]), abs=8)
    assert usable_frames(track, UsableConfig())[1] == [None]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((f"x,{FACE}",), "line 2: time_s is 'x'; expected a number"),
        ((f"0,{FACE}", "1,1,2,3"), "line 3: right_eye_y is empty; expected a number"),
        ((f"nan,{FACE}",), "line 2: time_s is 'nan'; expected a number"),
        (("0,1e999,100,160,100,130,160",), "line 2: left_eye_x is '1e999'; expected a number"),
        ((f"-1,{FACE}",), "line 2: time_s is -1; expected seconds from the start, 0 or more"),
        ((f"2,{FACE}", f"2,{FACE}"), "line 3: time_s 2 does not come after 2; sort the rows by time"),
        ((f"0,{FACE},7",), "line 2: 8 values; expected 7"),
        (("0,160,100,100,100,130,160",), "line 2: the mouth is not below the line of the eyes"),
        (("0,100,100,100,101,130,160",), "line 2: the two eyes are less than 2 px apart"),
        ((), "no row has a face"),
        (("0",), "no row has a face"),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    path = written(tmp_path, *lines)
    with pytest.raises(ValueError, match=r"^--face-points .*points\.csv") as caught:
        read_face_points(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_points_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"line 1: the columns are 'time;x'; expected time_s,left_eye_x"):
        read_face_points(written(tmp_path, header="time;x"))
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00" * 50)
    with pytest.raises(ValueError, match="not a CSV file in UTF-8"):
        read_face_points(tmp_path / "binary.csv")
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        read_face_points(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        read_face_points(tmp_path)


def test_a_byte_order_mark_and_spaces_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_bytes(b"\xef\xbb\xbf" + f"{HEADER}\r\n\r\n 0 , 100,100,160,100,130,160\r\n".encode())
    assert read_face_points(path).at(0.0) is not None


def test_points_outside_of_the_picture_are_a_mistake(tmp_path: Path) -> None:
    path = written(tmp_path, "0,5100,100,5160,100,5130,160")
    with pytest.raises(ValueError, match="never within the picture, which is 640 x 360 px"):
        read_face_points(path).tracks([(0, 0.0, 0)], (640, 360), path)


def test_who_finds_no_face_is_told_of_the_option() -> None:
    assert "--face-points" in NO_FACE_HINT
    assert HEADER in NO_FACE_HINT
