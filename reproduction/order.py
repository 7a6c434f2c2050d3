"""Compares rows in words: their order with the order that the paper claims, and one row with another.

The paper claims AE+Skip < AE < MemAE < DAAD < DAAD+.
"""

import itertools
import statistics
from collections.abc import Mapping, Sequence

from reproduction import paper
from reproduction.cells import ROW_TITLES
from reproduction.results import TableResults
from reproduction.summary import MeanAndSpread, brightness_separable, mean_over, mean_over_seeds


def describe_order(stored: TableResults, metric: str = "auroc", title: str = "") -> str:
    """Describes the order of one table's means over the subjects that all rows have.

    If brightness alone separates a subject's test images, the brightness-corrected AUROC replaces the image
    AUROC.

    Args:
        stored: the results of the table.
        metric: the metric to order by.
        title: the metric in words; "" for the image AUROC.

    Returns:
        The text; "" if a row was not run.
    """
    means, corrected = _comparable_means(stored, metric)
    if not means:
        return ""
    shared = next(iter(means.values())).subjects
    by_metric = f" by {title} (the paper does not print {title})" if title else ""
    of_subjects = f" over {', '.join(shared)}" if len(shared) < len(stored.subjects) else ""
    correction = (
        f" For {', '.join(corrected)} the brightness-corrected AUROC counts, see below." if corrected else ""
    )
    return f"Order of the means{by_metric}{of_subjects}: {_compare_with_claim(means)}{correction}"


def describe_order_over_tables(tables: Sequence[TableResults]) -> str:
    """Describes the order of the means over all tables that have all rows. Each table counts the same.

    Returns:
        The text; "" if fewer than two tables have all rows.
    """
    by_table = {
        stored.table.title: _comparable_means(stored, "auroc")[0]
        for stored in tables
        if not stored.table.compares_divisions and not stored.table.has_many_sources
    }
    by_table = {title: means for title, means in by_table.items() if means}
    if len(by_table) < 2:
        return ""
    means = {
        row: MeanAndSpread(statistics.mean(m[row].mean for m in by_table.values()), None, tuple(by_table))
        for row in paper.CLAIMED_ORDER
    }
    return (
        f"Order of the means over {', '.join(by_table)}: {_compare_with_claim(means)} Every table takes part "
        "with the subjects that all its rows have."
    )


def describe_lead(stored: TableResults, row: str, rival: str, metric: str, title: str) -> str:
    """Says for which subjects a row is ahead of its rival, and for which subjects it is behind.

    A difference counts if it exceeds the larger of the two spreads over seeds.

    Args:
        stored: the results of the table.
        row: the name of the row.
        rival: the name of the row to compare with.
        metric: the metric to compare, a key of `Result.figures`.
        title: the metric in words.

    Returns:
        The text; "" if no subject has both rows.
    """
    of_kinds: dict[str, list[str]] = {
        "ahead by more than the spread over seeds for": [],
        "behind by more than the spread for": [],
        "no difference beyond the spread for": [],
        "without a spread to compare with for": [],
    }
    ahead, behind, within, unknown = of_kinds.values()
    for subject in stored.subjects:
        ours, theirs = (mean_over_seeds(stored, name, subject, metric) for name in (row, rival))
        if ours is None or theirs is None:
            continue
        lead = round(ours.mean - theirs.mean, 6) + 0.0  # without the sign of a zero below 0
        if ours.spread is None or theirs.spread is None:
            kind = unknown
        elif abs(lead) > max(ours.spread, theirs.spread):
            kind = ahead if lead > 0 else behind
        else:
            kind = within
        kind.append(f"{subject} ({lead:+.3f})")
    parts = [f"{words} {', '.join(subjects)}" for words, subjects in of_kinds.items() if subjects]
    return f"{ROW_TITLES[row]} against {ROW_TITLES[rival]} by {title}: {'; '.join(parts)}." if parts else ""


def _comparable_means(stored: TableResults, metric: str) -> tuple[dict[str, MeanAndSpread], list[str]]:
    """Computes the means of the rows that the paper puts in an order.

    Returns:
        The means by title, empty if a row is missing; and the subjects with a corrected AUROC.
    """
    separable = brightness_separable(stored) if metric == "auroc" else []
    metrics = {s: "levelled_auroc" if s in separable else metric for s in stored.subjects}
    rows = [row for row in stored.table.variants if ROW_TITLES[row] in paper.CLAIMED_ORDER]
    if len(rows) < len(paper.CLAIMED_ORDER):
        return {}, []
    subjects_of_rows = [
        {r.subject for r in stored.row_results(row) if metrics[r.subject] in r.figures} for row in rows
    ]
    shared = {s: metrics[s] for s in stored.subjects if all(s in subjects for subjects in subjects_of_rows)}
    means = {ROW_TITLES[row]: mean for row in rows if (mean := mean_over(stored, row, shared))}
    return means, [s for s in separable if s in shared]


def _compare_with_claim(means: Mapping[str, MeanAndSpread]) -> str:
    """Names the rows in ascending order, and says whether the paper claims this order."""
    order = sorted(means, key=lambda title: means[title].mean)
    ours = " < ".join(f"{title} {means[title].mean:.3f}" for title in order)
    if tuple(order) == paper.CLAIMED_ORDER:
        return f"{ours}. The paper claims this order."
    claim = " < ".join(paper.CLAIMED_ORDER)
    return f"{ours}. The paper claims another order, {claim}.{_describe_contradictions(means)}"


def _describe_contradictions(means: Mapping[str, MeanAndSpread]) -> str:
    """Says which pairs contradict the paper by more than the larger of their two spreads over seeds."""
    exceeding, all_spreads_known = [], True
    for lower, higher in itertools.combinations(paper.CLAIMED_ORDER, 2):
        lead = means[lower].mean - means[higher].mean
        spreads = [s for row in (lower, higher) if (s := means[row].spread) is not None]
        if lead > 0 and len(spreads) < 2:
            all_spreads_known = False
        elif lead > max(spreads, default=0):
            exceeding.append(f"{lower} above {higher}")
    if exceeding:
        return f" These differences exceed the spread over seeds: {', '.join(exceeding)}."
    return (
        " No difference that contradicts the claim exceeds the spread over seeds."
        if all_spreads_known
        else ""
    )
