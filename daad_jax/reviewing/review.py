"""Holds the scores, marks and calibrations of a review, and answers what the page asks."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from daad_jax.config import Config
from daad_jax.detection.drift_watch import DriftWatch
from daad_jax.errors import UserError
from daad_jax.escaping import for_page
from daad_jax.reviewing.folder_images import LABEL_DEFECT, FolderImages, ReviewImage, number_groups
from daad_jax.reviewing.folder_scoring import FolderScoring, Outcome, score_outcomes
from daad_jax.reviewing.marked_calibration import calibrate_from_marks
from daad_jax.reviewing.marks import DEFECT, GOOD, NO_MARK, About, Marked, Marks
from daad_jax.reviewing.run_in_use import RunInUse
from daad_jax.reviewing.score_store import ScoreStore, StoredScore
from daad_jax.reviewing.shown_pictures import Pictures
from daad_jax.reviewing.threshold_steps import find_steps
from daad_jax.reviewing.verdict_table import write_verdicts
from daad_jax.scoring.false_alarms import images_needed
from daad_jax.training import calibrations
from daad_jax.training.calibrations import CalibratedRun

PATIENCE_S = 5.0  # until a window that wants to calibrate is refused


class Review:
    """The review of one folder. Any thread may call any method.

    Args:
        workdir: the folder of the run.
        folder: the folder of the images.
        run: the run, with the calibration that is in use.
        found: the images of the folder.
        store: has scores and thumbnails of earlier reviews.
        marks: has the marks of earlier reviews.
    """

    def __init__(
        self,
        workdir: Path,
        folder: Path,
        run: CalibratedRun,
        found: FolderImages,
        store: ScoreStore,
        marks: Marks,
    ) -> None:
        self._run, self._folder, self._found = RunInUse(workdir, run), folder, found
        self._store, self._marks = store, marks
        self._by_id = {image.id: image for image in found.images}
        self._groups: dict[str, int] = {}  # by the image's id; empty if no images belong together
        self._group_problem = ""
        try:
            numbers = number_groups(found.images, run.config.data)
            self._groups = dict(zip(self._by_id, numbers or []))
        except UserError as error:  # the table of groups is not here; calibrating needs it
            self._group_problem = f"No calibration is possible: {error}"
        self._outcomes: dict[str, Outcome] = {}  # by the image's id, in the order of scoring
        self._lock = threading.Lock()  # guards the outcomes
        self._calibrating = threading.Lock()
        self.pictures = Pictures(run.config.data, store, self._run.detector, self._digest_of)
        known = store.read_scores()
        todo = []
        for image in found.images:
            if score := known.get((image.id, image.stamp)):
                self._outcomes[image.id] = image, score, ""
            else:
                todo.append(image)
        # The id of a calibration and a count of changes, and the sentence about the drift at that moment.
        self._drift = ("", 0), ""
        # The SHA-256 of images whose file had changed since they were marked, by id.
        self._remarked: dict[str, str] = {}
        self._note_remarked(list(self._outcomes.values()))
        self._scoring = FolderScoring(todo, self._run.first_detector, store, self.pictures, self._add)

    @property
    def config(self) -> Config:
        return self._run.now.config

    def start(self) -> None:
        """Begins to score the images that have no score yet."""
        self._scoring.start()

    def close(self) -> None:
        """Ends the scoring."""
        self._scoring.stop()
        self._store.close()

    def find(self, id_: str) -> ReviewImage:
        """Returns the image with an id. Raises KeyError if there is none."""
        return self._by_id[id_]

    def describe(self) -> dict[str, Any]:
        """Describes the run, the folder and the calibration, for the page."""
        run = self._run.now
        return {
            "run": for_page(self._run.workdir.absolute().name),
            "folder": for_page(str(self._folder)),
            "step": run.label.step,
            "calibration": run.label.id,
            "calibration_text": run.label.describe(),
            "threshold": run.calibration.threshold,
            "rate": run.config.score.false_alarm_rate,
            "needed": images_needed(run.config.score.false_alarm_rate),
            "steps": find_steps(run.calibration)._asdict(),
            "counts_groups": bool(run.calibration.group_sizes),
            "total": len(self._found.images),
            "left_out": dict(self._found.left_out),
            "has_reconstruction": not run.config.model.features,
        }

    def progress(self, marks: int = 0) -> dict[str, Any]:
        """Says how many images are scored, and what other windows have changed, for the page.

        Args:
            marks: how many changes of marks the page has seen.
        """
        is_running, problem = self._scoring.is_running, self._follow()
        with self._lock:
            done, calibration = len(self._outcomes), self._run.now.label.id
        state = calibration, self._marks.change_count
        if not is_running and self._drift[0] != state:
            self._drift = state, self._describe_drift()
        changes = self._marks.changes_since(marks)
        notes = [problem, self._scoring.problem, self._group_problem, "" if is_running else self._drift[1]]
        with self._lock:
            remarked = list(self._remarked.items())
        if count := sum(self._marks.is_of_other_content(*each) for each in remarked):
            notes.append(
                "1 image has changed since it was marked, so its mark does not count."
                if count == 1
                else f"{count} images have changed since they were marked, so their marks do not count."
            )
        return {
            "done": done,
            "is_scoring": is_running,
            "calibration": calibration,
            "marks": marks + len(changes),
            "changes": changes,
            "notes": for_page(" ".join(note for note in notes if note)),
        }

    def rows(self, since: int) -> dict[str, Any]:
        """Returns the scored images from number `since` on, as columns of equal length."""
        marks = self._marks.change_count
        outcomes, run = self._snapshot()
        outcomes = outcomes[since:]
        scores = score_outcomes(outcomes, run.calibration)
        p_values = run.calibration.p_value(np.nan_to_num(scores, nan=-np.inf))
        return {
            "first": since,
            "marks": marks,
            "calibration": run.label.id,
            "id": [image.id for image, _, _ in outcomes],
            "name": [for_page(image.name) for image, _, _ in outcomes],
            "score": [None if np.isnan(score) else score for score in scores.tolist()],
            "p_value": p_values.tolist(),
            "clipped": [int(score.clipped) if score else 0 for _, score, _ in outcomes],
            "label": [image.label for image, _, _ in outcomes],
            "mark": [self._marks.get(i.id, score.sha256) if score else NO_MARK for i, score, _ in outcomes],
            "error": [for_page(error) for _, _, error in outcomes],
        } | ({"group": [self._groups[image.id] for image, _, _ in outcomes]} if self._groups else {})

    def mark(self, id_: str, mark: str, shown: str) -> dict[str, Any]:
        """Marks an image; see `Marks.mark`. Returns what the page needs.

        Raises:
            KeyError: there is no such image.
            UserError: the image has no score, was marked in another window, or the mark could not be saved.
        """
        about = self._about(self.find(id_).id)
        if about is None:
            raise UserError(f"{self.find(id_).name}: has no score, so nobody has seen it; it is not marked")
        return self._tell(self._marks.mark(id_, mark, about, shown))

    def undo(self, marks: int) -> dict[str, Any]:
        """Takes the last mark back, see `Marks.undo`. The answer is empty if there is no mark.

        Args:
            marks: how many changes of marks the page has seen.
        """
        undone = self._marks.undo(self._about, marks)
        return self._tell(undone) if undone else {}

    def _tell(self, marked: Marked) -> dict[str, Any]:
        return {**marked._asdict(), "marks": self._marks.change_count}

    def recalibrate(self, confidence: float | None = None) -> dict[str, Any]:
        """Calibrates the run with the images that are marked as good, and puts the calibration into use.

        Args:
            confidence: see `recalibration.calibrate_run`.

        Returns:
            An object for the page: `lines` of text, `changed`, the ids of the images whose verdicts change,
            how many images are `flagged_now` and `passed_now`, and the calibration `before`.

        Raises:
            UserError: another window calibrates; or see `calibrate_from_marks`.
        """
        with self._alone():
            outcomes, run = self._snapshot()
            lines = calibrate_from_marks(
                self._run.workdir, run, self._folder, outcomes, self._marks, self._groups, confidence
            )
            return self._change(lines)

    def use(self, id_: str) -> dict[str, Any]:
        """Puts another calibration of the run into use; see `calibrations.use` and `recalibrate`."""
        with self._alone():
            now = calibrations.use(self._run.workdir, id_)
            return self._change([f"Calibration {now} is in use again."])

    def verdicts(self, threshold: float, calibration: str) -> Iterator[str]:
        """Returns the lines of a CSV file, see `write_verdicts`.

        Args:
            threshold: an image with a higher score is anomalous.
            calibration: the id of the calibration whose scores the page shows.

        Raises:
            UserError: see `RunInUse.find`.
        """
        outcomes, _ = self._snapshot()
        return write_verdicts(outcomes, self._run.find(calibration), self._marks, threshold)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Lets one window at a time change the calibration. Raises UserError while another one does so.

        Nobody waits, because a waiting window would take a thread that saves marks.
        """
        if not self._calibrating.acquire(timeout=PATIENCE_S):
            raise UserError("another window calibrates this run; wait until it is done")
        try:
            self._run.follow()
            yield
        finally:
            self._calibrating.release()

    def _follow(self) -> str:
        """Takes over another program's calibration, see `RunInUse.follow`, unless this review calibrates."""
        if not self._calibrating.acquire(blocking=False):
            return ""
        try:
            return self._run.follow()
        finally:
            self._calibrating.release()

    def _snapshot(self) -> tuple[list[Outcome], CalibratedRun]:
        """Returns all outcomes so far, and the run with the calibration in use."""
        with self._lock:
            return list(self._outcomes.values()), self._run.now

    def _change(self, lines: list[str]) -> dict[str, Any]:
        """Loads the calibration that is in use now, and returns which verdicts change, see `recalibrate`."""
        run = calibrations.load(self._run.workdir)
        outcomes, _ = self._snapshot()
        old = self._run.replace(run)
        was, is_now = (score_outcomes(outcomes, c) > c.threshold for c in (old.calibration, run.calibration))
        if self._run.is_approximate:
            lines = [*lines, "Scores of images with several tiles are approximate until the next start."]
        changed = [image.id for (image, _, _), a, b in zip(outcomes, was, is_now) if a != b]
        return {
            "lines": [for_page(line) for line in lines],
            "changed": changed,
            "flagged_now": int((is_now & ~was).sum()),
            "passed_now": int((was & ~is_now).sum()),
            "before": old.label.id,
            "before_text": old.label.describe(),
        }

    def _about(self, id_: str) -> About | None:
        with self._lock:
            outcome, run = self._outcomes.get(id_), self._run.now
        if outcome is None or outcome[1] is None:
            return None
        score = float(score_outcomes([outcome], run.calibration)[0])
        return About(outcome[0].name, outcome[1].sha256, score, run.label.id)

    def _digest_of(self, image: ReviewImage) -> str:
        """Returns the SHA-256 of the file that was scored; "" if the image has no score."""
        with self._lock:
            outcome = self._outcomes.get(image.id)
        return outcome[1].sha256 if outcome and outcome[1] else ""

    def _add(self, outcomes: list[Outcome]) -> None:
        with self._lock:
            self._outcomes.update((outcome[0].id, outcome) for outcome in outcomes)
        self._note_remarked(outcomes)

    def _note_remarked(self, outcomes: list[Outcome]) -> None:
        found = {
            image.id: score.sha256
            for image, score, _ in outcomes
            if score and self._marks.is_of_other_content(image.id, score.sha256)
        }
        with self._lock:
            self._remarked |= found

    def _describe_drift(self) -> str:
        """Returns one line about a drift of the images that are no known defects; "" if there is none."""
        outcomes, run = self._snapshot()

        def is_watched(image: ReviewImage, score: StoredScore | None) -> bool:
            mark = self._marks.get(image.id, score.sha256) if score else DEFECT
            return mark != DEFECT and (image.label != LABEL_DEFECT or mark == GOOD)

        watched = [outcome for outcome in outcomes if is_watched(*outcome[:2])]
        watch = DriftWatch(run.calibration, run.config.data)
        watch.add([image.name for image, _, _ in watched], score_outcomes(watched, run.calibration))
        return watch.describe()
