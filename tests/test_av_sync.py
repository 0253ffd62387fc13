"""Audio that was early or late in the source is in time in the delivered clip, read back as training will read it."""

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import av
import decord
import numpy as np
import pytest

from lipforge.datasets_manifest.manifest import read_manifest
from lipforge.model.clock import FPS, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from tests.conftest import run_prepare
from tests.media import shift_container, shift_samples

SHIFTS = (-6, -2, 2, 5)
HALF_A_FRAME = SAMPLES_PER_FRAME // 2


@dataclass(frozen=True)
class Delivered:
    """One kept clip as it lies in its shard."""

    row: dict
    members: dict[str, bytes]

    def audio(self) -> np.ndarray:
        """float32 [N]: the audio on the video's clock, whatever timestamps the file has."""
        with av.open(io.BytesIO(self.members["flac"])) as container:
            frames = list(container.decode(audio=0))
        assert frames[0].pts == 0
        return np.concatenate([frame.to_ndarray()[0] for frame in frames]) / np.float32(32768)


def read_clip(out: Path, row: dict) -> Delivered:
    """By the bytes that the manifest names."""
    with (out / row["shard"]).open("rb") as file:
        file.seek(row["sample_offset"])
        data = file.read(row["sample_size"])
    with tarfile.open(fileobj=io.BytesIO(data + bytes(1024))) as tar:
        members = {m.name.partition(".")[2]: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
    return Delivered(row, members)


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory, talking_clip: Path, models: dict) -> dict[str, Delivered]:
    """The same clip with its audio moved by whole frames: in the samples, or in the container's time stamps only."""
    folder = tmp_path_factory.mktemp("shifted")
    paths = {"0": talking_clip}
    for frames in SHIFTS:
        paths[f"samples {frames}"] = shift_samples(talking_clip, folder / f"samples{frames}.mp4", frames)
        paths[f"container {frames}"] = shift_container(talking_clip, folder / f"container{frames}.mkv", frames)
    out = folder / "dataset"
    run_prepare([str(path) for path in paths.values()], out)
    rows = {row["source_uri"]: row for row in read_manifest(str(out)).to_pylist()}
    assert all(row["status"] == "kept" for row in rows.values()), [(r["reason"], r["detail"]) for r in rows.values()]
    return {name: read_clip(out, rows[str(path)]) for name, path in paths.items()}


NAMES = [f"{how} {frames}" for how in ("samples", "container") for frames in SHIFTS]


@pytest.mark.parametrize("name", NAMES)
def test_the_planted_offset_is_found(delivered: dict[str, Delivered], name: str) -> None:
    """Relative to the clip as it was: what the scorer says of that one is the business of its own tests."""
    planted = int(name.split()[1])
    found = delivered[name].row["av_offset_frames"] - delivered["0"].row["av_offset_frames"]
    assert found == planted


@pytest.mark.parametrize("name", NAMES)
def test_delivered_audio_is_the_same_whatever_the_shift_was(delivered: dict[str, Delivered], name: str) -> None:
    """Same video, so the same audio: within half a frame, and in fact within two milliseconds."""
    wanted, got = delivered["0"].audio(), delivered[name].audio()
    inner = slice(SAMPLE_RATE_HZ, 5 * SAMPLE_RATE_HZ)  # where no shift reaches beyond the source's ends
    length = inner.stop - inner.start
    spectrum = np.fft.rfft(got[inner], 2 * length) * np.conj(np.fft.rfft(wanted[inner], 2 * length))
    lag = int(np.fft.irfft(spectrum).argmax())
    lag -= 2 * length if lag > length else 0
    assert abs(lag) < HALF_A_FRAME
    assert abs(lag) <= 0.002 * SAMPLE_RATE_HZ
    similarity = np.corrcoef(np.roll(got, -lag)[inner], wanted[inner])[0, 1]
    assert similarity > 0.95


@pytest.mark.parametrize("name", ["0", *NAMES])
def test_video_and_audio_are_of_exactly_one_length(delivered: dict[str, Delivered], name: str) -> None:
    clip = delivered[name]
    num_frames = clip.row["num_frames"]
    with av.open(io.BytesIO(clip.members["mp4"])) as container:
        times_s = [frame.time for frame in container.decode(video=0)]
    assert times_s == pytest.approx([n / FPS for n in range(num_frames)])
    assert len(clip.audio()) == num_frames * SAMPLES_PER_FRAME


@pytest.mark.parametrize("name", ["0", "samples 5", "container -6"])
def test_decord_reads_the_same_frames_and_samples(delivered: dict[str, Delivered], name: str, tmp_path: Path) -> None:
    clip = delivered[name]
    for suffix in ("mp4", "flac"):
        (tmp_path / f"clip.{suffix}").write_bytes(clip.members[suffix])
    video = decord.VideoReader(str(tmp_path / "clip.mp4"))
    assert len(video) == clip.row["num_frames"] and video.get_avg_fps() == FPS
    starts_s = video.get_frame_timestamp(range(len(video)))[:, 0]
    np.testing.assert_allclose(starts_s, np.arange(len(video)) / FPS, atol=1e-6)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index % 50 == 7:  # anywhere, in any order: key frames are close
                difference = video[index].asnumpy().astype(int) - frame.to_ndarray(format="rgb24")
                assert np.abs(difference).mean() < 2
    audio = decord.AudioReader(str(tmp_path / "clip.flac"), sample_rate=SAMPLE_RATE_HZ, mono=True)
    np.testing.assert_allclose(audio[:].asnumpy()[0], clip.audio(), atol=2 / 32768)


def test_the_clip_says_what_was_done_to_it(delivered: dict[str, Delivered]) -> None:
    for clip in delivered.values():
        about = json.loads(clip.members["json"])
        assert about["av_offset_frames"] == clip.row["av_offset_frames"]
        assert about["key"] == clip.row["key"] and about["num_frames"] == clip.row["num_frames"]
        assert list(clip.members) == ["mp4", "flac", "json", "npz"]
