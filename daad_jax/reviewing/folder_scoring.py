"""Scores the images of a folder in a thread, while people already look at scored images."""

import threading
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from daad_jax.detection.detector import Detector
from daad_jax.errors import UserError
from daad_jax.reviewing.folder_images import ReviewImage
from daad_jax.reviewing.score_store import ScoreStore, StoredScore
from daad_jax.reviewing.shown_pictures import Pictures, WatchedFile
from daad_jax.scoring.anomaly_score import Calibration
from daad_jax.terminal import warn

Outcome = tuple[ReviewImage, StoredScore | None, str]  # an image; its score, or None and the reason


def score_outcomes(outcomes: Sequence[Outcome], calibration: Calibration) -> np.ndarray:
    """The scores of some images by a calibration, `[N]`; NaN for those that could not be read."""
    nothing = float("nan"), float("nan")
    pairs = [score[:2] if score else nothing for _, score, _ in outcomes]
    distances = np.array(pairs, np.float64).reshape(-1, 2)
    return np.asarray(calibration.score(distances[:, 0], distances[:, 1]))


class FolderScoring:
    """Scores images, keeps their scores and thumbnails, and reports them batch by batch.

    Args:
        images: the images to score.
        detector: returns the detector.
        store: keeps the scores.
        pictures: makes and keeps the thumbnails.
        report: receives the outcomes of each batch.
    """

    def __init__(
        self,
        images: Sequence[ReviewImage],
        detector: Callable[[], Detector],
        store: ScoreStore,
        pictures: Pictures,
        report: Callable[[list[Outcome]], None],
    ) -> None:
        self._images, self._detector, self._store = images, detector, store
        self._pictures, self._report = pictures, report
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scoring")
        self.problem = ""  # the reason if the scoring ended early

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the scoring after the current batch."""
        self._is_stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._score_all()
        except UserError as error:
            self.problem = str(error)
        except Exception as error:  # without this line, the page would wait for ever
            self.problem = f"unexpected {type(error).__name__}: {error}; the images are not all scored"
        if self.problem:
            warn(self.problem)

    def _score_all(self) -> None:
        detector = self._detector()  # the first call compiles; heat maps then need not wait
        files = (
            WatchedFile.of(image.file, partial(self._pictures.keep_thumbnail, image))
            for image in self._images
        )
        batches = detector.stream(files)
        first = 0
        for entries, detections in batches:
            images = self._images[first : first + len(entries)]
            first += len(entries)
            outcomes: list[Outcome] = []
            row = 0
            for image, entry in zip(images, entries):
                if entry.error or detections is None:
                    warn(str(entry.error))
                    outcomes.append((image, None, str(entry.error)))
                    continue
                score = StoredScore(
                    float(detections.reconstruction[row]),
                    float(detections.alignment[row]),
                    bool(detections.clipped[row]),
                    entry.sha256,
                )
                outcomes.append((image, score, ""))
                row += 1
            self._store.write_scores((i.id, i.stamp, score) for i, score, _ in outcomes if score)
            self._report(outcomes)
            if self._is_stopped.is_set():
                batches.close()  # type: ignore[attr-defined]
                return
