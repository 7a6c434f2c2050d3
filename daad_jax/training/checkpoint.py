"""Orbax checkpoints: state, configuration and calibration. No other file imports orbax."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from daad_jax import config as config_lib
from daad_jax.config import Config
from daad_jax.errors import UserError
from daad_jax.files import explain_write_errors, first_free
from daad_jax.method.state import TrainState, abstract_state
from daad_jax.scoring.anomaly_score import Calibration
from daad_jax.terminal import warn
from daad_jax.training.saving import explain_save_errors
from daad_jax.training.workdir import CHECKPOINTS
from daad_jax.validation import validate

FORMAT = 2


class Checkpoints:
    """The checkpoints of a workdir. Saving happens in the background; `close` waits for it."""

    def __init__(self, workdir: Path, max_to_keep: int | None = None, create: bool = False) -> None:
        self._workdir = workdir
        self.folder = (workdir / CHECKPOINTS).resolve()
        options = ocp.CheckpointManagerOptions(max_to_keep=max_to_keep, create=create)
        with explain_save_errors(workdir) if create else nullcontext():
            self._manager = ocp.CheckpointManager(self.folder, options=options)

    @property
    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, config: Config, calibration: Calibration) -> None:
        """Saves `state` (numpy arrays) under its own step, which is above all others."""
        step = int(state.step)
        about = {
            "format": FORMAT,
            "config": config_lib.to_json(config),
            "calibration": calibration.to_json(),
        }
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(_to_tree(state)), about=ocp.args.JsonSave(about)
        )
        with explain_save_errors(self._workdir):
            saved = self._manager.save(step, args=args)
        if not saved:  # Orbax passes over steps below its newest one
            raise RuntimeError(f"step {step} was not saved; {self.folder} has {self.steps}")

    def restore(self) -> tuple[TrainState, Config, Calibration]:
        """The newest checkpoint that can be read; a damaged one is named on standard error.

        Raises:
            UserError: there is none.
        """
        if not self.steps:
            raise UserError(f"{self.folder}: no checkpoint here; train first, or give another --workdir")
        problem = ""
        for step in reversed(self.steps):
            try:
                return self._restore(step)
            except Exception as error:  # orbax and tensorstore raise many kinds for damaged files
                problem = " ".join(str(error).split())[:300]
                warn(f"checkpoint {self.folder / str(step)} cannot be read ({problem})")
        raise UserError(f"{self.folder}: no checkpoint can be read; the oldest says: {problem}")

    def set_aside_after(self, step: int) -> None:
        """Renames newer checkpoints, which `restore` could not read: Orbax saves no step below its newest.

        Raises:
            UserError: it cannot be renamed.
        """
        for damaged in (newer for newer in self.steps if newer > step):
            path = self.folder / str(damaged)
            aside = first_free(path.with_name(f"{damaged}.damaged"))
            with explain_write_errors(path, "mend its rights, or remove it"):
                path.rename(aside)
            warn(f"{path} is {aside.name} from now on")

    def reload(self) -> None:
        """Reads the list of checkpoints again."""
        self._manager.reload()

    def _restore(self, step: int) -> tuple[TrainState, Config, Calibration]:
        about = self._manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]
        if about.get("format") != FORMAT:
            raise UserError(f"made by another version of daad_jax (format {about.get('format')!r})")
        config = config_lib.from_json(about["config"])
        if config.data.range == "auto":  # made before a range belonged to a run: 8 bits, by the files' types
            config.data.range, config.data.bits = "type", 8
        validate(config)
        # Shapes are enough for the template: values would take time to make.
        template = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), abstract_state(config))
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(_to_tree(template))),
        )["state"]
        leaves = jax.tree.leaves(restored)
        state = jax.tree.unflatten(jax.tree.structure(template), leaves)
        return state, config, Calibration.from_json(about["calibration"])

    def wait(self) -> None:
        """Waits until everything is saved. Raises UserError if something cannot be saved."""
        with explain_save_errors(self._workdir):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits like `wait`, and frees what Orbax holds."""
        try:
            self.wait()
        finally:
            with explain_save_errors(self._workdir):
                self._manager.close()


def load(workdir: Path) -> tuple[TrainState, Config, Calibration]:
    """The newest readable checkpoint of a workdir.

    Raises:
        UserError: no such workdir, or no readable checkpoint in it.
    """
    if not (workdir / CHECKPOINTS).is_dir():
        problem = "this folder has no checkpoints" if workdir.is_dir() else "this folder does not exist"
        raise UserError(f"{workdir}: {problem}; give --workdir the folder that the training printed")
    checkpoints = Checkpoints(workdir)
    try:
        return checkpoints.restore()
    finally:
        checkpoints.close()


def _to_tree(state: TrainState) -> Any:
    """A flat dictionary: the leaves of the state under their numbers "00000", "00001", ..."""
    return {f"{i:05d}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
