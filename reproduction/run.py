"""All cells of a table, one after the other.

They run in this process: the libraries are imported once, and a cell that fails raises, so it is named
and the next one goes on. What would take the whole process down loses what came after the last
checkpoint of one cell; the same command continues there.
"""

import statistics
import traceback
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from daad_jax.data import datasets
from daad_jax.data.tfds_source import categories_at_hand
from daad_jax.errors import Stopped, UserError
from daad_jax.files import exclusive, explain_write_errors
from daad_jax.training import workdir as workdirs
from reproduction import experiment, pictures, results
from reproduction import results_page as page
from reproduction.cells import BASELINES, Cell, Table
from reproduction.results import Result, Stored

LOG = "cell.log"  # what a cell's training would have printed


@dataclass(frozen=True)
class Places:
    """`out` is where cells live, `docs` where results.md and results/ are."""

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
    """Runs what is not done, stores every result as it comes, and writes the page at the end.

    Args:
        table: whose cells.
        cells: in the order in which they run.
        places: where everything is.
        smoke: the cells are small ones (so are those that are stored).
        only_missing: leave out cells whose results are stored in `places.docs`, done here or elsewhere.
        drop_checkpoints: of finished cells.

    Returns:
        A line for every cell that failed.

    Raises:
        UserError: none of the data can be loaded, or a place cannot be written.
        SystemExit: a signal came while a cell trained; what was done is saved.
    """
    cells = _with_data(table, cells)
    results.tables_stored(places.docs)  # the page needs them all; a damaged one is named now, not in hours
    stored, ran_here = _gathered(table, places, smoke)
    if only_missing:
        known = {r.key for r in stored.results}
        cells = [c for c in cells if c.key not in known]
    to_run = [c for c in cells if not results.of_cell(c, c.folder(places.out))]
    counts = f"{len(cells) - len(to_run)} done, {len(to_run)} to run"
    print(f"{len(cells)} cells of {table.name}: {counts}", flush=True)
    if to_run:
        print(f"what a cell prints as it goes: {places.out / table.name / '*' / LOG}", flush=True)
    refused = _refused_sources(to_run)
    failed: list[str] = []
    try:
        for number, cell in enumerate(to_run, len(cells) - len(to_run) + 1):
            left = remaining_s(to_run[number - len(cells) - 1 :], ran_here, places)
            how_long = "" if left is None else f", {_duration(left)} left"
            print(f"cell {number}/{len(cells)}: {cell.label}{how_long}", flush=True)
            try:
                found = _one(cell, cell.folder(places.out), refused, drop_checkpoints)
            except _FailedCell as problem:
                failed.append(f"{cell.label}: {problem}")
                print(f"  failed: {problem}", flush=True)
                continue
            stored, ran_here = _gathered(table, places, smoke)  # others may run cells of this table as well
            print(f"  {_said(found.results[0])}", flush=True)
    except (SystemExit, KeyboardInterrupt, Stopped):
        print("stopped; the same command continues", flush=True)
        raise
    finally:
        pictures.reconstructions(stored, places.out, places.docs)
        page.write(places.docs)
    print(f"wrote {places.docs / 'results.md'}")
    return failed


def dry_run(table: Table, cells: Sequence[Cell], places: Places, smoke: bool = False) -> None:
    """Prints every cell: whether it is done, where an interrupted one stands, the time that it will take."""
    cells = _with_data(table, cells)
    ran_here = _ran_here(table, places, smoke)
    to_run = []
    for cell in cells:
        folder = cell.folder(places.out)
        if results.of_cell(cell, folder):
            print(f"done         {cell.label}")
            continue
        to_run.append(cell)
        step = workdirs.saved_step(folder)
        state = f"at step {step}" if step else "to run"
        print(f"{state:12} {cell.label}  {_duration(remaining_s([cell], ran_here, places))}")
    total = _duration(remaining_s(to_run, ran_here, places))
    print(
        f"{len(cells)} cells of {table.name}: {len(cells) - len(to_run)} done, {len(to_run)} to run, {total}"
    )


def remaining_s(cells: Sequence[Cell], ran_here: Stored, places: Places) -> float | None:
    """Seconds that these cells will take; None where nothing is known.

    By those that ran on this machine: what is stored of others may be of a GPU. A row that was not run
    yet takes what the others take, so the longer it runs the truer this is.
    """
    total = 0.0
    for cell in cells:
        alike = ran_here.of(cell.row)
        if not alike and cell.row not in BASELINES:
            alike = [r for r in ran_here.results if r.step]
        if not alike and cell.row not in BASELINES:
            return None
        share = 1 - workdirs.saved_step(cell.folder(places.out)) / cell.config.train.steps
        # The median: the first of its kind also compiled.
        total += share * statistics.median(r.wall_s for r in alike) if alike else 0
    return total


class _FailedCell(Exception):
    """Why, in a line."""


def _one(cell: Cell, folder: Path, refused: dict[str, str], drop_checkpoints: bool) -> Stored:
    if cell.config.data.name in refused:
        raise _FailedCell(refused[cell.config.data.name])
    with explain_write_errors(folder, "give another --out"):
        folder.mkdir(parents=True, exist_ok=True)
        log = (folder / LOG).open("a", encoding="utf-8")
    with log:
        try:
            with exclusive(folder / ".lock", "another process is running it"):
                if done := results.of_cell(cell, folder):  # by another process, since this one began
                    return done
                with redirect_stdout(log):
                    found = experiment.run(cell, folder)
                experiment.prune_checkpoints(folder, None if drop_checkpoints else found.results[0].step)
        except UserError as error:
            raise _FailedCell(" ".join(str(error).split())) from error
        except Exception as error:  # a defect of one cell need not cost the others
            traceback.print_exc(file=log)
            line = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise _FailedCell(f"{line} (traceback in {folder / LOG})") from error
    return found


def _ran_here(table: Table, places: Places, smoke: bool) -> Stored:
    """What finished cells have left in their folders, where it is still true."""
    found = Stored(table)
    for file in sorted((places.out / table.name).glob("*/result.json")):
        found = found.merged(results.load(file, table).current(smoke))
    return found


def _gathered(table: Table, places: Places, smoke: bool) -> tuple[Stored, Stored]:
    """What is stored and still true together with what ran here, stored again; and what ran here alone."""
    path = results.place(places.docs, table)
    before = results.load(path, table)
    stored = before.current(smoke)
    if gone := len(before.results) - len(stored.results):
        print(f"{gone} stored results of other recipes are dropped from {path}", flush=True)
    ran_here = _ran_here(table, places, smoke)
    stored = stored.merged(ran_here)
    if stored != before:
        results.save(path, stored)
    return stored, ran_here


def _with_data(table: Table, cells: Sequence[Cell]) -> list[Cell]:
    """Without the categories of MVTec AD that are not here; they are named.

    Raises:
        UserError: none is here.
    """
    if table.name != "mvtec_ad":
        return list(cells)
    here = categories_at_hand(cells[0].config.data)
    wanted = list(dict.fromkeys(c.subject for c in cells))
    absent = [s for s in wanted if s not in here]
    if absent and len(absent) < len(wanted):
        print(f"not run, no images of them in DAAD_MVTEC_DIR: {', '.join(absent)}", flush=True)
        return [c for c in cells if c.subject in here]
    return list(cells)


def _refused_sources(cells: Sequence[Cell]) -> dict[str, str]:
    """Data sets that cannot be loaded, and why.

    Raises:
        UserError: none can.
    """
    configs = {c.config.data.name: c.config for c in cells}
    refused = {}
    for name, config in configs.items():
        try:
            datasets.load(config)
        except UserError as error:
            refused[name] = " ".join(str(error).split())
    if configs and len(refused) == len(configs):
        raise UserError(next(iter(refused.values())))
    return refused


def _said(result: Result) -> str:
    text = f"AUROC {result.figures['auroc']:.4f}, {result.wall_s:.0f} s"
    return f"{text}, {result.step} steps at {result.images_per_s:.0f} images/s" if result.step else text


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "of unknown time"
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"
