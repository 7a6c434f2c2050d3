"""Means over seeds and subjects, and the trivial figures that they are held against."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from reproduction.cells import BASELINES
from reproduction.results import Stored

SEPARATES = 0.95  # AUROC of the mean intensity from which a set is said to be told apart by brightness


@dataclass(frozen=True)
class Figure:
    """A mean over `subjects` of means over seeds.

    `spread` is the standard deviation (n - 1) over seeds of the mean over subjects; None where fewer than
    two seeds have them all.
    """

    mean: float
    spread: float | None
    subjects: tuple[str, ...]


def over(stored: Stored, row: str, figures: Mapping[str, str]) -> Figure | None:
    """Of the subjects that are named, each by the figure that is named; None where none has its own."""
    values: dict[str, dict[int, float]] = {}
    for result in stored.of(row):
        figure = figures.get(result.subject)
        if figure in result.figures:
            values.setdefault(result.subject, {})[result.key[2]] = result.figures[figure]
    if not values:
        return None
    mean = statistics.mean(statistics.mean(of.values()) for of in values.values())
    shared = set.intersection(*(set(of) for of in values.values()))
    per_seed = [statistics.mean(of[seed] for of in values.values()) for seed in shared]
    spread = statistics.stdev(per_seed) if len(per_seed) > 1 else None
    return Figure(mean, spread, tuple(values))


def over_seeds(stored: Stored, row: str, subject: str, figure: str) -> Figure | None:
    """One subject's; None where it was not run or has no such figure."""
    return over(stored, row, {subject: figure})


def over_subjects(stored: Stored, row: str, figure: str) -> Figure | None:
    """Of all subjects of a row that have the figure, each counting the same; None where none has."""
    have = dict.fromkeys(r.subject for r in stored.of(row) if figure in r.figures)
    return over(stored, row, dict.fromkeys(have, figure))


def trivial(stored: Stored, subject: str, figure: str) -> float | None:
    """The best of the baselines' figures; None where there is none."""
    return _best(over_seeds(stored, row, subject, figure) for row in BASELINES)


def trivial_mean(stored: Stored, subjects: Sequence[str], figure: str) -> float | None:
    """The best mean over these subjects that a baseline has which was run for all of them."""
    means = (over(stored, row, dict.fromkeys(subjects, figure)) for row in BASELINES)
    return _best(m for m in means if m and len(m.subjects) == len(subjects))


def told_by_brightness(stored: Stored) -> list[str]:
    """Subjects whose test images the mean intensity alone tells apart: image AUROC says nothing there."""
    found = {s: over_seeds(stored, "mean_intensity", s, "auroc") for s in stored.subjects}
    return [subject for subject, figure in found.items() if figure and figure.mean >= SEPARATES]


def _best(found: Iterable[Figure | None]) -> float | None:
    return max((f.mean for f in found if f), default=None)
