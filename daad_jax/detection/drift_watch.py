"""Watches whether the images that are scored still look like those that set the threshold."""

from array import array
from collections.abc import Sequence

import numpy as np

from daad_jax.config import DataConfig
from daad_jax.data.groups import open_grouping
from daad_jax.errors import UserError
from daad_jax.scoring.anomaly_score import Calibration
from daad_jax.scoring.drift import OUTLIER_SHARE, Drift, find_drift

MORE_THAN = 50  # images; of fewer, the test would see only what nobody can miss
REMEDY = (
    "Look at the images: if camera, light or parts have changed and the images are good, calibrate with such "
    "images."
)


class DriftWatch:
    """Collects the scores of unlabelled images, 8 bytes each, and says at the end whether they have drifted.

    If the held-out images came in groups, the names of all images are kept as well.
    """

    def __init__(self, calibration: Calibration, data: DataConfig) -> None:
        self._calibration, self._data = calibration, data
        self._scores = array("d")
        self._names: list[str] = []

    def add(self, names: Sequence[str], scores: Sequence[float] | np.ndarray) -> None:
        """Notes images, and their scores by the calibration."""
        self._scores.extend(scores)
        if self._calibration.group_sizes:
            self._names += names

    def describe(self) -> str:
        """One line about a drift; "" if there is none, or if there are too few images to tell."""
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
        """The group of each image; None if an image has none."""
        try:
            grouping = open_grouping(self._data)
        except UserError:  # its table is not here
            return None
        groups = grouping.group(self._names) if grouping else None
        return groups.numbers if groups and groups.is_found.all() else None


def describe_drift(drift: Drift, count: int, remedy: str, outlier_share: float = 0.0) -> str:
    """One line about a drift of `count` images, with its direction and what to do.

    `remedy` ends the line. `outlier_share` is the share of the images that could have been anomalous without
    an alarm.
    """
    way, means = (
        ("higher", "good images may raise more false alarms than promised")
        if drift.is_higher
        else ("lower", "defects may be missed more often; or these images have trained the run")
    )
    despite = f", even if {100 * outlier_share:.0f} % of them are anomalous" if outlier_share else ""
    return (
        f"drift: the scores of these {count} images are {way} than those of the calibration's images "
        f"(typical p-value {drift.typical_p_value:.2g} instead of 0.5; chance explains it with a probability "
        f"of {drift.p_value:.1g}{despite}), so {means}. {remedy}"
    )
