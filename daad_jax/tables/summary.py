"""Means over seeds and subjects, and the trivial figures that they are held against."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from daad_jax.tables import paper
from daad_jax.tables.cells import BASELINES, TITLES
from daad_jax.tables.results import Stored

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


def over_seeds(stored: Stored, row: str, subject: str, figure: str) -> Figure | None:
    """One subject's; None where it was not run or has no such figure."""
    return _summed_up(stored, row, figure, (subject,))


def over_subjects(stored: Stored, row: str, figure: str) -> Figure | None:
    """Of all subjects of a row that have the figure, each counting the same; None where none has."""
    have = dict.fromkeys(r.subject for r in stored.of(row) if figure in r.figures)
    return _summed_up(stored, row, figure, tuple(have))


def trivial(stored: Stored, subject: str, figure: str) -> float | None:
    """The best of the baselines' figures; None where there is none."""
    return _best(over_seeds(stored, row, subject, figure) for row in BASELINES)


def trivial_mean(stored: Stored, subjects: Sequence[str], figure: str) -> float | None:
    """The best mean over these subjects that a baseline has which was run for all of them."""
    means = (_summed_up(stored, row, figure, tuple(subjects)) for row in BASELINES)
    return _best(m for m in means if m and len(m.subjects) == len(subjects))


def told_by_brightness(stored: Stored) -> list[str]:
    """Subjects whose test images the mean intensity alone tells apart: image AUROC says nothing there."""
    found = {s: over_seeds(stored, "mean_intensity", s, "auroc") for s in stored.subjects}
    return [subject for subject, figure in found.items() if figure and figure.mean >= SEPARATES]


def comparable(stored: Stored, figure: str = "auroc") -> tuple[dict[str, float], list[str]]:
    """The mean figure, by title, of every row that the paper puts in an order, over the subjects that all of
    them have, and these subjects; nothing where a row was not run. In place of the AUROC of subjects that
    brightness tells apart the corrected one counts."""
    told = told_by_brightness(stored) if figure == "auroc" else []
    counts = {s: "levelled_auroc" if s in told else figure for s in stored.subjects}
    rows = [row for row in stored.table.variants if TITLES[row] in paper.ORDER]
    ran = [{r.subject for r in stored.of(row) if counts[r.subject] in r.figures} for row in rows]
    shared = [s for s in stored.subjects if all(s in of for of in ran)]
    if not shared or len(rows) < len(paper.ORDER):
        return {}, []
    found = {row: [over_seeds(stored, row, s, counts[s]) for s in shared] for row in rows}
    return {TITLES[row]: statistics.mean(f.mean for f in of if f) for row, of in found.items()}, shared


def _best(found: Iterable[Figure | None]) -> float | None:
    return max((f.mean for f in found if f), default=None)


def _summed_up(stored: Stored, row: str, figure: str, subjects: tuple[str, ...]) -> Figure | None:
    values: dict[str, dict[int, float]] = {}
    for result in stored.of(row):
        if result.subject in subjects and figure in result.figures:
            values.setdefault(result.subject, {})[result.key[2]] = result.figures[figure]
    if not values:
        return None
    mean = statistics.mean(statistics.mean(of.values()) for of in values.values())
    shared = set.intersection(*(set(of) for of in values.values()))
    per_seed = [statistics.mean(of[seed] for of in values.values()) for seed in shared]
    spread = statistics.stdev(per_seed) if len(per_seed) > 1 else None
    return Figure(mean, spread, tuple(values))
