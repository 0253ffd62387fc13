"""The new sound is in the file as it was given: right to the sample, and as long as the pictures."""

import wave
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from lipforge.datasets_manifest.schema import Reason
from lipforge.pipeline.media.container import MediaError
from lipforge.pipeline.media.output.sound import open_sound, read_samples
from tests.passed_through import pass_through, sound_of
from tests.test_output_file import MOVING, X264, ffmpeg

LENGTH_S = 1.0


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One second without a sound."""
    return ffmpeg(tmp_path_factory.mktemp("video") / "video.mp4", *MOVING, *X264)


def clicks(rate_hz: int, channels: int = 1, length_s: float = LENGTH_S) -> np.ndarray:
    """int16 [C, N]: soft noise with a loud sample each tenth of a second; each channel is its own."""
    rng = np.random.default_rng(rate_hz + channels)
    samples = rng.integers(-300, 300, (channels, round(rate_hz * length_s))).astype(np.int16)
    samples[:, :: rate_hz // 10] = 20_000
    return samples


def write_wav(path: Path, samples: np.ndarray, rate_hz: int) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(samples))
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(np.ascontiguousarray(samples.T).astype("<i2").tobytes())
    return path


def correlation(left: np.ndarray, right: np.ndarray) -> float:
    count = min(len(left), len(right))
    return float(np.corrcoef(left[:count].astype(float), right[:count].astype(float))[0, 1])


@pytest.mark.parametrize(("rate_hz", "channels"), [(8_000, 1), (44_100, 2), (48_000, 6), (96_000, 1)])
@pytest.mark.parametrize("suffix", ["mkv", "mov", "avi"])
def test_a_wav_file_comes_out_sample_for_sample(
    tmp_path: Path, video: Path, suffix: str, rate_hz: int, channels: int
) -> None:
    samples = clicks(rate_hz, channels)
    pass_through(video, tmp_path / f"out.{suffix}", write_wav(tmp_path / "in.wav", samples, rate_hz))
    found, found_hz, start_s = sound_of(tmp_path / f"out.{suffix}")
    assert (found_hz, start_s) == (rate_hz, 0)
    assert np.array_equal(found, samples)


@pytest.mark.parametrize("length_s", [0.6, 1.7])
def test_a_wav_file_is_cut_or_filled_to_the_sample(tmp_path: Path, video: Path, length_s: float) -> None:
    samples = clicks(44_100, 2, length_s)
    wav = write_wav(tmp_path / "in.wav", samples, 44_100)
    for suffix in ("mkv", "mov", "avi"):
        pass_through(video, tmp_path / f"out.{suffix}", wav)
        found, *_ = sound_of(tmp_path / f"out.{suffix}")
        assert found.shape == (2, 44_100), suffix
        count = min(samples.shape[1], 44_100)
        assert np.array_equal(found[:, :count], samples[:, :count])
        assert not found[:, count:].any()


def test_a_codec_that_a_kind_of_file_lacks_is_encoded_anew(tmp_path: Path, video: Path) -> None:
    wav = write_wav(tmp_path / "in.wav", clicks(8_000), 8_000)
    telephone = ffmpeg(tmp_path / "law.wav", "-i", str(wav), "-c:a", "pcm_mulaw")
    pass_through(video, tmp_path / "out.mkv", telephone)
    assert np.array_equal(sound_of(tmp_path / "out.mkv")[0], sound_of(telephone)[0])


@pytest.mark.parametrize(("suffix", "rate_hz"), [("mp4", 192_000), ("mp4", 12_345), ("webm", 22_050)])
def test_a_rate_that_a_codec_lacks_becomes_a_higher_one_or_the_highest(
    tmp_path: Path, video: Path, suffix: str, rate_hz: int
) -> None:
    wav = ffmpeg(tmp_path / "in.wav", "-f", "lavfi", "-i", f"aevalsrc={voice(1)}:s={rate_hz}:d=1")
    passed = pass_through(video, tmp_path / f"out.{suffix}", wav)
    found, found_hz, start_s = sound_of(tmp_path / f"out.{suffix}")
    assert found_hz == {192_000: 96_000, 12_345: 16_000, 22_050: 48_000}[rate_hz]
    assert start_s == 0
    assert any(f"{rate_hz} Hz" in note for note in passed.notes)
    expected = sound_of_wav(wav)[0][0]
    resampled = np.interp(np.arange(found_hz) / found_hz, np.arange(rate_hz) / rate_hz, expected)
    assert correlation(found[0], resampled) > 0.97


@pytest.mark.parametrize(("rate_hz", "channels"), [(8_000, 1), (44_100, 2), (48_000, 6), (96_000, 1)])
@pytest.mark.parametrize("suffix", ["mp4", "ts", "webm"])
def test_a_sound_that_must_be_encoded_stays_in_time(
    tmp_path: Path, video: Path, suffix: str, rate_hz: int, channels: int
) -> None:
    wav = ffmpeg(tmp_path / "in.wav", "-f", "lavfi", "-i", f"aevalsrc={voice(channels)}:s={rate_hz}:d=0.8")
    pass_through(video, tmp_path / f"out.{suffix}", wav)
    expected, *_ = sound_of_wav(wav)
    found, found_hz, start_s = sound_of(tmp_path / f"out.{suffix}")
    assert found_hz == (48_000 if suffix == "webm" else rate_hz)
    assert len(found) == channels
    if suffix == "webm":  # Opus works at 48 kHz
        assert found.shape[1] == pytest.approx(48_000, abs=1)
        expected = np.stack([np.interp(np.arange(38_400) / 48_000, np.arange(expected.shape[1]) / rate_hz, row)
                             for row in expected])  # fmt: skip
    elif suffix == "mp4":
        with av.open(str(tmp_path / "out.mp4")) as container:
            stream: Any = container.streams.audio[0]
            assert stream.duration * stream.time_base == 1
    assert start_s == pytest.approx(0, abs=0.001 if suffix != "ts" else 1024 / rate_hz + 0.001)
    skip = round(-start_s * found_hz)
    for row in set(range(channels)) - {3}:  # the fourth is for low sounds only
        assert correlation(found[row, max(skip, 0) :], expected[row]) > (0.9 if rate_hz == 8_000 else 0.97)


def voice(channels: int) -> str:
    """A sweep: it fits only where it is in time."""
    layout = "|".join(f"0.4*sin(2*PI*({100 + 20 * row}*t+400*t*t))" for row in range(channels))
    return f"'{layout}'"


def sound_of_wav(path: Path) -> tuple[np.ndarray, int]:
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
        channels = container.streams.audio[0].channels
    return np.concatenate(frames, axis=1).reshape(-1, channels).T, 0


@pytest.mark.parametrize(
    ("name", "encoder", "suffix"),
    [("in.m4a", "aac", "mp4"), ("in.mp3", "libmp3lame", "mp4"), ("in.flac", "flac", "mkv"),
     ("in.ogg", "libopus", "webm"), ("in.m4a", "aac", "ts"), ("in.ogg", "libvorbis", "mkv"), ("in.m4a", "aac", "mkv")],
)  # fmt: skip
def test_a_sound_of_the_right_length_is_taken_over(
    tmp_path: Path, video: Path, name: str, encoder: str, suffix: str
) -> None:
    sound = ffmpeg(
        tmp_path / name, "-f", "lavfi", "-i", f"aevalsrc={voice(2)}:s=48000:d=1", "-c:a", encoder, "-b:a", "96k"
    )
    pass_through(video, tmp_path / f"out.{suffix}", sound)
    before, after = packets_of(sound), packets_of(tmp_path / f"out.{suffix}")
    if suffix == "ts":
        before, after = before[2:4], [packet[7:] for packet in after[2:4]]  # each has a header there
    assert [packet for packet in before if packet in after] == before
    found, rate_hz, start_s = sound_of(tmp_path / f"out.{suffix}")
    expected, *_ = sound_of(sound)
    late = round(start_s * rate_hz)
    assert late <= 0
    near = range(-25, 26) if suffix == "mkv" else (0,)  # Matroska's milliseconds
    assert max(correlation(found[0, step - late :], expected[0]) for step in near if step >= late) > 0.999


def test_a_sound_that_begins_with_what_decoders_drop_is_in_time_in_avi(tmp_path: Path, video: Path) -> None:
    sound = ffmpeg(tmp_path / "in.mp3", "-f", "lavfi", "-i", f"aevalsrc={voice(1)}:s=48000:d=1", "-b:a", "96k")
    pass_through(video, tmp_path / "out.avi", sound)
    found, _, start_s = sound_of(tmp_path / "out.avi")
    assert start_s == 0
    assert correlation(found[0], sound_of(sound)[0][0]) > 0.999


def packets_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(container.streams.audio[0]) if packet.size]


def test_a_gap_becomes_silence_of_the_same_length(tmp_path: Path, video: Path) -> None:
    samples = clicks(48_000, 1)
    wav = write_wav(tmp_path / "in.wav", samples, 48_000)
    gap = ffmpeg(
        tmp_path / "gap.mkv",
        "-i",
        str(wav),
        "-af",
        "aselect='lt(t,0.2)+gt(t,0.5)',asetnsamples=480:p=0",
        "-c:a",
        "flac",
    )
    track = open_sound(str(gap))
    assert not track.is_even
    pass_through(video, tmp_path / "out.mkv", gap)
    found, *_ = sound_of(tmp_path / "out.mkv")
    silent = np.flatnonzero(np.diff(np.flatnonzero(found[0])) > 4800)
    assert len(silent) == 1
    alike = found[0] == samples[0]
    assert alike[:8_000].all() and alike[28_000:].all()


def test_the_sound_of_a_video_counts_from_its_first_picture(tmp_path: Path, video: Path) -> None:
    samples = clicks(48_000, 1)
    wav = write_wav(tmp_path / "in.wav", samples, 48_000)
    for offsets, shift in ((("0", "0.2"), 9_600), (("0.2", "0"), -9_600)):
        spoken = ffmpeg(
            tmp_path / "in.mkv", "-itsoffset", offsets[0], *MOVING, "-itsoffset", offsets[1], "-i", str(wav),
            *X264, "-c:a", "flac",
        )  # fmt: skip
        track = open_sound(str(spoken))
        assert track.start_s == pytest.approx(shift / 48_000, abs=1e-3)
        pass_through(video, tmp_path / "out.mkv", spoken)
        found, *_ = sound_of(tmp_path / "out.mkv")
        loud = np.flatnonzero(found[0] == 20_000)
        expected = np.flatnonzero(samples[0] == 20_000) + shift
        expected = expected[(expected >= 0) & (expected < 48_000)]
        assert abs(loud - expected).max() <= 48  # Matroska's milliseconds


def test_samples_come_in_pieces_and_end_where_asked(tmp_path: Path) -> None:
    samples = clicks(8_000, 2, 3.0)
    track = open_sound(str(write_wav(tmp_path / "in.wav", samples, 8_000)))
    assert (track.rate_hz, track.num_channels, track.duration_s, track.is_lossless) == (8_000, 2, 3.0, True)
    for count in (5, 8_000, 24_000, 30_000):
        pieces = list(read_samples(track, count))
        assert max(piece.shape[1] for piece in pieces) <= 8_000
        whole = np.concatenate(pieces, axis=1)
        assert whole.shape == (2, count)
        assert np.array_equal(whole[:, :24_000], samples[:, :count])
        assert not whole[:, 24_000:].any()


@pytest.mark.parametrize("kind", ["text", "video", "empty", "noise"])
def test_what_has_no_sound_is_refused_in_words(tmp_path: Path, video: Path, kind: str) -> None:
    path = tmp_path / "in.wav"
    if kind == "text":
        path.write_text("not a sound")
    elif kind == "video":
        path = video
    elif kind == "empty":
        write_wav(path, np.zeros((1, 0), np.int16), 8_000)
    else:
        whole = ffmpeg(tmp_path / "in.flac", "-f", "lavfi", "-i", "anoisesrc=d=2:r=48000").read_bytes()
        damaged = bytearray(whole)
        rng = np.random.default_rng(0)
        damaged[2_000:] = rng.integers(0, 256, len(damaged) - 2_000, np.uint8).tobytes()
        path = tmp_path / "in.flac"
        path.write_bytes(damaged)
    words = {
        "text": "not a media file",
        "video": "no sound in it",
        "empty": "no samples|not a media",
        "noise": "damaged|no samples",
    }
    with pytest.raises(MediaError, match=words[kind]) as caught:
        open_sound(str(path))
    assert caught.value.reason in (Reason.UNREADABLE, Reason.DECODE_ERROR)


def test_more_channels_than_a_codec_knows_become_one(tmp_path: Path, video: Path) -> None:
    wav = write_wav(tmp_path / "in.wav", clicks(48_000, 9), 48_000)
    passed = pass_through(video, tmp_path / "out.mp4", wav)
    found, *_ = sound_of(tmp_path / "out.mp4")
    assert len(found) == 1
    assert any("9 channels" in note for note in passed.notes)
    pass_through(video, tmp_path / "out.mkv", wav)
    assert len(sound_of(tmp_path / "out.mkv")[0]) == 9
