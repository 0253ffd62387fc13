"""Pictures of every pixel format come out as they went in."""

import resource
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from lipforge.pipeline.media.output.containers import file_kind
from lipforge.pipeline.media.output.picture_format import PictureFormat, choose_encoder, read_picture_format
from lipforge.pipeline.media.output.segment import SegmentWriter, is_whole, read_segment
from lipforge.pipeline.media.output.to_format import ToFormat
from lipforge.pipeline.media.probe import probe
from lipforge.pipeline.media.source_file import StorageError
from tests.odd_pictures import write_pictures
from tests.passed_through import Passed, decoded, pass_through, planes, psnr_db
from tests.test_output_file import X264, ffmpeg


def drawn(path: Path, pix_fmt: str, size: str = "66x50", codec: str = "ffv1") -> Path:
    crop = f"testsrc2=s=128x96:r=25:d=0.12,format=yuv444p,crop={size.replace('x', ':')},format={pix_fmt}"
    return ffmpeg(path, "-f", "lavfi", "-i", crop, "-c:v", codec, "-pix_fmt", pix_fmt)


@pytest.mark.parametrize(
    ("pix_fmt", "codec", "encoder", "stored"),
    [
        ("yuv420p", "ffv1", "libx264", "yuv420p"),
        ("yuv422p", "ffv1", "libx264", "yuv422p"),
        ("yuv444p", "ffv1", "libx264", "yuv444p"),
        ("yuvj420p", "mjpeg", "libx264", "yuvj420p"),
        ("nv12", "rawvideo", "libx264", "yuv420p"),
        ("yuyv422", "rawvideo", "libx264", "yuv422p"),
        ("gray", "ffv1", "libx264", "yuv420p"),
        ("yuva420p", "ffv1", "libx264", "yuv420p"),
        ("yuv440p", "ffv1", "libx264", "yuv444p"),
        ("yuv411p", "ffv1", "libx264", "yuv422p"),
        ("yuv410p", "ffv1", "libx264", "yuv420p"),
        ("yuv420p10le", "ffv1", "libx265", "yuv420p10le"),
        ("yuv422p10le", "ffv1", "libx265", "yuv422p10le"),
        ("yuv444p12le", "ffv1", "libx265", "yuv444p12le"),
        ("bgr24", "rawvideo", "libx265", "gbrp"),
        ("gbrp10le", "ffv1", "libx265", "gbrp10le"),
    ],
)
def test_lossless_files_hold_each_format_to_the_bit(
    tmp_path: Path, pix_fmt: str, codec: str, encoder: str, stored: str
) -> None:
    source = drawn(tmp_path / "in.nut", pix_fmt, codec=codec)
    lossy = pass_through(source, tmp_path / "out.mp4")
    assert psnr_db(lossy.source, lossy.out) > 50
    passed = pass_through(source, tmp_path / "out.mkv", lossless=True)
    assert (passed.format.encoder, passed.out[0].format.name) == (encoder, stored)
    assert psnr_db(passed.source, passed.out) == float("inf")
    assert_repacked_without_loss(source, passed, pix_fmt)


def assert_repacked_without_loss(source: Path, passed: Passed, pix_fmt: str) -> None:
    """The way into the encoder's format, too, changes no value, where there is a way back."""
    raw, stored = decoded(source)[0], passed.out[0]
    if pix_fmt == "gray":
        assert np.array_equal(planes(raw)[0], planes(stored)[0])
        assert all((plane == 128).all() for plane in planes(stored)[1:])
    elif pix_fmt == "nv12":
        chroma = planes(raw)[1]
        assert np.array_equal(np.frombuffer(raw.planes[1], np.uint8).reshape(25, -1)[:, :66:2], planes(stored)[1])
        assert chroma.size
    elif pix_fmt == "bgr24":
        assert np.array_equal(raw.to_ndarray(format="rgb24"), stored.to_ndarray(format="rgb24"))


@pytest.mark.parametrize(
    ("suffix", "pix_fmt", "expected"),
    [
        (".mp4", "yuv420p", ("libvpx-vp9", "yuv420p")),
        (".mov", "yuv420p", ("libx264", "yuv444p")),
        (".ts", "yuv422p10le", ("libx265", "yuv444p10le")),
        (".webm", "yuv420p", ("libvpx-vp9", "yuv420p")),
        (".avi", "yuv420p10le", ("libx264", "yuv444p10le")),
    ],
)
def test_odd_sizes_have_an_encoder_in_each_kind_of_file(
    tmp_path: Path, suffix: str, pix_fmt: str, expected: tuple[str, str]
) -> None:
    source = drawn(tmp_path / "in.nut", pix_fmt, "67x51")
    passed = pass_through(source, tmp_path / f"out{suffix}")
    assert (passed.format.encoder, passed.format.pix_fmt) == expected
    assert (passed.out[0].width, passed.out[0].height) == (67, 51)
    assert psnr_db(passed.source, passed.out) > 50


@pytest.mark.parametrize("pix_fmt", ["yuv422p10le", "yuv420p10le"])
def test_interlaced_pictures_of_ten_bits_stay_interlaced(tmp_path: Path, pix_fmt: str) -> None:
    weave = f"testsrc2=s=64x64:r=50:d=0.4,format={pix_fmt},tinterlace=interleave_bottom,setfield=bff"
    source = ffmpeg(tmp_path / "in.nut", "-f", "lavfi", "-i", weave, "-c:v", "ffv1", "-pix_fmt", pix_fmt)
    passed = pass_through(source, tmp_path / "out.mkv", lossless=True)
    assert psnr_db(passed.source, passed.out) == float("inf")
    assert all(frame.interlaced_frame for frame in passed.out)
    assert passed.format.encoder == "libx264"


def test_rgb_becomes_yuv_where_nothing_else_is_there(tmp_path: Path) -> None:
    source = drawn(tmp_path / "in.nut", "bgr24", codec="rawvideo")
    passed = pass_through(source, tmp_path / "out.avi")
    before = decoded(source)[0].to_ndarray(format="rgb24").astype(int)
    after = passed.out[0].to_ndarray(format="rgb24").astype(int)
    assert np.abs(before - after).mean() < 1
    assert "nothing nearer" in passed.notes[0]
    with pytest.raises(ValueError, match="without loss"):
        pass_through(source, tmp_path / "out.avi", lossless=True)


def test_hdr_of_eight_bits_is_not_stored_as_h264() -> None:
    encoder, pix_fmt, notes = choose_encoder(file_kind("a.mp4"), "yuv420p", (64, 64), interlaced=False, hdr=True)
    assert (encoder, pix_fmt, notes) == ("libx265", "yuv420p", [])


def test_pictures_of_another_size_are_fitted_into_the_first(tmp_path: Path) -> None:
    passed = pass_through(drawn(tmp_path / "in.nut", "yuv420p"), tmp_path / "out.mp4")
    to_format = ToFormat(passed.format)
    tall = av.VideoFrame.from_ndarray(np.full((100, 20, 3), 255, np.uint8), format="rgb24").reformat(format="yuv420p")
    tall.pts, tall.time_base = 7, passed.format.time_base
    fitted = to_format.convert(tall)
    luma = planes(fitted)[0]
    assert (fitted.width, fitted.height, fitted.pts, to_format.num_scaled) == (66, 50, 7, 1)
    assert luma[25, 33] > 230 and luma[25, 5] < 20 and luma[25, 60] < 20
    assert (luma[25] > 200).sum() == 10  # a fifth as wide as tall, as before


@pytest.fixture
def picture_format(tmp_path: Path) -> PictureFormat:
    noise = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    return pass_through(write_pictures(tmp_path / "in.mp4", noise), tmp_path / "out.mp4").format


def noisy(count: int) -> Iterator[av.VideoFrame]:
    rng = np.random.default_rng(1)
    for _ in range(count):
        yield av.VideoFrame.from_ndarray(rng.integers(0, 256, (96, 64), np.uint8), format="yuv420p")  # 64x64


def test_a_segment_begins_with_a_key_frame_and_has_exact_times(tmp_path: Path, picture_format: PictureFormat) -> None:
    path = tmp_path / "0.nut"
    pts = [1_000_000 + 512 * number + number % 2 for number in range(60)]
    with SegmentWriter(path, picture_format) as writer:
        still = next(noisy(1))
        for stamp in pts:
            writer.write(still, stamp)
        assert not is_whole(path, 60)
    assert is_whole(path, 60) and not is_whole(path, 61)
    packets = list(read_segment(path))
    assert [packet.pts * packet.time_base for packet in packets] == [stamp * picture_format.time_base for stamp in pts]
    assert [packet.dts for packet in packets] == [packet.pts for packet in packets]
    assert [number for number, packet in enumerate(packets) if packet.is_keyframe] == [0, 50]  # each two seconds


def test_a_file_that_is_no_segment_is_not_whole(tmp_path: Path) -> None:
    assert not is_whole(tmp_path / "missing.nut", 1)
    (tmp_path / "empty.nut").touch()
    assert not is_whole(tmp_path / "empty.nut", 1)


def test_a_disk_that_fills_is_a_storage_error_and_leaves_nothing(tmp_path: Path, picture_format: PictureFormat) -> None:
    before = set(tmp_path.iterdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with (
            pytest.raises(StorageError, match=r"0\.nut cannot be written: File too large"),
            SegmentWriter(tmp_path / "0.nut", picture_format) as writer,
        ):
            for number, frame in enumerate(noisy(60)):
                writer.write(frame, number)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert set(tmp_path.iterdir()) == before


def test_a_disk_that_fills_at_the_end_leaves_nothing(tmp_path: Path) -> None:
    source = ffmpeg(tmp_path / "in.mp4", "-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=1", *X264)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "o.mp4").write_text("what was there")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = pass_through(source, tmp_path / "whole.mp4", segment_s=0.2) and (tmp_path / "whole.mp4").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))
    try:
        with pytest.raises(StorageError, match="File too large"):
            pass_through(source, tmp_path / "out" / "o.mp4", segment_s=0.2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "out" / "o.mp4").read_text() == "what was there"
    assert not list((tmp_path / "out").glob(".tmp-*"))


def test_webm_refuses_more_than_8_bit_and_says_what_holds_it(tmp_path: Path) -> None:
    source = drawn(tmp_path / "in.nut", "yuv420p10le", "64x48")
    with pytest.raises(ValueError, match=r"\.mkv or \.mp4"):
        read_picture_format(str(source), probe(str(source)), "out.webm")
