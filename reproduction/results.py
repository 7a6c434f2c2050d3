"""Results as they are stored: a table's JSON, small enough to be checked in, from which its page is made."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daad_jax import files
from daad_jax.errors import UserError
from daad_jax.files import explain_write_errors
from reproduction.cells import TABLES, Cell, Table, make_cell

FORMAT = 1


@dataclass(frozen=True)
class Result:
    """What a finished cell came to.

    `images` counts those of training, held out, and of the test by label; `figures` are AUROC and the
    like. `images_per_s` is the median of the rates logged while it trained, `wall_s` the time from the
    configuration to the figures (loading, compiling, saving), over all attempts. A baseline has step 0
    and trains nothing. `recipe` and `environment` are keys into the file.
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
        return self.subject, self.row, -1 if self.seed is None else self.seed


@dataclass(frozen=True)
class Stored:
    """Results of one table, with the recipes and environments that they name."""

    table: Table
    recipes: dict[str, dict[str, Any]] = field(default_factory=dict)
    environments: dict[str, dict[str, Any]] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)

    @property
    def subjects(self) -> list[str]:
        """Those that have a result, in the order of the results."""
        return list(dict.fromkeys(r.subject for r in self.results))

    def of(self, row: str) -> list[Result]:
        return [r for r in self.results if r.row == row]

    def merged(self, other: "Stored") -> "Stored":
        """With the results of `other` as well, and in place of its own where both have a cell."""
        found = {r.key: r for r in (*self.results, *other.results)}
        return _tidy(
            self.table,
            self.recipes | other.recipes,
            self.environments | other.environments,
            list(found.values()),
        )

    def current(self, smoke: bool) -> "Stored":
        """Only the results that the configurations of today would give again."""
        kept = [r for r in self.results if r.recipe == _recipe_today(self.table, r, smoke)]
        return _tidy(self.table, self.recipes, self.environments, kept)


def place(docs: Path, table: Table) -> Path:
    return docs / "results" / f"{table.name}.json"


def load(path: Path, table: Table) -> Stored:
    """What is stored in a file; nothing where there is none.

    Raises:
        UserError: it is no file of this table's results.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        if tree["format"] != FORMAT or tree["table"] != table.name:
            raise ValueError(f"format {tree['format']!r} of table {tree['table']!r}")
        return _tidy(
            table, dict(tree["recipes"]), dict(tree["environments"]), [_result(r) for r in tree["cells"]]
        )
    except FileNotFoundError:
        return Stored(table)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{path}: no results of {table.name} ({reason}); mend or remove it") from error


def save(path: Path, stored: Stored) -> None:
    """Writes the file in one go, a line for each recipe, environment and cell.

    Raises:
        UserError: it cannot be written.
    """
    with explain_write_errors(path, "give another --docs"):
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(path, to_json(stored))


def to_json(stored: Stored) -> str:
    def lines(entries: list[str]) -> str:
        return "".join(f"\n    {entry}{',' * (i + 1 < len(entries))}" for i, entry in enumerate(entries))

    def named(tree: dict[str, Any]) -> str:
        return lines([f"{json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(tree.items())])

    cells = [json.dumps(dataclasses.asdict(r)) for r in stored.results]
    return (
        f'{{\n  "format": {FORMAT},\n  "table": {json.dumps(stored.table.name)},\n'
        f'  "recipes": {{{named(stored.recipes)}\n  }},\n'
        f'  "environments": {{{named(stored.environments)}\n  }},\n'
        f'  "cells": [{lines(cells)}\n  ]\n}}\n'
    )


def of_cell(cell: Cell, folder: Path) -> Stored | None:
    """What a finished cell left in its folder; None where it has not finished."""
    path = folder / "result.json"
    found = load(path, cell.table) if path.is_file() else None
    return found if found and found.results and found.results[0].recipe == cell.recipe else None


def _tidy(
    table: Table, recipes: dict[str, Any], environments: dict[str, Any], results: list[Result]
) -> Stored:
    """In the table's order, and without the recipes and environments that no result names."""

    def order(result: Result) -> tuple[int, int, int]:
        return table.subjects.index(result.subject), table.rows.index(result.row), result.key[2]

    known = [r for r in results if r.subject in table.subjects and r.row in table.rows]
    return Stored(
        table,
        {r.recipe: recipes[r.recipe] for r in known},
        {r.environment: environments[r.environment] for r in known},
        sorted(known, key=order),
    )


def _result(tree: dict[str, Any]) -> Result:
    found = Result(**tree)
    numbers = (found.step, found.images_per_s, found.wall_s, *found.figures.values())
    if not all(isinstance(n, (int, float)) for n in (*numbers, *found.images.values())):
        raise ValueError(f"cell {found.key}: not a number")
    return found


def _recipe_today(table: Table, result: Result, smoke: bool) -> str:
    try:
        return make_cell(table, result.subject, result.row, result.seed, smoke).recipe
    except UserError:  # a variant, say, that is no more
        return ""


def tables_stored(docs: Path) -> list[Stored]:
    """All tables, in their order, also those of which nothing is stored."""
    return [load(place(docs, table), table) for table in TABLES.values()]
