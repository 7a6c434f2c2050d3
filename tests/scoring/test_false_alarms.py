"""What a threshold promises with confidence, by simulation and by counting."""

import math

import numpy as np
import pytest
from scipy.stats import beta, binom

from daad_jax.scoring.anomaly_score import Calibration, Unit
from daad_jax.scoring.false_alarms import average_rate, bound_rate, count_above, images_needed

RNG = np.random.default_rng(0)


def calibration_of(scores, rate=0.05, sizes=()):
    return Calibration(*[Unit(1.0, 1.0)] * 4, 1.0, 1.0, rate, tuple(np.sort(scores).tolist()), sizes)


def true_rates(count, rate, repeats=4000):
    """The share of uniform scores above the threshold, which is 1 - threshold, for many held-out sets."""
    held_out = RNG.random((repeats, count))
    return np.array([1 - calibration_of(scores).threshold_at(rate) for scores in held_out])


@pytest.mark.parametrize(("count", "rate"), [(47, 0.05), (19, 0.05), (10, 0.05), (200, 0.01), (99, 0.01)])
def test_the_true_rate_is_a_beta_variable(count, rate):
    rates = true_rates(count, rate)
    k = count_above(count, rate)
    for confidence in (0.5, 0.9, 0.95):
        bound = bound_rate(count, rate, confidence)
        assert np.mean(rates <= bound) == pytest.approx(confidence, abs=4 * math.sqrt(0.25 / len(rates)))
        # By the binomial distribution: more than n - k of n images are below the quantile 1 - bound.
        assert binom.sf(k - 1, count, bound) == pytest.approx(confidence)
    assert rates.mean() == pytest.approx(k / (count + 1), rel=0.05)


def test_the_number_of_images_by_trial():
    assert images_needed(0.05, 0.95) == 59  # Wilks' number
    assert images_needed(0.01, 0.99) == 459
    for rate in (0.001, 0.02, 0.05, 0.3, 0.5):
        for confidence in (0.5, 0.9, 0.95, 0.999):
            needed = next(n for n in range(1, 10_000) if 1 - (1 - rate) ** n >= confidence - 1e-12)
            assert images_needed(rate, confidence) == needed


@pytest.mark.parametrize(
    ("count", "rate", "confidence"), [(59, 0.05, 0.95), (300, 0.05, 0.9), (1000, 0.01, 0.95)]
)
def test_the_threshold_with_confidence_is_the_lowest_that_holds(count, rate, confidence):
    chosen = average_rate(count, rate, confidence)
    k = count_above(count, chosen)
    assert chosen == pytest.approx(k / (count + 1))
    assert beta.cdf(rate, k, count + 1 - k) >= confidence > beta.cdf(rate, k + 1, count - k)
    scores = RNG.random(count)
    assert calibration_of(scores).threshold_at(chosen) == np.sort(scores)[-k]
    assert average_rate(images_needed(rate, confidence), rate, confidence) is not None
    assert average_rate(images_needed(rate, confidence) - 1, rate, confidence) is None


def test_groups_vary_less_than_their_number_of_single_images():
    """40 groups of 1 to 4 images, each with its own level: the bound holds as often as it says, or more."""
    sizes, hits = RNG.integers(1, 5, 40), 0
    bound = bound_rate(40, 0.1, 0.9)
    new_groups = RNG.normal(size=20_000)
    new = new_groups + RNG.normal(size=20_000)
    for _ in range(300):
        groups = np.repeat(np.arange(40), sizes)
        scores = RNG.normal(size=40)[groups] + RNG.normal(size=len(groups))
        order = np.argsort(scores)
        calibration = calibration_of(scores, 0.1, tuple(sizes[groups][order].tolist()))
        hits += np.mean(new > calibration.threshold) <= bound
    assert hits / 300 >= 0.88
