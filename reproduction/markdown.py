"""Markdown text: wrapped paragraphs, tables, and numbers in their cells."""

import textwrap
from collections.abc import Iterable

from reproduction.summary import MeanAndSpread

NONE = "–"  # a table's cell without a value
COLUMNS = 105


def wrap(text: str) -> str:
    """A paragraph in lines of at most `COLUMNS` characters."""
    return textwrap.fill(text, COLUMNS, break_long_words=False, break_on_hyphens=False)


def make_grid(head: list[str], lines: list[list[str]]) -> str:
    """A Markdown table."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def format_auroc(auroc: float | None) -> str:
    """A figure with three decimals."""
    return NONE if auroc is None else f"{auroc:.3f}"


def format_result(result: MeanAndSpread | None, baseline: float | None) -> str:
    """A mean with its spread over seeds, and a dagger if the mean is not above `baseline`."""
    if result is None:
        return NONE
    spread = "" if result.spread is None else f" ± {result.spread:.3f}"
    return f"{result.mean:.3f}{spread}{' †' * (baseline is not None and result.mean <= baseline)}"


def format_range(values: Iterable[int]) -> str:
    """The smallest and the largest value: "80 to 4000", or "80" if all are equal."""
    ordered = sorted(values)
    low, high = ordered[0], ordered[-1]
    return f"{low}" if low == high else f"{low} to {high}"
