"""The units, the threshold and what it promises."""

import json

import numpy as np
import pytest

from daad_jax.errors import UserError
from daad_jax.scoring.anomaly_score import Calibration, Unit, calibrate, shortage

RNG = np.random.default_rng(0)


def made(count=400, gamma=0.7, rate=0.1):
    r, alignment = RNG.normal(5, 2, count), RNG.normal(100, 9, count)
    r_maps, l_maps = RNG.random((count, 6, 5)), 3 + RNG.normal(0, 9, (count, 6, 5)) ** 2
    return r, alignment, r_maps, l_maps, calibrate(r, alignment, r_maps, l_maps, gamma, rate)


def test_score_is_the_papers_in_units_of_normal_images():
    r, alignment, *_, found = made()
    weighted = 0.7 * r / r.std() + 0.3 * alignment / alignment.std()
    np.testing.assert_allclose(found.score(r, alignment), weighted / weighted.mean())
    np.testing.assert_allclose(found.score(2 * r, 2 * alignment), 2 * found.score(r, alignment))
    np.testing.assert_array_equal(found.scores, np.sort(found.score(r, alignment)))


def test_gamma_one_ignores_the_alignment():
    r, alignment, r_maps, l_maps, _ = made()
    found = calibrate(r, np.zeros_like(alignment), r_maps, np.zeros_like(l_maps), 1.0, 0.1)
    np.testing.assert_allclose(found.score(r, np.nan), r / r.mean())


def test_new_normal_images_are_flagged_as_rarely_as_promised():
    """Split-conformal: on average over calibration sets, never above the rate, and close below it."""
    for count, rate in ((19, 0.05), (30, 0.1), (200, 0.05)):
        alarms = []
        for _ in range(600):
            values = RNG.normal(size=(count + 50, 1, 1))
            held, new = 9 + values[:count, 0, 0], 9 + values[count:, 0, 0]
            found = calibrate(held, 0 * held, values[:count], 0 * values[:count], 1.0, rate)
            alarms.append(np.mean(found.score(new, 0) > found.threshold))
        error = 3 * np.std(alarms) / np.sqrt(len(alarms))
        assert np.mean(alarms) < rate + error
        assert np.mean(alarms) > rate - 1 / (count + 1) - error


def test_too_few_images_promise_what_they_can():
    *_, found = made(count=9, rate=0.01)
    assert found.threshold == found.scores[-1]
    assert found.promised_rate(0.01) == pytest.approx(0.1)
    assert found.promised_rate(0.5) == 0.5
    assert "only 9 image(s) are held out, so the threshold may flag up to 0.1 of normal" in shortage(9, 0.01)
    assert "a rate of 0.01 needs 99" in shortage(9, 0.01)
    assert shortage(98, 0.01)
    assert not shortage(99, 0.01)
    for rate in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(UserError, match="must be between 0 and 1"):
            found.threshold_at(rate)


def test_p_values_by_counting():
    *_, found = made(count=9)
    for score in (*found.scores, 0.0, 99.0):
        expected = (1 + sum(s >= score for s in found.scores)) / 10
        assert found.p_value(np.array([score]))[0] == pytest.approx(expected)


def test_threshold_and_p_value_are_one_rule():
    """Above the threshold at a rate: as unusual as at most that share of normal images."""
    *_, found = made(count=19)
    for score in RNG.normal(1, 0.5, 200):
        assert (score > found.threshold_at(0.2)) == (found.p_value(np.array([score]))[0] <= 0.2)


def test_maps_are_fused_in_their_own_units():
    _, _, r_maps, l_maps, found = made(gamma=0.7)
    fused = 0.7 * (r_maps - r_maps.mean()) / r_maps.std() + 0.3 * (l_maps - l_maps.mean()) / l_maps.std()
    np.testing.assert_allclose(found.heat(r_maps, l_maps) * found.heat_peak, fused, rtol=1e-6, atol=1e-9)


def test_the_brightest_places_of_normal_images_lie_below_one():
    *_, r_maps, l_maps, found = made(rate=0.1)
    peaks = found.heat(r_maps, l_maps).max(axis=(1, 2))
    assert np.mean(peaks <= 1 + 1e-12) == pytest.approx(0.9, abs=0.005)


def test_a_constant_has_no_spread_to_divide_by():
    assert Unit.measure(np.full(5, 3.0)).standardise(3.5) == 0.5


def test_json():
    *_, found = made(count=9)
    tree = json.loads(json.dumps(found.to_json()))
    assert Calibration.from_json(tree) == found
    for damage in ({"scores": []}, {"scores": [2.0, 1.0]}, {"gamma": "x"}, {"reconstruction": 3}):
        with pytest.raises(UserError, match="calibration is damaged"):
            Calibration.from_json(tree | damage)
    with pytest.raises(UserError, match="calibration is damaged"):
        Calibration.from_json({k: v for k, v in tree.items() if k != "heat_peak"})
