"""Orbax checkpoints: state, configuration and calibration, with checksums. No other file imports orbax.

docs/checkpoints.md describes the format.
"""

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
import orbax.checkpoint as ocp

from daad_jax import config as config_lib
from daad_jax.buckets import make_absolute
from daad_jax.config import Config
from daad_jax.data.integrity import Damaged
from daad_jax.errors import UserError
from daad_jax.files import explain_write_errors, first_free
from daad_jax.method.state import TrainState, abstract_state
from daad_jax.scoring.anomaly_score import Calibration
from daad_jax.terminal import warn
from daad_jax.training.checksums import (
    Leaves,
    describe_leaves,
    digest,
    find_difference,
    name_leaves,
    nest,
)
from daad_jax.training.saving import explain_save_errors
from daad_jax.training.workdir import CHECKPOINTS
from daad_jax.validation import validate

FORMAT = 3
FORMAT_WITHOUT_CHECKSUMS = 2  # its leaves have numbers instead of names
KEYS = {
    FORMAT: {"format", "step", "config", "calibration", "leaves", "sha256"},
    FORMAT_WITHOUT_CHECKSUMS: {"format", "config", "calibration"},
}
# Orbax's threads would wait ten minutes for a folder that another one of them could not make.
DIRECTORIES_FIRST = ocp.options.AsyncOptions(create_directories_asynchronously=False)
SMALLER_RATE = "try a smaller config.train.learning_rate in a new --workdir"
OTHER_IMAGES = (
    "in a new --workdir, try other images (are the held-out ones copies of others?), or other weights with "
    "config.model.feature_weights"
)


class Checkpoints:
    """The checkpoints of a workdir. Saving happens in the background; `close` waits for it."""

    def __init__(self, workdir: Path, max_to_keep: int | None = None, create: bool = False) -> None:
        self._workdir = workdir
        self.folder = make_absolute(workdir / CHECKPOINTS)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=max_to_keep, create=create, async_options=DIRECTORIES_FIRST
        )
        with explain_save_errors(workdir) if create else nullcontext():
            self._manager = ocp.CheckpointManager(self.folder, options=options)

    @property
    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, config: Config, calibration: Calibration) -> None:
        """Saves `state` (numpy arrays) under its own step, which is above all others.

        Raises:
            UserError: a value of the state is not finite, or the calibration cannot give scores; nothing is
                saved.
        """
        step, leaves = int(state.step), name_leaves(state)
        (described, name), fault = describe_leaves(leaves), calibration.find_fault()
        if name or fault:
            reason = f"{name} is not finite" if name else f"the calibration is impossible ({fault})"
            is_fixed = name.startswith("features/") or state.generator is None  # no step changes it
            self.refuse(
                step, f"{reason}, so this step is not saved", OTHER_IMAGES if is_fixed else SMALLER_RATE
            )
        about = {
            "format": FORMAT,
            "step": step,
            "config": config_lib.to_json(config),
            "calibration": calibration.to_json(),
            "leaves": described,
        }
        about["sha256"] = digest(about)
        tree = jax.tree.map(np.asarray, nest(leaves))
        args = ocp.args.Composite(state=ocp.args.StandardSave(tree), about=ocp.args.JsonSave(about))
        with explain_save_errors(self._workdir):
            saved = self._manager.save(step, args=args)
        if not saved:  # Orbax passes over steps below its newest one
            raise RuntimeError(f"step {step} was not saved; {self.folder} has {self.steps}")

    def refuse(self, step: int, reason: str, remedy: str) -> NoReturn:
        """Raises a UserError that says why a step is not saved, and names the last good checkpoint."""
        self.wait()
        last_good = "no checkpoint was saved before"
        if self.steps:
            last_good = f"the last good checkpoint is {self.folder / str(self.steps[-1])}"
        raise UserError(f"step {step}: {reason}; {last_good}; {remedy}")

    def restore(self) -> tuple[TrainState, Config, Calibration]:
        """Restores the newest checkpoint that can be read. A damaged one is named on standard error.

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
                problem = " ".join(f"{'damaged: ' * isinstance(error, Damaged)}{error}".split())[:300]
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
        """Loads a checkpoint, and compares its checksums.

        Raises:
            Damaged: the leaf has changed since it was saved.
            UserError: it was made by another version, or its calibration cannot give scores.
            Exception: of Orbax or TensorStore, for damaged files.
        """
        about = self._manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]
        has_checksums = _verify_about(about, step)
        config = config_lib.from_json(about["config"])
        if config.data.range == "auto":  # made before a range belonged to a run: 8 bits, by the files' types
            config.data.range, config.data.bits = "type", 8
        validate(config)
        calibration = Calibration.from_json(about["calibration"])
        abstract, leaves = (
            self._read_described(step, config, about["leaves"])
            if has_checksums
            else self._read_numbered(step, config)
        )
        if not has_checksums:
            warn(
                f"checkpoint {self.folder / str(step)} was saved by an older version of daad_jax without "
                "checksums, so damage may go unnoticed"
            )
        state = jax.tree.unflatten(jax.tree.structure(abstract), leaves.values())
        return state, config, calibration

    def _read_described(self, step: int, config: Config, described: Any) -> tuple[TrainState, Leaves]:
        """The shapes of a state, and its leaves, compared with their descriptions. Raises: see `_restore`."""
        with ThreadPoolExecutor(1) as pool:  # Python finds the shapes of the networks while Orbax reads
            empty = {name: np.empty(leaf["shape"], leaf["type"]) for name, leaf in described.items()}
            reading = pool.submit(self._read_leaves, step, empty)
            abstract = abstract_state(config)
            read = reading.result()
        expected = {name: (leaf.shape, leaf.dtype) for name, leaf in name_leaves(abstract).items()}
        if expected != {name: (leaf.shape, leaf.dtype) for name, leaf in empty.items()}:
            raise UserError("made by another version of daad_jax, whose networks have other parameters")
        leaves = {name: read[name] for name in expected}
        _require_step(leaves, step)
        if name := find_difference(describe_leaves(leaves, check_values=False)[0], described):
            raise Damaged(f"{name} has changed since it was saved")
        return abstract, leaves

    def _read_numbered(self, step: int, config: Config) -> tuple[TrainState, Leaves]:
        """The shapes and the leaves of a state whose leaves have numbers. Raises: see `_restore`."""
        abstract = abstract_state(config)
        shapes = name_leaves(abstract)
        empty = {f"{i:05d}": np.empty(leaf.shape, leaf.dtype) for i, leaf in enumerate(shapes.values())}
        read = self._read_leaves(step, empty)
        leaves = dict(zip(shapes, (read[number] for number in empty)))
        _require_step(leaves, step)
        if name := describe_leaves(leaves)[1]:
            raise Damaged(f"{name} is not finite")
        return abstract, leaves

    def _read_leaves(self, step: int, empty: Leaves) -> Leaves:
        """Reads the leaves of a state. `empty` has an array of the shape and type of each."""
        args = ocp.args.Composite(state=ocp.args.StandardRestore(nest(empty)))
        return name_leaves(self._manager.restore(step, args=args)["state"])

    def wait(self) -> None:
        """Waits until everything is saved. Raises UserError if something cannot be saved."""
        with explain_save_errors(self._workdir):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits like `wait`, and frees Orbax's threads and files."""
        try:
            self.wait()
        finally:
            with explain_save_errors(self._workdir):
                self._manager.close()


def load(workdir: Path) -> tuple[TrainState, Config, Calibration]:
    """Loads the newest readable checkpoint of a workdir.

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


def _verify_about(about: Any, step: int) -> bool:
    """Compares the checksum of the metadata of a checkpoint, and its step.

    Returns:
        Whether the checkpoint has checksums.

    Raises:
        Damaged: the metadata have changed since they were saved, or belong to another step.
        UserError: it was made by another version.
    """
    made_by = about.get("format") if isinstance(about, dict) else None
    if made_by not in KEYS:
        raise UserError(f"made by another version of daad_jax (format {made_by!r})")
    if set(about) != KEYS[made_by]:
        raise Damaged("its configuration and calibration have changed since they were saved")
    if made_by == FORMAT_WITHOUT_CHECKSUMS:
        return False
    if digest({key: value for key, value in about.items() if key != "sha256"}) != about["sha256"]:
        raise Damaged("its configuration and calibration have changed since they were saved")
    if about["step"] != step:
        raise Damaged(f"it is the checkpoint of step {about['step']}")
    return True


def _require_step(leaves: Leaves, step: int) -> None:
    """Raises Damaged if the leaves do not belong to the step."""
    if leaves["step"] != step:
        raise Damaged(f"it has the state of step {leaves['step']}")
