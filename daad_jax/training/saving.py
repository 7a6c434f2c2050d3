"""Explains in one line why a checkpoint cannot be saved, and how to go on."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from daad_jax.errors import REMEDIES, UserError
from daad_jax.training.workdir import saved_step

MAX_REASON = 200  # characters of a library's error message


@contextmanager
def explain_save_errors(workdir: Path) -> Iterator[None]:
    """Wraps a block that saves a checkpoint into `workdir`, or waits until one is saved.

    Raises:
        UserError: the checkpoint could not be saved. Orbax and tensorstore raise errors of many kinds for
            that, some of them at the next save.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason, number = _find_reason(error)
        remedy = REMEDIES.get(number, "look at that disk")
        step = saved_step(workdir)
        place = f"resumes from step {step}" if step else "begins from the start"
        raise UserError(
            f"{workdir}: a checkpoint cannot be saved ({reason}); {remedy}, and the same command then {place}"
        ) from error


def _find_reason(error: Exception) -> tuple[str, int]:
    """Returns the system's text and number for an error or its cause; the number is 0 without a text."""
    text = str(error)
    number = error.errno if isinstance(error, OSError) and error.errno else 0
    if match := re.search(r"os_error_code='(\d+)'", text):  # tensorstore's words
        number = int(match[1])
    if not number:
        known = (code for code in REMEDIES if code != errno.ENOENT and os.strerror(code) in text)
        number = next(known, 0)
    return (os.strerror(number) if number else " ".join(text.split())[:MAX_REASON]), number
