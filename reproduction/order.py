"""The paper's claim of an order, AE+Skip < AE < MemAE < DAAD < DAAD+, as it falls here: in words."""

import itertools
import statistics
from collections.abc import Mapping, Sequence

from reproduction import paper
from reproduction.cells import TITLES
from reproduction.results import Stored
from reproduction.summary import Figure, over, told_by_brightness


def of_table(stored: Stored, figure: str = "auroc", title: str = "") -> str:
    """The order of one table's means over the subjects that all its rows have; "" where a row was not run.

    In place of the AUROC of subjects that brightness tells apart the corrected one counts.

    Args:
        stored: the table.
        figure: by which; `title` is its name where it is not the image AUROC.
    """
    means, told = _comparable(stored, figure)
    if not means:
        return ""
    shared = next(iter(means.values())).subjects
    by = f" by {title}, which the paper does not print" if title else ""
    partly = f" of {', '.join(shared)}" if len(shared) < len(stored.subjects) else ""
    corrected = f" (of {', '.join(told)} the brightness-corrected score, see below)" if told else ""
    return f"Order of the means{by}{partly}{corrected}: {_said(means)}."


def over_tables(tables: Sequence[Stored]) -> str:
    """The same of all tables that have all rows, each counting the same; "" where fewer than two have."""
    found = {t.table.title: _comparable(t, "auroc")[0] for t in tables if t.table.name != "granularity"}
    found = {title: means for title, means in found.items() if means}
    if len(found) < 2:
        return ""
    means = {
        row: Figure(statistics.mean(of[row].mean for of in found.values()), None, tuple(found))
        for row in paper.ORDER
    }
    return f"Mean of {', '.join(found)}, of the subjects that all rows have: {_said(means)}."


def _comparable(stored: Stored, figure: str) -> tuple[dict[str, Figure], list[str]]:
    """Means, by title, of the rows that the paper puts in an order, and which subjects' are corrected."""
    told = told_by_brightness(stored) if figure == "auroc" else []
    counts = {s: "levelled_auroc" if s in told else figure for s in stored.subjects}
    rows = [row for row in stored.table.variants if TITLES[row] in paper.ORDER]
    ran = [{r.subject for r in stored.of(row) if counts[r.subject] in r.figures} for row in rows]
    shared = {s: counts[s] for s in stored.subjects if all(s in of for of in ran)}
    if len(rows) < len(paper.ORDER):
        return {}, []
    found = {TITLES[row]: mean for row in rows if (mean := over(stored, row, shared))}
    return found, [s for s in told if s in shared]


def _said(means: Mapping[str, Figure]) -> str:
    order = sorted(means, key=lambda title: means[title].mean)
    words = " < ".join(f"{title} {means[title].mean:.3f}" for title in order)
    claim = " < ".join(paper.ORDER)
    if tuple(order) == paper.ORDER:
        return f"{words}; as in the paper ({claim})"
    return f"{words}; not the paper's ({claim}){_how_surely(means)}"


def _how_surely(means: Mapping[str, Figure]) -> str:
    """Whether what contradicts the paper does so by more than the larger standard deviation over seeds."""
    sure, all_known = [], True
    for lower, higher in itertools.combinations(paper.ORDER, 2):
        lead = means[lower].mean - means[higher].mean
        spreads = [s for row in (lower, higher) if (s := means[row].spread) is not None]
        if lead > 0 and len(spreads) < 2:
            all_known = False
        elif lead > max(spreads, default=0):
            sure.append(f"{lower} above {higher}")
    if sure:
        return f"; by more than seeds differ: {', '.join(sure)}"
    return ", by no more than seeds differ" if all_known else ""
