"""What every possible threshold means: the false-alarm rate that it promises."""

from typing import NamedTuple

import numpy as np

from daad_jax.scoring.anomaly_score import Calibration
from daad_jax.scoring.false_alarms import bound_rate


class ThresholdSteps(NamedTuple):
    """The false-alarm rate of a threshold changes only at the scores of the calibration's images.

    A threshold from `scores[i]` up to the next one flags a new normal image with a probability of at most
    `rates[i]` on average, and of at most `bounds[i]` with a confidence of 95 %. A lower threshold than
    `scores[0]` promises nothing.
    """

    scores: list[float]
    rates: list[float]
    bounds: list[float]


def find_steps(calibration: Calibration) -> ThresholdSteps:
    """The steps of a calibration, in ascending order of the scores."""
    scores = np.unique(calibration.scores)
    # A new image is flagged if its score is above the threshold: if it is at least the next number.
    rates = np.minimum(1.0, calibration.p_value(np.nextafter(scores, np.inf)))
    bounds = [bound_rate(calibration.group_count, rate) if rate < 1 else 1.0 for rate in rates.tolist()]
    return ThresholdSteps(scores.tolist(), rates.tolist(), bounds)
