"""Runs all cells of a table, one after the other.

All cells run in this process, so the libraries are imported once. If a cell fails, its error is reported and
the next cell starts. If the whole process dies, one cell loses the steps after its last checkpoint. The same
command then continues from this checkpoint.
"""

import statistics
import traceback
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

from daad_jax.data import datasets
from daad_jax.errors import Stopped, UserError
from daad_jax.files import exclusive, explain_write_errors
from daad_jax.training.workdir import saved_step
from reproduction import experiment, inspection, pictures, results, results_page
from reproduction.cells import BASELINES, Cell, Table
from reproduction.results import Result, TableResults

SourceKey = tuple[str, str]
LOG_FILE = "cell.log"  # in a cell's folder; has the lines that training prints


@dataclass(frozen=True)
class Places:
    """The folders of the results.

    Attributes:
        out: the folder of the cells' runs.
        docs: the folder of results.md and results/.
    """

    out: Path
    docs: Path


def reproduce(
    table: Table,
    cells: Sequence[Cell],
    places: Places,
    smoke: bool = False,
    only_missing: bool = False,
    drop_checkpoints: bool = False,
) -> list[str]:
    """Runs the cells that have no result, stores every result at once, and writes the page at the end.

    Args:
        table: the table of the cells.
        cells: the cells, in the order in which they run.
        places: the folders of the results.
        smoke: whether the cells and the stored results belong to a smoke run.
        only_missing: whether to leave out cells whose results are stored in `places.docs`. These cells may
            have run on another machine, or for another table.
        drop_checkpoints: whether to remove the last checkpoint of a finished cell, too.

    Returns:
        A line for every cell that failed.

    Raises:
        UserError: no data set of the cells can be loaded, stored results cannot be read, or a folder cannot
            be written.
        SystemExit: a signal came while a cell trained; finished cells and the last step are saved.
    """
    # Find the cells to run. The page needs the results of all tables, so all of them are loaded here: a
    # damaged file is reported now instead of after hours.
    cells = _keep_available(cells)
    results.load_all(places.docs)
    _store_local_results(table, places, smoke)
    if only_missing:
        cells = _select_missing(cells, table, places, smoke)
    to_run = [c for c in cells if not results.load_cell(c, c.folder(places.out))]
    print(_count_cells(table, cells, to_run), flush=True)
    if to_run:
        print(f"cells write their progress to {places.out / table.name / '*' / LOG_FILE}", flush=True)

    # Run the cells, and write the page in any case.
    refusals = _find_refused_sources(to_run)
    try:
        failures = _run_cells(
            table, to_run, len(cells) - len(to_run), places, refusals, smoke, drop_checkpoints
        )
    except (SystemExit, KeyboardInterrupt, Stopped):
        print("stopped; the same command continues", flush=True)
        raise
    finally:
        stored = results.load(results.results_path(places.docs, table), table)
        pictures.draw_reconstructions(stored, places.out, places.docs)
        results_page.write(places.docs)
    print(f"wrote {places.docs / 'results.md'}")
    return failures


def dry_run(
    table: Table, cells: Sequence[Cell], places: Places, smoke: bool = False, only_missing: bool = False
) -> None:
    """Prints the state of every cell, the step of interrupted ones, and how long the rest will take.

    Args:
        table: the table of the cells.
        cells: the cells, in the order in which they would run.
        places: the folders of the results.
        smoke: whether the cells belong to a smoke run.
        only_missing: see `reproduce`.

    Raises:
        UserError: a stored result cannot be read.
    """
    cells = _keep_available(cells)
    local = _load_local_results(table, places, smoke)
    if only_missing:
        cells = _select_missing(cells, table, places, smoke)
    to_run = []
    for cell in cells:
        folder = cell.folder(places.out)
        if results.load_cell(cell, folder):
            print(f"done         {cell.label}")
            continue
        to_run.append(cell)
        step = saved_step(folder)
        state = f"at step {step}" if step else "to run"
        print(f"{state:12} {cell.label}  {_format_duration(estimate_s([cell], local, places))}")
    duration = _format_duration(estimate_s(to_run, local, places))
    print(f"{_count_cells(table, cells, to_run)}, {duration}")


def estimate_s(cells: Sequence[Cell], local: TableResults, places: Places) -> float | None:
    """Estimates the seconds that cells will take from results of this machine.

    Stored results do not count, because other machines may have measured them. A row without a result is
    estimated from the other rows, so the estimate gets better during the run.

    Args:
        cells: the cells without a result.
        local: the results in the cells' folders on this machine.
        places: the folders of the results.

    Returns:
        The seconds; None if no network has been trained on this machine.
    """
    total = 0.0
    for cell in cells:
        similar = local.row_results(cell.row)
        if not similar and cell.row not in BASELINES:
            similar = [r for r in local.results if r.step]
        if not similar and cell.row not in BASELINES:
            return None
        remaining = 1 - saved_step(cell.folder(places.out)) / cell.config.train.steps
        # The median, because the first cell of a row also compiles its programs.
        total += remaining * statistics.median(r.wall_s for r in similar) if similar else 0
    return total


class _CellError(Exception):
    """A cell failed. The message is one line with the reason."""


def _run_cells(
    table: Table,
    to_run: Sequence[Cell],
    done: int,
    places: Places,
    refusals: dict[SourceKey, str],
    smoke: bool,
    drop_checkpoints: bool,
) -> list[str]:
    """Runs cells and stores each result. Returns a line for every cell that failed.

    `done` is the number of cells that have finished before. `refusals` has a reason for each source that
    cannot be loaded.
    """
    local = _load_local_results(table, places, smoke)
    failures: list[str] = []
    for index, cell in enumerate(to_run):
        estimate = estimate_s(to_run[index:], local, places)
        left = "" if estimate is None else f", {_format_duration(estimate)} left"
        print(f"cell {done + index + 1}/{done + len(to_run)}: {cell.label}{left}", flush=True)
        try:
            result = _run_cell(cell, cell.folder(places.out), refusals, drop_checkpoints)
        except _CellError as error:
            failures.append(f"{cell.label}: {error}")
            print(f"  failed: {error}", flush=True)
            continue
        # Other processes may run cells of this table, too, so the results are read again.
        local = _store_local_results(table, places, smoke)
        print(f"  {_summarise(result)}", flush=True)
    return failures


def _run_cell(cell: Cell, folder: Path, refusals: dict[SourceKey, str], drop_checkpoints: bool) -> Result:
    """Runs a cell and prunes its checkpoints. Raises _CellError if the cell fails."""
    if reason := refusals.get(_source_of(cell)):
        raise _CellError(reason)
    with explain_write_errors(folder, "give another --out"):
        folder.mkdir(parents=True, exist_ok=True)
        log = (folder / LOG_FILE).open("a", encoding="utf-8")
    with log:
        try:
            with exclusive(folder / ".lock", "another process is running it"):
                # Another process may have finished the cell since this process started.
                if finished := results.load_cell(cell, folder):
                    return finished.results[0]
                with redirect_stdout(log):
                    result = experiment.run_cell(cell, folder).results[0]
                experiment.prune_checkpoints(folder, None if drop_checkpoints else result.step)
        except UserError as error:
            raise _CellError(" ".join(str(error).split())) from error
        except Exception as error:  # a defect in one cell must not stop the other cells
            traceback.print_exc(file=log)
            line = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise _CellError(f"{line} (traceback in {folder / LOG_FILE})") from error
    return result


def _load_local_results(table: Table, places: Places, smoke: bool) -> TableResults:
    """Loads the results in the cells' folders whose recipes are still in configs/."""
    local = TableResults(table)
    for path in sorted((places.out / table.name).glob(f"*/{results.CELL_FILE}")):
        local = local.merge(results.load(path, table).select_current(smoke))
    return local


def _store_local_results(table: Table, places: Places, smoke: bool) -> TableResults:
    """Adds the results in the cells' folders to the stored ones, and drops results of old recipes.

    A stored result of a later day stays, because another run has measured the cell again.

    Returns:
        The results in the cells' folders alone.
    """
    path = results.results_path(places.docs, table)
    before = results.load(path, table)
    current = before.select_current(smoke)
    if dropped := len(before.results) - len(current.results):
        print(f"dropped {dropped} results from {path}: their recipes are no longer in configs/", flush=True)
    local = _load_local_results(table, places, smoke)
    dates = {r.key: r.date for r in current.results}
    stored = current.merge(
        replace(local, results=[r for r in local.results if r.date >= dates.get(r.key, "")])
    )
    if stored != before:
        results.save(path, stored)
    return local


def _select_missing(cells: Sequence[Cell], table: Table, places: Places, smoke: bool) -> list[Cell]:
    """Drops cells with a stored result, which may also be a result of another table with the same cell."""
    tables = {each.table.name: each for each in results.load_all(places.docs)}
    known = {result.key for result in tables[table.name].select_current(smoke).results}
    return [cell for cell in cells if cell.key not in known]


def _keep_available(cells: Sequence[Cell]) -> list[Cell]:
    """Drops the cells whose images are not on this machine, and prints their subjects.

    If no images are here, all cells stay: opening the data set then raises an error with the remedy.
    """
    of_subjects = {cell.subject: cell.config.data for cell in cells}
    absent: dict[str, list[str]] = {}
    for subject, data in of_subjects.items():
        if not inspection.is_available(subject, data):
            absent.setdefault(inspection.variable_of(data), []).append(subject)
    left_out = [subject for subjects in absent.values() for subject in subjects]
    if len(left_out) == len(of_subjects):
        return list(cells)
    for variable, subjects in absent.items():
        print(f"not run, because {variable} has no images for: {', '.join(subjects)}", flush=True)
    return [c for c in cells if c.subject not in left_out]


def _find_refused_sources(cells: Sequence[Cell]) -> dict[SourceKey, str]:
    """Loads every source of the cells' images. Returns the errors by source; raises UserError if all fail."""
    of_sources = {_source_of(cell): cell for cell in cells}
    refusals = {}
    for key, cell in of_sources.items():
        try:
            inspection.check_folder(cell.subject, cell.config.data)
            datasets.load(cell.config)
        except UserError as error:
            refusals[key] = " ".join(str(error).split())
    if of_sources and len(refusals) == len(of_sources):
        raise UserError(next(iter(refusals.values())))
    return refusals


def _source_of(cell: Cell) -> SourceKey:
    """Returns the key of a cell's source of images: the kind of source, and a name or a path."""
    data = cell.config.data
    return data.source, data.path if data.source == "folder" else data.name


def _count_cells(table: Table, cells: Sequence[Cell], to_run: Sequence[Cell]) -> str:
    return f"{len(cells)} cells of {table.name}: {len(cells) - len(to_run)} done, {len(to_run)} to run"


def _summarise(result: Result) -> str:
    text = f"AUROC {result.figures['auroc']:.4f}, {result.wall_s:.0f} s"
    if not result.images_per_s:
        return text
    return f"{text}, {result.step} steps at {result.images_per_s:.0f} images/s"


def _format_duration(seconds: float | None) -> str:
    if seconds is None:
        return "time unknown"
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"
