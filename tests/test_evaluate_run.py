"""`lipforge evaluate`, from files to a report: constructed mouths come out in order, and bad input gets a sentence."""

import hashlib
import json
import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from lipforge.model.faces.picture import Picture
from lipforge.pipeline.evaluate import judge as judge_module
from lipforge.pipeline.evaluate import run
from lipforge.pipeline.evaluate.cli import app
from lipforge.pipeline.evaluate.clip import AlignedClip
from lipforge.pipeline.evaluate.inputs import Item, find_items
from lipforge.pipeline.evaluate.judge import Judge
from lipforge.pipeline.evaluate.one import Judged, judge_video
from lipforge.pipeline.evaluate.read import OpenVideo, Place
from lipforge.pipeline.evaluate.result import (
    ALL,
    FAILED,
    MEASURED,
    UNMEASURED,
    EvaluateError,
    Evaluation,
    read_evaluation,
)
from lipforge.pipeline.evaluate.run import Request, evaluate
from lipforge.pipeline.media.shown import write_shown
from tests.evaluated import SECONDS, write_cases
from tests.talking_photo import render
from tests.test_evaluate_judge import CHEAP

Cases = dict[str, dict[str, Path]]


class ReusingJudge(Judge):
    """Finds the points of the same pictures once: most cases here share theirs."""

    def __init__(self) -> None:
        super().__init__(only=CHEAP)
        self._found: dict[bytes, AlignedClip] = {}

    def aligned(
        self, name: str, frames: np.ndarray, audio: np.ndarray, language: str = "und", speaker: str | None = None
    ) -> AlignedClip:
        key = hashlib.sha256(frames.tobytes()).digest()
        if key not in self._found:
            self._found[key] = super().aligned(name, frames, audio)
        return replace(self._found[key], name=name, audio=audio, language=language, speaker=speaker)


@pytest.fixture(scope="module")
def judge() -> Judge:
    return ReusingJudge()


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    return write_cases(tmp_path_factory.mktemp("cases"))


@pytest.fixture(autouse=True)
def _cheap(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    """One judge for all tests, few pictures."""
    monkeypatch.setattr(judge_module, "PICTURES", 4)
    monkeypatch.setattr(run, "Judge", lambda device: judge)


@pytest.fixture(scope="module")
def report(cases: Cases, judge: Judge, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The three cases as videos of two speakers, and one that is damaged; with references and other sounds."""
    folder = tmp_path_factory.mktemp("report")
    for kind, sound in (("videos", "own"), ("silent", "silent"), ("foreign", "foreign")):
        for speaker, case in (("anna", "copied"), ("anna", "frozen"), ("ben", "true")):
            if sound not in cases[case]:
                continue
            target = folder / kind / speaker / f"{case} me.mp4"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(cases[case][sound], target)
    (folder / "originals").mkdir()
    for case in ("copied", "frozen", "true"):
        shutil.copy(cases["original"]["own"], folder / "originals" / f"{case} me.mp4")
    (folder / "videos" / "cut off.mp4").write_bytes(b"")
    arguments = [str(folder / "videos"), "--out", str(folder / "report"), "--by", "speaker"]
    arguments += ["--reference", str(folder / "originals"), "--path-template", "{speaker}/"]
    arguments += ["--silent", str(folder / "silent"), "--foreign", str(folder / "foreign")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge_module, "PICTURES", 4)
        patch.setattr(run, "Judge", lambda device: judge)
        return folder, CliRunner().invoke(app, arguments, catch_exceptions=False)


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["file"]: row for row in pq.read_table(folder / "report" / "clips.parquet").to_pylist()}


def test_hidden_tests_put_a_copied_a_frozen_and_a_true_mouth_in_order(report: tuple[Path, Result]):
    rows = rows_of(report[0])
    copied, frozen, true = (rows[name] for name in ("anna/copied me", "anna/frozen me", "ben/true me"))
    assert copied["leak"] == pytest.approx(1, abs=0.1)
    assert abs(frozen["leak"]) < 0.15 and abs(true["leak"]) < 0.4
    assert copied["silent_movement"] == pytest.approx(1, abs=0.1) and true["silent_movement"] < 0.4
    assert copied["silent_opening"] == pytest.approx(1, abs=0.1) and true["silent_opening"] < 0.7
    assert frozen["mouth_movement"] < 0.3 * true["mouth_movement"]
    assert true["sync_confidence"] > 2.2 > frozen["sync_confidence"]
    assert true["foreign_sync_confidence"] > 2.2 > copied["foreign_sync_confidence"]
    assert frozen["lip_distance_px"] > true["lip_distance_px"] + 0.5
    assert frozen["ssim_mouth"] < true["ssim_mouth"]
    assert true["psnr_db"] > 45 and true["length_error_s"] == 0 and true["seconds"] == SECONDS


def test_a_reference_of_another_length_is_compared_where_both_are(judge: Judge, cases: Cases, tmp_path: Path):
    short = tmp_path / "short.mp4"
    frames, audio = render(1.2, 0, 1, 192)
    write_shown(short, frames, audio)
    found = judge_video(Item("short", str(short), str(cases["original"]["own"])), judge, 1.4)
    assert found.clip is not None and len(found.clip.frames) == 30
    assert found.measured.values["frames_error"] == -34
    assert found.measured.values["length_error_s"] == pytest.approx(-1.36, abs=0.001)
    assert found.measured.values["psnr_db"] > 30


def test_syncnets_crop_is_half_of_the_box_up_and_nine_tenths_down(monkeypatch: pytest.MonkeyPatch, cases: Cases):
    """As published: s is half of the longer side; s up from the centre, 1.8 s down, 1.4 s to each side."""
    video = OpenVideo(str(cases["original"]["own"]), 1.0)
    rgb = np.zeros((240, 320, 3), np.uint8)
    box = np.array([120.0, 60.0, 180.0, 140.0])  # s = 40, centre (150, 100): the crop is (94..206, 60..172)
    rgb[60:172, 94:206] = 255
    picture = Picture.of(rgb)
    monkeypatch.setattr(video, "frames", lambda first, end: iter([(0, picture, 0), (1, None, 0), (2, picture, 0)]))
    place = Place(0, np.zeros((3, 2, 3)), np.tile(box, (3, 1)), 320, 240)
    crops = video.face_crops(place)
    assert crops.shape == (3, 224, 224, 3) and crops[:, 2:-2, 2:-2].min() == 255
    monkeypatch.setattr(video, "frames", lambda first, end: iter([(0, picture, 0)]))
    moved = video.face_crops(replace(place, boxes=place.boxes - [140, 0, 140, 0]))
    assert (moved[0, 100, :50] == 110).all()  # grey beyond the picture


def test_damaged_and_faceless_videos_say_so(judge: Judge, cases: Cases, tmp_path: Path):

    text = tmp_path / "text.mp4"
    text.write_text("no video")
    found = judge_video(Item("text", str(text)), judge, 1.0)
    assert found.status == FAILED and "not a media file" in found.detail
    grey = tmp_path / "grey.mp4"
    write_shown(grey, np.full((10, 96, 96, 3), 120, np.uint8), np.zeros(6400, np.float32))
    assert (judge_video(Item("grey", str(grey)), judge, 1.0)).status == UNMEASURED
    own = str(cases["original"]["own"])
    found = judge_video(Item("own", own, str(grey)), judge, 1.0)
    assert found.status == MEASURED and found.measured.reasons["ssim"] == "reference: no face"
    assert "sync_confidence" in found.measured.values
    found = judge_video(Item("own", own, str(text)), judge, 1.0)
    assert found.measured.reasons["ssim"].startswith("the reference cannot be read: ")
    assert list(found.lost) == [str(text)]


def test_a_report_has_every_number_with_its_interval_and_every_video_a_row(report: tuple[Path, Result]):
    folder, result = report
    assert result.exit_code == 1  # a video is damaged, and named
    assert "cut off.mp4 cannot be used" in result.output
    numbers = {(number.metric, number.group): number for number in read_evaluation(folder / "report").numbers}
    sync = numbers["sync_confidence", ALL]
    assert sync.n == 3 and sync.low is not None and sync.value is not None and sync.low <= sync.value
    assert sum(sync.unmeasured.values()) == 1
    assert numbers["sync_confidence", "speaker=anna"].n == 2 and numbers["leak", ALL].n == 3
    rows = rows_of(folder)
    assert rows["ben/true me"]["status"] == "measured" and rows["ben/true me"]["speaker"] == "ben"
    assert rows["cut off"]["status"] == "failed" and rows["cut off"]["sync_confidence"] is None
    assert (folder / "report" / "report.html").is_file()
    assert (folder / "report" / "media" / "references" / "ben" / "true me.mp4").is_file()
    assert not list((folder / "report").glob(".*"))


def test_a_stopped_evaluation_goes_on(report: tuple[Path, Result], judge: Judge, monkeypatch: pytest.MonkeyPatch):
    folder = report[0]
    seen: list[str] = []

    def stop_at_second(item: Item, *rest: object, **named: object) -> Judged:
        seen.append(item.name)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return Judged(UNMEASURED, "no face")

    request = Request((str(folder / "videos"),), str(folder / "again"))
    monkeypatch.setattr(run, "judge_video", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        evaluate(request)
    assert not (folder / "again" / "report.json").exists()
    _, rows = evaluate(request)
    assert seen == ["anna/copied me", "anna/frozen me", "ben/true me", "ben/true me", "cut off"]
    assert len(rows) == 4


def refused(folder: Path, *arguments: str) -> str:
    result = CliRunner().invoke(app, [*arguments], catch_exceptions=False)
    assert result.exit_code in (1, 2)
    return " ".join(result.output.split())


def test_requests_that_cannot_be_met_are_refused_before_any_work(report: tuple[Path, Result], tmp_path: Path):
    folder = report[0]
    videos, out = str(folder / "videos"), str(tmp_path / "out")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    (tmp_path / "short.csv").write_text("speaker,file\nanna\n")
    done = str(folder / "report")
    (tmp_path / "strange").mkdir()
    shutil.copy(folder / "report" / "report.json", tmp_path / "strange")
    pq.write_table(
        pa.table({"file": ["a"], "status": ["measured"], "leak": ["much"]}), tmp_path / "strange" / "clips.parquet"
    )
    for arguments, words in [
        ([str(tmp_path / "empty"), "--out", out], "no video in"),
        ([str(tmp_path / "nowhere"), "--out", out], "no such file or folder"),
        ([videos, "--out", videos], "is a folder of videos"),
        ([videos, "--out", str(tmp_path / "other")], "holds something else"),
        ([videos, "--out", done], "holds a report"),
        ([videos, "--out", out, "--reference", str(tmp_path / "empty")], "no video in"),
        ([videos, "--out", out, "--reference", str(tmp_path / "nowhere")], "no such folder"),
        ([videos, "--out", out, "--reference", videos], "is its own reference"),
        ([videos, "--out", out, "--silent", videos], "is its own silent"),
        ([str(folder / "report" / "media" / "videos"), "--out", done, "--overwrite"], "which becomes the report"),
        ([videos, "--out", done, "--overwrite", "--against", done], "is the report that --out replaces"),
        ([videos, "--out", out, "--seconds", "nan"], "needs at least 1"),
        ([videos, "--out", out, "--seconds", "inf"], "300 at most"),
        ([videos, "--out", out, "--labels", str(tmp_path)], "cannot be read as CSV"),
        ([videos, "--out", out, "--labels", str(tmp_path / "no.csv")], "no such file of labels"),
        ([videos, "--out", out, "--labels", str(tmp_path / "short.csv")], "row 1: its column `file` is empty"),
        ([videos, "--out", out, "--against", str(tmp_path / "strange")], "is not the table of a report"),
        ([videos, "--out", out, "--by", "age"], "expected language or speaker"),
        ([videos, "--out", out, "--by", "language"], "no video has a language"),
        ([videos, "--out", out, "--seconds", "0.5"], "needs at least 1"),
        ([videos, "--out", out, "--model", "identity", "--reference", videos], "VIDEOS are the originals"),
        ([videos, "--out", out, "--against", str(tmp_path / "empty")], "no report at"),
        ([videos, "--out", out, "--labels", str(tmp_path / "other" / "notes.txt")], "expected the columns file"),
    ]:
        assert words in refused(tmp_path, *arguments), arguments
    assert not Path(out).exists() and (tmp_path / "other" / "notes.txt").read_text() == "mine"


def test_a_report_of_another_format_is_refused(report: tuple[Path, Result], tmp_path: Path):
    content = json.loads((report[0] / "report" / "report.json").read_text())
    (tmp_path / "report.json").write_text(json.dumps({**content, "format": 99}))
    words = refused(tmp_path, str(report[0] / "videos"), "--out", str(tmp_path / "out"), "--against", str(tmp_path))
    assert "has format 99" in words


def test_names_pair_videos_and_doubles_are_refused(tmp_path: Path):
    for name in ("videos/a/x.mp4", "videos/b/x.mp4", "originals/b/x.mov", "originals/x.mkv", "flat/x.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    pair = partial(find_items, [str(tmp_path / "videos")], tmp_path / "out")
    with pytest.raises(EvaluateError, match=r"a/x fits .* and "):
        pair(reference=str(tmp_path / "originals"))
    with pytest.raises(EvaluateError, match="would both have the reference"):
        pair(reference=str(tmp_path / "flat"))
    (tmp_path / "originals" / "x.mkv").rename(tmp_path / "originals" / "a.mkv")
    items, notes = find_items([str(tmp_path / "videos" / "b")], tmp_path / "out", reference=str(tmp_path / "originals"))
    assert items[0].reference == str(tmp_path / "originals" / "b" / "x.mov") and notes == []
    with pytest.raises(EvaluateError, match="have the same name, x"):
        find_items([str(tmp_path / "videos" / "b"), str(tmp_path / "flat")], tmp_path / "out")


def test_one_clip_has_no_interval_and_the_report_says_so(cases: Cases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    measured = Judged(MEASURED)
    measured.measured.values["sync_confidence"] = 3.0
    monkeypatch.setattr(run, "judge_video", lambda *rest, **named: measured)
    found: Evaluation = evaluate(Request((str(cases["true"]["own"]),), str(tmp_path / "out")))[0]
    number = next(number for number in found.numbers if number.metric == "sync_confidence")
    assert number.value == 3.0 and number.low is None
    assert any(note.startswith("One clip was measured") for note in found.notes)


def test_odd_names_keep_apart_and_a_lost_reference_or_a_pipe_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    odd = os.fsdecode(b"bad\xff.mp4")
    for name in ("x.mp4", "x.reference.mp4", "n" * 251 + ".mp4", odd):
        (tmp_path / "videos" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "videos" / name).write_bytes(name.encode("utf-8", "surrogateescape"))
    os.mkfifo(tmp_path / "videos" / "pipe.mp4")
    frames = np.zeros((5, 64, 64, 3), np.uint8)
    clip = AlignedClip("x", frames, np.zeros((len(frames) + 30) * 640, np.float32), np.zeros((len(frames), 468, 3)))

    def judged(item: Item, *rest: object, **named: object) -> Judged:
        lost = {"/originals/x.mp4": "damaged"} if item.name == "x" else {}
        found = Judged(MEASURED, clip=clip, reference=clip, lost=lost)
        found.measured.values["sync_confidence"] = 3.0
        return found

    monkeypatch.setattr(run, "judge_video", judged)
    monkeypatch.setattr(run, "keep_features", lambda *rest: None)
    result = CliRunner().invoke(app, [str(tmp_path / "videos"), "--out", str(tmp_path / "report")])
    assert result.exit_code == 1 and "/originals/x.mp4 cannot be used: damaged" in result.output
    assert len(list((tmp_path / "report" / "media").rglob("*.mp4"))) == 10
    assert set(rows_of(tmp_path)) == {"x", "x.reference", "n" * 251, "bad\\udcff", "pipe"}
