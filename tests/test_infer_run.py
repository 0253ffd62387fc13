"""One video gets new lips, from file to file: what changes, what does not, and what happens when it cannot be done."""

import errno
import json
import wave
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from lipforge.datasets_manifest.schema import Reason
from lipforge.pipeline.infer import run as engine
from lipforge.pipeline.infer.protocols import Cancelled, Progress
from lipforge.pipeline.infer.request import IDENTITY, InferConfig, InferError, InferResult, PassReason
from lipforge.pipeline.infer.run import infer
from lipforge.pipeline.infer.work import open_work, work_folder
from lipforge.pipeline.media.container import MediaError
from lipforge.pipeline.media.source_file import NotThereError, StorageError
from tests.talking_photo import babble, make_talking_photo

CONFIG = InferConfig(model=IDENTITY)
NUM_FRAMES = 45


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1.8 s of a person who talks."""
    return make_talking_photo(tmp_path_factory.mktemp("talk") / "talk me.mp4", NUM_FRAMES / 25, size_px=256)


def write_wav(path: Path, duration_s: float, rate_hz: int = 16_000, channels: int = 1) -> Path:
    sound = babble(max(duration_s, 0.1), seed=3)
    pcm = np.interp(np.arange(round(duration_s * rate_hz)) / rate_hz, np.arange(len(sound)) / 16_000, sound)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes((pcm * 32767).astype("<i2")[:, None].repeat(channels, 1).tobytes())
    return path


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    return write_wav(tmp_path / "sound.wav", NUM_FRAMES / 25)


def frames_of(path: Path) -> list[np.ndarray]:
    """Luma of each frame."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray()[: frame.height].astype(int) for frame in container.decode(video=0)]


def length_s(path: Path) -> tuple[float, float]:
    """(of the pictures, of the sound)"""
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        return float(video.duration * video.time_base), float(audio.duration * audio.time_base)


def make(video: Path, sound: Path, out: Path, **settings) -> InferResult:
    return infer(str(video), str(sound), str(out), CONFIG.model_copy(update=settings))


def test_only_the_mouth_changes_and_the_result_says_what_was_done(talk: Path, sound: Path, tmp_path: Path):
    out = tmp_path / "new.mp4"
    result = make(talk, sound, out, lossless=True)
    before, after = frames_of(talk), frames_of(out)
    assert len(after) == len(before) == result.num_frames == result.num_drawn == NUM_FRAMES
    changed = np.stack([was != now for was, now in zip(before, after, strict=True)])
    assert 0 < changed.mean() < 0.2
    rows, columns = np.flatnonzero(changed.any(axis=(0, 2))), np.flatnonzero(changed.any(axis=(0, 1)))
    assert rows[0] > 60 and columns[0] > 60 and columns[-1] < 200  # around the mouth of the photograph
    errors = [np.square(was - now)[there] for was, now, there in zip(before, after, changed, strict=True)]
    assert 10 * np.log10(255**2 / np.concatenate(errors).mean()) > 36
    report = json.loads((tmp_path / "new.mp4.report.json").read_text())
    assert report["num_drawn"] == NUM_FRAMES and report["passed"] == [] and report["model"] == IDENTITY
    assert (tmp_path / "new.mp4.report.jpg").stat().st_size > 1000
    assert {path.name for path in tmp_path.iterdir()} == {
        "new.mp4",
        "new.mp4.report.json",
        "new.mp4.report.jpg",
        "sound.wav",
    }


def test_a_stopped_run_goes_on_and_ends_with_the_same_bytes(talk: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(engine, "SEGMENT_S", 0.6)
    sound = write_wav(tmp_path / "long.wav", 4.2)
    make(talk, sound, tmp_path / "whole.mp4")
    expected = (tmp_path / "whole.mp4").read_bytes()
    out = tmp_path / "parts.mp4"
    counts = []
    for stop_after in (10, 80, 30, 30):
        asked = iter(range(10_000))
        with pytest.raises(Cancelled):
            infer(str(talk), str(sound), str(out), CONFIG, stopped=lambda asked=asked, n=stop_after: next(asked) > n)
        assert not out.exists()
        counts.append(len(list(work_folder(out).glob("segment-*"))))
    assert counts[-1] > counts[0]
    infer(str(talk), str(sound), str(out), CONFIG)
    assert out.read_bytes() == expected
    assert not work_folder(out).exists()


def test_what_another_request_left_is_not_used(talk: Path, sound: Path, tmp_path: Path):
    out = tmp_path / "new.mp4"
    asked = iter(range(10_000))
    with pytest.raises(Cancelled):
        infer(str(talk), str(sound), str(out), CONFIG, stopped=lambda: next(asked) > 80)
    make(talk, sound, out, sharpen=1.0)
    make(talk, sound, tmp_path / "fresh.mp4", sharpen=1.0)
    assert out.read_bytes() == (tmp_path / "fresh.mp4").read_bytes()


@pytest.mark.parametrize(
    ("sound_s", "settings", "expected_s"),
    [
        (3.1, {"extend": "loop"}, 3.1),
        (3.1, {"extend": "hold"}, 3.1),
        (3.1, {"extend": "trim"}, 1.8),
        (1.0, {"audio_end": "silence"}, 1.8),
        (1.0, {"audio_end": "stop"}, 1.0),
    ],
)
def test_lengths_of_pictures_and_sound_agree(talk: Path, tmp_path: Path, sound_s, settings, expected_s):
    out = tmp_path / "new.mp4"
    result = make(talk, write_wav(tmp_path / "sound.wav", sound_s), out, **settings)
    pictures_s, heard_s = length_s(out)
    assert result.duration_s == pytest.approx(expected_s, abs=0.021)
    assert pictures_s == pytest.approx(expected_s, abs=0.04)
    assert heard_s == pytest.approx(expected_s, abs=0.045)
    assert len(frames_of(out)) == result.num_frames


def test_frames_without_a_usable_face_pass_unchanged_and_are_listed(hostile_media: dict[str, Path], tmp_path: Path):
    source = hostile_media["face_leaves"]
    result = infer(str(source), str(source), str(tmp_path / "new.mkv"), CONFIG.model_copy(update={"lossless": True}))
    assert 0 < result.num_drawn < result.num_frames
    assert {span.reason for span in result.passed} & {PassReason.NO_FACE, PassReason.FACE_CUT_OFF}
    before, after = frames_of(source), frames_of(tmp_path / "new.mkv")
    assert len(before) == len(after) == result.num_frames
    same = [np.array_equal(was, now) for was, now in zip(before, after, strict=True)]
    for span in result.passed:
        assert all(same[round(span.start_s * 25) : round(span.end_s * 25)])
    assert sum(same) == result.num_frames - result.num_drawn


def test_of_two_people_the_speaker_is_drawn_and_a_number_names_either(
    hostile_media: dict[str, Path], tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(engine, "LOOK_S", 0.4)
    source = hostile_media["two_faces"]
    changed = {}
    for face in ("speaker", "track:1", "track:2", "all"):
        out = tmp_path / f"{face[-1]}.mkv"
        settings = CONFIG.model_copy(update={"face": face, "lossless": True})
        infer(str(source), str(source), str(out), settings, limit_s=0.4)
        different = np.stack([was != now for was, now in zip(frames_of(source), frames_of(out), strict=False)])
        changed[face] = different.any(axis=0)
    assert not (changed["track:1"] & changed["track:2"]).any()
    assert any(np.array_equal(changed["speaker"], changed[face]) for face in ("track:1", "track:2"))
    assert np.array_equal(changed["all"], changed["track:1"] | changed["track:2"])
    with pytest.raises(ValueError, match="no face has the number 7"):
        settings = CONFIG.model_copy(update={"face": "track:7"})
        infer(str(source), str(source), str(tmp_path / "x.mp4"), settings, limit_s=0.2)


def test_a_video_shorter_than_a_window_is_drawn_whole(talk: Path, sound: Path, tmp_path: Path):
    result = infer(str(talk), str(sound), str(tmp_path / "new.mp4"), CONFIG, limit_s=0.2)
    assert result.num_frames == result.num_drawn == 5


def test_a_drawn_face_is_placed_by_points_from_outside(hostile_media: dict[str, Path], tmp_path: Path):
    source = hostile_media["no_face"]
    out = str(tmp_path / "new.mp4")
    with pytest.raises(InferError, match="--face-points"):
        infer(str(source), str(source), out, CONFIG, limit_s=0.4)
    points = tmp_path / "points.csv"
    points.write_text(
        "time_s,left_eye_x,left_eye_y,right_eye_x,right_eye_y,mouth_x,mouth_y\n0,120,120,180,120,150,180\n"
    )
    result = infer(str(source), str(source), out, CONFIG.model_copy(update={"face_points": points}), limit_s=0.4)
    assert result.num_drawn == result.num_frames


@pytest.mark.parametrize(("rate_hz", "channels"), [(8_000, 1), (44_100, 2), (96_000, 6)])
def test_the_sound_is_kept_as_given(talk: Path, tmp_path: Path, rate_hz: int, channels: int):
    sound = write_wav(tmp_path / "sound.wav", NUM_FRAMES / 25, rate_hz, channels)
    infer(str(talk), str(sound), str(tmp_path / "new.mkv"), CONFIG, limit_s=0.2)
    with av.open(str(tmp_path / "new.mkv")) as container:
        stream = container.streams.audio[0]
        assert (stream.rate, stream.channels) == (rate_hz, channels)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("empty", MediaError, "not a media file"),
        ("text", MediaError, "not a"),
        ("no_video", MediaError, "no video"),
        ("no_face", InferError, "no face"),
        ("missing", NotThereError, "no such file"),
    ],
)
def test_a_video_that_cannot_be_used_is_named_and_nothing_is_left(
    hostile_media: dict[str, Path], sound: Path, tmp_path: Path, name: str, error: type[Exception], words: str
):
    video = hostile_media.get(name, tmp_path / "missing.mp4")
    out = tmp_path / "out" / "new.mp4"
    with pytest.raises(error, match=words):
        make(video, sound, out)
    assert not out.exists()


@pytest.mark.parametrize("kind", ["no_audio", "empty", "text", "silent"])
def test_a_sound_that_cannot_be_used_is_named(hostile_media: dict[str, Path], talk: Path, tmp_path: Path, kind: str):
    sound = write_wav(tmp_path / "none.wav", 0.0) if kind == "silent" else hostile_media[kind]
    with pytest.raises((MediaError, InferError)):
        make(talk, sound, tmp_path / "new.mp4")
    assert not (tmp_path / "new.mp4").exists()


def test_outputs_that_cannot_be_written_are_refused_before_any_work(talk: Path, sound: Path, tmp_path: Path):
    taken = tmp_path / "taken.mp4"
    taken.write_bytes(b"mine")
    for out, words in (
        (taken, "exists"),
        (tmp_path, "folder"),
        (tmp_path / "x.xyz", "suffix"),
        (taken / "below.mp4", "cannot be made"),
    ):
        with pytest.raises((InferError, ValueError), match=words):
            make(talk, sound, out)
    assert taken.read_bytes() == b"mine"
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(talk.read_bytes())
    with pytest.raises(InferError, match="input"):
        make(copy, sound, copy, overwrite=True)
    assert copy.read_bytes() == talk.read_bytes()


def test_an_output_in_the_works_of_another_process_is_refused(talk: Path, sound: Path, tmp_path: Path):
    out = tmp_path / "new.mp4"
    with open_work(out, {}), pytest.raises(InferError, match="another process"):
        make(talk, sound, out)


def test_a_disk_that_fills_leaves_no_half_file_and_finished_work_counts(
    talk: Path, sound: Path, tmp_path: Path, monkeypatch
):
    out = tmp_path / "new.mp4"

    def full(*_: object) -> Iterator[None]:
        raise StorageError(f"{out} cannot be written: {errno.errorcode[errno.ENOSPC]}")

    with monkeypatch.context() as patched:
        patched.setattr(engine, "write_file", full)
        with pytest.raises(StorageError):
            make(talk, sound, out)
    assert not out.exists() and list(work_folder(out).glob("segment-*"))
    make(talk, sound, out)
    make(talk, sound, tmp_path / "fresh.mp4")
    assert out.read_bytes() == (tmp_path / "fresh.mp4").read_bytes()


def test_a_video_that_changes_while_it_is_drawn_is_an_error(talk: Path, sound: Path, tmp_path: Path, monkeypatch):
    def nothing(*_: object) -> Iterator[None]:
        yield from ()

    monkeypatch.setattr("lipforge.pipeline.infer.draw.pictures", nothing)
    with pytest.raises(MediaError) as error:
        make(talk, sound, tmp_path / "new.mp4")
    assert error.value.reason is Reason.DECODE_ERROR


def test_a_file_that_appears_meanwhile_is_not_replaced(talk: Path, sound: Path, tmp_path: Path):
    out = tmp_path / "new.mp4"

    def appear(progress: Progress) -> None:
        if "draw" in progress.step:
            out.write_bytes(b"mine")

    with pytest.raises(InferError, match="appeared meanwhile"):
        infer(str(talk), str(sound), str(out), CONFIG, on_progress=appear)
    assert out.read_bytes() == b"mine"


def test_a_run_that_was_killed_after_its_output_was_written_is_finished(
    talk: Path, sound: Path, tmp_path: Path, monkeypatch
):
    out = tmp_path / "new.mp4"
    with monkeypatch.context() as patched:
        patched.setattr(engine, "write_report", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            make(talk, sound, out)
    expected = out.read_bytes()
    make(talk, sound, out)
    assert out.read_bytes() == expected and not work_folder(out).exists()
    with pytest.raises(InferError, match="exists"):
        make(talk, sound, out)


def test_damaged_work_is_made_again(talk: Path, sound: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(engine, "SEGMENT_S", 0.6)
    make(talk, sound, tmp_path / "fresh.mp4")
    out = tmp_path / "new.mp4"
    with monkeypatch.context() as patched:
        patched.setattr(engine, "write_file", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            make(talk, sound, out)
    for name in ("segment-00001.nut", "faces-00000.npz"):
        path = work_folder(out) / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    make(talk, sound, out)
    assert out.read_bytes() == (tmp_path / "fresh.mp4").read_bytes()


def test_every_frame_counts_at_high_rates(talk: Path, sound: Path, tmp_path: Path):
    fast = tmp_path / "fast.mp4"
    with av.open(str(talk)) as source, av.open(str(fast), "w") as target:
        stream = target.add_stream("libx264", rate=240)
        stream.width, stream.height, stream.pix_fmt = 256, 256, "yuv420p"
        for number, frame in enumerate(source.decode(video=0)):
            frame.pts, frame.time_base, frame.pict_type = number, Fraction(1, 240), 0
            if number < 31:
                target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    result = make(fast, sound, tmp_path / "new.mp4", extend="trim")
    assert result.num_frames == 31


def test_progress_goes_through_the_steps_and_never_back(talk: Path, sound: Path, tmp_path: Path):
    seen: list[Progress] = []
    infer(str(talk), str(sound), str(tmp_path / "new.mp4"), CONFIG, on_progress=seen.append)
    assert list(dict.fromkeys(progress.step for progress in seen)) == [
        "1 of 3: find faces",
        "2 of 3: draw",
        "3 of 3: write the file",
    ]
    drawn = [progress.done_s for progress in seen if "draw" in progress.step]
    assert drawn == sorted(drawn) and drawn[-1] == pytest.approx(1.76)
    assert all(progress.left_s is None or progress.left_s >= 0 for progress in seen)
