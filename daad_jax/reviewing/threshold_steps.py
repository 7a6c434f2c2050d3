"""Finds the false-alarm rate that every possible threshold promises."""

from typing import NamedTuple

import numpy as np

from daad_jax.scoring.anomaly_score import Calibration
from daad_jax.scoring.false_alarms import bound_rate


class ThresholdSteps(NamedTuple):
    """The promised rates of all thresholds. A rate changes only at the scores of the calibration's images.

    A threshold in [`scores[i]`, `scores[i + 1]`) flags a new normal image with a probability of at most
    `rates[i]` on average, and of at most `bounds[i]` with a confidence of 95 %. A threshold below `scores[0]`
    promises nothing.
    """

    scores: list[float]
    rates: list[float]
    bounds: list[float]


def find_steps(calibration: Calibration) -> ThresholdSteps:
    """Returns the steps of a calibration, in ascending order of the scores."""
    scores = np.unique(calibration.scores)
    # "Above the threshold" is "at least the next float64 number", which the p-value counts.
    rates = np.minimum(1.0, calibration.p_value(np.nextafter(scores, np.inf)))
    bounds = [bound_rate(calibration.group_count, rate) if rate < 1 else 1.0 for rate in rates.tolist()]
    return ThresholdSteps(scores.tolist(), rates.tolist(), bounds)
