"""Pictures beside the tables: score histograms, the curve over division rates, reconstructions."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from daad_jax.evaluation import charts
from daad_jax.evaluation.charts import save_png
from reproduction.cells import DIVISIONS, TITLES, Table, folder_of
from reproduction.experiment import PICTURES
from reproduction.results import Result, Stored

INK = charts.PAPER


def name_of(table: Table, what: str) -> str:
    """Of "scores", "curve" or "reconstructions": the picture's file."""
    return f"{table.name}-{what}.png"


def shown(stored: Stored) -> list[Result]:
    """For every row the result whose pictures are shown: the table's shown subject, its first seed."""
    chosen: dict[str, Result] = {}
    for result in stored.results:
        if result.subject == stored.table.shown and result.step:
            chosen.setdefault(result.row, result)
    return list(chosen.values())


def histograms(stored: Stored, folder: Path) -> None:
    """Scores of normal and anomalous test images of every row, from the stored counts."""
    found = [(r, r.histogram) for r in shown(stored) if r.histogram]
    if not found:
        return
    figure = Figure(figsize=(7, 1.3 * len(found) + 0.6), layout="constrained")
    for axes, (result, counts) in zip(_column(figure, len(found)), found):
        edges = np.linspace(counts["low"], counts["high"], len(counts["normal"]) + 1)
        for label, colour in (("normal", INK.normal), ("anomalous", INK.anomalous)):
            share = np.array(counts[label]) / max(sum(counts[label]), 1)
            axes.stairs(share, edges, fill=True, alpha=0.6, color=colour, label=label)
        axes.axvline(counts["threshold"], color=INK.text, linestyle="--", label="threshold")
        axes.set_ylabel(TITLES[result.row], rotation=0, ha="right", va="center")
        axes.set(yticks=[])
        axes.spines[["top", "right"]].set_visible(False)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper right", frameon=False, ncols=3)
    figure.axes[-1].set_xlabel("anomaly score; the last bar has all above")
    save_png(figure, folder / name_of(stored.table, "scores"))


def curve(stored: Stored, folder: Path) -> None:
    """AUROC, and the reconstruction error of held-out normal and of anomalous images, over divisions."""
    rows = [row for row in DIVISIONS if stored.of(row)]
    if not rows:
        return
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _line(left, stored, rows, "auroc", INK.text, "")
    left.set(ylabel="image AUROC")
    _line(right, stored, rows, "held_out_error", INK.normal, "held-out normal images")
    _line(right, stored, rows, "anomalous_error", INK.anomalous, "anomalous images")
    right.set(ylabel="reconstruction error")
    right.set_ylim(0, 1.05 * max(line.get_ydata().max() for line in right.lines))  # type: ignore[union-attr]
    right.legend(frameon=False)
    for axes in (left, right):
        axes.set_xticks(range(len(rows)), [TITLES[row].removesuffix(" blocks") for row in rows])
        axes.set_xlabel("blocks at every scale")
        axes.spines[["top", "right"]].set_visible(False)
    save_png(figure, folder / name_of(stored.table, "curve"))


def reconstructions(stored: Stored, out: Path, docs: Path) -> Path | None:
    """Normal and anomalous test images and what every row makes of them, from the cells' folders.

    Returns:
        Where the picture is: beside the results where the images may be spread, else in `out`. None
        where no cell has kept any.
    """
    found = []
    for result in shown(stored):
        cell = (stored.table, result.subject, result.row, result.seed, result.recipe)
        path = folder_of(out, *cell) / PICTURES
        if path.is_file():
            with np.load(path, allow_pickle=False) as arrays:
                found.append((TITLES[result.row], dict(arrays)))
    if not found:
        return None
    first = found[0][1]
    rows = [("input", first["images"]), *((title, arrays["reconstructions"]) for title, arrays in found)]
    count = len(first["images"])
    figure = Figure(figsize=(0.9 * count + 1, 0.9 * len(rows) + 0.3), layout="constrained")
    axes = figure.subplots(len(rows), count, squeeze=False)
    for line, (title, images) in zip(axes, rows):
        for place, image in zip(line, images):
            place.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
            place.set(xticks=[], yticks=[])
        line[0].set_ylabel(title, rotation=0, ha="right", va="center")
    for place, label, kind in zip(axes[0], first["labels"], first["kinds"]):
        colour = INK.anomalous if label else INK.normal
        place.set_title(str(kind), fontsize=8, color=colour, parse_math=False)
    folder = docs / "results" if stored.table.free else out
    path = folder / name_of(stored.table, "reconstructions")
    save_png(figure, path)
    return path


def _column(figure: Figure, count: int) -> list[Axes]:
    return list(figure.subplots(count, 1, squeeze=False)[:, 0])


def _line(axes: Axes, stored: Stored, rows: list[str], figure: str, colour: str, label: str) -> None:
    """Mean over seeds with all seeds as points."""
    means = [np.mean([r.figures[figure] for r in stored.of(row)]) for row in rows]
    axes.plot(range(len(rows)), means, color=colour, label=label)
    for place, row in enumerate(rows):
        values = [r.figures[figure] for r in stored.of(row)]
        axes.plot([place] * len(values), values, ".", color=colour)
