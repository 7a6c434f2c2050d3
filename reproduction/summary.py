"""Computes means over seeds and subjects, and finds the best baselines to compare with."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from reproduction.cells import BASELINES
from reproduction.results import TableResults

# Brightness separates a test set if the mean intensity alone reaches this AUROC.
SEPARABLE_AUROC = 0.95


@dataclass(frozen=True)
class MeanAndSpread:
    """A metric of one row of a table.

    Attributes:
        mean: the mean over `subjects`, in which each subject is the mean over its seeds.
        spread: the standard deviation (n - 1) over seeds of the mean over subjects. None if fewer than two
            seeds have all the subjects.
        subjects: the subjects of the mean.
    """

    mean: float
    spread: float | None
    subjects: tuple[str, ...]


def mean_over(stored: TableResults, row: str, metrics: Mapping[str, str]) -> MeanAndSpread | None:
    """Computes the mean and spread of a row.

    Args:
        stored: the results of the table.
        row: the name of the row.
        metrics: maps every subject that counts to its metric, a key of `Result.figures`.

    Returns:
        The mean and spread; None if no result of the row has the metric of its subject.
    """
    by_subject: dict[str, dict[int, float]] = {}
    for result in stored.row_results(row):
        metric = metrics.get(result.subject)
        if metric in result.figures:
            by_subject.setdefault(result.subject, {})[result.key[2]] = result.figures[metric]
    if not by_subject:
        return None
    mean = statistics.mean(statistics.mean(by_seed.values()) for by_seed in by_subject.values())
    shared_seeds = set.intersection(*(set(by_seed) for by_seed in by_subject.values()))
    seed_means = [statistics.mean(by_seed[seed] for by_seed in by_subject.values()) for seed in shared_seeds]
    spread = statistics.stdev(seed_means) if len(seed_means) > 1 else None
    return MeanAndSpread(mean, spread, tuple(by_subject))


def mean_over_seeds(stored: TableResults, row: str, subject: str, metric: str) -> MeanAndSpread | None:
    """Computes the mean and spread of one subject; None if the subject has no such metric in this row."""
    return mean_over(stored, row, {subject: metric})


def summarise_seeds(values: Sequence[float], subject: str) -> MeanAndSpread:
    """Computes the mean and spread of one subject's values, one for each seed. At least one is needed."""
    spread = statistics.stdev(values) if len(values) > 1 else None
    return MeanAndSpread(statistics.mean(values), spread, (subject,))


def mean_over_subjects(stored: TableResults, row: str, metric: str) -> MeanAndSpread | None:
    """Computes the mean and spread over all subjects of a row with the metric; None without such subjects."""
    subjects = dict.fromkeys(r.subject for r in stored.row_results(row) if metric in r.figures)
    return mean_over(stored, row, dict.fromkeys(subjects, metric))


def best_baseline(stored: TableResults, subject: str, metric: str) -> float | None:
    """Returns the best baseline's figure for one subject; None if no baseline has the metric."""
    return _best_mean(mean_over_seeds(stored, row, subject, metric) for row in BASELINES)


def best_baseline_mean(stored: TableResults, subjects: Sequence[str], metric: str) -> float | None:
    """Returns the best baseline's mean over the subjects; None if no baseline has figures for all of them."""
    means = [mean_over(stored, row, dict.fromkeys(subjects, metric)) for row in BASELINES]
    return _best_mean(mean for mean in means if mean and len(mean.subjects) == len(subjects))


def brightness_separable(stored: TableResults) -> list[str]:
    """Returns the subjects whose test images the mean intensity alone separates by their labels.

    For these subjects the image AUROC says nothing about defects.
    """
    means = {s: mean_over_seeds(stored, "mean_intensity", s, "auroc") for s in stored.subjects}
    return [subject for subject, mean in means.items() if mean and mean.mean >= SEPARABLE_AUROC]


def _best_mean(means: Iterable[MeanAndSpread | None]) -> float | None:
    return max((mean.mean for mean in means if mean), default=None)
