"""The units, the threshold and what it promises."""

import json

import numpy as np
import pytest

from daad_jax.errors import UserError
from daad_jax.scoring.anomaly_score import Calibration, Unit, calibrate, held_out_needed, shortage

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


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"reconstruction": {"mean": NAN, "std": 1.0}}, "the mean of reconstruction is nan"),
        ({"alignment_map": {"mean": -INF, "std": 1.0}}, "the mean of alignment_map is -inf"),
        *(
            ({name: {"mean": 1.0, "std": std}}, f"the standard deviation of {name} is {std}")
            for name in ("reconstruction", "alignment", "reconstruction_map", "alignment_map")
            for std in (NAN, 0.0, -1.0, INF)
        ),
        *(({"gamma": gamma}, f"gamma is {gamma}") for gamma in (7.0, -0.1, NAN)),
        *(({"false_alarm_rate": rate}, f"false_alarm_rate is {rate}") for rate in (0.0, 1.0, NAN)),
        *(({"heat_peak": peak}, f"heat_peak is {peak}") for peak in (0.0, -1.0, NAN, INF)),
        ({"scores": [NAN]}, "a score of a held-out image is not finite"),
        ({"scores": [1.0, INF]}, "a score of a held-out image is not finite"),
        (
            {"reconstruction": {"mean": 0.0, "std": 1.0}, "alignment": {"mean": 0.0, "std": 1.0}},
            "mean distance of held-out images is not positive",
        ),
        ({"reconstruction": {"mean": -1e9, "std": 1.0}}, "mean distance of held-out images is not positive"),
    ],
)
def test_an_impossible_calibration_is_refused(changes, fault):
    *_, found = made(count=9)
    assert found.find_fault() == ""
    tree = json.loads(json.dumps(found.to_json() | changes))  # JSON of Python holds NaN and Infinity
    with pytest.raises(UserError, match="the stored calibration is damaged: ") as caught:
        Calibration.from_json(tree)
    assert fault in str(caught.value)


def bursts(sizes, spread):
    """Scores of images in groups: what the group has in common, and a little of each image's own."""
    groups = np.repeat(np.arange(len(sizes)), sizes)
    return 9 + RNG.normal(size=len(sizes))[groups] + spread * RNG.normal(size=len(groups)), groups


def calibrated(scores, groups, rate):
    maps = np.zeros((len(scores), 1, 1))
    return calibrate(scores, 0 * scores, maps, maps, 1.0, rate, groups)


@pytest.mark.parametrize(
    "spread", [pytest.param(0.0, marks=pytest.mark.slow), 0.3, pytest.param(3.0, marks=pytest.mark.slow)]
)
def test_groups_keep_the_promise_for_images_of_new_groups(spread):
    """Also if their sizes differ much, and if few groups are held out."""
    for count, rate in ((25, 0.1), (60, 0.05)):
        alarms = []
        for _ in range(400):
            sizes = RNG.choice([1, 2, 30], count + 20)
            scores, groups = bursts(sizes, spread)
            found = calibrated(scores[groups < count], groups[groups < count], rate)
            over = found.score(scores, 0 * scores) > found.threshold
            alarms.append(np.mean([over[groups == new].mean() for new in range(count, count + 20)]))
        assert found.group_count == count
        error = 3 * np.std(alarms) / np.sqrt(len(alarms))
        assert np.mean(alarms) < rate + error
        assert np.mean(alarms) > rate - 1 / (count + 1) - error


def test_groups_count_as_groups():
    scores, groups = bursts([4, 1, 2, 2], 0.5)
    found = calibrated(scores, groups, 0.2)
    assert found.group_count == 4
    assert sorted(found.group_sizes) == [1, 2, 2, 2, 2, 4, 4, 4, 4]
    assert found.promised_rate(0.01) == pytest.approx(0.2)
    for score in (*found.scores, 0.0, 99.0):
        shares = [np.mean(found.score(scores[groups == g], 0) >= score) for g in range(4)]
        assert found.p_value(np.array([score]))[0] == pytest.approx((1 + sum(shares)) / 5)
    assert "only 4 group(s) of images are held out" in found.shortage(0.05)
    assert "give calibrate more good groups" in found.shortage(0.05)
    assert found.describe_promise(0.2).endswith("(set from 9 held-out images of 4 groups)")
    for score in RNG.normal(1, 0.2, 100):
        for rate in (0.2, 0.4, 0.5):
            assert (score > found.threshold_at(rate)) == (found.p_value(np.array([score]))[0] <= rate + 1e-9)


def test_groups_of_one_image_change_nothing():
    r, alignment, r_maps, l_maps, found = made(count=30)
    alone = calibrate(r, alignment, r_maps, l_maps, 0.7, 0.1, np.arange(30)[::-1])
    assert alone.scores == found.scores
    assert alone.group_count == found.group_count == 30
    for rate in np.linspace(0.001, 0.999, 300):
        rank = int(np.ceil(31 * (1 - rate) - 1e-9))
        assert alone.threshold_at(rate) == found.threshold_at(rate) == found.scores[min(rank, 30) - 1]
    scores = np.append(RNG.normal(1, 0.3, 50), found.scores)
    np.testing.assert_array_equal(alone.p_value(scores), found.p_value(scores))
    assert found.describe_promise(0.1).startswith("flags at most 10 % of normal images, if new ones vary as")


def test_groups_are_stored():
    found = calibrated(*bursts([2, 3], 1.0), 0.5)
    tree = json.loads(json.dumps(found.to_json()))
    assert Calibration.from_json(tree) == found
    without = {k: v for k, v in tree.items() if k != "group_sizes"}  # as older versions stored it
    assert Calibration.from_json(without).group_count == 5
    for sizes in ([2, 3], [2, 2, 2, 3, 3], [0, 2, 2, 3, 3], ["x"] * 5, 7):
        with pytest.raises(UserError, match="calibration is damaged"):
            Calibration.from_json(tree | {"group_sizes": sizes})


def test_bursts_break_the_promise_if_they_are_divided():
    """The model knows the parts that it has trained on, so photos of these parts score low.

    Held out photo by photo, nearly every held-out photo has siblings that trained; held out by part, none.
    """
    alarms = {}
    for way in ("by image", "by group"):
        rates = []
        for _ in range(200):
            base, groups = bursts([5] * 40, 0.05)
            order = RNG.permutation(200) if way == "by image" else np.argsort(RNG.permutation(40)[groups])
            held_out, train = order[:100], order[100:]
            has_trained = np.isin(groups, groups[train])
            scores = base - 5.0 * has_trained  # as a model would score them that has learned those parts
            new, _ = bursts([5] * 40, 0.05)
            found = calibrated(scores[held_out], groups[held_out] if way == "by group" else None, 0.05)
            rates.append(np.mean(new > found.threshold * scores[held_out].mean()))
        alarms[way] = np.mean(rates)
    assert alarms["by image"] > 0.5
    assert alarms["by group"] < 0.05 + 0.01


def test_as_many_images_as_a_rate_was_chosen_for_are_enough():
    assert [n for n in range(1, 3000) if held_out_needed(1 / (n + 1)) != n] == []
