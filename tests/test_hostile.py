"""Bad input gets a reason, odd but good input is kept, no source is changed, and the run goes on."""

import os
from collections import Counter
from pathlib import Path

import pytest

from lipforge.datasets_manifest.schema import COLUMNS, Reason, Status
from lipforge.pipeline.running.explain import explain
from tests.conftest import NASTY_NAMES, Prepared, snapshot
from tests.media import BASE_DURATION_S

KEPT = "kept"
OUTCOMES: dict[str, set[str]] = {
    "empty": {"unreadable"},
    "text": {"unreadable"},
    "truncated_mp4": {"unreadable"},
    "truncated_mkv": {KEPT},  # its first half is 3 s
    "truncated_ts": {KEPT, "decode_error"},
    "damaged_middle": {"too_short", "decode_error"},
    "no_video": {"no_video"},
    "no_audio": {"no_audio"},
    "digital_silence": {"no_speech"},
    "music": {"no_speech"},
    "no_face": {"no_face"},
    "tiny_face": {"face_too_small"},
    "face_leaves": {KEPT, "face_cut_off", "no_face"},
    "hard_cut": {KEPT},  # 3.2 s before it and after it
    "two_faces": {KEPT, "low_sync_confidence", "frozen"},  # one of them waits for a second
    "base": {KEPT},
    "ten_bit": {KEPT},
    "odd_size": {KEPT},
    "variable_rate": {KEPT},
    "audio_late_mp4": {KEPT},
    "audio_late_mkv": {KEPT},
    "video_late": {KEPT},
    "negative_start": {KEPT},
    "edit_list": {KEPT},
    "audio_gap": {"too_short", "no_audio"},
    "lying_mp4": {KEPT},
    "lying_mkv": {KEPT},
    "timecode": {KEPT},
    "surround": {KEPT},
    "two_audio_tracks": {KEPT},
    "rotated_90": {KEPT},
    "rotated_180": {KEPT},
    "rotated_270": {KEPT},
    "fps_50": {KEPT},
    "fps_60": {KEPT},
    "fps_30": {KEPT},
    "fps_29_97": {KEPT},
    "fps_23_976": {KEPT},
    "samples_early": {KEPT},
    "samples_late": {KEPT},
    "container_early": {KEPT},
    "container_late": {KEPT},
}


@pytest.mark.parametrize("kind", OUTCOMES)
def test_each_kind_of_input_ends_as_it_should(
    hostile_dataset: Prepared, hostile_media: dict[str, Path], kind: str
) -> None:
    rows = hostile_dataset.rows_of(hostile_media[kind])
    assert {row["reason"] or KEPT for row in rows} == OUTCOMES[kind]
    for row in rows:
        assert (row["status"] == Status.KEPT) == (row["reason"] is None)
        assert row["reason"] is None or (row["detail"] and row["reason"] in set(Reason))
        assert row["stage"]


def test_every_kind_has_an_expected_outcome(hostile_media: dict[str, Path]) -> None:
    assert set(OUTCOMES) == set(hostile_media)


def test_of_two_faces_the_one_that_speaks_is_kept(hostile_dataset: Prepared, hostile_media: dict[str, Path]) -> None:
    rows = hostile_dataset.rows_of(hostile_media["two_faces"])
    assert len(rows) == 3 and all(row["max_faces"] == 2 for row in rows)
    assert Counter(row["reason"] or KEPT for row in rows) == {KEPT: 1, "low_sync_confidence": 1, "frozen": 1}
    assert sum(row["accounted_s"] for row in rows) == pytest.approx(BASE_DURATION_S)


@pytest.mark.parametrize("name", NASTY_NAMES)
def test_any_name_is_just_a_name(hostile_dataset: Prepared, name: str) -> None:
    uri = str(hostile_dataset.folder / "names" / name).encode("utf-8", "backslashreplace").decode()
    shown = [row for row in hostile_dataset.rows if row["source_uri"] == uri]
    assert [row["reason"] for row in shown] == ["no_face"]
    assert not Path("x").exists()


@pytest.mark.parametrize("name", ["self.mp4", "nowhere.mp4", "pipe.mp4"])
def test_anything_but_a_file_is_unreadable(hostile_dataset: Prepared, name: str) -> None:
    (row,) = hostile_dataset.rows_of(hostile_dataset.folder / "names" / name)
    assert (row["status"], row["reason"]) == (Status.FAILED, Reason.UNREADABLE)


def test_the_same_content_again_is_a_duplicate(hostile_dataset: Prepared, hostile_media: dict[str, Path]) -> None:
    (row,) = hostile_dataset.rows_of(hostile_dataset.folder / "names" / "copy of base.mp4")
    assert (row["status"], row["reason"]) == (Status.REJECTED, Reason.DUPLICATE)
    assert str(hostile_media["base"]) in row["detail"]
    assert row["accounted_s"] == pytest.approx(BASE_DURATION_S)


def test_loops_end_and_the_dataset_inside_the_input_is_skipped(hostile_dataset: Prepared) -> None:
    uris = {row["source_uri"] for row in hostile_dataset.rows} - {str(hostile_dataset.folder / "locked")}
    assert not any("/loop/" in uri or "/dataset/" in uri or "folder.mp4" in uri for uri in uris)
    assert len(uris) == len(OUTCOMES) + len(NASTY_NAMES) + len(["self", "nowhere", "pipe", "copy"])


def test_a_folder_that_cannot_be_read_has_a_row(hostile_dataset: Prepared) -> None:
    if os.access(hostile_dataset.folder / "locked", os.R_OK):
        pytest.skip("this user may read everything")
    (row,) = hostile_dataset.rows_of(hostile_dataset.folder / "locked")
    assert (row["status"], row["reason"]) == (Status.FAILED, Reason.UNREADABLE)


def test_no_source_is_changed(hostile_dataset: Prepared) -> None:
    after = snapshot(hostile_dataset.folder, but=hostile_dataset.out)
    assert after == hostile_dataset.sources_before


def test_every_second_of_every_source_is_accounted_for(hostile_dataset: Prepared) -> None:
    summary = hostile_dataset.summary
    assert summary.phase == "done" and summary.finished_at is not None
    total = sum(row["accounted_s"] for row in hostile_dataset.rows)
    assert total == pytest.approx(summary.seconds_total, abs=0.01)
    assert summary.seconds_kept + sum(summary.seconds_by_reason.values()) == pytest.approx(total, abs=0.1)


def test_rows_are_complete(hostile_dataset: Prepared) -> None:
    for row in hostile_dataset.rows:
        assert set(row) == set(COLUMNS.names)
        assert "." not in row["key"] and "/" not in row["key"]
        if row["status"] == Status.KEPT:
            missing = {name for name, value in row.items() if value is None} - {
                "reason",
                "detail",
                "speaker",
                "language_prob",
            }
            assert not missing
            assert row["lossy_generations"] == 1
            assert row["decode_passes"] == pytest.approx(1, abs=0.35)
    assert len({row["key"] for row in hostile_dataset.rows}) == len(hostile_dataset.rows)


def test_explain_covers_every_row(hostile_dataset: Prepared) -> None:
    for row in hostile_dataset.rows:
        story = "\n".join(explain(str(hostile_dataset.out), row["key"]))
        assert row["key"] in story and (row["reason"] or "kept in") in story
    story = "\n".join(explain(str(hostile_dataset.out), "base.mp4"))
    assert "6.40 s in = 6.40 kept + 0.00 rejected + 0.00 failed" in story
