"""Draws the pictures beside the tables: score histograms, the curve over division rates, reconstructions."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from daad_jax.evaluation import charts
from daad_jax.evaluation.charts import save_png
from reproduction.cells import DIVISIONS, ROW_TITLES, Table, cell_folder
from reproduction.experiment import PICTURES_FILE
from reproduction.results import Result, TableResults

COLOURS = charts.PAPER


def picture_name(table: Table, kind: str) -> str:
    """Returns the file name of a picture. `kind` is "scores", "curve" or "reconstructions"."""
    return f"{table.name}-{kind}.png"


def pictured_results(stored: TableResults) -> list[Result]:
    """Returns one result to draw for each row: of the table's picture subject, with the first seed."""
    chosen: dict[str, Result] = {}
    for result in stored.results:
        if result.subject == stored.table.picture_subject and result.step:
            chosen.setdefault(result.row, result)
    return list(chosen.values())


def draw_histograms(stored: TableResults, folder: Path) -> None:
    """Draws the scores of normal and anomalous test images of every row, from the stored counts."""
    drawn = [(r, r.histogram) for r in pictured_results(stored) if r.histogram]
    if not drawn:
        return
    figure = Figure(figsize=(7, 1.3 * len(drawn) + 0.6), layout="constrained")
    for axes, (result, counts) in zip(figure.subplots(len(drawn), 1, squeeze=False)[:, 0], drawn):
        edges = np.linspace(counts["low"], counts["high"], len(counts["normal"]) + 1)
        for label, colour in (("normal", COLOURS.normal), ("anomalous", COLOURS.anomalous)):
            share = np.array(counts[label]) / max(sum(counts[label]), 1)
            axes.stairs(share, edges, fill=True, alpha=0.6, color=colour, label=label)
        axes.axvline(counts["threshold"], color=COLOURS.text, linestyle="--", label="threshold")
        axes.set_ylabel(ROW_TITLES[result.row], rotation=0, ha="right", va="center")
        axes.set(yticks=[])
        axes.spines[["top", "right"]].set_visible(False)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper right", frameon=False, ncols=3)
    figure.axes[-1].set_xlabel("anomaly score; the last bar counts all higher scores, too")
    save_png(figure, folder / picture_name(stored.table, "scores"))


def draw_curve(stored: TableResults, folder: Path) -> None:
    """Draws AUROC and the errors of held-out normal and of anomalous images over the division rates."""
    rows = [row for row in DIVISIONS if stored.row_results(row)]
    if not rows:
        return
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_line(left, stored, rows, "auroc", COLOURS.text, "")
    left.set(ylabel="image AUROC")
    _draw_line(right, stored, rows, "held_out_error", COLOURS.normal, "held-out normal images")
    _draw_line(right, stored, rows, "anomalous_error", COLOURS.anomalous, "anomalous images")
    right.set(ylabel="reconstruction error")
    right.set_ylim(0, 1.05 * max(line.get_ydata().max() for line in right.lines))  # type: ignore[union-attr]
    right.legend(frameon=False)
    for axes in (left, right):
        axes.set_xticks(range(len(rows)), [ROW_TITLES[row].removesuffix(" blocks") for row in rows])
        axes.set_xlabel("blocks at every scale")
        axes.spines[["top", "right"]].set_visible(False)
    save_png(figure, folder / picture_name(stored.table, "curve"))


def draw_reconstructions(stored: TableResults, out: Path, docs: Path) -> Path | None:
    """Draws test images, and the reconstructions of every row, from the cells' folders.

    Args:
        stored: the results of the table.
        out: the folder of the cells' runs.
        docs: the folder of the documentation.

    Returns:
        The path of the picture; None if no cell has kept images. The picture lies beside the results if the
        images may be published, else in `out`.
    """
    # Read what the cells have kept.
    kept = []
    for result in pictured_results(stored):
        key = (stored.table, result.subject, result.row, result.seed, result.recipe)
        path = cell_folder(out, *key) / PICTURES_FILE
        if path.is_file():
            with np.load(path, allow_pickle=False) as arrays:
                kept.append((ROW_TITLES[result.row], dict(arrays)))
    if not kept:
        return None

    # Draw a line for the input and one for each row of the table.
    first = kept[0][1]
    lines = [("input", first["images"]), *((title, arrays["reconstructions"]) for title, arrays in kept)]
    count = len(first["images"])
    figure = Figure(figsize=(0.9 * count + 1, 0.9 * len(lines) + 0.3), layout="constrained")
    grid = figure.subplots(len(lines), count, squeeze=False)
    for line, (title, images) in zip(grid, lines):
        for axes, image in zip(line, images):
            axes.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
            axes.set(xticks=[], yticks=[])
        line[0].set_ylabel(title, rotation=0, ha="right", va="center")
    for axes, label, kind in zip(grid[0], first["labels"], first["kinds"]):
        colour = COLOURS.anomalous if label else COLOURS.normal
        axes.set_title(str(kind), fontsize=8, color=colour, parse_math=False)

    folder = docs / "results" if stored.table.data_set.may_publish_images else out
    path = folder / picture_name(stored.table, "reconstructions")
    save_png(figure, path)
    return path


def _draw_line(
    axes: Axes, stored: TableResults, rows: list[str], metric: str, colour: str, label: str
) -> None:
    """Draws the mean over seeds as a line, and every seed as a point."""
    means = [np.mean([r.figures[metric] for r in stored.row_results(row)]) for row in rows]
    axes.plot(range(len(rows)), means, color=colour, label=label)
    for position, row in enumerate(rows):
        values = [r.figures[metric] for r in stored.row_results(row)]
        axes.plot([position] * len(values), values, ".", color=colour)
