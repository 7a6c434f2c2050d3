"""Calibrates a finished run with more good images: threshold, units of R and L, scale of the heat map."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from daad_jax.buckets import open_place
from daad_jax.config import Config
from daad_jax.data.account import format_table
from daad_jax.data.good_images import GoodImages, describe_left_out, load_good
from daad_jax.data.history import ContentIndex
from daad_jax.data.samples import Split
from daad_jax.detection.drift_watch import describe_drift
from daad_jax.errors import UserError
from daad_jax.scoring.anomaly_score import Calibration
from daad_jax.scoring.drift import find_drift
from daad_jax.scoring.false_alarms import CONFIDENCE, average_rate, bound_rate, images_needed
from daad_jax.scoring.scorer import Scorer, variables_of
from daad_jax.terminal import say, warn
from daad_jax.training import calibration_files, calibrations, run_data
from daad_jax.training.calibration_files import StoredCalibration
from daad_jax.training.calibrations import CalibratedRun

MIN_IMAGES = 2
MIN_FOR_OUTLIERS = 8
FAR_OUT = 3.0  # interquartile ranges above the third quartile: Tukey's outer fence (1977)
SHOWN_OUTLIERS = 5
DRIFT_REMEDY = (
    "The new calibration is right for images like these. If nobody meant the change of camera, light or "
    "parts, correct it, and go back with --use."
)


def calibrate_run(
    workdir: Path,
    folders: Sequence[str],
    *,
    rate: float | None = None,
    confidence: float | None = None,
    with_held_out: bool = False,
    batch_size: int | None = None,
    check: bool = False,
) -> StoredCalibration:
    """Calibrates a run again, prints what the threshold promises, and puts the new calibration into use.

    The new images are decoded, cut into tiles and scored exactly as in the calibration of the training. The
    checkpoint does not change.

    Args:
        workdir: the folder of the run.
        folders: folders of good images, see `good_images.load_good`.
        rate: the false-alarm rate of the threshold, in (0, 1); None: the run's rate.
        confidence: in (0, 1): the threshold's true rate is at most `rate` with this confidence. None: on
            average.
        with_held_out: whether the images that the training held out calibrate, too. This is right only if
            the new images look like the held-out ones.
        batch_size: how many images a device scores at once; None: `config.score.batch_size`.
        check: whether all files are read again, see `cache.load_decoded`.

    Returns:
        The new calibration.

    Raises:
        UserError: a bad rate or confidence; no readable checkpoint; no usable images, see `load_good` and
            `run_data.load_held_out`; a score that is not finite; or the folder cannot be written.
    """
    run = calibrations.load(workdir)
    rate = _check_rates(run, rate, confidence)
    good, held_out_count = _load(workdir, run.config, folders, with_held_out, check)
    say(*format_table(good.rows).splitlines(), *good.notes)
    if good.left_out:
        say(f"left out: {describe_left_out(good.left_out)}")
    say(f"calibration in use so far: {run.label.describe()}")
    made = calibrate_with(
        workdir,
        run,
        good,
        folders,
        rate=rate,
        confidence=confidence,
        held_out_count=held_out_count,
        batch_size=batch_size,
    )
    say(f"Of the {len(good.images)} new images, the calibration so far flags {made.flagged_before}.")
    _report(made.stored)
    say(f"wrote {made.file}; --list shows all calibrations of the run, and --use goes back to one of them")
    return made.stored


class Recalibration(NamedTuple):
    """A new calibration, its file, and how many of its new images the calibration before flags."""

    stored: StoredCalibration
    file: Path
    flagged_before: int


def calibrate_with(
    workdir: Path,
    run: CalibratedRun,
    good: GoodImages,
    folders: Sequence[str],
    *,
    rate: float | None = None,
    confidence: float | None = None,
    held_out_count: int = 0,
    batch_size: int | None = None,
) -> Recalibration:
    """Calibrates a run again with good images, and puts the new calibration into use. Prints nothing.

    Args:
        workdir: the folder of the run.
        run: the run, with the calibration that is in use so far.
        good: the good images.
        folders: the folders of the images. The file of the calibration names them.
        rate: see `calibrate_run`.
        confidence: see `calibrate_run`.
        held_out_count: how many images at the start of `good.split` the training held out.
        batch_size: see `calibrate_run`.

    Raises:
        UserError: a bad rate or confidence, too few images, a score that is not finite, or the folder cannot
            be written.
    """
    rate = _check_rates(run, rate, confidence)
    if len(good.images) < MIN_IMAGES:
        raise UserError(
            f"{', '.join(folders)}: only {len(good.images)} image is left to calibrate with, at least "
            f"{MIN_IMAGES} are needed, and 59 promise at most 5 % of false alarms with confidence; give more"
        )
    config = replace(run.config, score=replace(run.config.score, false_alarm_rate=rate))
    # Score the new images, look for a drift against the calibration so far, and calibrate.
    scorer, variables = Scorer(config, batch_size), variables_of(run.state)
    split = good.split
    found = scorer.measure(variables, split.images, split.grids)
    scores = split.largest(run.calibration.score(found.reconstruction, found.alignment))
    _require_finite(scores, split)
    drift = _find_drift(run, good, scores, held_out_count)
    calibration = scorer.calibrate_measured(found, split.groups)
    calibration = _with_confidence(calibration, rate, confidence)
    if fault := calibration.find_fault():
        place = ", ".join(folders)
        raise UserError(f"{place}: these images give no calibration ({fault}); give other images")
    # Store the new calibration, and put it into use.
    stored = calibration_files.make(
        run.of_training,
        run.label.step,
        calibration,
        rate=rate,
        confidence=confidence,
        folders=folders,
        with_held_out=held_out_count > 0,
        images=good.images,
        outliers=_find_outliers(split.names, scores),
        left_out={reason: len(names) for reason, names in good.left_out.items()},
        drift=drift,
    )
    file = calibration_files.store(workdir, stored)
    flagged = int((scores[held_out_count:] > run.calibration.threshold).sum())
    return Recalibration(stored, file, flagged)


def _check_rates(run: CalibratedRun, rate: float | None, confidence: float | None) -> float:
    """Returns `rate`, or the run's rate if `rate` is None. Raises UserError if it is not in (0, 1)."""
    rate = run.config.score.false_alarm_rate if rate is None else rate
    for name, value in (("--rate", rate), ("--confidence", confidence)):
        if value is not None and not 0 < value < 1:
            raise UserError(f"{name}={value:g}: must be between 0 and 1; 5 % is 0.05")
    return rate


def _report(stored: StoredCalibration) -> None:
    """Prints drift and outliers of the images, and what the threshold promises."""
    if stored.drift:
        say(stored.drift)
        if stored.with_held_out:
            warn(
                "the new images do not look like the training images, so a threshold from both together "
                "promises nothing; calibrate again without --with_held_out"
            )
    if stored.outliers:
        say(describe_outliers(stored.outliers))
    say(
        f"calibration {stored.label.describe()} is in use now: threshold {stored.calibration.threshold:.4f}. "
        "Its scores have units of their own; do not compare them with earlier ones."
    )
    say(*describe_promises(stored.calibration, stored.rate, stored.confidence))


def describe_promises(calibration: Calibration, rate: float, confidence: float | None) -> list[str]:
    """Says what a threshold promises, and how many images would promise more, in a line for each thought.

    Args:
        calibration: its `false_alarm_rate` is the average rate of the threshold.
        rate: the false-alarm rate that the user asked for, in (0, 1).
        confidence: the user asked for a true rate of at most `rate` with this confidence; None: on average.
    """
    count, are_groups = calibration.group_count, bool(calibration.group_sizes)
    things = "groups" if are_groups else "images"
    wanted, level = confidence or CONFIDENCE, f"{100 * (confidence or CONFIDENCE):.4g} %"
    bound = bound_rate(count, calibration.false_alarm_rate, wanted)
    needed = images_needed(rate, wanted)
    lines = [
        f"This threshold {calibration.describe_promise(calibration.false_alarm_rate)}. With a confidence of "
        f"{level}, it flags at most {100 * bound:.3g} % of them."
    ]
    if count < needed:
        lines.append(
            f"To promise at most {100 * rate:.3g} % with a confidence of {level}, {needed} {things} are "
            f"needed, and {count} are here."
        )
    elif confidence is None:
        lines.append(
            f"To promise at most {100 * rate:.3g} % with a confidence of {level}, {needed} {things} are "
            f"needed, and {count} are here: --confidence {CONFIDENCE} chooses such a threshold, a higher one."
        )
    if confidence is None and (warning := calibration.shortage(rate)):
        lines.append(f"warning: {warning}")
    return lines


def say_calibrations(workdir: Path) -> None:
    """Prints the calibrations of a run, a line for each; "*" marks the calibration in use."""
    for listed in calibrations.list_all(workdir):
        problem = f"  not usable: {listed.problem}" if listed.problem else ""
        say(f"{'*' if listed.is_in_use else ' '} {listed.description}{problem}")


def _load(
    workdir: Path, config: Config, folders: Sequence[str], with_held_out: bool, check: bool
) -> tuple[GoodImages, int]:
    """Returns the images to calibrate with, and how many of the training's held-out images come first."""
    known = run_data.read(workdir)
    if known is None or known.history.images is None:
        warn(
            f"{workdir / run_data.DATA_FILE}: does not say which images have trained; make sure that none of "
            "these images has, or the threshold is too low"
        )
    held_out = run_data.load_held_out(workdir, config) if with_held_out else None
    history = known.history if known else None
    good = load_good(config, [open_place(folder) for folder in folders], history, held_out, check)
    return good, len(held_out) if held_out else 0


def _find_drift(run: CalibratedRun, good: GoodImages, scores: np.ndarray, held_out_count: int) -> str:
    """Says whether images that the calibration so far does not know have drifted; "" if they have not."""
    known = ContentIndex(run.stored.images if run.stored else [])
    is_new = np.array([False] * held_out_count + [image not in known for image in good.images])
    if not is_new.any():
        return ""
    groups = None if good.split.groups is None else good.split.groups[is_new]
    drift = find_drift(run.calibration, scores[is_new], groups)
    return describe_drift(drift, int(is_new.sum()), DRIFT_REMEDY) if drift else ""


def _with_confidence(calibration: Calibration, rate: float, confidence: float | None) -> Calibration:
    """Returns the calibration with the threshold that keeps `rate` with confidence, or comes closest."""
    if confidence is None:
        return calibration
    count = calibration.group_count
    on_average = average_rate(count, rate, confidence)
    return replace(calibration, false_alarm_rate=on_average or 1 / (count + 1))


def _require_finite(scores: np.ndarray, split: Split) -> None:
    for index in np.flatnonzero(~np.isfinite(scores))[:1]:
        raise UserError(
            f"{split.names[index]}: its score is {scores[index]:g}, which is not finite, so nothing can be "
            "calibrated; the model is of no use: train in a new --workdir"
        )


def _find_outliers(names: Sequence[str], scores: np.ndarray) -> list[str]:
    """Returns the names of images beyond Tukey's outer fence, the highest score first."""
    if len(scores) < MIN_FOR_OUTLIERS:
        return []
    first, third = np.quantile(scores, [0.25, 0.75])
    order = np.argsort(-scores, kind="stable")
    return [names[i] for i in order if scores[i] > third + FAR_OUT * (third - first)]


def describe_outliers(outliers: Sequence[str]) -> str:
    """Names images that score far above the others, and says what to do with them."""
    shown = ", ".join(outliers[:SHOWN_OUTLIERS])
    more = f" and {len(outliers) - SHOWN_OUTLIERS} more" if len(outliers) > SHOWN_OUTLIERS else ""
    return (
        f"{len(outliers)} of the images score far above the others: {shown}{more}. "
        "Look at them: a defect among the good images makes the threshold too high. Remove those with a "
        "defect, and calibrate again; do not remove good ones."
    )
