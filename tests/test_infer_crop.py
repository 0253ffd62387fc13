"""A face out of a picture and back into it: geometry, colours, and what must not change."""

from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from lipforge.model.faces.alignment import align, template_size_px, to_square
from lipforge.pipeline.infer.blend import Blender, feathered
from lipforge.pipeline.infer.crop import Cropper, paste, stored_to_shown
from lipforge.pipeline.infer.planes import Colours, blend_into, colours_of, plane_arrays
from lipforge.pipeline.media.geometry import Orientation, PictureShape, square_size
from lipforge.pipeline.media.tonemap import Light, from_sdr, to_sdr
from tests.golden import GOLDEN

PLAIN = Light("sdr", False, 1000.0)
POINTS = np.array([[[70.0, 60.0], [125.0, 64.0], [98.0, 100.0]]])


def picture(width: int = 240, height: int = 200, format_: str = "yuv420p", seed: int = 0) -> av.VideoFrame:
    """Smooth colours with some texture, tagged as BT.709 of limited range."""
    rng = np.random.default_rng(seed)
    rgb = cv2.resize(rng.random((12, 14, 3)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    rgb = np.clip(rgb * 200 + rng.normal(0, 2, rgb.shape) + 20, 0, 255).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
    frame = frame.reformat(format=format_, dst_colorspace="ITU709")
    frame.colorspace, frame.color_range = 1, 1
    return frame


@pytest.mark.parametrize("format_", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv444p12le", "gray", "gbrp"])
def test_a_face_that_is_put_back_unchanged_leaves_the_picture_as_it_was(format_: str):
    image = picture(format_=format_)
    colours = colours_of(image, 1000.0)
    matrix = to_square(align(POINTS, 256), 256)[0]
    blender = Blender(256)
    before = [plane.astype(np.float64) for plane in plane_arrays(image)]
    crop = Cropper(256).take(image, matrix, colours)
    image.make_writable()
    paste(image, matrix, blender.matched(crop.astype(np.float32), crop), blender.alpha, colours)
    size = image.width, image.height
    share = cv2.warpAffine(blender.alpha, matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    for was, now in zip(before, plane_arrays(image), strict=True):
        inside = cv2.resize(share, was.shape[::-1], interpolation=cv2.INTER_AREA) > 0
        changed = was != now
        assert not (changed & ~cv2.dilate(inside.astype(np.uint8), np.ones((5, 5))).astype(bool)).any()
        error = ((was - now)[inside] / (1 << (colours.bits - 8))) ** 2
        assert 10 * np.log10(255**2 / error.mean()) > 38


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_stored_pixels_are_where_turned_mirrored_and_stretched_pictures_show_them(turns: int, mirrored: bool):
    width, height, ratio = 60, 40, Fraction(4, 3)
    orientation = Orientation(turns, mirrored)
    square = square_size(width, height, ratio)
    shown_size = square[::-1] if turns % 2 else square
    shape = PictureShape(*shown_size, square, orientation)
    stored = np.zeros((height, width), np.uint8)
    stored[10:14, 20:23] = 255
    shown = orientation.apply(cv2.resize(stored, square, interpolation=cv2.INTER_AREA))
    there = np.array(np.nonzero(shown > 128))[::-1].mean(axis=1)
    matrix = stored_to_shown(shape, width, height)
    np.testing.assert_allclose(matrix[:, :2] @ [21, 11.5] + matrix[:, 2], there, atol=0.4)


@pytest.mark.parametrize("light", [Light("pq", True, 1000.0), Light("hlg", True, 1000.0), Light("sdr", True, 1000.0)])
def test_sdr_colours_return_to_the_light_they_came_from(light: Light):
    rgb = np.random.default_rng(1).random((500, 3)) * 0.9
    assert np.abs(to_sdr(from_sdr(rgb, light), light) - rgb).max() < 1e-3


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", [1, 6, 9])
def test_colours_become_the_numbers_that_the_standards_give(full_range: bool, matrix: int):
    colours = Colours(8, full_range, matrix, PLAIN)
    white, gray = (
        colours.codes(np.full((1, 1, 3), 255, np.float32), False),
        colours.codes(np.full((1, 1, 3), 127.5, np.float32), False),
    )
    top, middle = (255, 127.5) if full_range else (235, 125.5)
    np.testing.assert_allclose([plane.item() for plane in white], [top, 128, 128], atol=1e-3)
    np.testing.assert_allclose([plane.item() for plane in gray], [middle, 128, 128], atol=1e-3)
    blue = colours.codes(np.array([[[0, 0, 255]]], np.float32), False)[1].item()
    assert blue == pytest.approx(255.5 if full_range else 240, abs=0.01)


def test_the_share_of_the_new_face_grows_smoothly_inside_of_the_mask_alone():
    mask = np.zeros((64, 64), np.float32)
    mask[20:50, 10:54] = 1
    share = feathered(mask, 6)
    assert share.dtype == np.float32 and not share[mask == 0].any() and share[35, 32] == 1
    assert np.abs(np.diff(share[:, 32])).max() < 0.3
    assert (np.diff(share[18:32, 32]) >= 0).all()


def test_the_colour_error_of_a_network_is_taken_back():
    rng = np.random.default_rng(2)
    original = cv2.resize(rng.integers(60, 200, (8, 8, 3)).astype(np.uint8), (128, 128), interpolation=cv2.INTER_CUBIC)
    drawn = np.clip(original.astype(np.float32) + [9, -6, 4] + np.linspace(-5, 5, 128)[:, None, None], 0, 255)
    drawn = drawn.astype(np.float32)
    blender = Blender(128)
    inside = blender.alpha > 0
    before = np.abs(drawn - original)[inside].mean()
    assert np.abs(blender.matched(drawn, original) - original)[inside].mean() < before / 3


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="needs the expected outputs of the published networks")
def test_crop_and_paste_agree_with_the_published_ones():
    """The published code pastes the whole template with a mask that it erodes and blurs; its mask is made here."""
    expected = np.load(GOLDEN / "train" / "restore.npz")
    y, x = np.mgrid[:270, :360]
    scene = np.stack([x / 360 * 255, y / 270 * 255, (x + y) / 630 * 255], axis=-1).astype(np.uint8)
    points = np.array([[[150.0, 120], [205, 124], [178, 165]]])
    matrix = align(points, 256)[0]
    np.testing.assert_allclose(matrix, expected["matrix"][0], atol=1e-3)
    size = template_size_px(256)
    aligned = cv2.warpAffine(scene, matrix, size, flags=cv2.INTER_LINEAR, borderValue=(127, 127, 127))
    inside = cv2.warpAffine(np.ones((270, 360), np.uint8), matrix, size)[::4, ::4] > 0
    difference = np.abs(aligned[::4, ::4].astype(int) - expected["aligned"])[inside]
    assert difference.max() <= 2

    face = np.clip(-0.5 * (aligned / 127.5 - 1) * 127.5 + 127.5, 0, 255).astype(np.float32)
    box = cv2.warpAffine(np.ones(size[::-1], np.float32), matrix, (360, 270), flags=cv2.WARP_INVERSE_MAP)
    eroded = cv2.erode(box, np.ones((2, 2)))
    edge = int(eroded.sum() ** 0.5) // 20
    blur = edge * 2 + 1
    centre = cv2.erode(eroded, np.ones((edge * 2, edge * 2)))
    soft = cv2.GaussianBlur(centre, (blur, blur), 0.3 * ((blur - 1) * 0.5 - 1) + 0.8)
    shown = cv2.warpAffine(face, matrix, (360, 270), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)
    image = av.VideoFrame.from_ndarray(scene, format="rgb24").reformat(format="gbrp")
    image.make_writable()
    blend_into(image, 0, 0, np.clip(shown, 0, 255), soft, colours_of(image, 1000.0))
    restored = image.reformat(format="rgb24").to_ndarray()
    error = np.abs(restored[::3, ::3].astype(int) - expected["restored"])
    assert np.percentile(error, 99) <= 3
    assert error.mean() < 0.5
