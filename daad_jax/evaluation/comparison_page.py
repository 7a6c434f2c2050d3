"""Renders the comparison of runs as one HTML page. The page loads and runs nothing, and escapes all names."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from daad_jax import config as config_lib
from daad_jax.data.images import to_uint8
from daad_jax.data.samples import Split
from daad_jax.errors import UserError
from daad_jax.escaping import for_table
from daad_jax.evaluation import charts
from daad_jax.evaluation.bootstrap import auroc_interval, describe_interval
from daad_jax.evaluation.comparison import Comparison, EvaluatedRun, compare_runs, read_run
from daad_jax.evaluation.pages import MIN_SMOOTH_SIDE, draw_svg, encode_png, render_page
from daad_jax.files import explain_write_errors, write_text
from daad_jax.terminal import say, warn
from daad_jax.training import calibration_files, run_data

MAX_RUNS = 8
SHOWN_IMAGES = 60
PAGE = "comparison.html"
FIGURES = {  # keys of evaluation.json
    "average_precision": "Average precision",
    "f1": "F1",
    "pixel_auroc": "Pixel AUROC",
    "aupro": "AUPRO",
}


def compare(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Compares the last evaluations of runs, prints the differences, and writes one page.

    No image is scored, because `evaluate` has stored all scores.

    Args:
        folders: two to eight workdirs of runs, or folders of evaluations.
        out: the file of the page; None: `comparison.html` in the current folder.

    Returns:
        The file of the page.

    Raises:
        UserError: there are too few or too many runs; a run is not evaluated, or its files are damaged; the
            common test images of the runs do not have both labels; or the page cannot be written.
    """
    if not 2 <= len(folders) <= MAX_RUNS:
        raise UserError(f"{len(folders)} run(s) were named; give two to {MAX_RUNS} folders of evaluated runs")
    comparison = compare_runs([read_run(folder) for folder in folders])
    for run in comparison.runs:
        _warn_if_outdated(run)
    shown = comparison.disagreed[:SHOWN_IMAGES]
    pictures = _load_pictures(comparison.runs[0], shown)
    page = render_comparison(comparison, pictures, shown)
    file = out or Path(PAGE)
    with explain_write_errors(file, "give another --out"):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, page)
    say(*_summarise(comparison), f"wrote {file}")
    return file


def render_comparison(comparison: Comparison, pictures: Mapping[int, np.ndarray], shown: np.ndarray) -> str:
    """Renders the page as HTML.

    Args:
        comparison: the comparison of the runs.
        pictures: the pictures of images, uint8 `[h, w, C]`, by the index of the image. A picture may be
            missing.
        shown: the indices of the images with different verdicts that the page shows, in their order.
    """
    runs, first = comparison.runs, comparison.runs[0]
    sides = [max(picture.shape[:2]) for picture in pictures.values()]
    return render_page(
        "comparison.html.j2",
        count=len(first.keys),
        left_out=comparison.left_out,
        runs=[_run_row(comparison, number) for number in range(len(runs))],
        figure_names=list(FIGURES.values()),
        kinds=_kind_rows(runs),
        roc=draw_svg(charts.draw_roc_curves([run.scores for run in runs], first.labels), "roc"),
        images=[_image_card(comparison, int(index), pictures) for index in shown],
        disagreed=len(comparison.disagreed),
        are_small=bool(sides) and max(sides) < MIN_SMOOTH_SIDE,
    )


def _run_row(comparison: Comparison, index: int) -> dict[str, Any]:
    """Returns the row of a run, with its difference from the first run."""
    run = comparison.runs[index]
    row = {
        "number": index + 1,
        "folder": str(run.folder),
        "step": run.figures["step"],
        "calibration": run.calibration,
        "auroc": comparison.aurocs[index],
        "interval": describe_interval(comparison.intervals[index]),
        "figures": [run.figure(name) for name in FIGURES],
        "false_alarms": int((run.is_flagged & (run.labels == 0)).sum()),
        "missed": int((~run.is_flagged & (run.labels == 1)).sum()),
        "difference": None,
    }
    if index:
        difference = comparison.differences[index - 1]
        low, high = difference.interval
        row["difference"] = {
            "auroc": f"{difference.auroc:+.4f} [{low:+.4f}, {high:+.4f}]",
            "only_this": difference.only_this,
            "only_first": difference.only_first,
            "p_value": difference.p_value,
        }
    return row


def _kind_rows(runs: Sequence[EvaluatedRun]) -> list[dict[str, Any]]:
    """Returns a row for each anomalous kind: its AUROC against all normal images, for every run."""
    first = runs[0]
    kinds = np.array(first.kinds, dtype=object)
    rows = []
    for kind in sorted({name for name, label in zip(first.kinds, first.labels) if label}):
        chosen = (first.labels == 0) | ((kinds == kind) & (first.labels == 1))
        labels, cells = first.labels[chosen], []
        for run in runs:
            scores = run.scores[chosen]
            auroc = float(roc_auc_score(labels, scores))
            cells.append(f"{auroc:.4f} {describe_interval(auroc_interval(labels, scores))}")
        rows.append({"name": kind, "images": int(labels.sum()), "cells": cells})
    return rows


def _image_card(comparison: Comparison, index: int, pictures: Mapping[int, np.ndarray]) -> dict[str, Any]:
    first = comparison.runs[0]
    picture = pictures.get(index)
    return {
        "name": first.names[index],
        "kind": first.kinds[index],
        "label": int(first.labels[index]),
        "uri": None if picture is None else encode_png(picture),
        "verdicts": [
            {
                "number": number,
                "is_flagged": bool(run.is_flagged[index]),
                "is_right": bool(run.is_right[index]),
                "score": run.scores[index],
                "threshold": run.figures["threshold"],
                "p_value": run.p_values[index],
            }
            for number, run in enumerate(comparison.runs, 1)
        ],
    }


def _warn_if_outdated(run: EvaluatedRun) -> None:
    """Warns if a run was calibrated after its evaluation."""
    label = run.figures.get("calibration_label")
    if not isinstance(label, dict):
        return  # an older version evaluated the run, or the folder is no workdir
    evaluated = label.get("id") if label.get("created") else None
    if (run.folder / "config.json").is_file():
        in_use = calibration_files.read_in_use(run.folder)
        if in_use != evaluated:
            warn(
                f"{run.folder}: was evaluated with calibration {label.get('id')}, and another one is in use "
                "now, so its verdicts are old; evaluate it again"
            )


def _load_pictures(run: EvaluatedRun, indices: np.ndarray) -> dict[int, np.ndarray]:
    """Loads the pixels `[h, w, C]` of some images, by index. Missing images are left out."""
    stored = run.folder / "config.json"
    if not len(indices) or not stored.is_file():
        return {}
    try:
        config = config_lib.from_json(stored.read_text(encoding="utf-8"))
        test: Split = run_data.load_splits(run.folder, config).test
    except (UserError, OSError, ValueError) as error:
        warn(f"the page has no pictures, because the images of {run.folder} cannot be read ({error})")
        return {}
    rows = {for_table(name): row for row, name in enumerate(test.names)}
    names = {int(i): run.names[i] for i in indices}
    return {i: to_uint8(test.picture(rows[name])) for i, name in names.items() if name in rows}


def _summarise(comparison: Comparison) -> list[str]:
    runs, lines = comparison.runs, []
    lines.append(f"{len(runs[0].keys)} test images are common to all runs.")
    if comparison.left_out:
        lines.append(f"{comparison.left_out} other images were not tested by every run; they are left out.")
    for number, (run, auroc, (low, high)) in enumerate(zip(runs, comparison.aurocs, comparison.intervals), 1):
        right = int(run.is_right.sum())
        lines.append(
            f"run {number}: image AUROC {auroc:.4f} [{low:.4f}, {high:.4f}], {right} verdicts right "
            f"({run.folder})"
        )
    for number, difference in enumerate(comparison.differences, 2):
        low, high = difference.interval
        lines.append(
            f"run {number} - run 1: AUROC {difference.auroc:+.4f} [{low:+.4f}, {high:+.4f}]; only run "
            f"{number} is right on {difference.only_this} images, only run 1 on {difference.only_first} "
            f"(p-value {difference.p_value:.2g})"
        )
    lines.append(f"The runs disagree on {len(comparison.disagreed)} images.")
    return lines
