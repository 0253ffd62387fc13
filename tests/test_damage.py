"""Damaged media: what is lost comes without an image, in its place, and nothing but MediaError is raised."""

from pathlib import Path

import av
import numpy as np
import pytest

from lipforge.model.clock import SAMPLES_PER_FRAME
from lipforge.pipeline.clip import Source, Unit, Video
from lipforge.pipeline.media.audio import read_audio
from lipforge.pipeline.media.container import MediaError
from lipforge.pipeline.media.probe import VideoInfo, probe
from lipforge.pipeline.media.video import DecodeCount
from lipforge.pipeline.stages.resample import Resample
from tests.coded import noise, shown, write_coded

NUM_FRAMES = 150
REGULAR_S = [index / 25 for index in range(NUM_FRAMES)]


def test_concatenated_recordings_are_refused(tmp_path: Path) -> None:
    """`cat a.ts b.ts`: frames of both share their times, and the audio of b would be paired with frames of a."""
    recordings = [
        write_coded(tmp_path / f"{seed}.ts", REGULAR_S, noise(96_000, seed), acodec="mp2").read_bytes()
        for seed in (1, 2)
    ]
    (tmp_path / "both.ts").write_bytes(b"".join(recordings))
    with pytest.raises(MediaError, match="jump by -"):
        probe(str(tmp_path / "both.ts"))


def test_one_wrong_time_does_not_make_days_of_video(tmp_path: Path) -> None:
    path = write_coded(tmp_path / "a.mkv", [*REGULAR_S, 1e6])
    with pytest.raises(MediaError, match=r"jump by \+"):
        probe(str(path))


def test_avi_that_promises_years_is_as_long_as_its_packets(tmp_path: Path) -> None:
    path = write_coded(tmp_path / "a.avi", REGULAR_S, vcodec="mpeg4", fixed_rate=True)
    content = bytearray(path.read_bytes())
    length = content.find(b"strh") + 8 + 32
    content[length : length + 4] = (0xFFFF_FFF0).to_bytes(4, "little")
    path.write_bytes(content)
    assert probe(str(path)).num_frames == NUM_FRAMES


def test_an_mp4_that_lost_its_end_still_accounts_for_it(tmp_path: Path) -> None:
    """The index comes first and promises all frames: missing ones come without an image instead of being dropped."""
    path = write_coded(
        tmp_path / "a.mp4", REGULAR_S, options={"preset": "ultrafast"}, container_options={"movflags": "faststart"}
    )
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * 0.6)])
    got = shown(path)
    assert len(got) == NUM_FRAMES
    first_lost = got.index(None)
    assert got[:first_lost] == list(range(first_lost)) and 30 < first_lost < 140
    assert got[first_lost:] == [None] * (NUM_FRAMES - first_lost)


def test_damage_removes_images_up_to_the_next_key_frame_and_shifts_none(tmp_path: Path) -> None:
    path = write_coded(tmp_path / "a.mkv", REGULAR_S, gop=25)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    content = path.read_bytes()
    at = content.index(bytes(packets[60]))
    path.write_bytes(content[: at + 12] + bytes(len(bytes(packets[60])) - 12) + content[at + len(bytes(packets[60])) :])
    got = shown(path)
    assert len(got) == NUM_FRAMES
    assert None in got
    assert all(code in (None, index) for index, code in enumerate(got))
    assert got[:50] == list(range(50)) and got[75:] == list(range(75, NUM_FRAMES))


@pytest.mark.parametrize("name", ["empty", "text", "truncated_mp4"])
def test_a_file_that_is_not_media_is_unreadable(hostile_media: dict[str, Path], name: str) -> None:
    with pytest.raises(MediaError) as error:
        probe(str(hostile_media[name]))
    assert error.value.reason == "unreadable"


def test_playlists_named_mp4_are_not_followed(tmp_path: Path) -> None:
    secret = write_coded(tmp_path / "secret.ts", REGULAR_S[:50])
    (tmp_path / "hls.mp4").write_text(f"#EXTM3U\n#EXTINF:2,\n{secret}\n#EXT-X-ENDLIST\n")
    (tmp_path / "concat.mp4").write_text(f"ffconcat version 1.0\nfile '{secret}'\n")
    (tmp_path / "words.mp4").write_text("1\n00:00:00,000 --> 00:00:02,000\nHello\n")
    for name in ("hls.mp4", "concat.mp4", "words.mp4"):
        with pytest.raises(MediaError):
            probe(str(tmp_path / name))


def test_changed_bytes_raise_nothing_but_media_errors(tmp_path: Path) -> None:
    """And a span always has all its frames and samples."""
    rng = np.random.default_rng(7)
    audio = noise(75 * SAMPLES_PER_FRAME)
    for name in ("a.mp4", "a.mkv", "a.ts", "a.avi"):
        how = (
            {"vcodec": "mpeg4", "fixed_rate": True}
            if name == "a.avi"
            else {"acodec": "mp2" if name == "a.ts" else "aac"}
        )
        original = write_coded(tmp_path / name, REGULAR_S[:75], audio, **how).read_bytes()
        for trial in range(25):
            content = bytearray(original)
            for at in rng.integers(0, len(content), size=int(rng.choice([1, 20, 300]))):
                content[at] = rng.integers(256)
            path = tmp_path / f"{trial}-{name}"
            path.write_bytes(content[: len(content) if trial % 3 else int(rng.integers(1, len(content)))])
            try:
                info = probe(str(path))
                end = min(info.num_frames, 200)
                assert len(shown_of(path, info, end)) == end
                assert len(read_audio(str(path), info, 0, end).samples) == end * SAMPLES_PER_FRAME
            except MediaError:
                continue


def shown_of(path: Path, info: VideoInfo, end_frame: int) -> list[bool]:
    unit = Unit(Video(Source(str(path)), "", info), 0, end_frame)
    return [frame.picture is not None for frame in Resample().to_grid(unit, Resample().decode(unit, DecodeCount()))]
