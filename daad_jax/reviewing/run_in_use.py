"""Holds the run of a review. Its calibration may change while the review is open; the checkpoint may not."""

import copy
import threading
from pathlib import Path

from daad_jax.detection.detector import Detector
from daad_jax.errors import UserError
from daad_jax.training.calibration_files import fingerprint
from daad_jax.training.calibrations import CalibratedRun


class RunInUse:
    """The run of a review, with the calibration that is in use. Any thread may call any method.

    Args:
        workdir: the folder of the run.
        run: the run, with the calibration that was in use when the review began.
    """

    def __init__(self, workdir: Path, run: CalibratedRun) -> None:
        self.workdir, self._opened = workdir, run
        self._lock = threading.Lock()  # guards all attributes below
        self._now = run
        self._compiled: Detector | None = None  # with the calibration of `_opened`

    @property
    def now(self) -> CalibratedRun:
        """The run with the calibration in use."""
        return self._now

    @property
    def is_approximate(self) -> bool:
        """Whether scores of images with several tiles are approximate, see `store_key`."""
        return store_key(self._opened) != store_key(self._now)

    def replace(self, run: CalibratedRun) -> CalibratedRun:
        """Puts another calibration into use, and returns the run with the calibration before.

        Raises:
            UserError: `run` has another checkpoint.
        """
        of_review = self._opened
        if fingerprint(run.of_training, run.label.step) != fingerprint(
            of_review.of_training, of_review.label.step
        ):
            raise UserError(
                f"{self.workdir}: has trained on since this review began, to step {run.label.step}; start "
                "the review again"
            )
        with self._lock:
            before, self._now = self._now, run
        return before

    def first_detector(self) -> Detector:
        """Returns the detector with the calibration that was in use when the review began.

        The stored distances belong to this calibration, see `store_key`. The first call compiles.
        """
        with self._lock:
            if self._compiled is None:
                run = self._opened
                self._compiled = Detector(run.state, run.config, run.calibration, label=run.label)
            return self._compiled

    def detector(self) -> Detector:
        """Returns a detector with the calibration in use. It keeps this calibration."""
        run, detector = self._now, copy.copy(self.first_detector())
        detector.calibration, detector.calibration_label = run.calibration, run.label
        detector.threshold = run.calibration.threshold
        return detector


def store_key(run: CalibratedRun) -> str:
    """Returns a text that differs between runs with different distances R and L.

    The distances depend on the checkpoint. With tiles, they also depend on the calibration, which decides
    which tile is the least normal.
    """
    of_calibration = run.label.id if run.config.data.tiles and run.calibration.gamma < 1 else ""
    return f"{fingerprint(run.of_training, run.label.step)} {of_calibration}"
