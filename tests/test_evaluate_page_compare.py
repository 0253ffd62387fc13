"""Two reports compared: what is real is found, chance is not, and what does not compare is said."""

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest

from lipforge.pipeline.evaluate.page.compare import Difference, _bootstrap, compare
from lipforge.pipeline.evaluate.page.verdicts import how, summary, verdict
from lipforge.pipeline.evaluate.result import Evaluation, ModelUsed
from tests.made_evaluation import SCORER, made_evaluation, made_rows

Report = tuple[Evaluation, list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lipforge.pipeline.evaluate.page.compare.MIN_RESAMPLES", 1000)
    monkeypatch.setattr("lipforge.pipeline.evaluate.page.compare.RESAMPLES_PER_TEST", 0)


@pytest.fixture(scope="module")
def report() -> Report:
    rows = made_rows(40)
    return made_evaluation(rows), rows


def changed(report: Report, metric: str, by: float, noise: float = 0.0, **changes: Any) -> Report:
    """The same clips with another number."""
    random = np.random.default_rng(7)
    rows = copy.deepcopy(report[1])
    for row in rows:
        if row[metric] is not None:
            row[metric] += by + noise * random.normal()
    return made_evaluation(rows, **changes), rows


def one(differences: list[Difference], metric: str, group: str = "all") -> Difference:
    return next(found for found in differences if (found.metric, found.group) == (metric, group))


def test_a_report_does_not_differ_from_itself(report: Report) -> None:
    differences = compare(*report, *report, seed=0)
    assert {found.group for found in differences} == {"all", "language=en", "language=hi", "language=ur"}
    assert not any(found.real for found in differences)
    assert {found.difference for found in differences} == {0.0}
    assert summary(differences)[0].startswith("None of 22 numbers")


def test_a_planted_difference_is_found_and_named_and_nothing_else_is(report: Report) -> None:
    worse = changed(report, "sync_confidence", -0.3, noise=0.2)
    differences = compare(*report, *worse, seed=0)
    assert {found.metric for found in differences if found.real} == {"sync_confidence"}
    found = one(differences, "sync_confidence")
    assert found.low is not None and found.high is not None and found.difference is not None
    assert 0 < found.low < found.difference < found.high < 0.5
    assert (found.paired, found.n, found.better) == (True, 37, True)
    assert summary(differences)[1] == "Better here: sync confidence, built-in."
    assert verdict(one(compare(*worse, *report, seed=0), "sync_confidence"))[0] == "worse"


def test_smaller_is_better_where_it_is_and_near_zero_where_that_is(report: Report) -> None:
    assert one(compare(*report, *changed(report, "lip_distance_px", 1.0), seed=0), "lip_distance_px").better
    offset = one(compare(*report, *changed(report, "sync_offset_frames", 4.0), seed=0), "sync_offset_frames")
    assert offset.value is not None and offset.value < 0 < (offset.other or 0)
    assert offset.real and offset.better


def test_a_seed_gives_the_same_numbers(report: Report) -> None:
    other = changed(report, "ssim", 0.001, noise=0.01)
    assert compare(*report, *other, seed=3) == compare(*report, *other, seed=3)
    assert compare(*report, *other, seed=3) != compare(*report, *other, seed=4)


def test_numbers_of_another_judge_are_not_compared(report: Report) -> None:
    scorer = dataclasses.replace(SCORER, sha256="cd" * 32)
    differences = compare(*report, *changed(report, "ssim", 0.0, models=[scorer]), seed=0)
    found = one(differences, "sync_confidence")
    assert (found.p, found.difference, found.real) == (None, None, False)
    assert verdict(found) == (
        "none",
        "judged by lip-sync scorer abababababab here and by lip-sync scorer cdcdcdcdcdcd there",
    )
    assert one(differences, "ssim").p is not None
    extra = ModelUsed("ArcFace", "ef" * 32, "none", ["csim"])
    assert one(compare(*report, *changed(report, "ssim", 0.0, models=[SCORER, extra]), seed=0), "csim").p is None


def test_what_one_report_lacks_and_numbers_of_whole_sets_get_no_verdict(report: Report) -> None:
    rows = [{**row, "csim": None} for row in report[1]]
    differences = compare(*report, made_evaluation(rows), rows, seed=0)
    assert verdict(one(differences, "csim")) == ("none", "not measured there")
    fid = one(differences, "fid")
    assert (fid.value, fid.other, fid.difference, fid.real) == (18.3, 18.3, 0.0, False)
    assert verdict(fid)[1] == "one number for a whole set of clips has no interval"


def test_other_clips_are_compared_by_their_means(report: Report) -> None:
    rows = [{**row, "file": f"other {row['file']}", "leak": row["leak"] and row["leak"] + 1} for row in report[1]]
    differences = compare(*report, made_evaluation(rows), rows, seed=0)
    assert not any(found.paired for found in differences)
    assert one(differences, "leak").real
    assert not one(differences, "ssim").real
    assert how(differences)[0].startswith("No clip is in both reports")


def test_speakers_are_resampled_where_there_are_enough(report: Report) -> None:
    random = np.random.default_rng(1)
    of_speaker = {f"speaker {i}": random.normal() for i in range(8)}
    rows = [{**row, "ssim": row["ssim"] and row["ssim"] + of_speaker[row["speaker"]]} for row in report[1]]
    alone = [{**row, "speaker": None} for row in rows]
    by_speaker = one(compare(*report, made_evaluation(rows), rows, seed=0), "ssim")
    stripped = [{**row, "speaker": None} for row in report[1]]
    by_clip = one(compare(made_evaluation(stripped), stripped, made_evaluation(alone), alone, seed=0), "ssim")
    assert by_speaker.over_speakers and not by_clip.over_speakers
    assert by_speaker.high is not None and by_speaker.low is not None
    assert by_clip.high is not None and by_clip.low is not None
    assert by_speaker.high - by_speaker.low > 1.3 * (by_clip.high - by_clip.low)


@pytest.mark.parametrize("count", [1, 2])
def test_few_clips_tell_nothing(count: int) -> None:
    rows = made_rows(count, languages=("en",))
    report = made_evaluation(rows), rows
    found = one(compare(*report, *changed(report, "ssim", 5.0, noise=1.0), seed=0), "ssim")
    assert found.difference is not None and found.difference < -3
    assert verdict(found) == ("none", "too few clips to tell")


def test_resamples_of_one_clip_alone_give_no_huge_interval() -> None:
    rows = made_rows(3, languages=("en",))
    other = copy.deepcopy(rows)
    for row, offset in zip(rows, (-1.0, 2.0, 1.0), strict=True):
        row["sync_offset_frames"] = offset
    for row in other:
        row["sync_offset_frames"] = 0.0
    found = one(compare(made_evaluation(rows), rows, made_evaluation(other), other, seed=0), "sync_offset_frames")
    assert verdict(found) == ("none", "too few clips to tell")


def test_an_opening_that_is_good_as_the_originals_is_not_called_better(report: Report) -> None:
    wider = changed(report, "mouth_opening", 0.5)
    found = one(compare(*wider, *report, seed=0), "mouth_opening")
    assert found.real and verdict(found) == ("same", "different, neither is better")


@pytest.mark.parametrize("count", [6, 30])
@pytest.mark.parametrize("shape", ["normal", "skewed"])
def test_intervals_hold_the_truth_and_chance_is_seldom_called_real(count: int, shape: str) -> None:
    num_trials = 300
    random = np.random.default_rng(count)
    drawn = (
        random.normal(size=(num_trials, count)) if shape == "normal" else random.gamma(2, size=(num_trials, count)) - 2
    )
    outcomes = _bootstrap([[np.stack([values, np.ones(count)], axis=1)] for values in drawn], 499, seed=0)
    known = [outcome for outcome in outcomes if outcome is not None]
    assert len(known) == num_trials
    covered = np.mean([low <= 0 <= high for low, high, _ in known])
    assert 0.915 < covered < 0.99
    assert np.mean([p <= 0.05 for _, _, p in known]) < 0.085


def test_among_many_numbers_false_alarms_stay_rare() -> None:
    """With 22 numbers in each report, 5 % at each would be an alarm in two of three comparisons."""
    alarms = 0
    for trial in range(30):
        here, there = made_rows(14, trial, ("en",), 1), made_rows(14, 1000 + trial, ("en",), 1)
        differences = compare(made_evaluation(here), here, made_evaluation(there), there, seed=trial)
        alarms += any(found.real for found in differences)
    assert alarms <= 5  # 1.5 expected; more has a chance of 1 %
