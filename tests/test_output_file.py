"""The final file is the source, with other pictures and another sound."""

import os
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import numpy as np
import pytest

from lipforge.pipeline.media.geometry import orientation_of
from lipforge.pipeline.media.output.segment import SegmentWriter
from lipforge.pipeline.media.probe import probe
from lipforge.pipeline.media.source_file import StorageError
from lipforge.pipeline.media.video import decode_video
from tests.odd_pictures import ORIENTATIONS, as_hdr, interlace, write_pictures
from tests.passed_through import decoded, pass_through, psnr_db, times_s

X264 = ("-c:v", "libx264", "-preset", "ultrafast", "-crf", "12", "-pix_fmt", "yuv420p", "-threads", "1")
MOVING = ("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=1")
TONE = ("-f", "lavfi", "-i", "sine=f=440:d=1")
TAGS = ("color_range", "colorspace", "color_primaries", "color_trc", "interlaced_frame")


def ffmpeg(path: Path, *arguments: str) -> Path:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-nostdin", "-y"]
    result = subprocess.run([*command, *arguments, str(path)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return path


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two audio tracks, subtitles, chapters, an attachment, a cover and tags, in Matroska."""
    folder = tmp_path_factory.mktemp("rich")
    (folder / "words.srt").write_text("1\n00:00:00,200 --> 00:00:00,700\nGood morning\n\n")
    (folder / "font.ttf").write_bytes(b"not really a font")
    chapters = "".join(
        f"[CHAPTER]\nTIMEBASE=1/1000\nSTART={start}\nEND={start + 500}\ntitle=Part {start}\n" for start in (0, 500)
    )
    (folder / "tags.txt").write_text(f";FFMETADATA1\ntitle=A talk\nartist=Somebody\n{chapters}")
    cover = write_pictures(folder / "cover.png", [np.full((16, 16, 3), 200, np.uint8)], vcodec="png", pix_fmt="rgb24")
    return ffmpeg(
        folder / "rich.mkv",
        *MOVING, *TONE, "-f", "lavfi", "-i", "sine=f=880:d=1", "-i", str(folder / "words.srt"),
        "-i", str(folder / "tags.txt"), "-map", "0", "-map", "1", "-map", "2", "-map", "3", "-map_metadata", "4",
        *X264, "-c:a", "aac", "-c:s", "srt", "-metadata:s:a:0", "language=eng", "-metadata:s:a:1", "language=fra",
        "-metadata:s:a:1", "title=Music", "-metadata:s:s:0", "language=deu", "-disposition:s:0", "forced",
        "-attach", str(folder / "font.ttf"), "-metadata:s:t:0", "mimetype=application/x-truetype-font",
        "-attach", str(cover), "-metadata:s:t:1", "mimetype=image/png",
    )  # fmt: skip


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ffmpeg(tmp_path_factory.mktemp("plain") / "plain.mp4", *MOVING, *TONE, *X264, "-c:a", "aac")


def described(path: Path) -> list[tuple[Any, ...]]:
    with av.open(str(path)) as container:
        return [
            (stream.type, _codec(stream), stream.language or "und", int(stream.disposition), _title(stream))
            for stream in container.streams
        ]


def _codec(stream: Any) -> str:
    return stream.codec_context.name if stream.codec_context is not None else stream.name


def _title(stream: Any) -> str:
    return stream.metadata.get("title", "")


@pytest.mark.parametrize("rate", ["24000/1001", "24", "25", "30000/1001", "30", "50", "60000/1001", "60"])
def test_frame_rates_come_out_exact(tmp_path: Path, rate: str) -> None:
    source = ffmpeg(tmp_path / "in.mp4", "-f", "lavfi", "-i", f"testsrc2=s=64x48:r={rate}:d=0.4", *X264)
    steps = {"mp4": 0, "mov": 0, "ts": Fraction(1, 180_000), "mkv": Fraction(1, 2000), "avi": 0}
    for suffix, tolerance in steps.items():
        passed = pass_through(source, tmp_path / f"out.{suffix}", segment_s=0.2)
        late = [abs(a - b) for a, b in zip(times_s(passed.source), times_s(passed.out), strict=True)]
        assert max(late) <= tolerance, suffix
        assert psnr_db(passed.source, passed.out) > 50
        with av.open(str(tmp_path / f"out.{suffix}")) as container:
            assert abs((container.streams.video[0].average_rate or 0) / Fraction(rate) - 1) < 0.01, suffix


@pytest.mark.parametrize("suffix", ["mp4", "mov"])
def test_a_variable_rate_and_the_last_frame_keep_their_times(tmp_path: Path, suffix: str) -> None:
    select = "testsrc2=s=64x48:r=30:d=1,select='not(mod(n\\,3))+lt(n\\,10)'"
    source = ffmpeg(tmp_path / "in.mp4", "-f", "lavfi", "-i", select, "-fps_mode", "vfr", *X264)
    passed = pass_through(source, tmp_path / f"out.{suffix}", length_s=1.25)
    assert times_s(passed.source) == times_s(passed.out)
    assert len({b - a for a, b in zip(times_s(passed.out), times_s(passed.out)[1:], strict=False)}) == 2
    last = passed.out[-1]
    assert last.duration * Fraction(last.time_base) + times_s(passed.out)[-1] == Fraction(5, 4)


def test_a_variable_rate_lies_on_the_grid_of_avi(tmp_path: Path) -> None:
    select = "testsrc2=s=64x48:r=30:d=1,select='not(mod(n\\,3))+lt(n\\,10)'"
    source = ffmpeg(tmp_path / "in.mp4", "-f", "lavfi", "-i", select, "-fps_mode", "vfr", *X264)
    passed = pass_through(source, tmp_path / "out.avi")
    info = probe(str(tmp_path / "out.avi"))
    found = [frame.time_s for frame in decode_video(str(tmp_path / "out.avi"), info, 0, info.num_frames)]
    assert found == pytest.approx([float(time_s) for time_s in times_s(passed.source)])


@pytest.mark.parametrize("suffix", ["webm", "mkv", "avi", "ts"])
def test_a_source_goes_into_its_own_kind_of_file(tmp_path: Path, suffix: str) -> None:
    codecs = ("-c:v", "libvpx-vp9", "-cpu-used", "8", "-c:a", "libopus") if suffix == "webm" else (*X264, "-c:a", "mp3")
    rate = ("-f", "lavfi", "-i", "testsrc2=s=64x48:r=30000/1001:d=1")
    source = ffmpeg(tmp_path / f"in.{suffix}", *rate, *TONE, *codecs)
    passed = pass_through(source, tmp_path / f"out.{suffix}")
    assert times_s(passed.source) == times_s(passed.out)
    assert psnr_db(passed.source, passed.out) > 50
    assert described(source)[1] == described(tmp_path / f"out.{suffix}")[1]
    assert passed.notes == []


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_rotation_and_mirrors_stay(tmp_path: Path, name: str) -> None:
    matrix, _ = ORIENTATIONS[name]
    pictures = [np.full((48, 64, 3), value, np.uint8) for value in (20, 120)]
    source = write_pictures(tmp_path / "in.mp4", pictures, matrix=matrix)
    for suffix in ("mp4", "mov"):
        passed = pass_through(source, tmp_path / f"out.{suffix}")
        found = passed.out[0].side_data.get("DISPLAYMATRIX")
        expected = passed.source[0].side_data.get("DISPLAYMATRIX")
        assert (found is None) == (expected is None)
        if found is not None and expected is not None:
            assert orientation_of(bytes(found)) == orientation_of(bytes(expected))
        assert passed.out[0].width == 64


def test_a_kind_of_file_that_cannot_turn_pictures_says_so(tmp_path: Path) -> None:
    pictures = [np.zeros((48, 64, 3), np.uint8)] * 20
    source = write_pictures(tmp_path / "in.mp4", pictures, matrix=ORIENTATIONS["turned_90"][0])
    assert "turned" in pass_through(source, tmp_path / "out.ts").notes[0]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov", "ts"])
def test_pixel_ratio_range_matrix_and_primaries_stay(tmp_path: Path, suffix: str) -> None:
    tags = "range=full:colorspace=bt709:color_primaries=bt470bg:color_trc=smpte170m"
    source = ffmpeg(tmp_path / "in.mp4", *MOVING, "-vf", f"scale=out_range=full,setparams={tags},setsar=8/9", *X264)
    passed = pass_through(source, tmp_path / f"out.{suffix}", most_frames=8)
    first = passed.source[0]
    assert (int(first.color_range), int(first.colorspace), int(first.color_primaries), int(first.color_trc)) == (
        (2, 1, 5, 6)
    )
    assert [getattr(passed.out[0], tag) for tag in TAGS] == [getattr(first, tag) for tag in TAGS]
    with av.open(str(tmp_path / f"out.{suffix}")) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(8, 9)


@pytest.mark.parametrize(("suffix", "transfer"), [("mp4", "smpte2084"), ("mkv", "arib-std-b67")])
def test_ten_bits_and_hdr_stay(tmp_path: Path, suffix: str, transfer: str) -> None:
    base = ffmpeg(tmp_path / "base.mp4", "-f", "lavfi", "-i", "testsrc2=s=64x64:r=25:d=0.3", *X264)
    mastering = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
    hdr = f"log-level=error:hdr10=1:master-display={mastering}:max-cll=1000,400"
    encoder = ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", hdr, "-tag:v", "hvc1")
    source = as_hdr(base, tmp_path / "in.mp4", transfer, *encoder, pix_fmt="yuv420p10le")
    passed = pass_through(source, tmp_path / f"out.{suffix}")
    assert passed.format.pix_fmt == passed.out[0].format.name == "yuv420p10le"
    assert passed.format.mastering == mastering
    assert [getattr(passed.out[0], tag) for tag in TAGS] == [getattr(passed.source[0], tag) for tag in TAGS]
    for kind in ("MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL"):
        before, after = (frames[0].side_data.get(kind) for frames in (passed.source, passed.out))
        assert before is not None and after is not None
    again = decoded(tmp_path / f"out.{suffix}")[0]
    assert bytes(again.side_data["CONTENT_LIGHT_LEVEL"]) == bytes(passed.source[0].side_data["CONTENT_LIGHT_LEVEL"])
    assert psnr_db(passed.source, passed.out) > 50
    if suffix == "mp4":
        with av.open(str(tmp_path / "out.mp4")) as container:
            assert container.streams.video[0].codec_context.codec_tag == "hvc1"


@pytest.mark.parametrize("top_first", [True, False])
def test_interlaced_stays_interlaced(tmp_path: Path, top_first: bool) -> None:
    fields = ffmpeg(tmp_path / "fields.mp4", "-f", "lavfi", "-i", "testsrc2=s=64x64:r=50:d=0.4", *X264)
    source = interlace(fields, tmp_path / "in.mp4", top_first)
    passed = pass_through(source, tmp_path / "out.mp4")
    assert passed.format.top_field_first == top_first
    assert all(frame.interlaced_frame for frame in passed.out)
    shown = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(tmp_path / "out.mp4"), "-vf", "showinfo", "-f", "null", "-"],
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    assert f" i:{'T' if top_first else 'B'} " in shown
    assert psnr_db(passed.source, passed.out) > 50


def test_all_else_of_a_matroska_file_stays(tmp_path: Path, rich: Path) -> None:
    passed = pass_through(rich, tmp_path / "out.mkv", rich)
    assert passed.notes == []
    before, after = described(rich), described(tmp_path / "out.mkv")
    assert after[0] == before[0]
    assert after[1][:2] == ("audio", "aac") and after[1][3] & 1  # the new sound
    assert after[2:4] == before[2:4]  # the other audio track and the subtitles
    assert after[2][2] == "fra" and after[2][4] == "Music" and not after[2][3] & 1
    assert [kind for kind, *_ in after] == [kind for kind, *_ in before]
    with av.open(str(rich)) as old, av.open(str(tmp_path / "out.mkv")) as new:
        assert [(c["start"], c["end"], c["metadata"]) for c in new.chapters()] == [
            (c["start"], c["end"], c["metadata"]) for c in old.chapters()
        ]
        assert new.metadata["title"] == "A talk" and new.metadata["ARTIST"] == "Somebody"
        font: Any = next(stream for stream in new.streams if stream.type == "attachment")
        assert font.data == b"not really a font"
        words = [packet for packet in new.demux(new.streams.subtitles[0]) if packet.size]
        assert [(packet.pts, packet.duration, bytes(packet)) for packet in words] == [(200, 500, b"Good morning")]


def test_what_a_kind_of_file_cannot_hold_is_said(tmp_path: Path, rich: Path) -> None:
    notes = pass_through(rich, tmp_path / "out.ts", rich).notes
    for what in ("subtitles (deu)", "font.ttf", "cover.png", "chapters"):
        assert any(what in note for note in notes), (what, notes)
    assert [kind for kind, *_ in described(tmp_path / "out.ts")] == ["video", "audio", "audio"]


def test_chapters_tags_cover_and_subtitles_stay_in_mp4(tmp_path: Path, rich: Path) -> None:
    cover = ffmpeg(tmp_path / "cover.jpg", "-f", "lavfi", "-i", "color=red:s=16x16:d=1", "-frames:v", "1")
    source = ffmpeg(
        tmp_path / "in.mp4", "-i", str(rich), "-i", str(cover), "-map", "0:v:0", "-map", "0:a", "-map", "0:s",
        "-map", "1:v", "-c", "copy", "-c:s", "mov_text", "-disposition:v:1", "attached_pic",
    )  # fmt: skip
    passed = pass_through(source, tmp_path / "out.mp4", source)
    assert passed.notes == []
    with av.open(str(source)) as old, av.open(str(tmp_path / "out.mp4")) as new:
        assert [c["metadata"] for c in new.chapters()] == [{"title": "Part 0"}, {"title": "Part 500"}]
        assert new.metadata["title"] == "A talk"
        attached = [bool(s.disposition & av.stream.Disposition.attached_pic) for s in new.streams.video]
        assert attached == [False, True]
        kinds = sorted(stream.type for stream in old.streams)
        assert sorted(stream.type for stream in new.streams) == kinds


def test_a_timecode_stays(tmp_path: Path) -> None:
    source = ffmpeg(tmp_path / "in.mov", *MOVING, *X264, "-timecode", "01:02:03:04")
    for suffix in ("mov", "mp4", "mkv"):
        out = tmp_path / f"out.{suffix}"
        assert pass_through(source, out).notes == []
        with av.open(str(out)) as container:
            tags = {key.lower(): value for key, value in container.streams.video[0].metadata.items()}
            assert tags["timecode"] == "01:02:03:04"


def test_what_starts_apart_stays_apart(tmp_path: Path) -> None:
    source = ffmpeg(
        tmp_path / "in.mkv", "-itsoffset", "0.2", *MOVING, "-itsoffset", "0.5", *TONE, *TONE,
        "-map", "0", "-map", "1", "-map", "2", *X264, "-c:a", "flac",
    )  # fmt: skip
    for path in (source, tmp_path / "out.mkv", tmp_path / "out.mp4"):
        if path != source:
            pass_through(source, path)
        picture_s, *sounds_s = (first_time_s(path, index) for index in range(3))
        assert [sound_s - picture_s for sound_s in sounds_s] == pytest.approx([0.3, -0.2], abs=0.002), path


def first_time_s(path: Path, index: int) -> float:
    with av.open(str(path)) as container:
        frame: Any = next(container.decode(container.streams[index]))
        return frame.time


def test_what_comes_after_the_end_is_left_out(tmp_path: Path, rich: Path) -> None:
    pass_through(rich, tmp_path / "out.mkv", rich, length_s=0.4, most_frames=10)
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert [c["start"] for c in container.chapters()] == [0]
        last = max(packet.pts for packet in container.demux(container.streams.audio[1]) if packet.size)
    assert last < 400


def test_the_same_pictures_give_the_same_bytes(tmp_path: Path, plain: Path) -> None:
    first = pass_through(plain, tmp_path / "one.mp4", plain)
    pass_through(plain, tmp_path / "two.mp4", plain)
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()
    assert first.format.encoder == "libx264"


def test_a_suffix_that_names_no_kind_of_file_is_refused(tmp_path: Path, plain: Path) -> None:
    with pytest.raises(ValueError, match=r"'\.xyz' fits none of \.mp4"):
        pass_through(plain, tmp_path / "out.xyz")


def test_a_folder_that_is_missing_leaves_nothing(tmp_path: Path, plain: Path) -> None:
    passed = pass_through(plain, tmp_path / "out.mp4", most_frames=3)
    with pytest.raises(StorageError, match="cannot be written: No such file"):
        SegmentWriter(tmp_path / "missing" / "0.nut", passed.format)


def test_a_failure_half_way_leaves_no_file(tmp_path: Path, plain: Path) -> None:
    passed = pass_through(plain, tmp_path / "out.mp4", most_frames=3)
    before = set(os.listdir(tmp_path))
    with pytest.raises(ValueError, match="a frame of"), SegmentWriter(tmp_path / "0.nut", passed.format) as writer:
        writer.write(passed.source[0], 0)
        writer.write(av.VideoFrame(32, 32, "yuv420p"), 512)
    assert set(os.listdir(tmp_path)) == before
