"""The maths of an estimate on made-up populations whose truth is known."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from lipforge.pipeline.clip import Unit
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.estimate.columns import growth, outcome_s
from lipforge.pipeline.estimate.disk import PAGE_BYTES, ROW_BYTES, TABLES_BYTES, Media, disk_of
from lipforge.pipeline.estimate.observation import Observation, observe
from lipforge.pipeline.estimate.ranges import LEVEL, Uncertain, totals, unseen_share
from lipforge.pipeline.estimate.sample import sample_order, span_s
from lipforge.pipeline.estimate.wall import crew_sizes_to_show, finish_s
from tests.test_plan import make_video

SHARE, COST = np.array([True]), np.array([False])


def made_population(kind: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(quantity, size) of 300 parts."""
    size = rng.uniform(5, 25, 300)
    per_size = {
        "all or nothing": lambda: (rng.random(300) < 0.4) * 1.0,
        "rare": lambda: (rng.random(300) < 0.1) * 1.0,
        "mixed": lambda: rng.beta(1, 1, 300),
        "cost": lambda: rng.lognormal(0, 0.4, 300),
    }[kind]()
    return size * per_size, size


@pytest.mark.parametrize("kind", ["all or nothing", "rare", "mixed", "cost"])
@pytest.mark.parametrize("num_seen", [12, 40, 200])
def test_the_range_holds_the_truth_about_as_often_as_it_says(kind: str, num_seen: int) -> None:
    rng = np.random.default_rng(num_seen)
    held = 0
    for _ in range(120):
        y, x = made_population(kind, rng)
        seen = rng.permutation(len(y))[:num_seen]
        is_share = COST if kind == "cost" else SHARE
        (total,) = totals(y[seen, None], x[seen, None], np.array([x.sum()]), is_share, rng)
        held += total.range.low <= y.sum() <= total.range.high
    assert LEVEL - 0.12 <= held / 120 <= (1.0 if num_seen == 12 else LEVEL + 0.12)


def test_a_total_is_exact_once_all_was_seen() -> None:
    rng = np.random.default_rng(0)
    y, x = made_population("mixed", rng)
    (total,) = totals(y[:, None], x[:, None], np.array([x.sum()]), SHARE, rng)
    assert (total.range.low, total.range.high) == pytest.approx((y.sum(), y.sum()))


def test_one_observation_gives_a_wide_range_and_no_share_leaves_the_possible() -> None:
    rng = np.random.default_rng(0)
    (cost,) = totals(np.array([[5.0]]), np.array([[20.0]]), np.array([2000.0]), COST, rng)
    assert cost.value == pytest.approx(500) and cost.range.low < 400 and cost.range.high > 650
    (share,) = totals(np.array([[20.0]] * 4), np.array([[20.0]] * 4), np.array([2000.0]), SHARE, rng)
    assert share.range.high == share.value == pytest.approx(2000) and share.range.low < 1900


def test_sums_of_uncertain_numbers_keep_what_goes_together() -> None:
    first = Uncertain(1.0, np.linspace(0, 2, 2000))
    second = Uncertain(1.0, np.linspace(2, 0, 2000))
    assert (first + second).range.spread == pytest.approx(0)
    assert (first * 3 + 1).range.high == pytest.approx(1 + 3 * 1.8, abs=0.01)


def test_what_a_sample_missed_is_less_the_larger_it_is() -> None:
    assert 1 - unseen_share(10) == pytest.approx(0.1 ** (1 / 10))
    assert unseen_share(100) < 0.03 < unseen_share(10)


# --- which spans ---


def units_of(*seconds: float, language: str = "en") -> list[Unit]:
    videos = [make_video(s, uri=f"/{n}.mp4", content=f"{n:064}") for n, s in enumerate(seconds)]
    videos = [replace(video, source=replace(video.source, language=language)) for video in videos]
    return [Unit(video, 0, video.end_frame) for video in videos]


def test_the_whole_order_is_all_of_the_video_once() -> None:
    units = units_of(300, 7, 200, 29, 41)
    spans = list(sample_order(units, 20.0))
    seen = sorted((span.video.source.uri, span.start_frame, span.end_frame) for span in spans)
    assert sum(span.num_frames for span in spans) == sum(unit.num_frames for unit in units)
    assert all(a[0] != b[0] or a[2] == b[1] for a, b in itertools.pairwise(seen))
    assert {(uri, end) for uri, start, end in seen if start == 0} >= {("/1.mp4", 175), ("/3.mp4", 725)}


@pytest.mark.parametrize("num_spans", [4, 10, 37])
def test_any_beginning_of_the_order_is_spread_over_languages(num_spans: int) -> None:
    units = [*units_of(*[200] * 30), *units_of(*[200] * 10, language="de")]
    order = sample_order(units, 20.0)
    german = sum(next(order).video.source.language == "de" for _ in range(num_spans))
    assert abs(german - num_spans / 4) <= 1.5


def test_a_long_stretch_without_key_frames_is_represented_by_its_beginning() -> None:
    video = make_video(400, key_every_s=1e9)
    (span,) = set(sample_order([Unit(video, 0, video.end_frame)], 20.0))
    assert (span.start_frame, span.end_frame) == (0, 500)


def test_little_video_is_taken_whole() -> None:
    config = PrepareConfig()
    assert span_s(units_of(60, 50), config) == config.resample.max_span_s
    assert span_s(units_of(60, 70), config) == 20


# --- what a span shows ---


def row(start: int, end: int, key: str, **columns: object) -> dict[str, object]:
    measured = {"quality": 80.0, "speech_ratio": 1.0, "sync_confidence": 9.0, "av_offset_frames": 0}
    about = {"start_frame": start, "end_frame": end, "track_index": 0, "key": key}
    return {**about, "sync_model": "s", "quality_model": "q", **(columns or measured)}


CONFIG = PrepareConfig.model_validate(
    {"thresholds": {"min_sync_confidence": 2, "min_quality": 40, "sync_model": "s", "quality_model": "q"}}
)


def test_what_goes_on_beyond_a_border_is_left_open_and_gets_the_outcomes_of_other_runs() -> None:
    video = make_video(300)
    rejected = {"status": "rejected", "stage": "cut", "reason": "too_short"}
    rows = [
        row(500, 600, "open", **rejected),
        row(600, 700, "none", status="rejected", stage="track_faces", reason="no_face"),
        row(700, 800, "inside"),
        row(800, 990, "ends here"),
        row(990, 1000, "goes on", **rejected),
    ]
    record = {
        "rows": rows,
        "open_ends": [{"start_frame": a, "end_frame": b, "box": (0, 0, 1, 1)} for a, b in ((500, 600), (990, 1000))],
        "media": {"inside": (0, 10), "ends here": (10, 20), "none": (30, 5)},
    }
    seen = observe(Unit(video, 500, 1000), record, CONFIG)
    assert (seen.open_s, seen.outcome_s) == (4.4, {"no_face": 4.0, "kept": 11.6})
    assert seen.kept_clips == 2
    assert seen.media_bytes == {"shards": 30, "refused": 0, "stills": 5}
    grow = growth([seen])
    assert outcome_s(seen, grow) == pytest.approx({"no_face": 4.0, "kept": 16.0})
    assert sum(outcome_s(seen, grow).values()) == pytest.approx(seen.seconds)


@pytest.mark.parametrize(("seen", "clips"), [(250, 1.0), (150, 0.75)])
def test_a_clip_at_a_border_counts_as_the_part_that_is_seen(seen: int, clips: float) -> None:
    record = {"rows": [row(500, 500 + seen, "a")], "open_ends": [], "media": {}}
    assert observe(Unit(make_video(300), 500, 500 + seen), record, CONFIG).kept_clips == clips


def test_a_sample_of_nothing_but_open_runs_calls_them_too_short() -> None:
    seen = Observation("und", 4.0, 1.0, {}, {}, 4.0, 0.0, 0.0, 1)
    assert outcome_s(seen, growth([seen])) == {"too_short": 4.0}


# --- time and disk ---


def test_the_longest_unit_bounds_the_time_of_many_workers() -> None:
    assert finish_s([10, 20, 30], 1) == 60
    assert finish_s([10, 20, 30], 2) == 30
    assert finish_s([10, 20, 30], 100) == 30
    assert finish_s([], 4) == 0


def test_no_more_workers_are_shown_than_there_are_units_for() -> None:
    assert crew_sizes_to_show(2, 2, 50) == [1, 2, 20]
    assert crew_sizes_to_show(64, 16, 100_000) == [1, 16, 64, 100, 160]
    assert crew_sizes_to_show(1, 1, 0) == [1]


def test_parts_double_a_small_dataset_while_it_is_made_and_add_little_to_a_large_one() -> None:
    sizes = [Uncertain.exact(size) for size in (8e9, 1.5e9, 0.5e9)]
    media = Media(*sizes, num_kept=10_000, num_refused=2_000, num_rows=20_000)  # type: ignore[arg-type]
    small, large = disk_of(media, 10 * 3600.0, 120), disk_of(media, 10_000 * 3600.0, 120_000)
    tables = 20_000 * ROW_BYTES + TABLES_BYTES
    assert small.peak.value == 20e9 + tables
    assert small.finished.low < small.finished.value < small.finished.high
    assert large.peak.value == large.finished.value or large.peak.value < 10.4e9
    assert 10e9 + tables + PAGE_BYTES < small.finished.value < 10.5e9
