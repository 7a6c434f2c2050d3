"""Loads and stores results: one JSON file for each table, small enough for version control.

docs/results.md is made from these files alone.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daad_jax import files
from daad_jax.errors import UserError
from daad_jax.files import explain_write_errors
from reproduction import cells
from reproduction.cells import Cell, Table, make_cell, source_of

FORMAT = 1
CELL_FILE = "result.json"  # the result of one cell, in the cell's folder


@dataclass(frozen=True)
class Result:
    """The result of a finished cell.

    Attributes:
        subject: the class or part that was normal.
        row: the baseline or variant.
        seed: the seed of the cell; None for a baseline.
        recipe: a key of `TableResults.recipes`.
        environment: a key of `TableResults.environments`.
        date: the day on which the cell finished, as YYYY-MM-DD.
        step: the number of training steps; 0 for a baseline, 1 if the memories were filled from the data.
        images: the numbers of images: "train", "held_out", and "normal" and "anomalous" of the test set. If
            defects were mixed in, "mixed_in" is the number of these images in "train" and "held_out"
            together.
        figures: the metrics by name, such as "auroc".
        images_per_s: the median of the rates that training logged; 0 if no network was trained.
        wall_s: the seconds from the configuration to the metrics, summed over all attempts. They include
            loading, compiling and saving.
        histogram: counts of anomaly scores by label, for the subject that is drawn.
    """

    subject: str
    row: str
    seed: int | None
    recipe: str
    environment: str
    date: str
    step: int
    images: dict[str, int]
    figures: dict[str, float]
    images_per_s: float
    wall_s: float
    histogram: dict[str, Any] | None = None

    @property
    def key(self) -> tuple[str, str, int]:
        """The key of the `Cell`: subject, row, and seed (-1 for a baseline)."""
        return self.subject, self.row, -1 if self.seed is None else self.seed


@dataclass(frozen=True)
class TableResults:
    """The results of one table, with the recipes and environments that the results name."""

    table: Table
    recipes: dict[str, dict[str, Any]] = field(default_factory=dict)
    environments: dict[str, dict[str, Any]] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)

    @property
    def subjects(self) -> list[str]:
        """The subjects that have a result, in the order of the results."""
        return list(dict.fromkeys(r.subject for r in self.results))

    def row_results(self, row: str) -> list[Result]:
        """Returns the results of one row."""
        return [r for r in self.results if r.row == row]

    def merge(self, other: "TableResults") -> "TableResults":
        """Returns the results of both tables. If both have a cell, the result of `other` counts."""
        by_key = {r.key: r for r in (*self.results, *other.results)}
        return _arrange(
            self.table,
            self.recipes | other.recipes,
            self.environments | other.environments,
            list(by_key.values()),
        )

    def select_current(self, smoke: bool) -> "TableResults":
        """Returns only the results whose recipe is still the one in configs/.

        Args:
            smoke: whether the results come from smoke runs.
        """
        current = [r for r in self.results if r.recipe == _current_recipe(self.table, r, smoke)]
        return _arrange(self.table, self.recipes, self.environments, current)


def results_path(docs: Path, table: Table) -> Path:
    """Returns the file of a table's results, in the folder of the documentation."""
    return docs / "results" / f"{table.name}.json"


def load(path: Path, table: Table) -> TableResults:
    """Loads a file of results. A file that does not exist counts as a table without results.

    Raises:
        UserError: the file does not hold results of this table.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        if tree["format"] != FORMAT or tree["table"] != table.name:
            raise ValueError(f"format {tree['format']!r} of table {tree['table']!r}")
        results = [_parse_result(cell) for cell in tree["cells"]]
        return _arrange(table, dict(tree["recipes"]), dict(tree["environments"]), results)
    except FileNotFoundError:
        return TableResults(table)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"{path}: no results of {table.name} ({reason}); repair or remove the file"
        ) from error


def load_all(docs: Path) -> list[TableResults]:
    """Loads the results of all tables, in their order, and shares them. A table may have no result.

    Raises:
        UserError: see `load`.
    """
    return share([load(results_path(docs, table), table) for table in cells.TABLES.values()])


def share(tables: Sequence[TableResults]) -> list[TableResults]:
    """Gives each table the missing results that another table has measured with the same recipe.

    The categories of MVTec AD, for instance, are also parts of the inspection table. A table without
    results stays empty.
    """
    shared = []
    for stored in tables:
        lent = TableResults(stored.table)
        for other in tables:
            same = [
                r
                for r in other.results
                if stored.results
                and other is not stored
                and r.subject in stored.table.default_subjects
                and source_of(stored.table, r.subject) == source_of(other.table, r.subject)
                and r.row in stored.table.rows
                and r.recipe == _current_recipe(stored.table, r, smoke=False)
            ]
            lent = lent.merge(TableResults(stored.table, other.recipes, other.environments, same))
        shared.append(lent.merge(stored))
    return shared


def load_cell(cell: Cell, folder: Path) -> TableResults | None:
    """Loads the result in a cell's folder; None if the cell has not finished.

    Raises:
        UserError: see `load`.
    """
    path = folder / CELL_FILE
    stored = load(path, cell.table) if path.is_file() else None
    return stored if stored and stored.results and stored.results[0].recipe == cell.recipe else None


def save(path: Path, stored: TableResults) -> None:
    """Replaces the file as a whole, with a line for each recipe, environment and cell.

    Raises:
        UserError: the file cannot be written.
    """
    with explain_write_errors(path, "give another --docs"):
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(path, to_json(stored))


def to_json(stored: TableResults) -> str:
    """Returns the text of a file of results."""

    def join_lines(entries: list[str]) -> str:
        return "".join(f"\n    {entry}{',' * (i + 1 < len(entries))}" for i, entry in enumerate(entries))

    def format_tree(tree: dict[str, Any]) -> str:
        return join_lines([f"{json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(tree.items())])

    results = [json.dumps(dataclasses.asdict(r)) for r in stored.results]
    return (
        f'{{\n  "format": {FORMAT},\n  "table": {json.dumps(stored.table.name)},\n'
        f'  "recipes": {{{format_tree(stored.recipes)}\n  }},\n'
        f'  "environments": {{{format_tree(stored.environments)}\n  }},\n'
        f'  "cells": [{join_lines(results)}\n  ]\n}}\n'
    )


def _arrange(
    table: Table, recipes: dict[str, Any], environments: dict[str, Any], results: list[Result]
) -> TableResults:
    """Sorts the results in the order of the table, and drops unused recipes and environments."""

    def position(result: Result) -> tuple[int, int, int]:
        return table.subjects.index(result.subject), table.rows.index(result.row), result.key[2]

    known = [r for r in results if r.subject in table.subjects and r.row in table.rows]
    return TableResults(
        table,
        {r.recipe: recipes[r.recipe] for r in known},
        {r.environment: environments[r.environment] for r in known},
        sorted(known, key=position),
    )


def _parse_result(tree: dict[str, Any]) -> Result:
    result = Result(**tree)
    numbers = (result.step, result.images_per_s, result.wall_s, *result.figures.values())
    if not all(isinstance(n, (int, float)) for n in (*numbers, *result.images.values())):
        raise ValueError(f"cell {result.key}: not a number")
    return result


def _current_recipe(table: Table, result: Result, smoke: bool) -> str:
    try:
        return make_cell(table, result.subject, result.row, result.seed, smoke).recipe
    except UserError:  # the recipe or the variant may have been removed since
        return ""
