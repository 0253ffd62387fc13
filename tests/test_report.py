"""The report says where every second went, survives hostile names and missing files, and opens in a browser."""

import base64
import html
import io
import json
import re
import shutil
import tarfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import av
import cv2
import fsspec
import markupsafe
import numpy as np
import pyarrow as pa
import pytest

from lipforge.datasets_manifest.display import human_share, visible
from lipforge.datasets_manifest.durations import human_time
from lipforge.datasets_manifest.manifest import write_manifest
from lipforge.datasets_manifest.report import clips, media
from lipforge.datasets_manifest.report.numbers import MAX_SOURCES, MEASURES
from lipforge.datasets_manifest.report.page import write_report
from lipforge.datasets_manifest.report.reasons import HELP
from lipforge.datasets_manifest.sample import END_OF_TAR, clip_members, read_clip_at, sample_bytes
from lipforge.datasets_manifest.sample_media import playable_mp4, poster_jpeg
from lipforge.datasets_manifest.schema import Reason, Status
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.config import PrepareConfig
from tests.reported import MEASURED, make_flac, make_mp4, make_reported, make_row


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data set")
    make_reported(root)
    return root


@pytest.fixture(scope="module")
def page(dataset: Path) -> str:
    path = write_report(str(dataset))
    assert path == str(dataset / "report.html")
    assert not (dataset / "report_media").exists()  # so few bytes are built in
    page = Path(path).read_text(encoding="utf-8")
    assert (dataset / "runs" / "20260101T000000" / "report.html").read_text(encoding="utf-8") == page
    return page


def texts(page: str) -> str:
    """What a reader sees without the script, roughly: markup out, entities resolved."""
    without_style = re.sub(r"<(style|script).*?</\1>", "", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", without_style)))


def data_of(page: str) -> dict[str, Any]:
    """What the page's script is given."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def videos_of(page: str) -> int:
    return sum(medium["video"] is not None for medium in data_of(page)["media"])


def notes_of(page: str) -> list[str]:
    return [medium["note"] for medium in data_of(page)["media"] if medium["note"]]


def test_seconds_are_those_of_the_manifest(page: str) -> None:
    seen = texts(page)  # 4 kept, 1 blurred clip of 5.2 s each, and 20 s without a face
    assert "45.2% of 46.0 s of video was kept" in seen.replace(" %", "%")
    assert "46.0 s in, from 5 sources" in seen
    assert "20.8 s kept" in seen and "25.2 s rejected" in seen and "0.0 s failed" in seen
    assert "Most was lost to no_face : 20.0 s (43.5 %)" in seen


def test_flow_draws_each_loss_at_its_stage(page: str) -> None:
    flow = page[page.index('<svg class="flow wide"') :].split("</svg>", maxsplit=1)[0]
    shown = texts(flow)
    assert shown.index("track_faces") < shown.index("measure_quality") < shown.index("commit")
    assert "no_face 20.0 s · 43.5 %" in shown and "low_quality 5.2 s · 11.3 %" in shown
    assert "20.8 s kept · 45.2 %" in shown
    assert "unreadable" not in shown  # it lost no seconds: its length is unknown


def test_each_reason_is_explained(page: str) -> None:
    assert set(HELP) == set(Reason)
    assert all(words.meaning.endswith(".") and words.remedy.endswith(".") for words in HELP.values())
    for reason in (Reason.NO_FACE, Reason.LOW_QUALITY, Reason.UNREADABLE):
        assert HELP[reason].meaning in html.unescape(page)


def test_settings_that_the_page_names_exist() -> None:
    named = {
        name for words in HELP.values() for name in re.findall(r"`(\w+\.\w+)(?:=\w+)?`", words.remedy + words.meaning)
    }
    named |= {name for measure in MEASURES for name in measure.settings}
    assert len(named) > 8
    settings = PrepareConfig().model_dump()
    assert [name for name in sorted(named) if name.split(".")[1] not in settings[name.split(".")[0]]] == []


def test_geometry_is_packed_for_the_script(page: str) -> None:
    overlays = [medium["overlay"] for medium in data_of(page)["media"]]
    assert [overlay is not None for overlay in overlays[:5]] == [True, True, True, False, False]
    overlay = overlays[0]
    assert overlay["counts"] == [4, 4, 4, 3] and overlay["aspect"] == 2
    packed = zlib.decompress(base64.b64decode(overlay["points"]))
    points = np.frombuffer(packed, np.uint8).reshape(130, 21, 2).cumsum(axis=0, dtype=np.uint8) / 255
    in_crop, in_frame = points[:, :15], 2 * points[:, 15:] - 0.5
    assert np.allclose(in_crop[0, 0] * 63, [25.6, 32.0], atol=0.2)  # the corner at 140, 50 of the frame
    assert np.allclose(in_crop[129, 0] * 63, [25.6, 32.0 + 12.9 * 0.64], atol=0.2)
    assert np.allclose(in_frame[5, 0], [0.5, 0], atol=0.01) and np.allclose(in_frame[5, 5], [1, 1], atol=0.01)


def test_hostile_text_stays_text(page: str) -> None:
    assert "<script>alert" not in page.lower() and "<img src=x" not in page and "<i>9</i>" not in page
    assert page.lower().count("<script") == page.lower().count("</script") == 2
    assert "\u202e" not in page
    written_out = "/videos/<script>alert(1)</script> \"a\" 'b' & \\n\\u202egpj \U0001f600.mp4"
    assert str(markupsafe.escape(written_out)) in page


def test_page_fetches_nothing(page: str) -> None:
    assert "default-src 'none'" in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert "'unsafe-eval'" not in page and not re.search(r"script-src[^;\"]*'unsafe-inline'", page)
    assert "@import" not in page and "url(" not in page


def test_thresholds_and_slowest_stage_are_shown(page: str) -> None:
    assert page.count('<line class="threshold"') == 3  # offset on both sides, quality
    assert ">+6</text>" in page and ">-6</text>" in page and ">40</text>" in page
    assert "The slowest stage is track_faces with 75.0 % of the time" in texts(page)
    assert "0.1500 s" in page  # 9 CPU seconds for 60 s of source, of 200 s: it was stopped
    assert "2.50 \N{MULTIPLICATION SIGN} real time" in page


def test_unfinished_run_is_called_so(page: str) -> None:
    assert "not finished: still running, or interrupted" in page


def test_the_page_has_videos_posters_and_details(page: str) -> None:
    data = data_of(page)
    assert videos_of(page) == 4
    assert [clip[8] for clip in data["clips"][:4]] == [f"{number:032x}" for number in range(4)]
    assert sum(medium["poster"] is not None for medium in data["media"]) == 5  # and a still
    assert page.count('<button type="button" data-clip=') == 4
    assert "quality 21.0, expected at least 40" in [clip[7] for clip in data["clips"]]
    assert {"no_face", "low_quality", "unreadable"} == set(data["words"]["reason"])
    assert not re.search(r"\b(nan|none|null|undefined)\b", texts(page), re.IGNORECASE)


def test_sample_is_read_by_its_byte_range_and_muxed_without_encoding(dataset: Path) -> None:
    fs, _ = fsspec.url_to_fs(str(dataset))
    shard = str(dataset / "shards/en/en-000000.tar")
    with tarfile.open(shard) as tar:
        second = tar.getmember(f"{1:032x}.mp4").offset
        third = tar.getmember(f"{2:032x}.mp4").offset
    files = read_clip_at(fs, shard, second, third - second, f"{1:032x}")
    assert list(files) == ["mp4", "flac", "json", "npz"]
    with (
        av.open(io.BytesIO(playable_mp4(files["mp4"], files["flac"])), "r") as muxed,
        av.open(io.BytesIO(files["mp4"]), "r") as mp4,
    ):
        assert [stream.codec_context.name for stream in muxed.streams] == ["h264", "flac"]
        copied = [bytes(p) for p in muxed.demux(video=0) if p.dts is not None]
        assert copied == [bytes(p) for p in mp4.demux(video=0) if p.dts is not None]
    with av.open(io.BytesIO(playable_mp4(files["mp4"], files["flac"])), "r") as muxed:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in muxed.decode(audio=0)])
    with av.open(io.BytesIO(files["flac"]), "r") as flac:
        assert np.array_equal(sound, np.concatenate([frame.to_ndarray()[0] for frame in flac.decode(audio=0)]))
    image = cv2.imdecode(np.frombuffer(poster_jpeg(files["mp4"]), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None and image.shape == (64, 64, 3)


def test_refused_clips_whose_media_is_still_there_can_be_watched(tmp_path: Path) -> None:
    rows = [
        make_row(
            n,
            status=Status.REJECTED,
            stage="measure_sync",
            reason=Reason.LOW_SYNC_CONFIDENCE,
            track_index=0,
            **MEASURED,
        )
        for n in range(2)
    ]
    members = clip_members(make_mp4(90), make_flac(), {"key": rows[0]["key"]})
    blocks = sample_bytes(rows[0]["key"], members)
    Store(str(tmp_path)).write("refused/000001-ab.tar", blocks + END_OF_TAR)
    rows[0] |= {"shard": "refused/000001-ab.tar", "sample_offset": 0, "sample_size": len(blocks)}
    write_manifest(str(tmp_path), rows)
    assert videos_of(Path(write_report(str(tmp_path))).read_text()) == 1


def test_missing_shard_is_said_on_the_card(tmp_path: Path) -> None:
    where = {"shard": "shards/en/gone.tar", "sample_offset": 0, "sample_size": 10_240}
    write_manifest(str(tmp_path), [make_row(0, status=Status.KEPT, stage="commit", **where)])
    page = Path(write_report(str(tmp_path))).read_text()
    assert videos_of(page) == 0
    assert notes_of(page) == [f"{tmp_path}/shards/en/gone.tar is gone."]


def test_damaged_sample_is_said_on_the_card(dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset, tmp_path, dirs_exist_ok=True)
    shard = tmp_path / "shards/en/en-000000.tar"
    content = bytearray(shard.read_bytes())
    content[3000] ^= 1  # in the first clip's video
    shard.write_bytes(content)
    page = Path(write_report(str(tmp_path))).read_text()
    assert videos_of(page) == 3
    assert notes_of(page) == ["Its sample cannot be read: ValueError: its mp4 and the hash in its JSON differ"]


def test_videos_beyond_the_budget_are_left_out(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tarfile.open(dataset / "shards/en/en-000000.tar") as tar:
        size_of_one = tar.getmember(f"{1:032x}.mp4").offset
    monkeypatch.setattr(media, "MAX_MEDIA_BYTES", round(2.9 * size_of_one))
    page = Path(write_report(str(dataset), tmp_path / "small.html")).read_text()
    assert videos_of(page) == 2
    assert notes_of(page) == ["Not copied: the media of this page would be too large."] * 2
    assert len(data_of(page)["clips"]) == 7  # all are listed


def test_media_that_are_not_small_lie_beside_the_page(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "dataset"
    shutil.copytree(dataset, root)
    monkeypatch.setattr(media, "MAX_INLINE_BYTES", 1000)
    (root / "report_media").mkdir()
    old, foreign = root / "report_media" / f"{'0' * 32}.mp4", root / "report_media" / "mine.mp4"
    old.touch()
    foreign.touch()
    page = Path(write_report(str(root))).read_text()
    named = {medium[what] for medium in data_of(page)["media"] for what in ("poster", "video") if medium[what]}
    assert len(named) == 9
    there = {path.name for path in (root / "report_media").iterdir()}
    assert there == named | {"mine.mp4"}  # what an earlier page named is gone
    assert data_of(page)["base"] == "report_media/"
    of_run = (root / "runs" / "20260101T000000" / "report.html").read_text()
    assert data_of(of_run)["base"] == "../../report_media/" and 'src="../../report_media/' in of_run
    written = {path: path.stat().st_mtime_ns for path in (root / "report_media").iterdir()}
    write_report(str(root))
    assert {path: path.stat().st_mtime_ns for path in (root / "report_media").iterdir()} == written

    elsewhere = Path(write_report(str(root), tmp_path / "a & b?.html"))
    assert data_of(elsewhere.read_text())["base"] == "./a%20%26%20b%3F_media/"
    assert named == {path.name for path in (tmp_path / "a & b?_media").iterdir()}


def test_empty_dataset_has_a_report(tmp_path: Path) -> None:
    write_manifest(str(tmp_path), [])
    path = write_report(str(tmp_path))
    assert path == str(tmp_path / "report.html")
    assert "This dataset is empty" in Path(path).read_text()


def test_only_failures_have_a_report(tmp_path: Path) -> None:
    failed = {"status": Status.FAILED, "stage": "probe", "reason": Reason.UNREADABLE, "accounted_s": 0.0}
    write_manifest(str(tmp_path), [make_row(i, source_id=f"{i:064x}", **failed) for i in range(2)])
    seen = texts(Path(write_report(str(tmp_path))).read_text())
    assert "No video could be read from 2 sources" in seen
    assert "There are no seconds to show" in seen


def test_measures_of_another_model_are_left_out(tmp_path: Path) -> None:
    kept = {"status": Status.KEPT, "stage": "commit", **MEASURED}
    rows = [make_row(i, **kept) for i in range(3)] + [
        make_row(3, **{**kept, "sync_model": "sync-b", "sync_confidence": 900.0})
    ]
    write_manifest(str(tmp_path), rows)
    page = Path(write_report(str(tmp_path))).read_text()
    confidence = texts(page[page.index("Sync confidence") : page.index("Image quality")])
    assert "Values of sync-b do not compare and are left out" in confidence
    assert "median 4.50" in confidence and "900" not in confidence


def test_unknown_stage_and_missing_reason_are_still_counted(tmp_path: Path) -> None:
    write_manifest(str(tmp_path), [make_row(0, status=Status.REJECTED), make_row(1, status=Status.FAILED, stage="new")])
    seen = texts(Path(write_report(str(tmp_path))).read_text())
    assert "unknown 5.2 s · 50.0 %" in seen


def test_sources_beyond_the_limit_are_counted(tmp_path: Path) -> None:
    many = MAX_SOURCES + 7
    lost = {"status": Status.REJECTED, "stage": "track_faces", "reason": Reason.NO_FACE}
    rows = [make_row(i, source_id=f"{i:064x}", source_uri=f"/v/{i}.mp4", **lost) for i in range(many)]
    rows[3]["accounted_s"] = 99.0
    write_manifest(str(tmp_path), rows)
    page = Path(write_report(str(tmp_path))).read_text()
    assert "The first 500 of 507 are shown; 7 are not." in texts(page)
    assert page.count('<td data-label="Source" class="uri"') == 500
    assert page.index("/v/3.mp4", page.index('<td data-label="Source" class="uri"')) < page.index(
        "/v/0.mp4", page.index('<td data-label="Source" class="uri"')
    )


def test_broken_summary_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_manifest(str(tmp_path), [])
    run = tmp_path / "runs" / "r1"
    run.mkdir(parents=True)
    (run / "summary.json").write_text('{"run_id": ')
    assert write_report(str(tmp_path)) == str(tmp_path / "report.html")
    assert "not JSON" in caplog.text


def test_kept_clips_are_spread_over_sources() -> None:
    sources = ["a"] * 100 + ["b"] * 100 + ["c"]
    rows = pa.table({"key": [str(i) for i in range(201)], "source_id": sources, "status": ["kept"] * 201})
    picked = clips.spread_over_sources(rows, np.arange(201), 12)
    assert [sources[i] for i in picked[:3]] == ["a", "b", "c"]
    assert len(picked) == len(set(picked)) == 12  # the only one of c leaves its room to the others
    assert sum(sources[i] == "a" for i in picked) in (5, 6)
    assert sorted(clips.spread_over_sources(rows, np.arange(201), 300)) == list(range(201))


def test_of_very_many_clips_some_of_each_reason_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips, "MAX_CLIPS", 400)
    reasons = [None] * 1000 + ["no_face"] * 1000 + ["low_quality"]
    status = ["kept"] * 1000 + ["rejected"] * 1001
    names = {"key": [str(i) for i in range(2001)], "source_id": [str(i % 7) for i in range(2001)]}
    columns = {**names, **{measure.column: pa.nulls(2001, pa.float32()) for measure in MEASURES}}
    columns["quality"] = pa.array([None] * 100 + list(range(1901)), pa.float32())
    chosen = clips.choose(pa.table({**columns, "status": status, "reason": pa.array(reasons, pa.string())}))
    shown = [int(key) for key, reason in chosen.shown if reason is None]
    assert set(shown[clips.MAX_KEPT_PLAYED :]) <= {*range(100, 112), *range(988, 1000)} <= set(shown)
    assert len(chosen.shown) == len(shown) + clips.MAX_EXAMPLES + 1
    listed = [*chosen.shown, *chosen.listed_only]
    assert len(listed) == len(set(listed)) == 400
    by_reason = Counter(reason for _, reason in listed)
    assert by_reason["low_quality"] == 1 and by_reason["no_face"] > 40 and by_reason[None] > 300


def test_times_and_shares_in_words() -> None:
    assert [human_time(s) for s in (0, 43.21, 119.94, 725, 3599.7, 4980, 12_312, 4_334_400)] == [
        "0.0 s",
        "43.2 s",
        "119.9 s",
        "12 min 5 s",
        "1 h 0 min",
        "1 h 23 min",
        "3 h 25 min",
        "1,204 h",
    ]
    assert [human_share(part, 10_000) for part in (0, 1, 1234, 9_999, 10_000)] == [
        "0.0 %",
        "< 0.1 %",
        "12.3 %",
        "> 99.9 %",
        "100.0 %",
    ]
    assert visible("a\nb\u202ec\U0001f600") == "a\\nb\\u202ec\U0001f600"
