"""An export as files reads back exactly, the way that other trainers read it; doubtful input is refused."""

import csv
import errno
import glob
import hashlib
import io
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import decord
import imageio_ffmpeg
import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

import lipforge.__main__  # noqa: F401 - joins the commands of both apps
from lipforge.datasets_manifest.sample import clip_members, read_clip, sample_bytes
from lipforge.datasets_manifest.selection import SELECTION_COLUMNS, write_selection
from lipforge.datasets_manifest.storage.store import Store
from lipforge.model.clock import FPS, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from lipforge.pipeline.cli import app
from lipforge.pipeline.ledger.records import DatasetError
from lipforge.pipeline.publish import export_files as module
from lipforge.pipeline.publish.export import export
from lipforge.pipeline.publish.export_files import CLIPS_NAME, export_files
from tests.clicks import measure_click_offset_s
from tests.stream_clips import SIDE_PX, coded_sample, key_of, moment_of, write_shards

FRAMES = (45, 51, 50, 75, 40)
CLICKS = 3
"""The clip of flashes and clicks; the others are coded."""
SPEAKERS = ("anna", "../../etc", "=cmd('x')", 'new\nline, "quoted"', None)
LANGUAGES = ("hi", "en", "en-US", "zh", None)


def click_sample(clip: int, num_frames: int) -> bytes:
    """A white frame at each second, and a click at its time."""
    flashes = np.arange(FPS, num_frames, FPS)
    frames = np.zeros((num_frames, SIDE_PX, SIDE_PX, 3), np.uint8)
    frames[flashes] = 255
    audio = np.zeros(num_frames * SAMPLES_PER_FRAME, np.float32)
    audio[flashes * SAMPLES_PER_FRAME] = 0.9
    return coded_sample(clip, num_frames, frames, audio)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Two datasets with media, and the rows that select all of it, in no order. Read only."""
    folder = tmp_path_factory.mktemp("made")
    samples = [(click_sample if n == CLICKS else coded_sample)(n, frames) for n, frames in enumerate(FRAMES)]
    rows = write_shards(folder / "one", [samples[:2], samples[2:]], list(FRAMES)).to_pylist()
    (folder / "two").mkdir()
    (folder / "one/shards").rename(folder / "two/shards")
    write_shards(folder / "one", [samples[:2]], list(FRAMES[:2]))
    for number, row in enumerate(rows):
        row |= {"dataset": str(folder / ("one" if number < 2 else "two")), "split": "val" if number == 1 else "train"}
        row |= {"speaker": SPEAKERS[number], "language": LANGUAGES[number], "source_uri": f"/videos/{number}.mp4"}
        row |= {"duration_s": row["num_frames"] / FPS, "accounted_s": 1.0, "av_offset_frames": number - 2}
    return folder, [rows[number] for number in (3, 0, 4, 1, 2)]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.unlink(missing_ok=True)
    write_selection(str(path), pa.Table.from_pylist(rows, SELECTION_COLUMNS), {"seed": 7})
    return str(path)


@pytest.fixture
def rows(made: tuple[Path, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [dict(row) for row in made[1]]


@pytest.fixture
def selection(rows: list[dict[str, Any]], tmp_path: Path) -> str:
    return write_rows(tmp_path / "chosen.parquet", rows)


@pytest.fixture(scope="module")
def exported(made: tuple[Path, list[dict[str, Any]]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only. Spaces and quotes in the name are no harm to it."""
    folder = tmp_path_factory.mktemp("exported")
    out = folder / "with 'spaces' $(x)"
    made_of = export_files(write_rows(folder / "all.parquet", made[1]), str(out))
    assert (made_of.clips, made_of.hours) == (5, pytest.approx(sum(FRAMES) / FPS / 3600))
    assert made_of.size_bytes == sum(path.stat().st_size for path in out.glob("*/*.mp4"))
    return out


def table(out: Path) -> list[dict[str, str]]:
    with (out / CLIPS_NAME).open(newline="") as file:
        return list(csv.DictReader(file))


def members(row: dict[str, Any]) -> dict[str, bytes]:
    data = Store(row["dataset"]).read(row["shard"], row["sample_offset"], row["sample_size"])
    return read_clip(data, row["sample_size"], row["key"])


def pcm(flac: bytes) -> np.ndarray:
    """int16 [N]."""
    with av.open(io.BytesIO(flac)) as container:
        return np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])


# --- read back as trainers do ---


def by_decord(path: str) -> tuple[np.ndarray, np.ndarray]:
    """As LatentSync and MuseTalk read: frames uint8 [T, H, W, 3], audio float32 [N] at 16 kHz."""
    video = decord.VideoReader(path, ctx=decord.cpu(0))
    assert video.get_avg_fps() == FPS and video.get_frame_timestamp(0)[0] == 0
    audio = decord.AudioReader(path, ctx=decord.cpu(0), sample_rate=SAMPLE_RATE_HZ)
    return video.get_batch(range(len(video))).asnumpy(), audio[:].asnumpy().squeeze(0)


def by_pyav(path: str) -> tuple[np.ndarray, np.ndarray]:
    with av.open(path) as container:
        decoded = list(container.decode(video=0))
    assert [frame.time for frame in decoded] == pytest.approx([number / FPS for number in range(len(decoded))])
    with av.open(path) as container:
        resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE_HZ)
        sounds = [*container.decode(audio=0), None]
        assert sounds[0] is not None and sounds[0].pts == 0
        pieces = [piece.to_ndarray()[0] for sound in sounds for piece in resampler.resample(sound)]
    return np.stack([frame.to_ndarray(format="rgb24") for frame in decoded]), np.concatenate(pieces) / 32768


def by_opencv_and_ffmpeg(path: str) -> tuple[np.ndarray, np.ndarray]:
    """As Wav2Lip's preprocess.py reads, but without a shell."""
    video, frames = cv2.VideoCapture(path), []
    while (read := video.read())[0]:
        frames.append(read[1][:, :, ::-1])
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", path, "-ar", "16000", "-ac", "1"]
    raw = subprocess.run([*command, "-f", "s16le", "-"], capture_output=True, check=True).stdout
    return np.stack(frames), np.frombuffer(raw, np.int16) / 32768


READERS = [by_decord, by_pyav, by_opencv_and_ffmpeg]


@pytest.mark.parametrize("read", READERS)
def test_every_frame_and_sample_is_read_back(
    made: tuple[Path, list[dict[str, Any]]], exported: Path, read: Callable
) -> None:
    for row in made[1]:
        frames, audio = read(str(exported / row["split"] / f"{row['key']}.mp4"))
        assert len(frames) == row["num_frames"]
        np.testing.assert_array_equal(np.round(audio * 32768), pcm(members(row)["flac"]))
        if row["key"] != key_of(CLICKS):
            assert [moment_of(frame).frame for frame in frames] == list(range(len(frames)))


@pytest.mark.parametrize("read", READERS)
def test_clicks_are_on_their_flashes_to_the_sample(exported: Path, read: Callable) -> None:
    frames, audio = read(str(exported / "train" / f"{key_of(CLICKS)}.mp4"))
    offsets = measure_click_offset_s(np.arange(len(frames)) / FPS, frames, audio.astype(np.float32))
    assert len(offsets) == 2 and np.abs(offsets * SAMPLE_RATE_HZ).max() < 0.01


def test_the_video_stream_is_copied(made: tuple[Path, list[dict[str, Any]]], exported: Path) -> None:
    def packets(file: Any) -> list[bytes]:
        with av.open(file) as container:
            return [bytes(packet) for packet in container.demux(video=0) if packet.size]

    row = made[1][1]
    assert packets(str(exported / row["split"] / f"{row['key']}.mp4")) == packets(io.BytesIO(members(row)["mp4"]))


# --- what the folder holds ---


def test_lists_name_the_files_of_each_split_in_the_order_of_the_selection(
    made: tuple[Path, list[dict[str, Any]]], exported: Path
) -> None:
    for split in ("train", "val"):
        keys = [row["key"] for row in made[1] if row["split"] == split]
        with (exported / f"{split}.txt").open() as file:
            paths = [line.rstrip() for line in file]  # as LatentSync's datasets do
        assert paths == [f"{exported}/{split}/{key}.mp4" for key in keys] and all(map(os.path.isfile, paths))
        assert sorted(paths) == sorted(glob.glob(f"{glob.escape(str(exported))}/{split}/*.mp4"))
        wav2lip = (exported / f"lists/wav2lip/{split}.txt").read_text().splitlines()
        made_by_preprocess = {f"{path.split('/')[-2]}/{os.path.basename(path).split('.')[0]}" for path in paths}
        assert wav2lip == [f"{split}/{key}" for key in keys] and set(wav2lip) == made_by_preprocess
        assert (exported / f"lists/musetalk/{split}.txt").read_text().splitlines()[1:] == [f"{k}.json" for k in keys]
    readme = (exported / "README.txt").read_text()
    assert f"train_fileslist: {exported}/train.txt" in readme and "5 talking-head clips" in readme


def test_the_table_says_what_each_file_is(made: tuple[Path, list[dict[str, Any]]], exported: Path) -> None:
    found = table(exported)
    assert [row["key"] for row in found] == [row["key"] for row in made[1]]
    for cells, row in zip(found, made[1], strict=True):
        data = (exported / cells["file"]).read_bytes()
        assert (cells["size_bytes"], cells["sha256"]) == (str(len(data)), hashlib.sha256(data).hexdigest())
        for name in ("speaker", "split", "source_uri", "dataset", "num_frames", "av_offset_frames"):
            assert cells[name] == ("" if row[name] is None else str(row[name]))
    assert [cells["language"] for cells in found] == ["zh", "hi", "", "en", "en-US"]


def test_a_url_gets_lists_that_a_copy_can_use(selection: str) -> None:
    out = Store("memory://files/out")
    export_files(selection, out.root)
    before = {name: out.read(name) for name in out.list("") if "/lease/" not in name}
    assert before["val.txt"] == f"val/{key_of(1)}.mp4\n".encode() and b"put its path before" in before["README.txt"]
    export_files(selection, out.root)
    assert {name: out.read(name) for name in out.list("") if "/lease/" not in name} == before


def test_no_validation_has_no_list(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    chosen = write_rows(tmp_path / "train.parquet", [{**row, "split": "train"} for row in rows])
    export_files(chosen, str(tmp_path / "out"))
    assert not list((tmp_path / "out").rglob("val*")) and len(table(tmp_path / "out")) == 5


# --- again and again ---


def content(out: Path) -> dict[str, bytes]:
    files = (path for path in out.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def test_stopped_anywhere_the_same_command_ends_with_the_same_bytes(
    selection: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_GROUP", 2)
    out = tmp_path / "out"
    export_files(selection, str(out))
    wanted = content(out)
    names = [name for name in wanted if name.startswith(("train/", "ledger/"))] + ["README.txt", CLIPS_NAME]
    assert len(names) == 4 + 4 + 2
    writing, stop_at = Store.writing, []

    def full(self: Store, name: str) -> Any:
        if name == stop_at[-1]:
            raise OSError(errno.ENOSPC, "No space left on device", name)
        return writing(self, name)

    for number, name in enumerate(names):
        stop_at.append(name)
        out.rename(tmp_path / f"before{number}")
        monkeypatch.setattr(Store, "writing", full)
        with pytest.raises(OSError, match="No space left"):
            export_files(selection, str(out))
        assert not (out / CLIPS_NAME).exists()
        monkeypatch.setattr(Store, "writing", writing)
        (out / "train").mkdir(exist_ok=True)
        (out / "train/.tmp-abcd1234").write_bytes(b"what a killed process leaves")
        export_files(selection, str(out))
        assert content(out) == wanted


def test_what_is_there_is_skipped_and_what_is_cut_off_is_made_again(
    selection: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, seen = tmp_path / "out", []
    export_files(selection, str(out))
    wanted = content(out)
    cut, lost = sorted(name for name in wanted if name.endswith(".mp4"))[:2]
    (out / cut).write_bytes(wanted[cut][:-1])
    (out / lost).unlink()
    (out / "train/notes.wav").write_bytes(b"the user's")
    made_again = []
    playable = module.playable_mp4
    monkeypatch.setattr(module, "playable_mp4", lambda *media: made_again.append(media) or playable(*media))
    export_files(selection, str(out), lambda done, total: seen.append((done, total)))
    assert content(out) == {**wanted, "train/notes.wav": b"the user's"}
    assert len(made_again) == 2 and seen == [(3, 5), (5, 5)]


def test_a_finished_export_needs_its_source_no_more(
    made: tuple[Path, list[dict[str, Any]]], rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    chosen = write_rows(tmp_path / "a.parquet", [{**row, "dataset": str(tmp_path / "gone")} for row in rows])
    with pytest.raises(FileNotFoundError, match=r"2 of the 2 shards .* is gone\. .*If the dataset was moved"):
        export_files(chosen, str(tmp_path / "out"))
    assert not (tmp_path / "out/train").exists()
    (tmp_path / "gone").symlink_to(made[0] / "two")
    export_files(chosen, str(tmp_path / "out"))
    wanted = content(tmp_path / "out")
    (tmp_path / "gone").unlink()
    export_files(chosen, str(tmp_path / "out"))
    assert content(tmp_path / "out") == wanted


def test_a_moved_folder_gets_its_new_path_by_the_same_command(selection: str, tmp_path: Path) -> None:
    export_files(selection, str(tmp_path / "old"))
    (tmp_path / "old").rename(tmp_path / "new")
    export_files(selection, str(tmp_path / "new"))
    assert (tmp_path / "new/val.txt").read_text() == f"{tmp_path}/new/val/{key_of(1)}.mp4\n"


def test_a_folder_with_anything_else_is_refused_and_left_alone(
    selection: str, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "mine/train").mkdir(parents=True)
    (tmp_path / "mine/train/1.mp4").write_bytes(b"mine")
    export(selection, str(tmp_path / "dataset"))
    export_files(write_rows(tmp_path / "other.parquet", rows[:2]), str(tmp_path / "other"))
    for name, words in (("mine", "something else"), ("dataset", "other settings"), ("other", "another selection")):
        before = content(tmp_path / name)
        with pytest.raises(DatasetError, match=rf"{words}.*Nothing in it was changed"):
            export_files(selection, str(tmp_path / name))
        assert content(tmp_path / name) == before
    with pytest.raises(DatasetError, match="other settings"):
        export(str(tmp_path / "other.parquet"), str(tmp_path / "other"))


def test_a_full_disk_is_told_before_anything_is_copied(
    selection: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(DatasetError, match=r"needs 0\.0 GB more, and the disk has 0\.0 GB: make room"):
        export_files(selection, str(tmp_path / "out"))
    assert not content(tmp_path / "out")


# --- hostile input ---


def replaced(folder: Path, row: dict[str, Any], mp4: bytes, flac: bytes) -> dict[str, Any]:
    """The row of a valid sample with other media."""
    data = sample_bytes(row["key"], clip_members(mp4, flac, {"key": row["key"]}))
    shard = Store(str(folder))
    shard.write("shards/en/en-000000.tar", data + bytes(1024))
    place = {"dataset": str(folder), "shard": "shards/en/en-000000.tar", "sample_offset": 0, "sample_size": len(data)}
    return {**row, **place}


def without_pictures(flac: bytes) -> bytes:
    buffer = io.BytesIO()
    with av.open(io.BytesIO(flac)) as source, av.open(buffer, "w", format="mp4") as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return buffer.getvalue()


def test_media_that_do_not_fit_are_refused(
    rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, other = rows[1], rows[0]
    media, longer = members(row), members(other)
    monkeypatch.chdir(tmp_path)
    Path("secret.mp4").write_bytes(media["mp4"])
    for number, (mp4, flac, frames, words) in enumerate(
        (
            (longer["mp4"], media["flac"], 45, r"3\.0000 s of video, and should have 1\.80 s: 45 frames"),
            (media["mp4"], longer["flac"], 45, r"3\.0000 s of audio, and should have 1\.80 s"),
            (media["mp4"], media["flac"], 44, r"1\.8000 s of video and 1\.8000 s of audio"),
            (b"nothing", media["flac"], 45, "cannot be exported: .*Leave it out: --where"),
            (media["mp4"], b"", 45, "cannot be exported"),
            (without_pictures(media["flac"]), media["flac"], 45, "no video or no audio"),
            (b"ffconcat version 1.0\nfile 'secret.mp4'\n", media["flac"], 45, "cannot be exported"),
        )
    ):
        bad = replaced(tmp_path / f"source{number}", {**row, "num_frames": frames}, mp4, flac)
        out = tmp_path / f"out{number}"
        with pytest.raises(DatasetError, match=words):
            export_files(write_rows(tmp_path / "bad.parquet", [bad]), str(out))
        assert not list(out.rglob("*.mp4"))


def test_a_damaged_sample_stops_it_and_is_named(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    bad = replaced(tmp_path / "source", rows[1], *(members(rows[1])[kind] for kind in ("mp4", "flac")))
    shard = tmp_path / "source/shards/en/en-000000.tar"
    data = bytearray(shard.read_bytes())
    data[600] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DatasetError, match=rf"clip {bad['key']} cannot be exported: .*damaged"):
        export_files(write_rows(tmp_path / "bad.parquet", [bad]), str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"key": "../../x"}, "key that lipforge does not write"),
        ({"key": "-x"}, "lower-case hex digits"),
        ({"key": "A0"}, "lower-case hex digits"),
        ({"key": "a" * 300}, "lower-case hex digits"),
        ({"split": "../train"}, "is in no split"),
        ({"language": "../../../tmp"}, "was not made by lipforge"),
        ({"shard": "shards/../x.tar"}, "is in no shard"),
        ({"duration_s": None}, "was not made by lipforge"),
    ],
)
def test_a_selection_that_points_anywhere_else_is_refused(
    rows: list[dict[str, Any]], tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    path = write_rows(tmp_path / "bad.parquet", [{**rows[0], **change}, *rows[1:]])
    with pytest.raises(ValueError, match=words):
        export_files(path, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_damaged_records_are_made_again(selection: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_files(selection, str(out))
    wanted = content(out)
    for damage in ("{", "[]", '{"files": {}}', json.dumps({"files": {f"train/{key_of(0)}.mp4": "x"}})):
        (out / "ledger/files/000000.json").write_text(damage)
        export_files(selection, str(out))
        assert content(out) == wanted


def test_on_the_command_line(selection: str, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    result = CliRunner().invoke(app, ["export", selection, "--out", out, "--as", "files"])
    assert result.exit_code == 0 and "5 clips, 0.00 hours, 0.2 MB" in result.output and "README.txt" in result.output
    for arguments, code, words in (
        (["--out", out, "--as", "folder"], 2, "--as folder: expected dataset or files"),
        (["--out", out, "--as", "files", "--shard-size-mb", "1"], 2, "--as files makes no shards"),
        (["--out", "a\nb", "--as", "files"], 2, "a path with a line break"),
        (["--out", "", "--as", "files"], 2, "--out is empty"),
        (["--out", out], 1, "with other settings"),
    ):
        result = CliRunner().invoke(app, ["export", selection, *arguments])
        assert result.exit_code == code and words in result.output, result.output
    result = CliRunner().invoke(app, ["prune", out])
    assert result.exit_code == 1 and "was made by `lipforge export`" in result.output
