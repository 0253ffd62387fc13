"""Which checkpoint is best, when a run stops, what counts as forgotten: on tables."""

import pytest

from lipforge.train.config import EarlyStoppingConfig, Stage1Config, Stage2Config, load_preset, presets
from lipforge.train.loop.best import Candidate, forgetting, num_without_gain, ranked, stops_early


def course(*pairs: tuple[float, float]) -> list[Candidate]:
    """Generated validations 1, 2, ...: sync confidence and picture distance."""
    return [Candidate(step, 1.0, sync, picture) for step, (sync, picture) in enumerate(pairs, start=1)]


@pytest.mark.parametrize(
    ("candidates", "order"),
    [
        (course((2.0, 0.20), (3.0, 0.20), (2.5, 0.20)), [2, 3, 1]),  # by sync
        (course((2.0, 0.200), (3.0, 0.209)), [2, 1]),  # 5 % worse pictures are as good
        (course((2.0, 0.200), (3.0, 0.212)), [1, 2]),  # more are not, whatever the sync
        (course((9.0, 0.40), (8.0, 0.30), (1.0, 0.20)), [3, 2, 1]),  # behind the best, by picture
        (course((2.0, 0.2), (2.0, 0.2)), [1, 2]),  # the same: the earlier one
        ([Candidate(1, 0.5), Candidate(2, 0.3), Candidate(3, 0.4)], [2, 3, 1]),  # nothing generated: by loss
        ([Candidate(1, 0.1), Candidate(2, 0.9, 1.0, 0.3)], [2, 1]),  # a generated one before others
        ([Candidate(1, 0.1, None, 0.3), Candidate(2, 0.9, 1.0, 0.3)], [2, 1]),  # a clip without a face: by loss
        ([Candidate(1, 0.1, 5.0, 0.1, has_forgotten=True), Candidate(2, 0.2, 1.0, 0.3)], [2]),
        ([], []),
    ],
)
def test_order_of_checkpoints(candidates: list[Candidate], order: list[int]):
    assert ranked(candidates) == order


@pytest.mark.parametrize(
    ("pairs", "min_gain", "count"),
    [
        ([], 0.0, 0),
        ([(1.0, 0.3)], 0.0, 0),
        ([(1.0, 0.3), (2.0, 0.3), (3.0, 0.3)], 0.0, 0),
        ([(3.0, 0.3), (2.0, 0.3), (2.5, 0.3)], 0.0, 2),
        ([(3.0, 0.3), (3.0, 0.3)], 0.0, 1),  # no better than before
        ([(2.0, 0.3), (2.05, 0.3), (2.08, 0.3)], 0.1, 2),
        ([(2.0, 0.3), (1.0, 0.2)], 0.5, 0),  # pictures got better by more than 5 %
        ([(2.0, 0.3), (4.0, 0.4), (5.0, 0.4)], 0.0, 2),  # sync at the cost of pictures
    ],
)
def test_validations_without_gain(pairs: list[tuple[float, float]], min_gain: float, count: int):
    assert num_without_gain(course(*pairs), min_gain) == count


def test_a_run_stops_when_its_patience_is_over_and_says_which_is_best():
    patience = EarlyStoppingConfig(patience=2)
    candidates = course((2.0, 0.3), (3.0, 0.3), (2.0, 0.3), (2.9, 0.3))
    assert stops_early(candidates[:3], patience) is None
    words = stops_early(candidates, patience)
    assert words is not None and "over 2 validations" in words and "step 2" in words
    assert stops_early(candidates, None) is None
    assert stops_early([Candidate(step, 1.0) for step in range(1, 9)], patience) is None  # nothing was generated


BEFORE = {"a": 4.0, "b": 2.0, "c": 3.0, "d": 3.0}


@pytest.mark.parametrize(
    ("now", "share", "is_beyond"),
    [
        (BEFORE, 0.0, False),
        ({"a": 3.0, "b": 1.5, "c": 2.25, "d": 2.25}, 0.25, True),
        ({"a": 3.6, "b": 1.8, "c": 2.7, "d": 2.7}, 0.10, False),  # within the bound
        ({"a": 0.4, "b": 2.6, "c": 3.0, "d": 3.0}, 0.25, False),  # one clip alone: not certain
        ({"a": 5.0, "b": 3.0, "c": 4.0, "d": 4.0}, -1 / 3, False),
        ({"a": 4.0, "b": 2.0}, 0.5, False),  # two clips have no face any more, two are as before
        ({}, 1.0, True),
    ],
)
def test_what_base_clips_lost(now: dict[str, float], share: float, is_beyond: bool):
    found = forgetting(BEFORE, now, 0.15)
    assert found is not None and found.share == pytest.approx(share) and found.num_clips == 4
    assert found.is_beyond == is_beyond
    assert (f"{share:.0%}" in found.words(0.15)) and (found.words(0.15).startswith("forgetting:") == is_beyond)


def test_one_base_clip_has_no_interval_and_counts_all_the_same():
    found = forgetting({"a": 2.0}, {"a": 1.0}, 0.15)
    assert found is not None and found.low is None and found.is_beyond


def test_nothing_is_forgotten_where_nothing_was_known():
    assert forgetting({}, {"a": 1.0}, 0.15) is None
    assert forgetting({"a": 0.0}, {"a": 1.0}, 0.15) is None


@pytest.mark.parametrize("name", ["finetune_language", "adapt_speaker"])
def test_fine_tuning_presets_are_a_stage_2_with_a_guard(name: str):
    config = load_preset(Stage2Config, name, ["selection=s.parquet", "run_dir=r"])
    assert config.init is not None and not config.init_differences and config.early_stopping is not None
    assert (config.lora is not None) == (name == "adapt_speaker")
    assert config.on_forgetting == "stop" and config.generate.num_clips >= 16
    assert name in presets(Stage2Config) and name not in presets(Stage1Config)
