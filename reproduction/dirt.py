"""Training sets with defects that nobody has seen: anomalous test images that train like normal ones."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from daad_jax.data.samples import GOOD, Split, Splits
from daad_jax.errors import UserError
from daad_jax.training.suspects import SUSPECTS_FILE

DIRT_STREAM = 21  # of random numbers, beside the seed of the cell
NAME_COLUMN = "name"


class DirtySplits(NamedTuple):
    """The splits of a run, and the names of the defective images that train or are held out in it."""

    splits: Splits
    mixed_in: list[str]


def mix_in(clean: Splits, percent: int, most: int, fraction: float, seed: int) -> DirtySplits:
    """Mixes anomalous test images into the normal images that train and that are held out.

    The images that make up `most` percent leave the test set for every `percent`. All rows are therefore
    tested on the same images. A smaller share is a part of a larger one.

    Args:
        clean: the splits as they are.
        percent: how many of the training images, with the held-out ones, then have a defect.
        most: the largest `percent` of the table.
        fraction: the share of the mixed-in images that is held out, as it is of the normal ones.
        seed: the seed of the run.

    Raises:
        UserError: the test set has too few anomalous images.
    """
    normal = len(clean.train) + len(clean.calibration)
    defects = np.flatnonzero(clean.test.labels)
    count, largest = (round(normal * share / (100 - share)) for share in (percent, most))
    if largest >= len(defects):
        raise UserError(
            f"{most} % of defects among {normal} normal images are {largest} defects, but the test set has "
            f"only {len(defects)}, and some must be left to test; leave this part out (--only)"
        )
    drawn = np.random.default_rng([seed, DIRT_STREAM]).permutation(defects)[:largest]
    chosen, held_out = drawn[:count], round(count * fraction)
    splits = replace(
        clean,
        train=_join(clean.train, clean.test, chosen[held_out:]),
        calibration=_join(clean.calibration, clean.test, chosen[:held_out]),
        test=clean.test.take(np.setdiff1d(np.arange(len(clean.test)), drawn)),
    )
    return DirtySplits(splits, [clean.test.names[i] for i in chosen])


def count_found(workdir: Path, mixed_in: Sequence[str]) -> int | None:
    """How many of the N mixed-in images are among the N training images that the run suspects most.

    Args:
        workdir: the folder of the run.
        mixed_in: the names of the mixed-in images.

    Returns:
        None if the run has named no suspects.

    Raises:
        UserError: the file of the suspects has no column of names.
    """
    file = workdir / SUSPECTS_FILE
    if not file.is_file():
        return None
    with file.open(encoding="utf-8", errors="surrogateescape", newline="") as text:
        rows = csv.DictReader(text)
        if NAME_COLUMN not in (rows.fieldnames or ()):
            raise UserError(f"{file}: has no column {NAME_COLUMN!r}; remove the file and train again")
        names = [row[NAME_COLUMN] for row in rows]
    return len(set(names[: len(mixed_in)]) & set(mixed_in))


def _join(normal: Split, test: Split, indices: np.ndarray) -> Split:
    """`normal` and then the test images at `indices`, all with the label and the kind of good images."""
    count, groups = len(indices), normal.groups
    if groups is not None:  # each of the added images is for itself
        groups = np.concatenate([groups, groups.max() + 1 + np.arange(count)])
    return Split(
        images=np.concatenate([normal.images[:], test.images[np.sort(indices)]]),
        labels=np.concatenate([normal.labels, np.zeros(count, normal.labels.dtype)]),
        kinds=normal.kinds + [GOOD] * count,
        names=normal.names + [test.names[i] for i in np.sort(indices)],
        groups=groups,
    )
