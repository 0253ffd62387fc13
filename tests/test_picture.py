"""Pictures of which only parts are converted: the same pixels as of the whole, wherever somebody looks."""

import gc
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace

from lipforge.model.faces.picture import Area, Canvases, Picture
from lipforge.pipeline.media.geometry import Orientation, PictureShape, square_size
from lipforge.pipeline.media.picture import ToRgb
from lipforge.pipeline.media.probe import VideoInfo
from lipforge.pipeline.media.video import SourceFrame
from tests.coded import shown, write_coded

TURNED = [Orientation(turns, mirrored) for mirrored in (False, True) for turns in range(4)]


def noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def source_frame(
    width: int,
    height: int,
    pixel_format: str = "yuv420p",
    orientation: Orientation | None = None,
    ratio: Fraction = Fraction(1),
) -> SourceFrame:
    image = av.VideoFrame.from_ndarray(noise(width, height), format="rgb24").reformat(format=pixel_format)
    square, turn = square_size(width, height, ratio), orientation or Orientation()
    shown = square[::-1] if turn.quarter_turns % 2 else square
    return SourceFrame(0.0, image, PictureShape(*shown, square, turn))


def converted(frame: SourceFrame) -> Picture:
    return ToRgb(VideoInfo(*frame.shape.square_size_px, 0, 25.0, 9, 0.0, (0.0,), True, "h264", "aac")).convert(frame)


def parts_of(picture: Picture, seed: int = 0) -> list[Area]:
    """At any place and at all four edges; the last are large."""
    width, height = picture.size_px
    random = np.random.default_rng(seed)
    areas = [Area(0, 0, 9, 7), Area(width - 5, height - 3, width, height), Area(0, height // 2, width // 3, height)]
    for longest in (0.1, 0.1, 0.1, 0.6, 0.6, 0.6):
        wide, high = (int(random.integers(1, longest * side)) for side in (width, height))
        left, top = int(random.integers(0, width - wide)), int(random.integers(0, height - high))
        areas.append(Area(left, top, left + wide, top + high))
    return areas


def check_parts(frame: SourceFrame) -> None:
    whole = converted(frame).whole()
    for area in parts_of(converted(frame)):
        left, top, right, bottom = area
        np.testing.assert_array_equal(converted(frame).part(area), whole[top:bottom, left:right])
    one = converted(frame)  # several parts of the same picture
    for area in parts_of(one, seed=1):
        left, top, right, bottom = area
        np.testing.assert_array_equal(one.part(area), whole[top:bottom, left:right])
    np.testing.assert_array_equal(one.whole(), whole)


@pytest.mark.parametrize("size", [(640, 360), (454, 256), (225, 400), (400, 225), (1080, 606)])
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv420p10le", "gray", "rgb24"])
def test_a_part_has_the_pixels_of_the_whole(size: tuple[int, int], pixel_format: str) -> None:
    check_parts(source_frame(*size, pixel_format))


@pytest.mark.parametrize("orientation", TURNED)
def test_also_in_pictures_that_are_turned(orientation: Orientation) -> None:
    check_parts(source_frame(455, 258, orientation=orientation))


def test_also_where_pixels_are_not_square() -> None:
    check_parts(source_frame(360, 288, ratio=Fraction(16, 15)))


@pytest.mark.parametrize("colour", [(Colorspace.ITU601, ColorRange.JPEG), (Colorspace.ITU709, ColorRange.MPEG), None])
def test_colours_are_those_that_the_frame_says_or_that_its_size_means(colour) -> None:
    frame = source_frame(1280, 720)
    if colour is not None:
        frame.image.colorspace, frame.image.color_range = map(int, colour)
    check_parts(frame)


@pytest.mark.parametrize("orientation", TURNED)
def test_areas_turn_as_pixels_do(orientation: Orientation) -> None:
    stored = noise(50, 30)
    shown = orientation.apply(stored)
    size = shown.shape[1], shown.shape[0]
    area = Area(4, 7, 21, 12)
    left, top, right, bottom = orientation.stored_area(area, *size)
    np.testing.assert_array_equal(orientation.apply(stored[top:bottom, left:right]), shown[7:12, 4:21])
    assert orientation.shown_area(orientation.stored_area(area, *size), *size) == area


def only_where_asked(rgb: np.ndarray) -> Picture:
    """Gives exactly what was asked for; what nobody asked for is of another colour each time."""

    def convert(area: Area) -> tuple[Area, np.ndarray]:
        return area, rgb[area.top : area.bottom, area.left : area.right]

    picture = Picture(rgb.shape[1], rgb.shape[0], convert)
    picture.part(Area(0, 0, 1, 1))  # now there is memory for all of it
    everything = picture._with(Area(0, 0, 1, 1))
    everything[:] = np.random.default_rng().integers(0, 256, everything.shape)
    return picture


def warp_of_all(rgb: np.ndarray, inverse: bool) -> Callable[[np.ndarray], np.ndarray]:
    flags = cv2.INTER_LINEAR | (cv2.WARP_INVERSE_MAP if inverse else 0)
    return lambda matrix: cv2.warpAffine(rgb, matrix, (48, 48), flags=flags, borderMode=cv2.BORDER_REPLICATE)


@pytest.mark.parametrize("inverse", [False, True])
def test_a_warp_converts_all_that_it_reads(inverse: bool) -> None:
    rgb = noise(300, 200)
    random = np.random.default_rng(4)
    for _ in range(200):  # turned, enlarged, reduced; within, across an edge, and beside the picture
        angle, scale = random.uniform(-np.pi, np.pi), np.exp(random.uniform(-1.5, 1.5))
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        middle = random.uniform(-60, 1, 2) + random.uniform(0, 1, 2) * [360, 260]
        to_picture = np.column_stack([turn, middle - turn @ [24, 24]])
        matrix = to_picture if inverse else cv2.invertAffineTransform(to_picture)
        found = only_where_asked(rgb).warp(matrix, 48, inverse=inverse, border=cv2.BORDER_REPLICATE)
        np.testing.assert_array_equal(found, warp_of_all(rgb, inverse)(matrix))


def test_memory_is_used_again_only_when_nobody_looks_at_it() -> None:
    canvases = Canvases()
    first = canvases.take(40, 30)
    seen = first[3:9, 2:8, 1]
    del first
    assert not np.shares_memory(canvases.take(40, 30), seen)
    place = seen.__array_interface__["data"][0]
    del seen
    again = [canvases.take(40, 30) for _ in range(2)]
    assert sum(canvas.__array_interface__["data"][0] <= place < _end(canvas) for canvas in again) == 1
    assert canvases.take(30, 40).shape == (40, 30, 3)


def _end(canvas: np.ndarray) -> int:
    return canvas.__array_interface__["data"][0] + canvas.nbytes


def test_decoded_pictures_are_freed_when_nobody_needs_them(tmp_path: Path) -> None:
    """Not when Python's garbage collector happens to look, gigabytes later."""
    path = write_coded(tmp_path / "coded.mp4", [number / 25 for number in range(50)])
    shown(path)  # imports, and whatever is kept for later
    gc.collect()
    gc.disable()
    try:
        assert len(shown(path)) == 50
        assert gc.collect() < 25
    finally:
        gc.enable()
