"""Calibrates a run with the images that are marked as good."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from daad_jax.data.good_images import GoodImages, describe_left_out, load_chosen
from daad_jax.detection.recalibration import calibrate_with, describe_outliers, describe_promises
from daad_jax.errors import UserError
from daad_jax.reviewing.fair_sample import describe_bias
from daad_jax.reviewing.folder_images import LABEL_DEFECT
from daad_jax.reviewing.folder_scoring import Outcome, score_outcomes
from daad_jax.reviewing.marks import GOOD, NO_MARK, Marks
from daad_jax.scoring.false_alarms import CONFIDENCE
from daad_jax.training import run_data
from daad_jax.training.calibrations import CalibratedRun


def calibrate_from_marks(
    workdir: Path,
    run: CalibratedRun,
    folder: Path,
    outcomes: Sequence[Outcome],
    marks: Marks,
    groups: Mapping[str, int],
    confidence: float | None,
) -> list[str]:
    """Calibrates a run with the images that are marked as good, and puts the calibration into use.

    Args:
        workdir: the folder of the run.
        run: the run, with the calibration in use so far.
        folder: the folder of the images.
        outcomes: the outcomes of the images.
        marks: the marks of the images.
        groups: the number of each image's group, by the image's id; empty if each image is for itself.
        confidence: see `recalibration.calibrate_run`.

    Returns:
        Sentences about the new calibration, for the page.

    Raises:
        UserError: no image is marked as good, or one has changed since it was marked; or see
            `recalibration.calibrate_with`.
    """
    # Choose the images that are marked as good.
    is_good, is_free = [], []
    for image, score, _ in outcomes:
        mark = marks.get(image.id, score.sha256) if score else ""
        is_good.append(mark == GOOD)
        is_free.append(mark == NO_MARK and image.label != LABEL_DEFECT)
    chosen = {
        image.file: score.sha256 for (image, score, _), good in zip(outcomes, is_good) if good and score
    }
    if not chosen:
        raise UserError("no image is marked as good; mark good images first")
    known = run_data.read(workdir)
    good = load_chosen(run.config, folder, list(chosen), known.history if known else None)
    _require_unchanged(good, set(chosen.values()))
    # Calibrate, and look whether the marked images are a fair sample.
    before = score_outcomes(outcomes, run.calibration)
    stored = calibrate_with(workdir, run, good, [str(folder)], confidence=confidence).stored
    numbers = np.array([groups.get(image.id, n) for n, (image, _, _) in enumerate(outcomes)])
    lines = [
        f"Calibration {stored.label.describe()} is in use now.",
        describe_bias(before, np.array(is_good), np.array(is_free), numbers),
        f"left out: {describe_left_out(good.left_out)}" if good.left_out else "",
        *good.notes,
        stored.drift,
        describe_outliers(stored.outliers) if stored.outliers else "",
        *describe_promises(stored.calibration, stored.rate, stored.confidence),
    ]
    return [_in_words_of_the_page(line) for line in lines if line]


def _require_unchanged(good: GoodImages, digests: set[str]) -> None:
    """Raises UserError if an image is not the one that was marked, whose SHA-256 is one of `digests`."""
    changed = [image.name for image in good.images if image.sha256 and image.sha256 not in digests]
    if changed:
        raise UserError(
            f"{changed[0]}: has changed since it was marked ({len(changed)} such image(s)); start the review "
            "again, and mark the image again"
        )


def _in_words_of_the_page(line: str) -> str:
    """Replaces the command's options in a sentence of `calibrate` by the buttons of the page."""
    line = line.replace("go back with --use", "go back with the button below")
    return line.replace(
        f"--confidence {CONFIDENCE} chooses such a threshold", "tick the box for such a threshold"
    )
