"""Holds the run of a review. Its calibration may change while the review is open; the checkpoint may not."""

import copy
import threading
import time
from pathlib import Path

from daad_jax.buckets import is_in_bucket
from daad_jax.detection.detector import Detector
from daad_jax.errors import UserError
from daad_jax.training import calibrations
from daad_jax.training.calibration_files import fingerprint
from daad_jax.training.calibrations import CalibratedRun

SLOW_CHECK_S = 30.0  # between two checks in a bucket, or after a problem


class RunInUse:
    """The run of a review, with the calibration that is in use. Any thread may call any method.

    Args:
        workdir: the folder of the run.
        run: the run, with the calibration that was in use when the review began.
    """

    def __init__(self, workdir: Path, run: CalibratedRun) -> None:
        self.workdir, self._opened = workdir, run
        self._lock, self._compiling = threading.Lock(), threading.Lock()
        self._now = run
        self._by_id = {run.label.id: run}  # all that were in use since the review began
        self._problem, self._next_check = "", 0.0
        self._compiled: Detector | None = None  # with the calibration of `_opened`

    @property
    def now(self) -> CalibratedRun:
        """The run with the calibration in use."""
        return self._now

    @property
    def is_approximate(self) -> bool:
        """Whether scores of images with several tiles are approximate, see `store_key`."""
        return store_key(self._opened) != store_key(self._now)

    def find(self, id_: str) -> CalibratedRun:
        """Returns the run with a calibration that was in use since the review began.

        Raises:
            UserError: no such calibration was in use.
        """
        with self._lock:
            if id_ not in self._by_id:
                raise UserError(f"calibration {id_}: was not in use in this review; load the page again")
            return self._by_id[id_]

    def follow(self) -> str:
        """Takes over the calibration that another program has put into use, such as `daad-jax calibrate`.

        Only a small file is read, unless the calibration has changed.

        Returns:
            Why the calibration that is in use now cannot be taken over; "" if there is no problem.
        """
        with self._lock:
            if time.monotonic() < self._next_check:
                return self._problem
            try:
                self._set(calibrations.reload(self.workdir, self._now))
                self._problem = ""
            except UserError as error:
                self._problem = f"The review goes on with calibration {self._now.label.id}. {error}"
            if self._problem or is_in_bucket(self.workdir):
                self._next_check = time.monotonic() + SLOW_CHECK_S
            return self._problem

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
            before = self._now
            self._set(run)
        return before

    def _set(self, run: CalibratedRun) -> None:
        self._now = self._by_id[run.label.id] = run

    def first_detector(self) -> Detector:
        """Returns the detector with the calibration that was in use when the review began.

        The stored distances belong to this calibration, see `store_key`. The first call compiles.
        """
        with self._compiling:
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
