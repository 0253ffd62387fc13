"""Each hostile file has the property in its name, without which tests that use it would prove nothing."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import av
import av.error
import numpy as np
import pytest

from lipforge.model.audio.speech import SpeechDetector
from lipforge.model.clock import FPS, SAMPLE_RATE_HZ
from tests import media
from tests.clicks import click_clip, measure_click_offset_s
from tests.talking_photo import make_talking_photo, render


@dataclass(frozen=True)
class Decoded:
    times_s: np.ndarray  # [T]
    frames: np.ndarray  # uint8 [T, H, W, 3]
    audio: np.ndarray  # float32 [N] mono 16 kHz
    audio_start_s: float

    def click_offsets_s(self) -> np.ndarray:
        return measure_click_offset_s(self.times_s, self.frames, self.audio, self.audio_start_s)


def decode_frames(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with av.open(str(path)) as container:
        frames = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    return np.array([time for time, _ in frames], float), np.stack([rgb for _, rgb in frames])


def decode_audio(path: Path, track: int = 0) -> tuple[np.ndarray, float]:
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=track))
        start_s = frames[0].time
        resampler = av.AudioResampler("flt", "mono", SAMPLE_RATE_HZ)
        blocks = [block.to_ndarray()[0] for frame in [*frames, None] for block in resampler.resample(frame)]
    assert start_s is not None
    return np.concatenate(blocks), start_s


def decode(path: Path) -> Decoded:
    return Decoded(*decode_frames(path), *decode_audio(path))


@pytest.fixture(scope="module")
def made(hostile_media: dict[str, Path]) -> dict[str, Path]:
    return hostile_media


@pytest.fixture(scope="module")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clicks")
    return click_clip(folder / "base.mp4", media.BASE_DURATION_S, size_px=media.BASE_SIZE_PX)


# --- the talking photograph -----------------------------------------------------------------------


def test_synthetic_speech_is_detected_as_speech() -> None:
    detector = SpeechDetector()
    for seed in range(3):
        assert detector.speech_ratio(render(6.0, seed=seed, size_px=32)[1]) > 0.5


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    first, again, other = (
        make_talking_photo(tmp_path / f"{name}.mp4", 1.0, seed=seed, size_px=128).read_bytes()
        for name, seed in (("first", 4), ("again", 4), ("other", 5))
    )
    assert first == again
    assert first != other


def test_offset_moves_the_audio_and_nothing_else() -> None:
    frames, audio = render(2.0, size_px=64)
    early_frames, early_audio = render(2.0, av_offset_frames=3, size_px=64)
    shift = 3 * SAMPLE_RATE_HZ // FPS
    np.testing.assert_array_equal(frames, early_frames)
    np.testing.assert_array_equal(early_audio[:-shift], audio[shift:])


def test_lips_follow_the_audio() -> None:
    """The dark of the open mouth correlates with loudness, most at zero shift."""
    frames, audio = render(8.0, size_px=128)
    mouth = frames[:, 62:82, 50:78].astype(float).mean(axis=(1, 2, 3))
    loudness = np.sqrt((audio.reshape(len(frames), -1) ** 2).mean(axis=1))
    shifts = range(-6, 7)
    found = [np.corrcoef(-mouth[10:-10], np.roll(loudness, shift)[10:-10])[0, 1] for shift in shifts]
    assert abs(shifts[int(np.argmax(found))]) <= 1
    assert max(found) > 0.4


def test_stereo_has_two_channels(tmp_path: Path) -> None:
    with av.open(str(make_talking_photo(tmp_path / "stereo.mp4", 1.0, size_px=64, channels=2))) as container:
        assert container.streams.audio[0].channels == 2


# --- the set --------------------------------------------------------------------------------------


def test_set_is_complete_and_small(made: dict[str, Path]) -> None:
    assert set(made) == {"base", *media.KINDS}
    assert all(path.is_file() and path.stem == name for name, path in made.items())
    assert sum(path.stat().st_size for path in made.values()) < 50e6


@pytest.mark.parametrize("name", ["empty", "text", "truncated_mp4"])
def test_no_reader_opens_it(made: dict[str, Path], name: str) -> None:
    with pytest.raises(av.error.FFmpegError):
        av.open(str(made[name]))


@pytest.mark.parametrize("name", ["truncated_mkv", "truncated_ts"])
def test_truncated_file_gives_its_first_part(made: dict[str, Path], name: str) -> None:
    times_s = np.array(readable_times(made[name]))
    assert 1.0 < times_s[-1] - times_s[0] < 5.0


def test_damaged_middle_is_readable_on_both_sides(made: dict[str, Path]) -> None:
    whole, damaged = decode_frames(made["base"])[1], readable_frames(made["damaged_middle"])
    same = [np.array_equal(damaged[time], whole[round(time * FPS)]) for time in sorted(damaged)]
    assert same[0]
    assert not all(same) or len(same) < len(whole)
    assert max(damaged) > 5.0


def readable_frames(path: Path) -> dict[float, np.ndarray]:
    """Time -> image of every frame that decodes; bad packets are skipped."""
    frames = {}
    with av.open(str(path)) as container:
        packets = container.demux(container.streams.video[0])
        while True:
            try:
                for frame in next(packets).decode():
                    frames[frame.time] = frame.to_ndarray(format="rgb24")
            except StopIteration:
                return frames
            except av.error.FFmpegError:
                continue


def readable_times(path: Path) -> list[float]:
    return sorted(readable_frames(path))


def test_streams_that_are_missing_or_extra(made: dict[str, Path]) -> None:
    def types(name: str) -> list[str]:
        with av.open(str(made[name])) as container:
            return [stream.type for stream in container.streams]

    assert types("base") == ["video", "audio"]
    assert types("no_video") == ["audio"]
    assert types("no_audio") == ["video"]
    assert types("timecode") == ["video", "audio", "data"]
    assert types("two_audio_tracks") == ["video", "audio", "audio"]


def test_digital_silence_is_silent(made: dict[str, Path]) -> None:
    assert np.abs(decode_audio(made["digital_silence"])[0]).max() == 0


def test_voice_is_where_it_should_be(made: dict[str, Path]) -> None:
    detector = SpeechDetector()
    for name, track, has_voice in (
        ("base", 0, True),
        ("no_face", 0, True),
        ("surround", 0, True),
        ("two_audio_tracks", 0, True),
        ("two_audio_tracks", 1, False),
        ("music", 0, False),
    ):
        ratio = detector.speech_ratio(decode_audio(made[name], track)[0])
        assert ratio > 0.5 if has_voice else ratio < 0.1, (name, track, ratio)


def test_music_is_loud(made: dict[str, Path]) -> None:
    assert np.abs(decode_audio(made["music"])[0]).max() > 0.3


def test_surround_has_six_channels(made: dict[str, Path]) -> None:
    with av.open(str(made["surround"])) as container:
        assert container.streams.audio[0].layout.name.startswith("5.1")


def test_second_face_is_the_first_mirrored_a_second_later(made: dict[str, Path]) -> None:
    frames = decode_frames(made["two_faces"])[1].astype(float)
    left, right = frames[:, :, :240], frames[:, :, :239:-1]
    assert np.abs(left[30] - right[55]).mean() < 3
    assert np.abs(left[30] - right[30]).mean() > np.abs(left[30] - right[55]).mean()


def test_tiny_face_is_in_a_corner_of_grey(made: dict[str, Path]) -> None:
    frame = decode_frames(made["tiny_face"])[1][20].astype(float)
    assert frame.shape == (480, 480, 3)
    outside = frame.copy()
    outside[156:236, 196:276] = 128
    assert np.abs(outside - 128).max() < 20
    assert np.abs(frame[160:232, 200:272] - 128).mean() > 30


def test_face_leaves_half_way(made: dict[str, Path]) -> None:
    base, frames = (decode_frames(made[name])[1].astype(float) for name in ("base", "face_leaves"))
    assert np.abs(frames[70] - base[70]).mean() < 4
    assert frames[110:].std(axis=(1, 2)).max() < 3  # one colour: an empty frame


def test_hard_cut_is_at_its_frame(made: dict[str, Path]) -> None:
    frames = decode_frames(made["hard_cut"])[1].astype(float)
    change = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3))
    assert change.argmax() + 1 == round(media.CUT_S * FPS)
    assert np.sort(change)[-2] < 0.3 * change.max()


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_flag_turns_the_image_upright(made: dict[str, Path], degrees: int) -> None:
    with av.open(str(made[f"rotated_{degrees}"])) as container:
        frame = next(container.decode(video=0))
        flag, stored = frame.rotation, frame.to_ndarray(format="rgb24").astype(float)
    assert flag % 360 == degrees
    shown = np.rot90(stored, degrees // 90)  # anticlockwise
    assert shown.shape == (320, 384, 3)
    assert np.abs(shown - decode_frames(made["base"])[1][0][:320]).mean() < 4


def test_pixel_format_and_size(made: dict[str, Path]) -> None:
    with av.open(str(made["ten_bit"])) as container:
        assert next(container.decode(video=0)).format.name == "yuv420p10le"
    assert decode_frames(made["odd_size"])[1].shape[1:] == (333, 431, 3)


@pytest.mark.parametrize(
    ("name", "rate"),
    [("fps_50", 50), ("fps_60", 60), ("fps_30", 30), ("fps_29_97", 30000 / 1001), ("fps_23_976", 24000 / 1001)],
)
def test_frame_rate(made: dict[str, Path], name: str, rate: float) -> None:
    times_s = decode_frames(made[name])[0]
    np.testing.assert_allclose(np.diff(times_s), 1 / rate, atol=2e-3)
    assert len(times_s) == pytest.approx(media.BASE_DURATION_S * rate, abs=1)


def test_variable_rate_varies_and_has_true_times(made: dict[str, Path]) -> None:
    times_s, frames = decode_frames(made["variable_rate"])
    steps = np.unique(np.round(np.diff(times_s) * FPS))
    assert set(steps) >= {1.0, 2.0, 3.0}
    base = decode_frames(made["base"])[1].astype(float)
    for index in range(0, len(times_s), 10):
        assert np.abs(frames[index] - base[round(times_s[index] * FPS)]).mean() < 4


def test_streams_start_where_the_name_says(made: dict[str, Path]) -> None:
    for name in ("audio_late_mp4", "audio_late_mkv"):
        assert decode_frames(made[name])[0][0] == 0
        # the encoder delay (1024 samples at 48 kHz) may come before, as silence
        assert media.AUDIO_LATE_S - 0.022 <= decode_audio(made[name])[1] <= media.AUDIO_LATE_S + 0.001
    assert decode_frames(made["video_late"])[0][0] == pytest.approx(media.VIDEO_LATE_S)
    assert decode_audio(made["video_late"])[1] == pytest.approx(0, abs=0.001)
    assert decode_frames(made["negative_start"])[0][0] == pytest.approx(-media.NEGATIVE_START_S)


def test_edit_list_hides_frames(made: dict[str, Path]) -> None:
    def count(**options: str) -> int:
        with av.open(str(made["edit_list"]), options=options) as container:
            return sum(1 for _ in container.decode(video=0))

    shown = round((media.BASE_DURATION_S - media.EDIT_START_S) * FPS)
    assert count() == shown
    assert count(ignore_editlist="1") == round(media.BASE_DURATION_S * FPS)


def test_audio_gap_is_in_the_time_stamps(made: dict[str, Path]) -> None:
    with av.open(str(made["audio_gap"])) as container:
        frames = [(frame.time or 0.0, frame.samples / frame.sample_rate) for frame in container.decode(audio=0)]
    gaps = [(start + length, later) for (start, length), (later, _) in pairwise(frames)]
    wide = [gap for gap in gaps if gap[1] - gap[0] > 0.1]
    assert len(wide) == 1
    np.testing.assert_allclose(wide[0], media.AUDIO_GAP_S, atol=0.05)  # a packet is 21 ms, the encoder delay as much


@pytest.mark.parametrize("name", ["lying_mp4", "lying_mkv"])
def test_header_lies_about_its_length(made: dict[str, Path], name: str) -> None:
    with av.open(str(made[name])) as container:
        assert container.duration is not None
        claimed_s = container.duration / av.time_base
        true_s = sum(1 for _ in container.decode(video=0)) / FPS
    assert true_s == media.BASE_DURATION_S
    assert claimed_s > 4 * true_s


# --- planted offsets, and what must not shift, to a millisecond -----------------------------------


@pytest.mark.parametrize(
    ("name", "frames_early"),
    [("samples_early", 4), ("samples_late", -4), ("container_early", 4), ("container_late", -4)],
)
def test_planted_offset_is_exact(clicks: Path, tmp_path: Path, name: str, frames_early: int) -> None:
    offsets_s = decode(media.KINDS[name](tmp_path, clicks)).click_offsets_s()
    assert len(offsets_s) == 6
    np.testing.assert_allclose(offsets_s, frames_early / FPS, atol=1e-3)


@pytest.mark.parametrize(
    "name",
    [
        *("audio_late_mp4", "audio_late_mkv", "video_late", "negative_start", "edit_list", "variable_rate"),
        *("fps_50", "fps_60", "fps_30", "odd_size", "ten_bit", "timecode", "surround", "two_audio_tracks"),
        *("lying_mp4", "lying_mkv", "rotated_90"),
    ],
)
def test_kind_that_is_in_sync_by_its_time_stamps(clicks: Path, tmp_path: Path, name: str) -> None:
    offsets_s = decode(media.KINDS[name](tmp_path, clicks)).click_offsets_s()
    assert len(offsets_s) >= 4
    np.testing.assert_allclose(offsets_s, 0, atol=1e-3)


@pytest.mark.parametrize("name", ["fps_29_97", "fps_23_976"])
def test_uneven_rates_are_within_half_a_frame_of_sync(clicks: Path, tmp_path: Path, name: str) -> None:
    offsets_s = decode(media.KINDS[name](tmp_path, clicks)).click_offsets_s()
    assert np.abs(offsets_s).max() < 0.5 / FPS


def test_audio_before_a_gap_is_in_sync(clicks: Path, tmp_path: Path) -> None:
    clip = decode(media.audio_gap(tmp_path, clicks))
    before = clip.times_s < media.AUDIO_GAP_S[0] - 0.1  # clip.audio has no gap, so what follows is too early
    offsets_s = measure_click_offset_s(clip.times_s[before], clip.frames[before], clip.audio, clip.audio_start_s)
    assert len(offsets_s) == 2
    np.testing.assert_allclose(offsets_s, 0, atol=1e-3)


def test_click_measure_needs_pairs(clicks: Path) -> None:
    clip = decode(clicks)
    with pytest.raises(ValueError, match="no click"):
        measure_click_offset_s(clip.times_s, clip.frames, np.zeros_like(clip.audio))
    with pytest.raises(ValueError, match="no flash"):
        measure_click_offset_s(clip.times_s, np.zeros_like(clip.frames), clip.audio)
