"""One clock for frames and audio: which frame and which samples belong to each 1/25 s, to the sample."""

import io
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from lipforge.model.clock import SAMPLES_PER_FRAME
from lipforge.pipeline.clip import Source, Unit, Video
from lipforge.pipeline.config import EncodeConfig
from lipforge.pipeline.media.clips import encode_flac, encode_mp4
from lipforge.pipeline.media.grid import to_grid
from lipforge.pipeline.media.probe import probe
from lipforge.pipeline.media.video import DecodeCount
from lipforge.pipeline.sources.plan import plan_units
from lipforge.pipeline.stages.resample import Resample
from tests.clicks import click_clip, measure_click_offset_s
from tests.coded import SIZE, code_of, coded_image, heard, noise, shown, write_coded
from tests.media import AUDIO_GAP_S, EDIT_START_S

NUM_FRAMES = 150
REGULAR_S = [index / 25 for index in range(NUM_FRAMES)]


def lag_samples(audio: np.ndarray, truth: np.ndarray) -> int:
    """By how many samples `audio` comes after `truth`."""
    length = min(len(audio), len(truth))
    spectrum = np.fft.rfft(audio[:length], 2 * length) * np.conj(np.fft.rfft(truth[:length], 2 * length))
    lag = int(np.fft.irfft(spectrum).argmax())
    return lag - 2 * length if lag > length else lag


# --- from source times to the grid ----------------------------------------------------------------


def nearest_by_definition(times_s: list[float], wanted_s: float) -> int | None:
    """Of frames that start less than half a grid frame later, the nearest (the earlier of two).

    Else the first, if it starts within one grid frame.
    """
    near = [(abs(time_s - wanted_s), n) for n, time_s in enumerate(times_s) if time_s - wanted_s < 0.02 - 1e-4]
    if near:
        return min(near)[1]
    return 0 if times_s[0] - wanted_s < 0.04 + 1e-4 else None


def test_grid_takes_the_nearest_frame_for_any_frame_times() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        steps_s = rng.choice([0.005, 1 / 60, 0.02, 1 / 30, 0.04, 1 / 24, 0.3], size=60) * rng.uniform(0.9, 1.1, 60)
        times_s = [float(time_s) for time_s in np.cumsum(steps_s) + rng.uniform(-0.5, 0.5)]
        start = int(rng.integers(0, 10))
        got = list(to_grid(zip(times_s, range(60), strict=True), start, start + 80))
        assert got == [(index, nearest_by_definition(times_s, index / 25)) for index in range(start, start + 80)]


@pytest.mark.parametrize(
    "rate", [Fraction(24_000, 1001), 24, 25, Fraction(30_000, 1001), 30, 50, Fraction(60_000, 1001)]
)
def test_no_frame_rate_drifts(rate: Fraction) -> None:
    num_frames = int(600 * rate)
    frames = ((float(n / rate), float(n / rate)) for n in range(num_frames))
    errors_s = np.array([time_s - index / 25 for index, time_s in to_grid(frames, 0, 14_990)])
    assert np.abs(errors_s).max() <= max(0.02, float(1 / rate) / 2) + 1e-3
    early, late = errors_s[:1000].mean(), errors_s[-1000:].mean()
    assert abs(early - late) < 2e-3


def test_50_fps_keeps_each_second_frame_and_25_fps_every_frame() -> None:
    for rate in (25, 50):
        frames = ((n / rate, n) for n in range(10 * rate))
        assert [n for _, n in to_grid(frames, 0, 250)] == list(range(0, 10 * rate, rate // 25))


def test_a_gap_repeats_the_frame_before_it_and_nothing_is_shown_early() -> None:
    frames = [(0.0, "a"), (0.04, "b"), (0.41, "c")]
    assert [name for _, name in to_grid(frames, 0, 13)] == ["a"] + ["b"] * 9 + ["c"] * 3


def test_nothing_is_shown_more_than_a_frame_early() -> None:
    assert list(to_grid([(0.1, "a")], 0, 4)) == [(0, None), (1, None), (2, "a"), (3, "a")]
    assert list(to_grid([], 3, 5)) == [(3, None), (4, None)]


# --- containers -----------------------------------------------------------------------------------

CONTAINERS = {
    "h264_aac.mp4": {"acodec": "aac"},
    "h264_pcm.mkv": {},
    "h264_pcm.mov": {},
    "open_gop.mkv": {"options": {"x264-params": "open-gop=1:bframes=3"}},
    "hevc.mp4": {"vcodec": "libx265", "acodec": "aac", "options": {"x265-params": "log-level=none:pools=1"}},
    "mpeg4.avi": {"vcodec": "mpeg4", "fixed_rate": True},
    "h264_b_frames.avi": {"options": {"x264-params": "bframes=3"}, "fixed_rate": True},
    "h264_mp2.ts": {"acodec": "mp2"},
    "mpeg2_mp2.mpg": {"vcodec": "mpeg2video", "acodec": "mp2", "fixed_rate": True},
    "vp9_opus.webm": {
        "vcodec": "libvpx-vp9",
        "acodec": "libopus",
        "options": {"deadline": "realtime", "cpu-used": "8"},
    },
}
LARGEST_LAG_SAMPLES = 16
"""Matroska rounds times to 1 ms."""


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("containers")
    audio = noise(NUM_FRAMES * SAMPLES_PER_FRAME)
    return {name: write_coded(folder / name, REGULAR_S, audio, **how) for name, how in CONTAINERS.items()}


@pytest.mark.parametrize("name", CONTAINERS)
def test_each_frame_and_each_sample_is_in_its_place(containers: dict[str, Path], name: str) -> None:
    count = DecodeCount()
    assert shown(containers[name], count=count) == list(range(NUM_FRAMES))
    assert count.passes == 1.0
    truth = noise(NUM_FRAMES * SAMPLES_PER_FRAME) / 32768
    assert abs(lag_samples(heard(containers[name]), truth)) <= LARGEST_LAG_SAMPLES


@pytest.mark.parametrize("name", CONTAINERS)
def test_spans_put_together_are_the_whole(containers: dict[str, Path], name: str) -> None:
    """Wherever a span begins: at a key frame, one before it, one after it."""
    edges = [0, 59, 60, 85, NUM_FRAMES]
    spans = list(pairwise(edges))
    assert [code for start, end in spans for code in shown(containers[name], start, end)] == list(range(NUM_FRAMES))
    truth = noise(NUM_FRAMES * SAMPLES_PER_FRAME) / 32768
    for start, end in [(85, NUM_FRAMES), (75, 100)]:
        there = truth[start * SAMPLES_PER_FRAME : end * SAMPLES_PER_FRAME]
        assert abs(lag_samples(heard(containers[name], start, end), there)) <= LARGEST_LAG_SAMPLES


def test_spans_that_begin_at_key_frames_decode_nothing_twice(tmp_path: Path) -> None:
    no_extra_keys = {"x264-params": "scenecut=0"}
    path = write_coded(tmp_path / "long.mkv", [n / 25 for n in range(2000)], gop=50, options=no_extra_keys)
    video = Video(Source(str(path)), "0" * 64, probe(str(path)))
    units = plan_units(video, 20)
    assert [(unit.start_frame, unit.end_frame) for unit in units] == [(0, 500), (500, 1000), (1000, 1500), (1500, 2000)]
    for unit in units:
        count = DecodeCount()
        assert shown(path, unit.start_frame, unit.end_frame, count) == list(range(unit.start_frame, unit.end_frame))
        assert count.passes < 1.02


# --- odd times ------------------------------------------------------------------------------------


@pytest.mark.parametrize("late_s", [0.5, -0.3])
def test_late_and_early_audio_is_placed_to_the_sample(tmp_path: Path, late_s: float) -> None:
    audio = noise(3 * 16_000)
    video_s = max(0.0, -late_s)  # container times start at 0: early audio is late video
    times_s = [time_s + video_s for time_s in REGULAR_S[:100]]
    path = write_coded(tmp_path / "a.mov", times_s, audio, audio_start_s=late_s + video_s)
    late = round(late_s * 16_000)
    truth = np.zeros(64_000, np.float32)
    truth[max(late, 0) : late + len(audio)] = audio[max(-late, 0) :] / 32768
    np.testing.assert_array_equal(heard(path), truth)
    assert shown(path) == list(range(100))


def test_audio_beyond_both_ends_is_silence_and_margins_hold_real_samples(tmp_path: Path) -> None:
    audio = noise(NUM_FRAMES * SAMPLES_PER_FRAME)
    path = write_coded(tmp_path / "a.mkv", REGULAR_S, audio)
    got = heard(path, -15, NUM_FRAMES + 15)
    margin = 15 * SAMPLES_PER_FRAME
    assert len(got) == len(audio) + 2 * margin
    assert not got[:margin].any() and not got[-margin:].any()
    np.testing.assert_array_equal(got[margin:-margin], (audio / 32768).astype(np.float32))
    np.testing.assert_array_equal(heard(path, 85, 115), got[100 * SAMPLES_PER_FRAME : 130 * SAMPLES_PER_FRAME])


@pytest.mark.parametrize("acodec", ["pcm_s16le", "pcm_f32le"])
def test_stereo_is_mixed_down_without_getting_louder(tmp_path: Path, acodec: str) -> None:
    """A full-scale voice on both channels is neither clipped nor changed."""
    left, right = noise(64_000, 1), noise(64_000, 2)
    path = write_coded(tmp_path / "stereo.mkv", REGULAR_S[:100], np.stack([left, right], axis=1), acodec=acodec)
    np.testing.assert_allclose(heard(path), (left / 2.0 + right / 2.0) / 32768, atol=1e-4)
    loud = (left * 1.6).astype(np.int16)
    path = write_coded(tmp_path / "loud.mkv", REGULAR_S[:100], np.stack([loud, loud], axis=1), acodec=acodec)
    np.testing.assert_allclose(heard(path), loud / 32768.0, atol=1e-4)


def test_variable_rate_keeps_true_times(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    times_s = [0.0, *np.cumsum(rng.choice([0.02, 0.04, 0.1, 0.5], 80)).tolist()]
    path = write_coded(tmp_path / "vfr.mkv", times_s)
    got = shown(path)
    times_ms = [round(t * 1000) / 1000 for t in times_s]
    assert got == [nearest_by_definition(times_ms, index / 25) for index in range(len(got))]
    assert abs(len(got) / 25 - times_s[-1] - 0.04) <= 0.06


def test_one_frame_a_second_fills_every_second(tmp_path: Path) -> None:
    path = write_coded(tmp_path / "slides.mp4", [0.0, 1.0, 2.0, 3.0])
    assert shown(path) == [0] * 25 + [1] * 25 + [2] * 25 + [3] * 25


def test_avi_that_leaves_out_repeated_frames_is_not_longer_for_it(tmp_path: Path) -> None:
    """AVI's header counts time steps; steps without a frame repeat the last one and are not lost."""
    path = tmp_path / "gap.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, options={"threads": "1"})
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for code in [*range(50), *range(80, 150)]:
            frame = av.VideoFrame.from_ndarray(coded_image(code), format="rgb24")
            frame.pts, frame.time_base = code, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert shown(path) == [*range(50), *[49] * 30, *range(80, 150)]


@pytest.mark.parametrize(
    "name",
    ["audio_late_mp4", "audio_late_mkv", "video_late", "negative_start", "edit_list", "variable_rate", "fps_23_976",
     "fps_29_97", "fps_30", "fps_50", "fps_60", "timecode", "surround", "two_audio_tracks", "odd_size", "ten_bit"],
)  # fmt: skip
def test_odd_files_are_as_long_as_what_they_show(hostile_media: dict[str, Path], name: str) -> None:
    info = probe(str(hostile_media[name]))
    wanted_s = {"video_late": 6.0, "edit_list": 6.4 - EDIT_START_S}.get(name, 6.4)
    assert abs(info.num_frames / 25 - wanted_s) <= 0.06
    assert info.has_audio


def test_audio_of_a_gap_is_silence_and_what_follows_is_in_time(hostile_media: dict[str, Path]) -> None:
    whole, gap = heard(hostile_media["base"]), heard(hostile_media["audio_gap"])
    first, end = (round(time_s * 16_000) for time_s in AUDIO_GAP_S)
    assert not gap[first + 1500 : end - 1500].any()
    after = slice(end + 3000, len(gap) - 3000)
    assert abs(lag_samples(gap[after], whole[after])) <= LARGEST_LAG_SAMPLES


@pytest.mark.parametrize("name", ["audio_late_mp4", "audio_late_mkv", "timecode", "surround", "two_audio_tracks"])
def test_audio_is_where_the_clean_clip_has_it(hostile_media: dict[str, Path], name: str) -> None:
    whole, got = heard(hostile_media["base"]), heard(hostile_media[name])
    inner = slice(16_000, 80_000)
    assert abs(lag_samples(got[inner], whole[inner])) <= LARGEST_LAG_SAMPLES


# --- images -------------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_flag_is_obeyed(hostile_media: dict[str, Path], degrees: int) -> None:
    plain, turned = (first_image(hostile_media[name]) for name in ("base", f"rotated_{degrees}"))
    assert turned.shape == (320, 384, 3)
    assert np.abs(turned.astype(int) - plain[:320]).mean() < 6


def first_image(path: Path) -> np.ndarray:
    info = probe(str(path))
    unit = Unit(Video(Source(str(path)), "", info), 0, 1)
    (frame,) = Resample().to_grid(unit, Resample().decode(unit, DecodeCount()))
    assert frame.picture is not None and frame.picture.size_px == (info.width_px, info.height_px)
    return frame.picture.whole()


# --- encoding -------------------------------------------------------------------------------------


def test_encoded_clips_are_regular_closed_and_repeatable() -> None:
    frames = np.stack([coded_image(n) for n in range(100)])
    data = encode_mp4(frames, EncodeConfig(gop_frames=12))
    assert data == encode_mp4(frames, EncodeConfig(gop_frames=12))
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        assert [packet.pts for packet in packets] == [packet.dts for packet in packets]  # no B-frames
        assert [float(packet.pts * packet.time_base) for packet in packets] == pytest.approx(
            [n / 25 for n in range(100)]
        )
        assert [n for n, packet in enumerate(packets) if packet.is_keyframe] == list(range(0, 100, 12))
    with av.open(io.BytesIO(data)) as container:
        decoded = [frame for frame in container.decode(video=0)]
        assert [code_of(frame.to_ndarray(format="rgb24")) for frame in decoded] == list(range(100))
        assert {(int(frame.colorspace), int(frame.color_range)) for frame in decoded} == {(1, 1)}  # BT.709, limited


def test_colours_survive_the_encode() -> None:
    rng = np.random.default_rng(0)
    flat = np.repeat(rng.integers(0, 256, (1, 4, 4, 3), dtype=np.uint8), 16, axis=1).repeat(16, axis=2)
    data = encode_mp4(np.repeat(flat, 5, axis=0), EncodeConfig(crf=4))
    with av.open(io.BytesIO(data)) as container:
        rgb = next(container.decode(video=0)).to_ndarray(format="rgb24")
    inner = np.s_[6:10, 6:10]  # away from edges, because chroma is stored at half size
    for row in range(0, 64, 16):
        for column in range(0, 64, 16):
            there = rgb[row : row + 16, column : column + 16][inner].reshape(-1, 3).mean(axis=0)
            assert np.abs(there - flat[0, row, column]).max() < 6


@pytest.mark.parametrize("num_samples", [1, 640, 4096, 4097, 125 * 640])
def test_flac_holds_exactly_the_samples_that_went_in(num_samples: int) -> None:
    pcm = noise(num_samples)
    data = encode_flac(pcm / np.float32(32768))
    assert data == encode_flac(pcm / np.float32(32768))
    with av.open(io.BytesIO(data)) as container:
        got = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
        assert container.streams.audio[0].rate == 16_000
    np.testing.assert_array_equal(got, pcm)


def test_flash_and_click_stay_together_through_decoding(tmp_path: Path) -> None:
    path = click_clip(tmp_path / "click.mp4", duration_s=5.0, fps=25)
    info = probe(str(path))
    unit = Unit(Video(Source(str(path)), "", info), 0, info.num_frames)
    grid = Resample().to_grid(unit, Resample().decode(unit, DecodeCount()))
    frames = np.stack([frame.picture.whole() for frame in grid if frame.picture is not None])
    offsets_s = measure_click_offset_s(np.arange(len(frames)) / 25, frames, heard(path))
    assert len(offsets_s) == 4
    assert np.abs(offsets_s).max() < 1e-3
