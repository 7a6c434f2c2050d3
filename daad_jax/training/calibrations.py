"""Loads, lists and changes the calibration of a finished run."""

from pathlib import Path
from typing import NamedTuple

from daad_jax.config import Config
from daad_jax.errors import UserError, did_you_mean
from daad_jax.method.state import TrainState
from daad_jax.scoring.anomaly_score import Calibration
from daad_jax.terminal import warn
from daad_jax.training import calibration_files, checkpoint
from daad_jax.training.calibration_files import OF_TRAINING, CalibrationLabel, StoredCalibration, fingerprint


class CalibratedRun(NamedTuple):
    """A run with its calibration in use. `stored` is None if the calibration of the training is in use."""

    state: TrainState
    config: Config
    calibration: Calibration
    label: CalibrationLabel
    stored: StoredCalibration | None
    of_training: Calibration


class Listed(NamedTuple):
    """A line of `list_all`: `problem` says why a calibration cannot be used, "" if it can."""

    id: str
    description: str
    is_in_use: bool
    problem: str = ""


def load(workdir: Path) -> CalibratedRun:
    """Loads the newest readable checkpoint of a run, with the calibration that is in use.

    If the run has trained since its calibration, the calibration belongs to another checkpoint. Then it is
    not used, and a line says so.

    Raises:
        UserError: see `checkpoint.load`; or the calibration in use is damaged or missing.
    """
    run = _load_training(workdir)
    in_use = calibration_files.read_in_use(workdir)
    if in_use is None:
        return run
    stored = calibration_files.read(workdir, in_use)
    if not _is_of_checkpoint(stored, run):
        warn(
            f"{workdir}: calibration {stored.label.describe()} belongs to the checkpoint of step "
            f"{stored.label.step}, not to this one of step {run.label.step}, so the one of the training is "
            "used; calibrate again, or end this warning with calibrate --use training"
        )
        return run
    return _with_stored(run, stored)


def reload(workdir: Path, run: CalibratedRun) -> CalibratedRun:
    """Returns a loaded run with the calibration that is in use now. The checkpoint is not read again.

    Args:
        workdir: the folder of the run.
        run: the run. It is returned itself if its calibration is still in use.

    Raises:
        UserError: the calibration in use is damaged or missing, or belongs to another checkpoint.
    """
    in_use = calibration_files.read_in_use(workdir)
    if in_use == (run.stored.label.id if run.stored else None):
        return run
    if in_use is None:
        label = CalibrationLabel.of_training(run.of_training, run.label.step)
        return run._replace(calibration=run.of_training, label=label, stored=None)
    stored = calibration_files.read(workdir, in_use)
    if not _is_of_checkpoint(stored, run):
        raise UserError(
            f"{workdir}: calibration {stored.label.describe()} is in use now, but it belongs to the "
            f"checkpoint of step {stored.label.step}, and step {run.label.step} is loaded; start again, or "
            "calibrate again"
        )
    return _with_stored(run, stored)


def use(workdir: Path, name: str) -> str:
    """Puts a calibration into use: a stored one, or the one of the training (`OF_TRAINING`).

    Args:
        workdir: the folder of the run.
        name: the id of the calibration, or its first digits; or "training".

    Returns:
        A description of the calibration that is in use now, for people.

    Raises:
        UserError: there is no such calibration, it is damaged or of another checkpoint, or the folder cannot
            be written.
    """
    run = _load_training(workdir)
    if name in (OF_TRAINING, run.label.id):
        calibration_files.put_into_use(workdir, None)
        return run.label.describe()
    ids = calibration_files.stored_ids(workdir)
    matches = [each for each in ids if name and each.startswith(name)]
    if len(matches) != 1:
        problem = f"fits {', '.join(matches)}" if matches else "no such calibration"
        raise UserError(
            f"--use {name}: {problem}; {did_you_mean(name, [OF_TRAINING, *ids])}; --list shows all"
        )
    stored = calibration_files.read(workdir, matches[0])
    if not _is_of_checkpoint(stored, run):
        raise UserError(
            f"--use {name}: belongs to the checkpoint of step {stored.label.step}, and the run has trained "
            f"since, to step {run.label.step}; calibrate again"
        )
    calibration_files.put_into_use(workdir, stored.label.id)
    return stored.label.describe()


def list_all(workdir: Path) -> list[Listed]:
    """Lists all calibrations of a run: first the calibration of the training, then the others by date.

    Raises:
        UserError: there is no readable checkpoint, or `in_use.json` is damaged.
    """
    run = _load_training(workdir)
    in_use = calibration_files.read_in_use(workdir)
    later: list[tuple[str, Listed]] = []
    for each in calibration_files.stored_ids(workdir):
        try:
            stored = calibration_files.read(workdir, each)
        except UserError as error:
            later.append(("", Listed(each, each, each == in_use, str(error))))
            continue
        fits = _is_of_checkpoint(stored, run)
        problem = "" if fits else f"of the checkpoint of step {stored.label.step}, before the run trained on"
        listed = Listed(each, stored.label.describe(), fits and each == in_use, problem)
        later.append((stored.label.created, listed))
    others = [listed for _, listed in sorted(later)]
    is_in_use = not any(listed.is_in_use for listed in others)
    return [Listed(run.label.id, run.label.describe(), is_in_use), *others]


def _load_training(workdir: Path) -> CalibratedRun:
    """Returns the run with the calibration of its training, even if another calibration is in use."""
    state, config, trained = checkpoint.load(workdir)
    label = CalibrationLabel.of_training(trained, int(state.step))
    return CalibratedRun(state, config, trained, label, None, trained)


def _is_of_checkpoint(stored: StoredCalibration, run: CalibratedRun) -> bool:
    return stored.checkpoint == fingerprint(run.of_training, run.label.step)


def _with_stored(run: CalibratedRun, stored: StoredCalibration) -> CalibratedRun:
    return run._replace(calibration=stored.calibration, label=stored.label, stored=stored)
