"""The test for a drift: beside scipy's exact one, by simulation, and with defects among the new images."""

import numpy as np
import pytest
from scipy.stats import ks_2samp

from daad_jax.config import Config
from daad_jax.detection.drift_watch import DriftWatch
from daad_jax.scoring.drift import OUTLIER_SHARE, find_drift
from tests.scoring.test_false_alarms import calibration_of

RNG = np.random.default_rng(0)


def draw(count, shift=0.0, spread=1.0):
    """Scores as they often are: skewed, with the mean 1."""
    return np.exp(0.3 * (spread * RNG.normal(size=count) + shift))


def alarm_rate(held_out, new, shift=0.0, defects=0.0, repeats=300, share=OUTLIER_SHARE, defect_score=10.0):
    alarms = 0
    for _ in range(repeats):
        scores = draw(new, shift)
        scores[: int(defects * new)] = defect_score
        alarms += find_drift(calibration_of(draw(held_out)), scores, outlier_share=share) is not None
    return alarms / repeats


@pytest.mark.parametrize(("held_out", "new", "ties"), [(47, 60, False), (200, 80, False), (47, 100, True)])
def test_it_is_scipys_test_and_never_bolder(held_out, new, ties):
    """The same distance and direction; our formula for the probability is an upper bound of the exact one."""
    for shift in (-1.0, -0.5, 0.3, 0.6, 1.0):
        first, second = draw(held_out), draw(new, shift)
        if ties:
            first, second = first.round(1), second.round(1)
        drift = find_drift(calibration_of(first), second, level=1.0)
        # scipy's "less": the first sample's distribution lies below, so its values are larger.
        sides = {
            higher: ks_2samp(first, second, alternative="greater" if higher else "less", method="exact")
            for higher in (True, False)
        }
        assert drift.is_higher == (sides[True].statistic >= sides[False].statistic)
        chosen = sides[drift.is_higher]
        exact, size = min(1.0, 2 * chosen.pvalue), held_out * new / (held_out + new)
        assert drift.p_value == pytest.approx(min(1.0, 2 * np.exp(-2 * size * chosen.statistic**2)))
        assert exact <= drift.p_value * 1.0001


@pytest.mark.parametrize(("held_out", "new"), [(20, 51), (47, 200), (200, 51)])
def test_false_alarms_stay_at_the_level(held_out, new):
    """A plain test of uniform p-values would raise 40 to 96 % false alarms with 20 held-out images."""
    assert alarm_rate(held_out, new, share=0.0) <= 0.03  # 0.01, and three standard deviations
    for defects in (0.0, 0.05, 0.1):
        for defect_score in (10.0, 0.01):
            assert alarm_rate(held_out, new, defects=defects, repeats=200, defect_score=defect_score) <= 0.03


def test_what_it_can_see_and_cannot():
    # A shift of one standard deviation, up and down, although 3 % are defects.
    assert alarm_rate(47, 200, shift=1.0, defects=0.03, repeats=50) > 0.9
    assert alarm_rate(47, 200, shift=-1.0, defects=0.03, repeats=50) > 0.85
    # A small shift stays hidden in few images.
    assert alarm_rate(20, 51, shift=0.3, repeats=50) < 0.1
    # Twice as many defects as are allowed for look like a drift only to many images.
    assert alarm_rate(1000, 1000, defects=0.2, repeats=10) > 0.9


def test_groups_count_once():
    """10 groups of 20 equal images are no 200 images: their levels differ by chance."""
    calibration = calibration_of(draw(50))
    alarms_by_images = alarms_by_groups = 0
    for _ in range(100):
        groups = np.repeat(np.arange(10), 20)
        scores = draw(10)[groups] * (1 + 1e-6 * RNG.random(200))
        alarms_by_images += find_drift(calibration, scores) is not None
        alarms_by_groups += find_drift(calibration, scores, groups) is not None
    assert alarms_by_images > 20
    assert alarms_by_groups <= 4
    drifted = find_drift(calibration, draw(200, 3.0), np.repeat(np.arange(40), 5))
    assert drifted is not None
    assert drifted.is_higher


def test_the_watch_of_a_prediction():
    data = Config().data
    for count, says in ((50, ""), (51, "drift: the scores of these 51 images are higher")):
        watch = DriftWatch(calibration_of(draw(100)), data)
        for i in range(count):
            watch.add([f"{i}.png"], draw(1, 5.0))
        assert watch.describe().startswith(says)
        assert bool(watch.describe()) == bool(says)
    watch = DriftWatch(calibration_of(draw(100)), data)
    watch.add(["a"] * 80, draw(80, -4.0))
    assert "are lower than" in watch.describe()
    assert "even if 10 % of them are anomalous" in watch.describe()

    # In a run with groups, images without a group are not watched, and that is said.
    grouped = calibration_of(draw(100), sizes=(2,) * 100)
    data.group = r"part(\d+)"
    watch = DriftWatch(grouped, data)
    watch.add([f"{i}.png" for i in range(80)], draw(80))
    assert watch.describe().startswith("Drift is not watched: ")
    watch = DriftWatch(grouped, data)
    watch.add([f"part{i // 2}.png" for i in range(80)], draw(80))
    assert watch.describe() == ""
