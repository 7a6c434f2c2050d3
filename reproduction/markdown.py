"""Formats Markdown: wrapped paragraphs, tables, and numbers in cells."""

import textwrap
from collections.abc import Iterable

from reproduction.summary import MeanAndSpread

NONE = "–"  # the text of a cell without a value
COLUMNS = 105


def wrap(text: str) -> str:
    """Wraps a paragraph into lines of at most `COLUMNS` characters."""
    return textwrap.fill(text, COLUMNS, break_long_words=False, break_on_hyphens=False)


def make_grid(head: list[str], lines: list[list[str]]) -> str:
    """Makes a Markdown table."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def format_auroc(auroc: float | None) -> str:
    """Formats a figure with three decimals."""
    return NONE if auroc is None else f"{auroc:.3f}"


def format_result(result: MeanAndSpread | None, baseline: float | None) -> str:
    """Formats a mean with its spread over seeds, and with a dagger if the mean is not above `baseline`."""
    if result is None:
        return NONE
    spread = "" if result.spread is None else f" ± {result.spread:.3f}"
    return f"{result.mean:.3f}{spread}{' †' * (baseline is not None and result.mean <= baseline)}"


def format_range(values: Iterable[int]) -> str:
    """Formats the smallest and the largest value: "80 to 4000", or "80" if all values are equal."""
    ordered = sorted(values)
    low, high = ordered[0], ordered[-1]
    return f"{low}" if low == high else f"{low} to {high}"
