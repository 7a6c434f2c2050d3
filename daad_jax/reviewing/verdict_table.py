"""The verdicts of a review as a table, which the inspector takes along."""

from collections.abc import Iterator, Sequence

import numpy as np

from daad_jax.escaping import table_row
from daad_jax.reviewing.folder_scoring import Outcome, score_outcomes
from daad_jax.reviewing.marks import DEFECT, GOOD, NO_MARK, Marks
from daad_jax.training.calibrations import CalibratedRun

COLUMNS = ("name", "score", "p_value", "verdict", "mark", "decision", "threshold", "calibration", "error")


def write_verdicts(
    outcomes: Sequence[Outcome], run: CalibratedRun, marks: Marks, threshold: float
) -> Iterator[str]:
    """Yields the lines of a CSV file: each image with its verdict at a threshold, mark and decision.

    The decision is the mark if the mark says good or defect. Otherwise it is the verdict.

    Args:
        outcomes: the outcomes of the images.
        run: the run, with the calibration that gives the scores.
        marks: the marks of the images.
        threshold: an image with a higher score is anomalous.
    """
    scores = score_outcomes(outcomes, run.calibration)
    p_values = run.calibration.p_value(np.nan_to_num(scores, nan=-np.inf))
    yield table_row(COLUMNS)
    for (image, found, error), score, p in zip(outcomes, scores.tolist(), p_values.tolist()):
        if found is None:
            yield table_row([image.name, "", "", "unreadable", "", "", threshold, run.label.id, error])
            continue
        mark = marks.get(image.id, found.sha256)
        verdict = "anomalous" if score > threshold else "normal"
        decision = {GOOD: "normal", DEFECT: "anomalous"}.get(mark, verdict)
        shown_mark = "" if mark == NO_MARK else mark
        yield table_row([image.name, score, p, verdict, shown_mark, decision, threshold, run.label.id, ""])
