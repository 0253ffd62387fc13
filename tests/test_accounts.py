"""Every second ends in exactly one row, and stored measures are decided under the thresholds in force."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lipforge.datasets_manifest.schema import COLUMNS
from lipforge.pipeline.clip import Source, Video
from lipforge.pipeline.config import Thresholds
from lipforge.pipeline.media.probe import VideoInfo
from lipforge.pipeline.publish.accounts import AccountsError, Totals, account
from lipforge.pipeline.publish.decide import decided
from lipforge.pipeline.publish.rows import Facts, Labels, Spoken
from tests.sealed import video_rows

LIMITS = Thresholds(min_sync_confidence=2.0, min_quality=40.0)
MEASURES = {"speech_ratio": 0.9, "sync_confidence": 3.0, "av_offset_frames": 1, "quality": 70.0}


def make_video(num_frames: int = 500, **source) -> Video:
    info = VideoInfo(640, 480, 0, 29.97, num_frames, 0.0, (0.0,), True, "h264", "aac")
    return Video(Source("/a.mp4", **source), "a" * 64, info)


def stored(
    key: str, start: int, end: int, status: str = "kept", reason: str | None = None, track: int = 0, **measures
) -> dict:
    """A row as the ledger holds it: with a verdict only if the clip was not measured."""
    row = {"key": key, "start_frame": start, "end_frame": end, "shot_index": 0, "track_index": track}
    outcome = {} if measures else {"status": status, "stage": "cut", "reason": reason, "detail": None}
    return row | {"decode_passes": 1.0} | outcome | measures


def unit(*rows: dict, unit_id: str = "u") -> dict:
    return {"unit_id": unit_id, "rows": list(rows)}


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
    with pytest.raises(AccountsError, match=r"1 frame has no row, the first at 4\.00 s"):
        account(rows, 0, 200)


def test_rows_are_decided_under_these_thresholds() -> None:
    measured = [stored("k", 0, 200, **MEASURES), stored("r", 200, 500, **MEASURES | {"quality": 39.0})]

    def outcome(limits: Thresholds) -> list[tuple]:
        rows = video_rows(make_video(), [unit(*measured)], limits)
        return [(row["status"], row["stage"], row["reason"]) for row in rows]

    kept, refused = ("kept", "commit", None), ("rejected", "measure_quality", "low_quality")
    assert outcome(LIMITS) == [kept, refused]
    assert outcome(LIMITS.model_copy(update={"min_quality": 30.0})) == [kept, kept]
    assert outcome(LIMITS.model_copy(update={"min_quality": 71.0})) == [refused, refused]


def test_thresholds_do_not_revive_what_was_never_measured() -> None:
    units = [unit(stored("r", 0, 500, "rejected", "face_too_small"))]
    (row,) = video_rows(make_video(), units, Thresholds(min_sync_confidence=0, min_quality=0, min_speech_ratio=0))
    assert (row["status"], row["reason"]) == ("rejected", "face_too_small")


def test_rows_have_the_columns_of_the_manifest_in_seconds() -> None:
    video = make_video(language="zh", language_source="list", start_s=4.0)
    (row,) = video_rows(video, [unit(stored("k", 100, 500, **MEASURES))], LIMITS)
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
    rows = video_rows(make_video(), units, LIMITS)
    assert [row["unit_id"] for row in rows] == ["1", "2"]
    with pytest.raises(AccountsError):
        video_rows(make_video(), units[:1], LIMITS)


def test_one_decision_for_one_row_and_for_a_table() -> None:
    """A thousand random clips, at and around every threshold."""
    rng = np.random.default_rng(1)
    limits = LIMITS.model_copy(
        update={"sync_model": "s", "quality_model": "q", "min_clip_s": 3.0, "short_sync_factor": 1.5}
    )
    near = {
        "speech_ratio": [0.0, 0.19, 0.2, 0.9],
        "av_drift_frames": [None, -2.1, -2.0, 2.0, 2.5],
        "sync_confidence": [1.99, 2.0, 2.5, 2.9, 3.1, 5.0],
        "av_offset_frames": [-7, -6, 0, 6, 7],
        "quality": [39.9, 40.0, 80.0],
    }
    rows, start = [], 0
    for number in range(1000):
        values = {name: choices[rng.integers(len(choices))] for name, choices in near.items()}
        named = {"sync_model": "s", "quality_model": "q"}
        length = int(rng.choice([74, 75, 100, 110, 125, 200]))
        rows.append(stored(str(number), start, start + length, **values, **named))
        start += length
    found = video_rows(make_video(start), [unit(*rows)], limits)
    outcome = ("status", "stage", "reason", "detail")
    assert [[row[name] for name in outcome] for row in found] == [
        [decided(row, limits)[name] for name in outcome] for row in rows
    ]
    assert len({row["reason"] for row in found}) == 7


def test_labels_win_over_votes_and_later_ones_over_earlier() -> None:
    facts = Facts(spoken={0: Spoken("hi", 0.75, "whisper:x")}, voices={"k": "voice-1"})
    units = [unit(stored("k", 0, 500, **MEASURES))]

    def labels(video: Video, facts: Facts) -> list[Any]:
        (row,) = video_rows(video, units, LIMITS, facts)
        return [row[name] for name in ("language", "language_prob", "language_source", "speaker", "speaker_source")]

    plain, labelled = (
        make_video(),
        make_video(language="zh", language_source="list", speaker="a", speaker_source="list"),
    )
    assert labels(plain, facts) == ["hi", 0.75, "whisper:x", "voice-1", "voice"]
    assert labels(labelled, facts) == ["zh", 1.0, "list", "a", "list"]
    facts = replace(facts, labels={labelled.source.entry_id: Labels(None, "b")})
    assert labels(labelled, facts) == ["zh", 1.0, "list", "b", "relabel"]
    assert labels(plain, facts) == ["hi", 0.75, "whisper:x", "b", "relabel"]


def test_totals_are_sums_by_outcome() -> None:
    rows = [
        stored("k", 0, 200),
        stored("a", 200, 300, "rejected", "no_face"),
        stored("b", 300, 500, "failed", "timeout"),
    ]
    totals = Totals.of(pa.Table.from_pylist(video_rows(make_video(), [unit(*rows)], LIMITS)))
    totals.add(Totals.from_json(totals.as_json()))
    assert totals.seconds_by_outcome == {"kept": 16.0, "no_face": 8.0, "timeout": 16.0}
    assert totals.clips_by_outcome == {"kept": 2, "no_face": 2, "timeout": 2}
