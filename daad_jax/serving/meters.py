"""Counts images, scores and requests for Prometheus."""

from collections import deque
from collections.abc import Callable

import numpy as np
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from daad_jax.detection.drift_watch import MORE_THAN
from daad_jax.scoring.anomaly_score import Calibration
from daad_jax.scoring.drift import OUTLIER_SHARE, find_drift

# The upper bounds of the histogram of scores, as shares of the threshold: 1 is the threshold itself.
SHARES_OF_THRESHOLD = (0.25, 0.5, 0.625, 0.75, 0.875, 1.0, 1.125, 1.25, 1.5, 2.0, 4.0)
DRIFT_IMAGES = 500  # this many of the newest scores are compared with the calibration's scores
SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Meters:
    """Counts what a monitor should watch.

    Args:
        calibration: the calibration that new scores are compared with.
        threshold: an image with a higher score is anomalous; finite.
        waiting: returns how many images wait.
    """

    def __init__(self, calibration: Calibration, threshold: float, waiting: Callable[[], float]) -> None:
        self._calibration = calibration
        self._newest: deque[float] = deque(maxlen=DRIFT_IMAGES)
        self._registry = registry = CollectorRegistry()
        bounds = (
            sorted({share * threshold for share in SHARES_OF_THRESHOLD}) if threshold > 0 else [threshold]
        )
        self._scores = Histogram("daad_score", "Scores of images", buckets=bounds, registry=registry)
        self._images = Counter("daad_images", "Images by verdict", ["verdict"], registry=registry)
        self._seconds = Histogram(
            "daad_request_seconds", "Time from a request to its answer", buckets=SECONDS, registry=registry
        )
        self._refused = Counter(
            "daad_refused_requests",
            "Requests that were refused because too many images waited",
            registry=registry,
        )
        Gauge("daad_threshold", "A higher score is anomalous", registry=registry).set(threshold)
        Gauge("daad_waiting_images", "Images that wait", registry=registry).set_function(waiting)
        Gauge(
            "daad_drift",
            f"1: the newest {DRIFT_IMAGES} scores are higher than the calibration's scores; -1: lower",
            registry=registry,
        ).set_function(self._find_drift)
        for verdict in ("normal", "anomalous", "unusable"):
            self._images.labels(verdict)  # so that the page shows the counter before its first image

    def scored(self, score: float, is_anomalous: bool) -> None:
        """Counts an image and its verdict."""
        self._newest.append(score)
        self._scores.observe(score)
        self._images.labels("anomalous" if is_anomalous else "normal").inc()

    def _find_drift(self) -> float:
        """Returns 1 if new scores are higher than the calibration's, -1 if they are lower, and 0 otherwise.

        0 also stands for too few images, and for a calibration with groups, because requests name no groups.
        """
        if len(self._newest) <= MORE_THAN or self._calibration.group_sizes:
            return 0.0
        drift = find_drift(self._calibration, np.array(self._newest), outlier_share=OUTLIER_SHARE)
        return 0.0 if drift is None else 1.0 if drift.is_higher else -1.0

    def unusable(self) -> None:
        """Counts an image without a verdict."""
        self._images.labels("unusable").inc()

    def refused(self) -> None:
        """Counts a request that was refused."""
        self._refused.inc()

    def answered(self, seconds: float) -> None:
        """Counts a request that was answered."""
        self._seconds.observe(seconds)

    def render(self) -> tuple[bytes, int, dict[str, str]]:
        """Returns the page for Prometheus, its HTTP status and its headers."""
        return generate_latest(self._registry), 200, {"Content-Type": CONTENT_TYPE_LATEST}
