"""Interlaced video: each field becomes a picture without combs, at its own moment."""

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from lipforge.pipeline.media.deinterlace import LEAVE_AFTER, deinterlace
from lipforge.pipeline.media.video import DecodeCount, SourceFrame, decode_video
from lipforge.pipeline.stages.resample import Resample
from tests.clicks import click_clip, measure_click_offset_s
from tests.coded import heard
from tests.odd_pictures import X264, convert, frames_of, interlace, join, unit_of, write_pictures

MPEG2 = ("-c:v", "mpeg2video", "-q:v", "2", "-g", "12", "-pix_fmt", "yuv420p", "-threads", "1")
HEIGHT, WIDTH = 96, 240
STEP_PX, FIRST_PX = 2, 30
FIELD_S, FRAME = 0.02, Fraction(1, 25)
NUM_FIELDS = 80


def bar_at(field: int) -> np.ndarray:
    """A bright bar that moves by STEP_PX per field, on grey."""
    rgb = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    centre = FIRST_PX + STEP_PX * field
    rgb[:, centre - 8 : centre + 8] = 210
    return rgb


def time_shown_s(rgb: np.ndarray) -> float:
    """When the bar is where the picture shows it."""
    bright = np.clip(rgb[8:-8].astype(float).mean(axis=(0, 2)) - 80, 0, None)
    return (float(np.average(np.arange(len(bright)), weights=bright)) + 0.5 - FIRST_PX) / STEP_PX * FIELD_S


def combs(rgb: np.ndarray) -> float:
    """How much rows differ from the mean of both their neighbours. The bar has none of it."""
    rows = rgb[8:-8].astype(float)
    return float(np.abs(2 * rows[1:-1] - rows[:-2] - rows[2:]).mean())


@pytest.fixture(scope="module")
def bar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 progressive pictures a second."""
    path = tmp_path_factory.mktemp("bar") / "bar.mkv"
    return write_pictures(path, map(bar_at, range(NUM_FIELDS)), rate=50, vcodec="ffv1")


def pictures_of(path: Path) -> list[tuple[float, np.ndarray]]:
    frames = Resample().decode(unit_of(path), DecodeCount())
    return [(frame.time_s, frame.image.to_ndarray(format="rgb24")) for frame in frames if frame.image is not None]


KINDS = {
    "h264_top.mp4": (True, X264),
    "h264_bottom.mkv": (False, X264),
    "h264_top.ts": (True, X264),
    "h264_b_frames.mkv": (True, ("-c:v", "libx264", "-crf", "12", "-bf", "3", "-g", "12", "-pix_fmt", "yuv420p")),
    "h264_422.mp4": (True, (*X264[:-4], "-pix_fmt", "yuv422p", "-threads", "1")),
    "h264_10_bit.mkv": (True, (*X264[:-4], "-pix_fmt", "yuv420p10le", "-threads", "1")),
    "mpeg2_top.ts": (True, MPEG2),
    "mpeg2_bottom.mpg": (False, MPEG2),
    "mpeg2_b_frames.ts": (True, (*MPEG2, "-bf", "2")),
}


@pytest.mark.parametrize("name", KINDS)
def test_each_field_is_a_picture_at_its_own_time(bar: Path, tmp_path: Path, name: str) -> None:
    path = interlace(bar, tmp_path / name, *KINDS[name])
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        assert frame.interlaced_frame and combs(frame.to_ndarray(format="rgb24")) > 4
    found = pictures_of(path)
    assert len(found) == NUM_FIELDS
    np.testing.assert_allclose([time_s for time_s, _ in found], np.arange(NUM_FIELDS) * FIELD_S, atol=1e-3)
    for time_s, rgb in found:
        assert time_shown_s(rgb) == pytest.approx(time_s, abs=3e-3)
    assert np.mean([combs(rgb) for _, rgb in found[2:-2]]) < 1


@pytest.mark.parametrize("name", ["h264_top.mp4", "mpeg2_bottom.mpg"])
def test_the_grid_shows_the_picture_of_each_moment(bar: Path, tmp_path: Path, name: str) -> None:
    frames = frames_of(interlace(bar, tmp_path / name, *KINDS[name]))
    assert len(frames) == NUM_FIELDS // 2
    for frame in frames:
        assert time_shown_s(frame.picture.whole()) == pytest.approx(frame.index / 25, abs=3e-3)


def test_59_94_fields_a_second_are_thinned_without_bias(tmp_path: Path) -> None:
    bar = write_pictures(tmp_path / "bar.mkv", map(bar_at, range(NUM_FIELDS)), rate=60, vcodec="ffv1")
    frames = frames_of(interlace(bar, tmp_path / "a.mp4", True))
    errors_s = [time_shown_s(frame.picture.whole()) * 50 / 60 - frame.index / 25 for frame in frames[1:-1]]
    assert max(map(abs, errors_s)) < 0.5 / 60 + 2e-3  # the nearest field
    assert abs(np.mean(errors_s)) < 2e-3


def test_a_stream_that_mixes_both_keeps_its_progressive_frames(bar: Path, tmp_path: Path) -> None:
    still = convert(bar, tmp_path / "p.ts", "-vf", "fps=25", *MPEG2)
    woven = interlace(bar, tmp_path / "i.ts", True, MPEG2)
    path = join(tmp_path / "all.ts", [still, woven, still])
    found = pictures_of(path)
    assert all(earlier < later for (earlier, _), (later, _) in pairwise(found))
    second, third = NUM_FIELDS / 50, 2 * NUM_FIELDS / 50
    for time_s, rgb in found:
        start_s = 0.0 if time_s < second - 1e-3 else second if time_s < third - 1e-3 else third
        assert time_shown_s(rgb) == pytest.approx(time_s - start_s, abs=3e-3)
    assert len(found) == pytest.approx(NUM_FIELDS // 2 * 4, abs=1)
    with av.open(str(still)) as container:
        plain = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    np.testing.assert_array_equal([rgb for _, rgb in found[: len(plain)]], plain)
    np.testing.assert_array_equal([rgb for _, rgb in found[-len(plain) :]], plain)


def source_frames(*flags: bool) -> list[SourceFrame]:
    """One frame per 40 ms, interlaced or not."""
    graph = av.filter.Graph()
    source = graph.add_buffer(width=WIDTH, height=HEIGHT, format=av.VideoFormat("yuv420p"), time_base=FRAME)
    graph.link_nodes(source, graph.add("setfield", mode="tff"), graph.add("buffersink")).configure()
    frames = []
    for number, interlaced in enumerate(flags):
        image = av.VideoFrame.from_ndarray(bar_at(number), format="rgb24").reformat(format="yuv420p")
        if interlaced:
            image.pts, image.time_base = number, FRAME
            graph.push(image)
            image = graph.vpull()
        frames.append(SourceFrame(number / 25, image))
    return frames


def test_progressive_frames_are_passed_on_at_once_and_untouched() -> None:
    frames = source_frames(*[False] * 5)
    stream = deinterlace(iter(frames))
    for frame in frames:
        assert next(stream) is frame


def test_the_filter_is_left_after_a_while_without_interlaced_frames() -> None:
    frames = source_frames(False, True, *[False] * (LEAVE_AFTER + 10))
    found = list(deinterlace(iter(frames)))
    assert [round(frame.time_s, 3) for frame in found] == [0.0, 0.04, 0.06, *(n / 25 for n in range(2, len(frames)))]
    assert [frame.image for frame in found[-8:]] == [frame.image for frame in frames[-8:]]


def test_pictures_too_small_for_the_filter_are_passed_on() -> None:
    small = source_frames(True)[0].image.reformat(width=8, height=6)
    frame = SourceFrame(0.0, small)
    assert small.interlaced_frame
    assert list(deinterlace([frame])) == [frame]


def test_frames_that_are_lost_stay_in_their_place() -> None:
    frames = source_frames(*[True] * 8)
    frames[4] = SourceFrame(4 / 25, None)
    found = list(deinterlace(iter(frames)))
    assert [round(frame.time_s, 3) for frame in found if frame.image is None] == [0.16]
    times_s = [frame.time_s for frame in found]
    assert times_s == sorted(times_s)
    assert len(found) == 2 * 7 + 1


def test_planted_offset_is_found_in_interlaced_video(tmp_path: Path) -> None:
    flashes = click_clip(tmp_path / "clicks.mp4", duration_s=5.0, fps=50)
    path = interlace(flashes, tmp_path / "a.mp4", True)
    found = list(decode_video(str(path), unit_of(path).video.info, 0, 125, DecodeCount()))
    assert all(frame.image is None or frame.image.interlaced_frame for frame in found)
    pictures = pictures_of(path)
    offsets_s = measure_click_offset_s(
        np.array([time_s for time_s, _ in pictures]), np.stack([rgb for _, rgb in pictures]), heard(path)
    )
    assert len(offsets_s) == 4
    assert np.abs(offsets_s).max() <= FIELD_S + 1e-3
