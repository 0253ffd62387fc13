"""Accuracy of a SyncNet by language, and the plateau in words."""

import math

import numpy as np
import pytest

from lipforge.train.syncnet_accuracy import best_threshold, measure, plateau


def test_accuracy_counts_both_kinds_of_mistakes():
    report = measure([0.9, 0.4, 0.6, 0.1], [True, True, False, False], ["de"] * 4, ["a", "a", "b", "b"])
    assert report.whole.at_half == 0.5
    assert (report.whole.num_pairs, report.whole.num_speakers) == (4, 2)


def test_languages_are_counted_apart_and_the_unlabelled_together():
    labels = [True, False] * 3
    report = measure([0.9, 0.1, 0.9, 0.9, 0.2, 0.3], labels, ["zh", "zh", "en", "en", None, None], ["s"] * 6)
    assert {name: own.at_half for name, own in report.languages.items()} == {"zh": 1.0, "en": 0.5, "und": 0.5}
    assert report.values()["accuracy_en"] == 0.5
    assert "en 50.0% of 2" in report.words()


def test_the_best_threshold_lies_between_the_two_kinds():
    threshold, accuracy = best_threshold(np.array([0.9, 0.8, 0.7, 0.2]), np.array([True, True, False, False]))
    assert (threshold, accuracy) == (pytest.approx(0.75), 1.0)


def test_of_equal_thresholds_the_one_closest_to_a_half_is_taken():
    assert best_threshold(np.array([0.9, 0.1]), np.array([True, False])) == (0.5, 1.0)
    assert best_threshold(np.array([0.3, 0.3]), np.array([True, False]))[1] == 0.5


@pytest.mark.parametrize("seed", range(3))
def test_no_threshold_is_better_than_the_best(seed: int):
    rng = np.random.default_rng(seed)
    cosines, labels = rng.random(40).round(2), rng.random(40) < 0.5
    tried = max(float(((cosines >= value) == labels).mean()) for value in np.linspace(-0.01, 1.01, 1021))
    assert best_threshold(cosines, labels)[1] == pytest.approx(tried)


def test_pairs_without_values_are_refused():
    with pytest.raises(ValueError, match="at least one pair"):
        measure([], [], [], [])
    with pytest.raises(ValueError, match="for each pair"):
        measure([0.1], [True, False], ["de"], ["a"])


def test_a_loss_at_chance_is_said_with_what_helps():
    words = plateau([math.log(2) + 0.002 * (-1) ** step for step in range(200)], 16)
    assert words is not None
    assert "0.693" in words and "learning_rate" in words and "in sync" in words


@pytest.mark.parametrize("losses", [[math.log(2)] * 99, [0.69] * 100 + [0.6] * 125, [0.75] * 200])
def test_no_plateau_after_few_samples_or_away_from_chance(losses: list[float]):
    assert plateau(losses, 16) is None
