"""Finds the least normal training images, because collected good images contain defects that nobody saw."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from daad_jax.buckets import read_bytes
from daad_jax.errors import UserError
from daad_jax.escaping import table_row
from daad_jax.files import explain_write_errors, write_text

SUSPECTS_FILE = "suspects.csv"  # in the workdir
COLUMNS = ("rank", "name", "score")
EPSILON = 1e-12
MAX_SUSPECTS = 1000
MIN_SUSPECTS = 20
SUSPECT_SHARE = 0.1  # of the training images


class Suspect(NamedTuple):
    """A training image, and its anomaly score in units of the average training image."""

    name: str
    score: float


def rank_suspects(names: Sequence[str], distances: np.ndarray) -> list[Suspect]:
    """The least normal tenth of the training images, the least normal first (at least 20, at most 1000).

    Args:
        names: the names of the training images.
        distances: A(x) or R of the images, in any unit, `[N]`. New images are scored in another unit: the
            model knows its training images.

    Raises:
        UserError: a distance is not finite; the message names the image.
    """
    for index in np.flatnonzero(~np.isfinite(distances))[:1]:
        raise UserError(
            f"{names[index]}: the score of this training image is {distances[index]:g}, which is not finite; "
            "train in a new --workdir, with a smaller config.train.learning_rate if the model has networks"
        )
    count = min(len(names), max(MIN_SUSPECTS, round(SUSPECT_SHARE * len(names))), MAX_SUSPECTS)
    scores = distances / max(float(distances.mean()), EPSILON)
    return [Suspect(names[i], float(scores[i])) for i in np.argsort(-scores, kind="stable")[:count].tolist()]


def write_suspects(workdir: Path, suspects: Sequence[Suspect]) -> None:
    """Writes `suspects.csv` into the workdir, one row an image.

    Raises:
        UserError: the file cannot be written.
    """
    lines = [table_row(COLUMNS)]
    lines += [table_row([rank, suspect.name, suspect.score]) for rank, suspect in enumerate(suspects, 1)]
    file = workdir / SUSPECTS_FILE
    with explain_write_errors(file, "make room there; the checkpoint is saved"):
        write_text(file, "".join(lines))


def read_suspects(workdir: Path) -> list[Suspect]:
    """Reads `suspects.csv`; none if the run has no such file. The names are as `for_table` shows them.

    Raises:
        UserError: the file is damaged.
    """
    file = workdir / SUSPECTS_FILE
    try:
        text = read_bytes(file).decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); remove the file") from error
    try:
        rows = list(csv.DictReader(io.StringIO(text)))
        suspects = [Suspect(row["name"], float(row["score"])) for row in rows]
        if not all(math.isfinite(suspect.score) for suspect in suspects):
            raise ValueError("a score is not finite")
        return suspects
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: this file is damaged; remove it to go on without it") from error


def describe_suspects(suspects: Sequence[Suspect]) -> str:
    """A line for the end of a training."""
    return (
        f"{SUSPECTS_FILE} names the {len(suspects)} least normal training images, first {suspects[0].name}. "
        "Look at them: an image with a defect among the good ones can hide such defects."
    )
