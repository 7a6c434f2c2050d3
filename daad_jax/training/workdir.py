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

from daad_jax import buckets
from daad_jax import config as config_lib
from daad_jax.config import Config
from daad_jax.errors import UserError
from daad_jax.files import exclusive, explain_write_errors, write_text
from daad_jax.training import lease
from daad_jax.training.checksums import digest

LOCK = ".training"
DATA_FILE = "data.json"
CHECKPOINTS = "checkpoints"  # the folder exists as soon as a run begins to train
FINISHED = (
    "commit_success.txt"  # Orbax writes it last into a checkpoint in a bucket, where nothing is renamed
)
# A resumed run may be longer, log differently, and score differently while it trains. Its name only names its
# default folder. Its images may have moved: `data.json` knows their content.
CHANGEABLE_KEYS = (
    "name",
    "train.steps", "train.log_every", "train.checkpoint_every", "train.max_to_keep", "train.devices",
    "score.", "data.cache_dir", "data.data_dir",
)  # fmt: skip


def saved_step(workdir: Path) -> int:
    """The step of the newest checkpoint; 0 if there is none."""
    if buckets.is_in_bucket(workdir):
        names = [p.parent.name for p in (workdir / CHECKPOINTS).glob(f"*/{FINISHED}")]
    else:
        names = [p.name for p in (workdir / CHECKPOINTS).glob("*")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


@contextmanager
def claim_workdir(workdir: Path, config: Config) -> Iterator[None]:
    """Claims a workdir for a configuration, and for this process until the end of the block.

    It writes `config.json`, and `environment.json` with versions and devices. A command that ended before it
    trained, because of a mistake in its configuration, say, leaves no claim.

    Raises:
        UserError: the workdir cannot be written, another process trains in it, or it belongs to another
            configuration (the message names the first key that differs).
    """
    if buckets.is_in_bucket(workdir):
        busy_message = f"{workdir}: another process trains here; give another --workdir, or end that process"
        with lease.holding(workdir / LOCK, busy_message):
            _record(workdir, config)
            yield
        return
    with explain_write_errors(workdir, "give another --workdir"):
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / LOCK).touch()
    busy_message = (
        f"{workdir}: another process trains here; give another --workdir, or, if the machine of that process "
        f"is lost, remove {workdir / LOCK}"
    )
    with exclusive(workdir / LOCK, busy_message):
        _record(workdir, config)
        yield


def _record(workdir: Path, config: Config) -> None:
    stored, checkpoints = workdir / "config.json", workdir / CHECKPOINTS
    with explain_write_errors(workdir, "give another --workdir"):
        if checkpoints.is_dir():
            step = saved_step(workdir)
            if stored.is_file():
                _compare(workdir, step, _read_config(stored), config)
            elif step:
                raise UserError(
                    f"{workdir}: has checkpoints and no config.json, which says how they were trained; put "
                    "config.json back, or give another --workdir"
                )
        write_text(stored, _to_text(config))
        write_text(workdir / "environment.json", json.dumps(environment(), indent=2))


def _to_text(config: Config) -> str:
    """Returns the content of `config.json`: the configuration and its checksum."""
    tree = dataclasses.asdict(config)
    return json.dumps({**tree, config_lib.CHECKSUM: digest(tree)}, indent=2)


def _read_config(file: Path) -> Config:
    """Raises UserError with the file's name if the file is damaged. Earlier versions wrote no checksum."""
    try:
        text = file.read_text(encoding="utf-8")
        config = config_lib.from_json(text)
        tree = json.loads(text)
        checksum = tree.pop(config_lib.CHECKSUM, None)
        if checksum not in (None, digest(tree)):
            raise UserError("its checksum differs, so the file was damaged or edited")
        return config
    except (UserError, UnicodeDecodeError) as error:
        raise UserError(
            f"{file}: {error}; put the file of the run back, or give another --workdir"
        ) from error


def find_claim(workdir: Path) -> tuple[int, int]:
    """Returns a token of this claim of a workdir, for `require_claim`.

    Raises:
        UserError: this process does not see the files that process 0 wrote in `claim_workdir`.
    """
    claim = _identify_claim(workdir)
    if claim is None:
        raise UserError(
            f"{workdir}: process 0 writes another folder; give a --workdir that all processes share"
        )
    return claim


def require_claim(workdir: Path, claim: tuple[int, int]) -> None:
    """Raises UserError if somebody has removed or replaced the workdir since `find_claim`."""
    if _identify_claim(workdir) != claim:
        if buckets.is_in_bucket(workdir):
            raise UserError(
                f"{workdir}: another process trains here now, or somebody removed this folder, so the run "
                "ends here and saves nothing more; the same command resumes"
            )
        raise UserError(
            f"{workdir}: this folder was removed or replaced while the run trained, so the run ends here and "
            "saves nothing more; the same command begins from the start"
        )


def _identify_claim(workdir: Path) -> tuple[int, int] | None:
    try:
        (workdir / "config.json").stat()
        if buckets.is_in_bucket(workdir):
            holder = lease.find_holder(workdir / LOCK)
            return (holder, 0) if holder else None
        lock = (workdir / LOCK).stat()
    except OSError:
        return None
    return lock.st_dev, lock.st_ino


def environment() -> dict[str, Any]:
    """The versions and devices that a result depends on."""
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
    if (workdir / DATA_FILE).is_file():
        del new["data.path"]
    for key, value in new.items():
        if old[key] != value and (reason := _reason_against(key, step, config)):
            raise UserError(
                f"{workdir}: {reason} (config.{key} is {old[key]!r} there, {value!r} here); give another "
                "--workdir, or delete this folder"
            )


def _reason_against(key: str, step: int, config: Config) -> str:
    """Why a value cannot change after a checkpoint of `step` (0: none); "" if it can."""
    if key.startswith("score.") and step >= config.train.steps:
        way = "; predict has --false_alarm_rate" if key == "score.false_alarm_rate" else ""
        return f"is trained to step {step} and calibrated{way}"
    if key == "train.steps" and config.train.schedule == "cosine" and step:
        return "has a learning rate that ends with its last step"
    return "" if key.startswith(CHANGEABLE_KEYS) else "belongs to another configuration"
