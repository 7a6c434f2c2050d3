"""Makes training sets with unnoticed defects: some anomalous test images train like normal images."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from daad_jax.data.samples import GOOD, Split, Splits
from daad_jax.errors import UserError
from daad_jax.training.suspects import SUSPECTS_FILE

DIRT_STREAM = 21  # the number of the random stream, beside the seed of the cell
NAME_COLUMN = "name"


class DirtySplits(NamedTuple):
    """The splits of a run, and the names of the defective images among its training and held-out images."""

    splits: Splits
    mixed_in: list[str]


def mix_in(clean: Splits, percent: int, most: int, fraction: float, seed: int) -> DirtySplits:
    """Mixes anomalous test images into the training images and the held-out images.

    For every `percent`, the images for `most` percent leave the test set. So all rows have the same test
    images. The images of a smaller share are a part of the images of a larger share.

    Args:
        clean: the splits without defects.
        percent: the share of defective images among the resulting training and held-out images, in percent.
        most: the largest `percent` of the table.
        fraction: the share of the mixed-in images that is held out. It is also the share of normal images
            that is held out.
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
    """Counts the mixed-in images among the N images that the run suspects most, if N images are mixed in.

    Args:
        workdir: the folder of the run.
        mixed_in: the names of the mixed-in images.

    Returns:
        The number of images; None if the run has not written its suspects.

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
    """Appends the test images at `indices` to `normal`, with the label and the kind of good images."""
    count, groups = len(indices), normal.groups
    if groups is not None:  # each added image is a group of its own
        groups = np.concatenate([groups, groups.max() + 1 + np.arange(count)])
    return Split(
        images=np.concatenate([normal.images[:], test.images[np.sort(indices)]]),
        labels=np.concatenate([normal.labels, np.zeros(count, normal.labels.dtype)]),
        kinds=normal.kinds + [GOOD] * count,
        names=normal.names + [test.names[i] for i in np.sort(indices)],
        groups=groups,
    )
