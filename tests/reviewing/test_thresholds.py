"""What a threshold promises, beside the calibration's own rule; whether marked images are a fair sample."""

import numpy as np
import pytest

from daad_jax.reviewing.fair_sample import describe_bias
from daad_jax.reviewing.threshold_steps import find_steps
from daad_jax.scoring.anomaly_score import Calibration, Unit
from daad_jax.scoring.false_alarms import bound_rate

UNIT = Unit(1.0, 1.0)


def calibration(scores, sizes=()):
    return Calibration(UNIT, UNIT, UNIT, UNIT, 1.0, 1.0, 0.05, tuple(sorted(scores)), tuple(sizes))


def rate_at(steps, threshold):
    place = np.searchsorted(steps.scores, threshold, side="right")
    return steps.rates[place - 1] if place else 1.0


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1, 0.25, 0.5])
def test_the_calibrations_own_threshold_has_its_rate(rate):
    known = calibration(np.random.default_rng(0).lognormal(size=99))
    assert rate_at(find_steps(known), known.threshold_at(rate)) == pytest.approx(rate)


def test_the_rate_is_the_p_value_of_the_lowest_score_that_is_flagged():
    known = calibration([1.0, 2.0, 2.0, 3.0])
    steps = find_steps(known)
    assert steps.scores == [1.0, 2.0, 3.0]
    assert steps.rates == pytest.approx([4 / 5, 2 / 5, 1 / 5])
    for threshold in (1.0, 1.5, 2.0, 2.999, 3.0, 50.0):
        lowest_flagged = np.nextafter(threshold, np.inf)
        assert rate_at(steps, threshold) == pytest.approx(float(known.p_value(lowest_flagged)))
    assert steps.bounds == pytest.approx([bound_rate(4, rate) for rate in steps.rates])


def test_groups_count_as_groups():
    known = calibration([1.0, 2.0, 3.0, 4.0], (2, 2, 2, 2))
    assert find_steps(known).rates == pytest.approx([(1 + 1.5) / 3, (1 + 1) / 3, (1 + 0.5) / 3, 1 / 3])


def bias_of(marked, unmarked, groups=None):
    """`describe_bias` of images that are marked as good, and of images without a mark."""
    scores = np.concatenate([marked, unmarked])
    is_good = np.arange(len(scores)) < len(marked)
    return describe_bias(scores, is_good, ~is_good, np.arange(len(scores)) if groups is None else groups)


def test_marking_the_highest_scores_only_is_said():
    scores = np.random.default_rng(0).lognormal(size=200)
    highest = np.sort(scores)[-40:]
    line = bias_of(highest, np.append(np.sort(scores)[:-40], np.nan))
    assert "The 40 images that are marked as good score higher than the 160 without a mark" in line


@pytest.mark.parametrize("with_defects", [False, True])
@pytest.mark.parametrize("size", [1, 6])
def test_a_fair_sample_raises_no_alarm(with_defects, size):
    """`size` images of one group have nearly the same score; whole groups are marked."""
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(60):
        groups = np.repeat(np.arange(150), size)
        scores = rng.lognormal(size=150)[groups] + rng.normal(0, 0.01, len(groups))
        if with_defects:
            scores[-20 * size :] += 5
        alarms += bool(bias_of(scores[: 50 * size], scores[50 * size :], groups))
    assert alarms <= 3  # 1 % of 60; more than 3 have a probability of 0.3 %


def test_few_images_tell_nothing():
    assert bias_of(np.full(7, 9.0), np.ones(100)) == ""
    assert bias_of(np.full(70, 9.0), np.ones(100), np.arange(170) // 10) == ""
