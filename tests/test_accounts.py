"""Every second ends in exactly one row, and stored measures are decided under the thresholds in force."""

import numpy as np
import pytest

from lipforge.datasets_manifest.schema import COLUMNS, Reason, Stage, Status
from lipforge.pipeline.clip import Source, Video
from lipforge.pipeline.config import Thresholds
from lipforge.pipeline.media.probe import VideoInfo
from lipforge.pipeline.publish.accounts import (
    AccountsError,
    Totals,
    account,
    single_row,
    video_rows,
)

HASHES = {"config_hash": "c", "models_hash": "m"}
LIMITS = Thresholds(min_sync_confidence=2.0, min_quality=40.0)
MEASURES = {"speech_ratio": 0.9, "sync_confidence": 3.0, "av_offset_frames": 1, "quality": 70.0}


def make_video(num_frames: int = 500, **source) -> Video:
    info = VideoInfo(640, 480, 0, 29.97, num_frames, 0.0, (0.0,), True, "h264", "aac")
    return Video(Source("/a.mp4", **source), "a" * 64, info)


def stored(
    key: str, start: int, end: int, status: str = "kept", reason: str | None = None, track: int = 0, **measures
) -> dict:
    """A row as the ledger holds it: with a verdict only if the clip was not measured."""
    row = {"clip_id": key, "key": key, "start_frame": start, "end_frame": end, "shot_index": 0, "track_index": track}
    outcome = {} if measures else {"status": status, "stage": "cut", "reason": reason, "detail": None}
    return row | {"decode_passes": 1.0} | outcome | measures


def unit(*rows: dict, unit_id: str = "u") -> dict:
    return {"unit_id": unit_id, "attempt": 1, "rows": list(rows)}


def test_kept_clips_take_their_frames_first_then_rejected_then_failed_ones() -> None:
    rows = [
        stored("f", 0, 300, "failed", "timeout", -1),
        stored("r", 50, 250, "rejected", "no_face", -1),
        stored("k", 100, 200),
        stored("k2", 150, 260, track=1),
    ]
    account(rows, 0, 300)
    assert [row["accounted_frames"] for row in rows] == [90, 50, 100, 60]


def test_the_run_of_a_seam_goes_by_what_became_of_its_clip() -> None:
    """Both units saw a part of it as a run that waits; the seam's clip has a verdict on it."""
    waits = {"status": "rejected", "reason": "too_short"}
    rows = [
        stored("end", 0, 100, **waits),
        stored("begin", 100, 180, **waits),
        stored("clip", 0, 180, track=1, quality=70.0) | {"status": "rejected", "reason": "low_sync_confidence"},
    ]
    account(rows, 0, 180)
    assert [row["accounted_frames"] for row in rows] == [0, 0, 180]


def test_random_rows_add_up_to_their_source() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        first = int(rng.integers(0, 1000))
        length = int(rng.integers(1, 400))
        rows = [stored("whole", first, first + length, "rejected", "no_face", -1)]
        for track in range(int(rng.integers(0, 6))):
            begin, end = sorted(rng.integers(0, length + 1, 2).tolist())
            rows.append(
                stored(
                    str(track), first + begin, first + end, str(rng.choice(["kept", "rejected", "failed"])), None, track
                )
            )
        account(rows, first, first + length)
        assert sum(row["accounted_frames"] for row in rows) == length
        assert all(row["accounted_frames"] >= 0 for row in rows)


def test_a_frame_without_a_row_stops_the_run() -> None:
    rows = [stored("a", 0, 100), stored("b", 101, 200)]
    with pytest.raises(AccountsError, match=r"1 frames have no row, the first at 4\.00 s"):
        account(rows, 0, 200)


@pytest.mark.parametrize("earlier_version", [False, True])
def test_rows_are_decided_under_these_thresholds_whatever_the_ledger_says_of_measured_ones(
    earlier_version: bool,
) -> None:
    measured = [stored("k", 0, 200, **MEASURES), stored("r", 200, 500, **MEASURES | {"quality": 39.0})]
    if earlier_version:
        old = {"status": "rejected", "stage": "detect_speech", "reason": "no_speech", "detail": "old"}
        measured = [row | old for row in measured]

    def outcome(limits: Thresholds) -> list[tuple]:
        rows = video_rows(make_video(), [unit(*measured)], limits, HASHES)
        return [(row["status"], row["stage"], row["reason"]) for row in rows]

    kept, refused = ("kept", "commit", None), ("rejected", "measure_quality", "low_quality")
    assert outcome(LIMITS) == [kept, refused]
    assert outcome(LIMITS.model_copy(update={"min_quality": 30.0})) == [kept, kept]
    assert outcome(LIMITS.model_copy(update={"min_quality": 71.0})) == [refused, refused]


def test_thresholds_do_not_revive_what_was_never_measured() -> None:
    units = [unit(stored("r", 0, 500, "rejected", "face_too_small"))]
    (row,) = video_rows(
        make_video(), units, Thresholds(min_sync_confidence=0, min_quality=0, min_speech_ratio=0), HASHES
    )
    assert (row["status"], row["reason"]) == ("rejected", "face_too_small")


def test_rows_have_the_columns_of_the_manifest_in_seconds() -> None:
    video = make_video(language="zh", language_source="list", start_s=4.0)
    (row,) = video_rows(video, [unit(stored("k", 100, 500, **MEASURES))], LIMITS, HASHES)
    assert set(row) <= set(COLUMNS.names)
    assert (row["start_s"], row["end_s"], row["duration_s"], row["accounted_s"], row["num_frames"]) == (
        4,
        20,
        16,
        16,
        400,
    )
    assert (row["language"], row["language_prob"], row["language_source"]) == ("zh", 1.0, "list")
    assert (row["config_hash"], row["models_hash"], row["source_fps"]) == ("c", "m", 29.97)


def test_several_units_of_a_video_are_checked_together() -> None:
    units = [unit(stored("a", 0, 300), unit_id="1"), unit(stored("b", 300, 500), unit_id="2")]
    rows = video_rows(make_video(), units, LIMITS, HASHES)
    assert [row["unit_id"] for row in rows] == ["1", "2"]
    with pytest.raises(AccountsError):
        video_rows(make_video(), units[:1], LIMITS, HASHES)


def test_sources_without_units_have_one_row_that_answers_for_all() -> None:
    row = single_row(make_video(), Status.REJECTED, Stage.PROBE, Reason.DUPLICATE, "same as b", HASHES)
    assert row["accounted_s"] == 20 and set(row) <= set(COLUMNS.names)
    nothing = Video(Source("/b.mp4"), "b" * 64, None, Reason.UNREADABLE, "empty")
    row = single_row(nothing, Status.FAILED, Stage.PROBE, Reason.UNREADABLE, "empty", HASHES)
    assert row["accounted_s"] == 0 and row["source_width_px"] is None


def entry(uri: str, content: str, start_s: float, end_s: float) -> Video:
    return Video(Source(uri, start_s=start_s, end_s=end_s), content, make_video().info)


def counted(totals: Totals, video: Video, seconds: float, status: str = "kept", reason: str | None = None) -> None:
    list(totals.add(video, [{"accounted_s": seconds, "status": status, "reason": reason}]))


def test_totals_that_are_off_name_the_source() -> None:
    totals = Totals()
    first, other, replaced = entry("/a", "1", 0, 3), entry("/a", "1", 3, 8), entry("/a", "old", 0, 9)
    for video, seconds in [(first, 3.0), (other, 5.0), (replaced, 9.0)]:
        counted(totals, video, seconds)
    totals.check([first])  # another span of the file may have come in another run
    with pytest.raises(AccountsError, match=r"/b: 4\.00 s in, and no rows"):
        totals.check([entry("/b", "2", 0, 4)])
    counted(totals, other, 0.04)
    with pytest.raises(AccountsError, match="/a"):
        totals.check([first])


def test_outcomes_are_kept_and_each_reason() -> None:
    totals = Totals()
    video = entry("/a", "1", 0, 8)
    counted(totals, video, 1.0, "rejected", "no_face")
    counted(totals, video, 2.0)
    counted(totals, video, 4.0, "failed", "timeout")
    counted(totals, video, 1.5, "rejected", "no_face")
    assert totals.seconds_by_outcome == {"kept": 2.0, "timeout": 4.0, "no_face": 2.5}
    assert totals.clips_by_outcome == {"kept": 1, "timeout": 1, "no_face": 2}
