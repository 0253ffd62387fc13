"""Streams that begin between two key frames, and the choice among several streams."""

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import pytest

from lipforge.pipeline.clip import Source
from lipforge.pipeline.media.container import open_media, other_streams, video_stream
from lipforge.pipeline.media.probe import probe
from lipforge.pipeline.stages.probe import Probe, from_record, to_record
from tests.coded import coded_image, noise, shown, write_coded
from tests.odd_pictures import without_first_packets
from tests.sealed import video_rows
from tests.test_accounts import LIMITS, MEASURES, stored, unit

NUM_FRAMES = 100
TIMES_S = [n / 25 for n in range(NUM_FRAMES)]
X265 = "log-level=none:pools=1"

# --- a beginning in the middle of a GOP -----------------------------------------------------------

STREAMS = {
    "h264.ts": {},
    "h264.mkv": {},
    "h264_b_frames.mkv": {"options": {"x264-params": "bframes=3"}},
    "h264_open_gop.ts": {"options": {"x264-params": "open-gop=1:bframes=3"}},
    "h264.avi": {"options": {"x264-params": "bframes=3"}, "fixed_rate": True},
    "hevc.ts": {"vcodec": "libx265", "options": {"x265-params": X265}},
    "hevc_open_gop.mkv": {"vcodec": "libx265", "options": {"x265-params": f"{X265}:open-gop=1:bframes=3"}},
    "mpeg2.ts": {"vcodec": "mpeg2video", "fixed_rate": True, "options": {"bf": "2"}},
    "mpeg4.mkv": {"vcodec": "mpeg4", "fixed_rate": True},
    "mpeg4.avi": {"vcodec": "mpeg4", "fixed_rate": True},
    "flv1.flv": {"vcodec": "flv", "fixed_rate": True},
    "vp8.webm": {"vcodec": "libvpx"},
    "vp9.webm": {"vcodec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
}


@pytest.mark.parametrize("name", STREAMS)
def test_what_comes_before_the_first_whole_picture_is_lost_and_the_rest_is_in_its_place(
    tmp_path: Path, name: str
) -> None:
    whole = write_coded(tmp_path / f"whole_{name}", TIMES_S, gop=24, **STREAMS[name])
    path = without_first_packets(whole, tmp_path / name, 31)
    got = shown(path)
    first = got.index(48)  # the first key frame that is left
    assert 15 <= first <= 17 + 3  # with those that are stored before, but shown after pictures that are cut off
    assert got[:first] == [None] * first
    assert got[first:] == list(range(48, NUM_FRAMES))


def test_two_refused_pictures_in_one_packet_do_not_block_the_decoder(tmp_path: Path) -> None:
    """FFmpeg splits such packets of VP9, and the second picture stays in the decoder when the first is refused."""
    path = write_coded(tmp_path / "whole.webm", TIMES_S, gop=24, **STREAMS["vp9.webm"])
    with av.open(str(path)) as source, av.open(str(tmp_path / "a.webm"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size][31:]
        pair = [bytes(packet) for packet in packets[4:6]]
        marker = bytes([0b110_11_001])  # a superframe of two, whose sizes have four bytes (VP9 specification, annex B)
        sizes = b"".join(len(picture).to_bytes(4, "little") for picture in pair)
        both = av.Packet(b"".join(pair) + marker + sizes + marker)
        both.pts, both.dts, both.time_base = packets[4].pts, packets[4].dts, packets[4].time_base
        for packet in [*packets[:4], both, *packets[6:]]:
            packet.stream = stream
            target.mux(packet)
    assert shown(tmp_path / "a.webm") == [None] * 17 + list(range(48, NUM_FRAMES))


def test_pictures_renewed_piece_by_piece_begin_when_they_are_whole(tmp_path: Path) -> None:
    """Such H.264 has no key frames after the first (x264, intra-refresh)."""
    how = {"x264-params": "intra-refresh=1:bframes=0"}
    whole = write_coded(tmp_path / "whole.ts", TIMES_S, gop=20, options=how)
    got = shown(without_first_packets(whole, tmp_path / "a.ts", 25))
    first = next(number for number, code in enumerate(got) if code is not None)
    assert 1 < first < 40
    assert got == [None] * first + list(range(25 + first, NUM_FRAMES))


@pytest.mark.parametrize("name", [name for name in STREAMS if name != "flv1.flv"])
def test_units_that_begin_at_a_later_key_frame_lose_nothing(tmp_path: Path, name: str) -> None:
    """Pictures shown before that key frame but stored after it belong to the unit before."""
    path = without_first_packets(
        write_coded(tmp_path / f"whole_{name}", TIMES_S, gop=24, **STREAMS[name]), tmp_path / name, 31
    )
    info = probe(str(path))
    whole = shown(path)
    edges = [0, *(round(time_s * 25) for time_s in info.key_times_s if time_s > 0), info.num_frames]
    assert len(edges) >= 4
    assert [code for start, end in pairwise(edges) for code in shown(path, start, end)] == whole


def test_units_of_pictures_renewed_piece_by_piece_lose_nothing(tmp_path: Path) -> None:
    how = {"x264-params": "intra-refresh=1:bframes=0"}
    path = write_coded(tmp_path / "a.ts", TIMES_S, gop=20, options=how)
    keys = [round(time_s * 25) for time_s in probe(str(path)).key_times_s]
    assert keys == [0, 20, 40, 60, 80]
    for start in keys:
        assert shown(path, start, min(start + 20, NUM_FRAMES)) == list(range(start, min(start + 20, NUM_FRAMES)))


# --- several streams ------------------------------------------------------------------------------


def several(path: Path, cameras: list[str], num_audio: int = 1) -> Path:
    """cameras: the disposition of each video stream. Stream n shows the numbers from 100 n on."""
    with av.open(str(path), "w", options={"default_mode": "passthrough"}) as container:
        streams = [container.add_stream("libx264", rate=25, options={"threads": "1"}) for _ in cameras]
        tracks = [container.add_stream("pcm_s16le", rate=16_000, layout="mono") for _ in range(num_audio)]
        packets = []
        for number, (stream, kind) in enumerate(zip(streams, cameras, strict=True)):
            stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
            stream.disposition = av.stream.Disposition[kind] if kind else av.stream.Disposition(0)
            for n in range(50):
                frame = av.VideoFrame.from_ndarray(coded_image(100 * number + n), format="rgb24")
                frame.pts, frame.time_base = n, Fraction(1, 25)
                packets += stream.encode(frame)
            packets += stream.encode(None)
        for track in tracks:
            block = av.AudioFrame.from_ndarray(noise(32_000)[None], format="s16", layout="mono")
            block.sample_rate, block.pts, block.time_base = 16_000, 0, Fraction(1, 16_000)
            packets += [*track.encode(block), *track.encode(None)]
        packets.sort(key=lambda packet: float(packet.dts * packet.time_base))
        for packet in packets:
            container.mux(packet)
    return path


@pytest.mark.parametrize(
    ("cameras", "first_code", "note"),
    [
        (["default"], 0, ""),
        (["", "default"], 100, "2 video streams; the default, number 2, was used"),
        (["default", "default"], 0, "2 video streams; the default, number 1, was used"),
        (["", ""], 0, "2 video streams; number 1 was used"),
        (["", "", "default"], 200, "3 video streams; the default, number 3, was used"),
    ],
)
def test_the_default_video_stream_is_taken_and_the_others_are_mentioned(
    tmp_path: Path, cameras: list[str], first_code: int, note: str
) -> None:
    path = several(tmp_path / "a.mkv", cameras)
    with open_media(str(path)) as container:
        assert [bool(s.disposition & av.stream.Disposition.default) for s in container.streams.video] == [
            kind == "default" for kind in cameras
        ]
    assert shown(path) == list(range(first_code, first_code + 50))
    assert probe(str(path)).note == note


class Stream:
    codec_context = True

    def __init__(self, disposition: av.stream.Disposition) -> None:
        self.disposition = disposition


class Container:
    """Stands for files that our muxers do not write."""

    def __init__(self, *video: Stream) -> None:
        self.streams = self
        self.video = list(video)
        self.audio: list[Stream] = []


def test_cover_art_and_thumbnails_are_never_taken_even_as_the_default() -> None:
    kinds = av.stream.Disposition
    cover, thumbnails = Stream(kinds.attached_pic | kinds.default), Stream(kinds.timed_thumbnails | kinds.default)
    camera, unreadable = Stream(kinds(0)), Stream(kinds.default)
    unreadable.codec_context = None
    container = Container(cover, thumbnails, camera)
    assert video_stream(container) is camera and other_streams(container) == ""
    assert video_stream(Container(cover, thumbnails)) is None
    container = Container(unreadable, camera)
    assert video_stream(container) is camera
    assert other_streams(container) == "2 video streams; number 2 was used"


def test_the_manifest_mentions_other_streams_where_it_has_nothing_else_to_say(tmp_path: Path) -> None:
    path = several(tmp_path / "a.mkv", ["", "default"], num_audio=2)
    video = Probe().process(Source(str(path)))
    assert from_record(to_record(video)) == video
    kept, short = stored("k", 0, 75, **MEASURES), stored("s", 75, 100, "rejected", "too_short") | {"detail": "1.00 s"}
    rows = video_rows(video, [unit(kept, short)], LIMITS)
    note = "2 video streams; the default, number 2, was used; 2 audio tracks; number 1 was used"
    assert [row["detail"] for row in rows] == [note, "1.00 s"]
