"""Drift: tests whether new images still score like the images that set the threshold.

If nothing has changed, held-out and new scores are drawn alike, and the conformal p-values of new images are
uniform, up to what the finite number of held-out images allows. p-values of one calibration depend on each
other, so a test of uniformity would raise too many alarms. We compare both sets of scores instead, by a
one-sided two-sample Kolmogorov-Smirnov test for each direction.

A few new images may be defects. So the test leaves out the share of new images that speaks most for a drift:
the highest scores when it asks whether scores are higher, and the lowest ones when it asks whether they are
lower. The remaining images cannot differ more than the good images do, so defects up to this share raise no
alarm, even with extreme scores.
"""

import math
from dataclasses import dataclass

import numpy as np

from daad_jax.scoring.anomaly_score import Calibration

LEVEL = 0.01  # the probability of an alarm without a drift is at most about this
OUTLIER_SHARE = 0.1  # up to this share of unlabelled images may be anomalous


@dataclass(frozen=True)
class Drift:
    """New scores differ from the scores of a calibration, and chance hardly explains the difference.

    Attributes:
        is_higher: whether the new scores are higher.
        p_value: the p-value of the test, in [0, 1].
        typical_p_value: the median of the images' conformal p-values, about 0.5 without a drift.
    """

    is_higher: bool
    p_value: float
    typical_p_value: float


def find_drift(
    calibration: Calibration,
    scores: np.ndarray,
    groups: np.ndarray | None = None,
    outlier_share: float = 0.0,
    level: float = LEVEL,
) -> Drift | None:
    """The drift from the held-out images of a calibration to new images; None if chance explains it.

    Args:
        calibration: the calibration that new scores are compared with.
        scores: the scores of new images by this calibration, `[N]`.
        groups: equal integers for new images that belong together, `[N]`; None if each is for itself. Groups
            are then counted, and each image is a share of its group.
        outlier_share: up to this share of the new images, or of their groups, may be anomalous, in [0, 1).
        level: the probability of an alarm where there is no drift.
    """
    order = np.argsort(scores, kind="stable")
    sizes = np.ones(len(scores))
    if groups is not None:
        _, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
        sizes = counts[inverse].astype(float)
    new = _Sample(scores[order], 1 / sizes[order])
    held_out = _Sample(np.asarray(calibration.scores), calibration.shares)
    # This many groups may have any scores without an alarm.
    left_out = math.floor(outlier_share * new.count + 1e-9)
    share, count = left_out / new.count, new.count - left_out
    at_held_out, at_new = held_out.scores, new.scores
    higher = held_out.share_up_to(at_held_out) - np.minimum(1, new.share_up_to(at_held_out) / (1 - share))
    lower = np.maximum(0, (new.share_up_to(at_new) - share) / (1 - share)) - held_out.share_up_to(at_new)
    largest = float(higher.max()), float(lower.max())
    p_value = min(1.0, 2 * _tail(max(largest), held_out.count, count))
    if p_value > level:
        return None
    return Drift(largest[0] >= largest[1], p_value, float(np.median(calibration.p_value(scores))))


class _Sample:
    """Scores in ascending order `[N]`, and how much of its group each image is `[N]`."""

    def __init__(self, scores: np.ndarray, shares: np.ndarray) -> None:
        self.scores, self.count = scores, float(shares.sum())
        self._up_to = np.concatenate([[0.0], np.cumsum(shares) / self.count])

    def share_up_to(self, scores: np.ndarray) -> np.ndarray:
        """The share of groups at or below each score: `[M]` -> `[M]`."""
        return self._up_to[np.searchsorted(self.scores, scores, side="right")]


def _tail(distance: float, first: float, second: float) -> float:
    """The probability of such a one-sided distance between two samples of these sizes, by Smirnov's formula.

    It is the limit for large samples. In small ones, the true probability is smaller.
    """
    return math.exp(-2 * first * second / (first + second) * max(0.0, distance) ** 2)
