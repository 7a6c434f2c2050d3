"""Watches whether new images still look like the images that set the threshold."""

from array import array
from collections.abc import Sequence

import numpy as np

from daad_jax.config import DataConfig
from daad_jax.data.groups import open_grouping
from daad_jax.errors import UserError
from daad_jax.scoring.anomaly_score import Calibration
from daad_jax.scoring.drift import OUTLIER_SHARE, Drift, find_drift

MORE_THAN = 50  # images; with fewer, the test finds only a drift that everybody sees anyway
REMEDY = (
    "Look at the images: if camera, light or parts have changed and the images are good, calibrate with such "
    "images."
)


class DriftWatch:
    """Collects the scores of unlabelled images, and says at the end whether the scores have drifted.

    A score takes 8 bytes. If the calibration has groups, the names of all images are kept as well.

    Args:
        calibration: the calibration that the scores are compared with.
        data: says how images form groups.
    """

    def __init__(self, calibration: Calibration, data: DataConfig) -> None:
        self._calibration, self._data = calibration, data
        self._scores = array("d")
        self._names: list[str] = []

    def add(self, names: Sequence[str], scores: Sequence[float] | np.ndarray) -> None:
        """Notes images and their scores."""
        self._scores.extend(scores)
        if self._calibration.group_sizes:
            self._names += names

    def describe(self) -> str:
        """Returns one line about a drift; "" if there is none, or if there are too few images to tell."""
        if len(self._scores) <= MORE_THAN:
            return ""
        groups = None
        if self._calibration.group_sizes:
            groups = self._find_groups()
            if groups is None:
                return (
                    f"Drift is not watched: config.data.group = {self._data.group!r} gives these images no "
                    "groups, and the threshold was set from groups."
                )
        scores = np.asarray(self._scores)
        drift = find_drift(self._calibration, scores, groups, OUTLIER_SHARE)
        return describe_drift(drift, len(scores), REMEDY, OUTLIER_SHARE) if drift else ""

    def _find_groups(self) -> np.ndarray | None:
        """Returns the number of each image's group, `[N]`; None if an image has no group."""
        try:
            grouping = open_grouping(self._data)
        except UserError:  # the table of groups is not on this machine
            return None
        groups = grouping.group(self._names) if grouping else None
        return groups.numbers if groups and groups.is_found.all() else None


def describe_drift(drift: Drift, count: int, remedy: str, outlier_share: float = 0.0) -> str:
    """Returns one line about a drift: its direction, what it means, and what to do.

    Args:
        drift: the drift.
        count: the number of images.
        remedy: the end of the line, which says what to do.
        outlier_share: the test allows for this share of anomalous images, in [0, 1).
    """
    way, means = (
        ("higher", "good images may raise more false alarms than promised")
        if drift.is_higher
        else ("lower", "defects may be missed more often; or these images have trained the run")
    )
    despite = f", even if {100 * outlier_share:.0f} % of them are anomalous" if outlier_share else ""
    return (
        f"drift: the scores of these {count} images are {way} than the scores of the calibration's images "
        f"(typical p-value {drift.typical_p_value:.2g} instead of 0.5; chance explains it with a probability "
        f"of {drift.p_value:.1g}{despite}), so {means}. {remedy}"
    )
