"""The voice is as loud after the downmix as it was recorded, on whichever channels it is."""

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from lipforge.model.clock import SAMPLE_RATE_HZ
from lipforge.pipeline.media.channels import channels_of, floats_of
from tests.sounds import (
    DELAY_SAMPLES,
    chords,
    hear,
    hiss,
    in_turn,
    on_channels,
    voice,
    write_changing_channels,
    write_sound,
    write_unused_labels,
)

V = voice()
"""The control: the voice as it was recorded."""
LATE = np.roll(V, DELAY_SAMPLES)
REPOSITORY = Path(__file__).parents[1]
CASES = REPOSITORY.parent / "shared" / "data" / "cases"


def level_db(samples: np.ndarray) -> float:
    return float(10 * np.log10((samples.astype(np.float64) ** 2).mean()))


def octaves_db(samples: np.ndarray) -> np.ndarray:
    """Level from 250 Hz to 4 kHz, by octave."""
    power = np.abs(np.fft.rfft(samples)) ** 2
    hz = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE_HZ)
    return 10 * np.log10([power[(hz >= low) & (hz < 2 * low)].sum() for low in (250, 500, 1000, 2000)])


KINDS: dict[str, tuple[np.ndarray, str | None, str]] = {
    # name: channels, layout, what the manifest says
    "the same on both": (np.stack([V, V]), "stereo", "mix"),
    "in the middle of a wide hall": (np.stack([V + hiss(0.01, 1), V + hiss(0.01, 2)]), "stereo", "mix"),
    "in the middle of wide music": (np.stack([V + chords(0.05, 1), V + chords(0.05, 2)]), "stereo", "mix"),
    "opposite phase": (np.stack([V, -V]), "stereo", "channel 1"),
    "opposite phase, softer": (np.stack([0.9 * V, -V]), "stereo", "channel 2"),
    "0.4 ms late on the right": (np.stack([V, LATE]), "stereo", "channel 1"),
    "20 ms late on the right": (np.stack([V, np.roll(V, 320)]), "stereo", "channel 1"),
    "panned": (np.stack([0.4 * V, V]), "stereo", "channel 2"),
    "left only": (on_channels(2, c0=V), "stereo", "channel 1"),
    "left only, noise right": (np.stack([V, hiss(0.1)]), "stereo", "channel 1"),
    "right only, hum left": (
        np.stack([0.5 * np.sin(2 * np.pi * 50 * np.arange(V.size) / 16_000).astype(np.float32), V]),
        "stereo",
        "channel 2",
    ),
    "one of four": (on_channels(4, c2=V), None, "channel 3"),
    "one of eight": (on_channels(8, c7=V), None, "channel 8"),
    "one of eight, known layout": (on_channels(8, c4=V), "7.1", "channel 5"),
    "one of nine": (on_channels(9, c8=V), None, "channel 9"),
    "one of twenty": (on_channels(20, c11=V), None, "channel 12"),
    "all of nine": (np.stack([V] * 9), None, "mix"),
    "all of twenty": (np.stack([V] * 20), None, "mix"),
    "all of 64": (np.stack([V] * 64), None, "mix"),
    "centre of 5.1": (on_channels(6, c2=V), "5.1", "channel 3"),
    "centre of 5.1, loud music around": (
        np.stack([chords(0.9, 1), chords(0.9, 2), V, hiss(0.2), chords(0.9, 3), chords(0.9, 4)]),
        "5.1",
        "channel 3",
    ),
    "front of 5.1, centre silent": (on_channels(6, c0=V, c1=V), "5.1", "channel 1"),
    "front of 5.1, noise in the centre": (on_channels(6, c0=V, c1=V, c2=hiss(0.05)), "5.1", "channel 1"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_voice_is_as_loud_as_it_was_recorded(tmp_path: Path, kind: str) -> None:
    channels, layout, words = KINDS[kind]
    # Matroska keeps no layout of PCM.
    sound = hear(write_sound(tmp_path / ("a.wav" if layout else "a.mkv"), channels, layout))
    assert sound.downmix == words
    assert abs(level_db(sound.samples) - level_db(V)) < 1
    assert np.abs(octaves_db(sound.samples) - octaves_db(V)).max() < 1
    assert abs(np.corrcoef(sound.samples, V)[0, 1]) > 0.95


def test_the_chosen_channel_is_what_a_mono_file_of_it_would_be(tmp_path: Path) -> None:
    mono = hear(write_sound(tmp_path / "mono.mkv", V[None], "mono"))
    assert mono.downmix == "mono"
    for num_channels in (2, 4, 8, 9, 20):
        path = write_sound(tmp_path / f"{num_channels}.mkv", on_channels(num_channels, c1=V))
        np.testing.assert_array_equal(hear(path).samples, mono.samples)


def test_a_mono_file_passes_unchanged(tmp_path: Path) -> None:
    sound = hear(write_sound(tmp_path / "mono.mkv", V[None], "mono"))
    np.testing.assert_array_equal(sound.samples, np.rint(V * 32768) / 32768)


@pytest.mark.parametrize("num_channels", [2, 4])
def test_of_an_interview_every_person_is_heard(tmp_path: Path, num_channels: int) -> None:
    """One microphone each."""
    voices = in_turn(V, voice(1))
    channels = np.concatenate([voices, np.zeros((num_channels - 2, V.size), np.float32)])
    sound = hear(write_sound(tmp_path / "a.mkv", channels))
    assert sound.downmix == "channels 1 + 2"
    for one in voices:
        speaks = np.repeat(np.abs(one).reshape(-1, SAMPLE_RATE_HZ).max(axis=1) > 0, SAMPLE_RATE_HZ)
        assert abs(level_db(sound.samples[speaks]) - level_db(one[speaks])) < 1


def test_a_sum_of_channels_is_not_clipped(tmp_path: Path) -> None:
    channels = in_turn(1.9 * V, 1.9 * voice(1)) + chords(0.3)
    sound = hear(write_sound(tmp_path / "a.mkv", channels))
    assert sound.downmix == "channels 1 + 2"
    assert 0.5 < np.abs(sound.samples).max() < 1
    assert (np.abs(sound.samples) == np.abs(sound.samples).max()).sum() <= 2


@pytest.mark.parametrize("channels", [np.zeros((6, V.size), np.float32), np.stack([hiss(0.1, 1), hiss(0.1, 2)])])
def test_without_a_voice_all_channels_are_mixed(tmp_path: Path, channels: np.ndarray) -> None:
    assert hear(write_sound(tmp_path / "a.mkv", channels)).downmix == "mix"


def test_a_span_chooses_by_itself(tmp_path: Path) -> None:
    """The choice of a unit depends on nothing but its own seconds."""
    half = np.arange(V.size) < V.size // 2
    path = write_sound(tmp_path / "a.mkv", np.stack([np.where(half, V, 0), np.where(half, 0, V)]), "stereo")
    assert [hear(path, first, end).downmix for first, end in ((0, 75), (75, 150))] == ["channel 1", "channel 2"]
    assert hear(path).downmix == "channels 1 + 2"


def test_the_number_of_channels_may_change(tmp_path: Path) -> None:
    """A broadcast goes from stereo to 5.1 with the voice in the centre, and on to mono."""
    half = V.size // 3 // 1024 * 1024
    parts = [np.stack([V, V])[:, :half], on_channels(6, c2=V)[:, half : 2 * half], V[None, 2 * half :]]
    path = write_changing_channels(tmp_path / "a.aac", *zip(("stereo", "5.1", "mono"), parts, strict=True))
    sound = hear(path)
    assert sound.downmix == "mix, channel 3, mono"
    for first in (0, half, 2 * half):
        there = slice(first + 4000, first + half - 4000)
        assert abs(level_db(sound.samples[there]) - level_db(V[there])) < 1.5


# --- layouts and formats --------------------------------------------------------------------------


def test_labels_that_say_nothing_do_no_harm(tmp_path: Path) -> None:
    """In another process, because a fault here ends it: the library frees the labels twice."""
    path = write_unused_labels(tmp_path / "a.caf", on_channels(4, c1=V))
    script = (
        "import sys; from pathlib import Path; from tests.sounds import hear; import numpy as np\n"
        "for n in range(3): sound = hear(Path(sys.argv[1]))\n"
        "print(sound.downmix, np.abs(sound.samples).max())"
    )
    command = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    words, peak = done.stdout.rsplit(maxsplit=1)
    assert words == "channel 2" and float(peak) == pytest.approx(np.abs(V).max(), abs=1e-3)


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not next to the repository")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("01-nine-channels-no-layout.mkv", "channel 1"),
        ("02-four-channels-labelled-unused.mov", "mix"),
        ("08-antiphase.mp4", "channel 1"),
    ],
)
def test_the_cases_sound_like_their_control(name: str, words: str) -> None:
    script = (
        "import sys; from pathlib import Path; from tests.test_downmix import level_db; from tests.sounds import hear\n"
        "sound = hear(Path(sys.argv[1])); print(sound.downmix, level_db(sound.samples))"
    )
    command = [sys.executable, "-c", script, str(CASES / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    found, level = done.stdout.rsplit(maxsplit=1)
    assert found == words
    assert float(level) == pytest.approx(-19.6, abs=1)  # sadtalker_hdtf_hill.mp4, as it is


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("name", ["u8", "s16", "s32", "s64", "flt", "dbl"])
def test_every_sample_format_is_read(name: str, planar: bool) -> None:
    """Twelve channels, as PyAV's own reading of planes fails beyond eight."""
    wanted = np.random.default_rng(0).uniform(-1, 1, (12, 333))
    dtype = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}[name]
    scaled = wanted
    if name == "u8":
        scaled = wanted * 127 + 128
    elif name.startswith("s"):
        scaled = wanted * float(np.iinfo(dtype).max // 2) * 2
    stored = scaled.astype(dtype)
    frame = av.AudioFrame(format=name + "p" * planar, layout="12 channels", samples=333)
    if planar:
        for index, row in enumerate(stored):
            av.audio.plane.AudioPlane(frame, index).update(row.tobytes())
    else:
        frame.planes[0].update(stored.T.tobytes())
    np.testing.assert_array_equal(channels_of(frame), stored)
    np.testing.assert_allclose(floats_of(channels_of(frame)), wanted, atol=0.02)


def test_what_is_not_a_number_becomes_silence() -> None:
    channels = np.array([[0.5, np.nan, np.inf, -np.inf, 1e30]], np.float32)
    np.testing.assert_array_equal(floats_of(channels), [[0.5, 0, 0, 0, 16]])
