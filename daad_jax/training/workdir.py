"""The folder of a run: which configuration it belongs to, who trains in it, and where it ran."""

import dataclasses
import importlib.metadata
import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from daad_jax import config as config_lib
from daad_jax.config import Config
from daad_jax.errors import UserError
from daad_jax.files import exclusive, explain_write_errors, write_text

LOCK = ".training"
CHECKPOINTS = "checkpoints"  # the folder is there as soon as a run begins to train
# A run may be made longer and watched differently, and scored differently while it trains.
MAY_CHANGE = (
    "train.steps", "train.log_every", "train.checkpoint_every", "train.max_to_keep", "train.devices",
    "score.", "data.cache_dir", "data.data_dir",
)  # fmt: skip


def saved_step(workdir: Path) -> int:
    """The newest checkpoint's step; 0 where there is none."""
    names = [p.name for p in (workdir / CHECKPOINTS).glob("*")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


@contextmanager
def claim_workdir(workdir: Path, config: Config) -> Iterator[None]:
    """The workdir is this configuration's, and until the end of the block this process' alone.

    Versions and devices are recorded. A command that ended before it trained, because of a mistake in its
    configuration, say, has no claim.

    Raises:
        UserError: it cannot be written, is being trained, or belongs to another configuration (names the
            first key).
    """
    with explain_write_errors(workdir, "give another --workdir"):
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / LOCK).touch()
    busy = (
        f"{workdir}: another process trains here; give another --workdir, or, if its machine is lost, remove"
    )
    with exclusive(workdir / LOCK, f"{busy} {workdir / LOCK}"):
        _record(workdir, config)
        yield


def _record(workdir: Path, config: Config) -> None:
    stored, checkpoints = workdir / "config.json", workdir / CHECKPOINTS
    with explain_write_errors(workdir, "give another --workdir"):
        if checkpoints.is_dir():
            step = saved_step(workdir)
            if stored.is_file():
                _compare(workdir, step, config_lib.from_json(stored.read_text()), config)
            elif step:
                raise UserError(
                    f"{workdir}: has checkpoints and no config.json, which says of what; put it back, or "
                    "give another --workdir"
                )
        write_text(stored, config_lib.to_json(config))
        write_text(workdir / "environment.json", json.dumps(environment(), indent=2))


def require_claim(workdir: Path) -> None:
    """Raises UserError where what process 0 wrote in `claim_workdir` is not seen from this process."""
    if not (workdir / "config.json").is_file():
        raise UserError(f"{workdir}: not the folder that process 0 writes; give a --workdir that all share")


def environment() -> dict[str, Any]:
    """Versions and devices that a result depends on."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "daad_jax")
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "devices": [str(device) for device in jax.devices()],
        "processes": jax.process_count(),
    }


def _compare(workdir: Path, step: int, stored: Config, config: Config) -> None:
    old, new = (config_lib.flat(dataclasses.asdict(c)) for c in (stored, config))
    for key, value in new.items():
        if old[key] != value and (why := _why_not(key, step, config)):
            raise UserError(
                f"{workdir}: {why} (config.{key} is {old[key]!r} there, {value!r} here); give another "
                "--workdir, or remove it"
            )


def _why_not(key: str, step: int, config: Config) -> str:
    """Why a value cannot change any more, with a checkpoint of `step` (0: none); nothing where it can."""
    if key.startswith("score.") and step >= config.train.steps:
        return f"is trained to step {step} and calibrated"
    if key == "train.steps" and config.train.schedule == "cosine" and step:
        return "has a learning rate that ends with its last step"
    return "" if key.startswith(MAY_CHANGE) else "belongs to another configuration"
