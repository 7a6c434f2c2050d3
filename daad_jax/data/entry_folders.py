"""Adds, replaces and removes whole folders in one step, while other processes use them."""

import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from daad_jax.files import remove_abandoned

TEMPORARY_PREFIX = ".filling-"


def make_temporary(folder: Path) -> Path:
    """Makes a folder beside `folder`. The caller must hold `files.LOCK_FILE` while it fills this folder."""
    temporary = _temporary_name(folder)
    temporary.mkdir()
    return temporary


def identify(folder: Path) -> tuple[int, ...]:
    """Returns numbers that change when another folder takes the place of this one; () if there is none."""
    try:
        status = folder.stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino


def set_aside(folder: Path) -> None:
    """Removes a folder in one step. Processes that have its files open keep them."""
    aside = _temporary_name(folder)
    with suppress(FileNotFoundError):  # another process does the same
        os.replace(folder, aside)
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.unlink()


def remove_leftovers(root: Path) -> None:
    """Removes temporary folders of killed processes; they can be as large as a data set."""
    for folder in root.glob(f"{TEMPORARY_PREFIX}*"):
        remove_abandoned(folder)


def _temporary_name(folder: Path) -> Path:
    # mkdtemp would make a folder that other users cannot read, and the folder may be shared.
    return folder.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}")
