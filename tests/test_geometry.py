"""Pictures are shown as a player shows them: square pixels, upright, each in its own proportions."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from lipforge.pipeline.media.geometry import Orientation, orientation_of, picture_shape, square_size
from lipforge.pipeline.media.probe import probe
from tests.coded import SIZE, code_of, coded_image
from tests.odd_pictures import (
    ONE,
    ORIENTATIONS,
    convert,
    frames_of,
    join,
    scaled,
    write_pictures,
)

CODES = (5, 1234, 2901)
"""None of them looks the same turned or mirrored."""
HEIGHT, WIDTH = SIZE


def codes_of(path: Path) -> list[int]:
    return [code_of(frame.picture.whole()) for frame in frames_of(path)]


def matrix_bytes(a: float, b: float, c: float, d: float) -> bytes:
    return np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30]).astype(np.int32).tobytes()


# --- orientation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("name", ORIENTATIONS)
def test_each_orientation_is_shown_upright(tmp_path: Path, name: str, suffix: str) -> None:
    matrix, to_stored = ORIENTATIONS[name]
    stored = [to_stored(coded_image(code)) for code in CODES]
    path = write_pictures(tmp_path / f"a.{suffix}", stored, matrix=matrix)
    info = probe(str(path))
    assert (info.width_px, info.height_px) == (WIDTH, HEIGHT)
    assert codes_of(path) == list(CODES)


@pytest.mark.parametrize(
    ("option", "name"), [("rotate=90", "turned_270"), ("flip=horizontal", "mirrored"), ("flip=vertical", "upside_down")]
)
def test_an_orientation_in_the_video_stream_itself_is_obeyed(tmp_path: Path, option: str, name: str) -> None:
    """H.264's display orientation SEI, whose angle counts anticlockwise."""
    plain = write_pictures(tmp_path / "plain.mp4", [ORIENTATIONS[name][1](coded_image(code)) for code in CODES])
    said = f"h264_metadata=display_orientation=insert:{option}"
    assert codes_of(convert(plain, tmp_path / "a.mkv", "-c", "copy", "-bsf:v", said)) == list(CODES)


def test_the_eight_orientations_are_different() -> None:
    found = {orientation_of(matrix_bytes(*matrix)) for matrix, _ in ORIENTATIONS.values()}
    assert found == {Orientation(turns, mirrored) for turns in range(4) for mirrored in (False, True)}


@pytest.mark.parametrize("name", ORIENTATIONS)
@pytest.mark.parametrize(("across", "down"), [(2.0, 2.0), (2.0, 1.0), (0.01, 0.03), (1.0, 0.5)])
def test_a_matrix_that_also_scales_or_turns_a_little_means_the_nearest_orientation(
    name: str, across: float, down: float
) -> None:
    """QuickTime files scale in the matrix, and editors turn by a degree."""
    (a, b, c, d), _ = ORIENTATIONS[name]
    exact = orientation_of(matrix_bytes(a, b, c, d))
    angle = np.radians(3)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    for tilt in (np.eye(2), turn, turn.T):
        (a2, c2), (b2, d2) = tilt @ np.diag([across, down]) @ np.array([[a, c], [b, d]])
        assert orientation_of(matrix_bytes(a2, b2, c2, d2)) == exact


@pytest.mark.parametrize("matrix", [(0, 0, 0, 0), (ONE, 0, 0, 0), (0, ONE, 0, 0), (ONE, ONE, ONE, ONE)])
def test_a_matrix_that_shows_no_picture_is_ignored(matrix: tuple[int, int, int, int]) -> None:
    assert orientation_of(matrix_bytes(*matrix)) == Orientation()


# --- pixels that are not square -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "pixel_ratio", "square"),
    [
        ((720, 576), "16/15", (768, 576)),  # PAL 4:3
        ((720, 576), "64/45", (1024, 576)),  # PAL 16:9
        ((720, 480), "8/9", (720, 540)),  # NTSC 4:3
        ((720, 480), "32/27", (853, 480)),  # NTSC 16:9
        ((1440, 1080), "4/3", (1920, 1080)),  # HDV
        ((480, 540), "2", (960, 540)),
        ((960, 540), "1/2", (960, 1080)),
        ((431, 333), "3/2", (646, 333)),
        ((640, 480), "1", (640, 480)),
        ((640, 480), "639/640", (640, 480)),  # rounded by a muxer
        ((640, 480), "0", (640, 480)),
        ((640, 480), "4", (2560, 480)),
        ((640, 480), "5", (640, 480)),  # no pixel is as wide as that
        ((640, 480), "1/5", (640, 480)),
        ((8192, 4320), "3", (8192, 4320)),  # nobody has such a screen
    ],
)
def test_pixels_become_square_without_losing_any(
    stored: tuple[int, int], pixel_ratio: str, square: tuple[int, int]
) -> None:
    assert square_size(*stored, Fraction(pixel_ratio)) == square


def test_pixels_are_made_square_before_the_picture_is_turned() -> None:
    shape = picture_shape(100, 100, Fraction(2), matrix_bytes(*ORIENTATIONS["turned_90"][0]))
    assert (shape.square_size_px, shape.width_px, shape.height_px) == ((200, 100), 100, 200)


SQUEEZED = {
    "pal.mp4": ("libx264", (720, 576), Fraction(16, 15), (768, 576)),
    "ntsc.mkv": ("libx264", (720, 480), Fraction(8, 9), (720, 540)),
    "dvb.ts": ("libx264", (720, 576), Fraction(64, 45), (1024, 576)),
    "dvd.mpg": ("mpeg2video", (720, 576), Fraction(16, 15), (768, 576)),
    "wide_dvd.mpg": ("mpeg2video", (720, 480), Fraction(32, 27), (853, 480)),
    "hdv.ts": ("mpeg2video", (1440, 1080), Fraction(4, 3), (1920, 1080)),
    "dv.avi": ("dvvideo", (720, 576), Fraction(64, 45), (1024, 576)),
}


@pytest.mark.parametrize("name", SQUEEZED)
def test_squeezed_video_is_stretched(tmp_path: Path, name: str) -> None:
    """A square in the middle is shown as one."""
    vcodec, (width, height), pixel_ratio, square = SQUEEZED[name]
    shown = np.full((square[1], square[0], 3), 40, np.uint8)
    side = min(square) // 2
    left, top = (square[0] - side) // 2, (square[1] - side) // 2
    shown[top : top + side, left : left + side] = 220
    pictures = [scaled(shown, width, height)] * 4
    path = write_pictures(tmp_path / name, pictures, vcodec=vcodec, pixel_ratio=pixel_ratio)
    info = probe(str(path))
    assert (info.width_px, info.height_px) == square
    rgb = frames_of(path)[0].picture.whole()
    bright = rgb.mean(axis=2) > 130
    assert rgb.shape == (square[1], square[0], 3)
    assert bright.any(axis=0).sum() == pytest.approx(side, abs=3)
    assert bright.any(axis=1).sum() == pytest.approx(side, abs=3)


def test_the_containers_pixel_ratio_wins_over_the_codecs(tmp_path: Path) -> None:
    path = write_pictures(tmp_path / "a.mp4", [coded_image(7)] * 5, pixel_ratio=Fraction(2))
    both = convert(path, tmp_path / "b.mp4", "-c", "copy", "-bsf:v", "h264_metadata=sample_aspect_ratio=3/1")
    assert (probe(str(both)).width_px, probe(str(both)).height_px) == (2 * WIDTH, HEIGHT)


@pytest.mark.parametrize(("vcodec", "suffix"), [("libvpx-vp9", "webm"), ("libvpx", "mkv"), ("mpeg4", "mp4")])
def test_a_pixel_ratio_that_only_the_container_knows_is_obeyed(tmp_path: Path, vcodec: str, suffix: str) -> None:
    plain = write_pictures(tmp_path / f"a.{suffix}", [coded_image(7)] * 5, vcodec=vcodec)
    path = convert(plain, tmp_path / f"b.{suffix}", "-c", "copy", "-aspect", "16:9")
    assert (probe(str(path)).width_px, probe(str(path)).height_px) == (171, HEIGHT)


def test_square_pixels_are_read_as_they_are(tmp_path: Path) -> None:
    path = write_pictures(tmp_path / "a.mp4", [coded_image(7)] * 3, pixel_ratio=Fraction(1))
    with av.open(str(path)) as container:
        plain = next(container.decode(video=0)).to_ndarray(format="rgb24")
    np.testing.assert_array_equal(frames_of(path)[0].picture.whole(), plain)


# --- changes in mid-stream ------------------------------------------------------------------------


def still(path: Path, size: tuple[int, int], num_frames: int = 20, vcodec: str = "libvpx") -> Path:
    return write_pictures(path, [scaled(coded_image(7), *size)] * num_frames, vcodec=vcodec)


def spans(path: Path) -> list[tuple]:
    """((height, width), shot, scale, number of frames) of each stretch."""
    found: list[tuple] = []
    for frame in frames_of(path):
        kind = (frame.picture.size_px[::-1], frame.shot_index, round(frame.scale, 2))
        if found and found[-1][:3] == kind:
            found[-1] = (*kind, found[-1][3] + 1)
        else:
            found.append((*kind, 1))
    return found


@pytest.mark.parametrize(("vcodec", "suffix"), [("libvpx", "webm"), ("libvpx-vp9", "webm"), ("libx264", "ts")])
def test_a_change_of_shape_is_a_cut_and_each_part_has_its_own(tmp_path: Path, vcodec: str, suffix: str) -> None:
    first = still(tmp_path / f"a.{suffix}", (128, 96), 30, vcodec)
    second = still(tmp_path / f"b.{suffix}", (192, 96), 30, vcodec)
    path = join(tmp_path / f"c.{suffix}", [first, second, first])
    found = spans(path)
    assert [stretch[0] for stretch in found] == [(96, 128), (96, 192), (96, 128)]
    assert [stretch[3] for stretch in found] == pytest.approx([30, 30, 30], abs=1)
    assert len({stretch[1] for stretch in found}) == 3
    assert [stretch[2] for stretch in found] == [1, 1, 1]


def test_the_shape_changes_in_time_where_recordings_overlap(tmp_path: Path) -> None:
    """Two TS segments, one after the other, where the second's key frame has the time of a picture that was shown."""
    parts = []
    for number, ratio in enumerate([Fraction(16, 11), Fraction(12, 11)]):
        pictures = [scaled(coded_image(number), 88, 72)] * 40
        parts.append(write_pictures(tmp_path / f"{number}.ts", pictures, pixel_ratio=ratio, gop=20))
    at = ("-output_ts_offset", "1.6")
    later = convert(parts[1], tmp_path / "later.ts", "-c", "copy", "-muxdelay", "0", "-muxpreload", "0", *at)
    path = tmp_path / "both.ts"
    path.write_bytes(parts[0].read_bytes() + later.read_bytes())
    found = spans(path)
    assert [stretch[0] for stretch in found] == [(72, 128), (72, 96)]
    assert found[0][3] == pytest.approx(40, abs=1)


def test_a_change_of_size_alone_is_no_cut_and_keeps_every_pixel(tmp_path: Path) -> None:
    """WebRTC sends smaller pictures while the line is bad. 64 x 48 to 90 x 68 is as near as even sides allow."""
    steps = [(128, 96), (64, 48), (90, 68), (256, 192)]
    parts = [still(tmp_path / f"{n}.webm", size) for n, size in enumerate(steps)]
    found = spans(join(tmp_path / "all.webm", parts))
    assert [stretch[0] for stretch in found] == [(height, width) for width, height in steps]
    assert {stretch[1] for stretch in found} == {0}
    assert [stretch[2] for stretch in found] == pytest.approx([1, 0.5, 0.706, 2], abs=0.01)


def test_places_in_later_units_are_in_pixels_of_the_same_size(tmp_path: Path) -> None:
    parts = [still(tmp_path / f"{n}.webm", size) for n, size in enumerate([(128, 96), (64, 48)])]
    path = join(tmp_path / "all.webm", parts)
    assert {frame.scale for frame in frames_of(path, 22, 38)} == {0.5}


def test_a_change_of_the_pixel_ratio_alone_is_a_cut(tmp_path: Path) -> None:
    """Broadcasts change between 4:3 and 16:9 without changing the size."""
    parts = [
        write_pictures(tmp_path / f"{n}.ts", [coded_image(7)] * 20, vcodec="mpeg2video", pixel_ratio=ratio)
        for n, ratio in enumerate([Fraction(1), Fraction(4, 3)])
    ]
    found = spans(join(tmp_path / "all.ts", parts))
    assert [stretch[0] for stretch in found] == [(96, 128), (96, 171)]
    assert [stretch[1] for stretch in found] == [0, 1]


def test_a_phone_that_is_turned_in_mid_call_begins_another_shot(tmp_path: Path) -> None:
    parts = [still(tmp_path / f"{n}.webm", size) for n, size in enumerate([(128, 96), (96, 128)])]
    found = spans(join(tmp_path / "all.webm", parts))
    assert [stretch[0] for stretch in found] == [(96, 128), (128, 96)]
    assert found[0][1] != found[1][1]
