"""Makes the Markdown tables of docs/results.md from the stored results."""

import json
import statistics
from collections.abc import Sequence
from typing import Any

from daad_jax import config as config_lib
from daad_jax.config import Config
from reproduction import paper
from reproduction.cells import BASELINES, ROW_TITLES
from reproduction.markdown import NONE, format_auroc, format_range, format_result, make_grid
from reproduction.results import Result, TableResults
from reproduction.summary import (
    MeanAndSpread,
    best_baseline,
    best_baseline_mean,
    mean_over_seeds,
    mean_over_subjects,
)

# Metrics beside the image AUROC, with their titles.
EXTRA_METRICS = {
    "pixel_auroc": "pixel AUROC",
    "aupro": "AUPRO",
    "levelled_auroc": "image AUROC, brightness-corrected",
}
OVERVIEW_ROWS = ("daad", "daad_plus", "patchcore", "daad_features")
# The last column of the recipes lists all values that differ from the defaults, except the values of these
# keys. Such a value has a column of its own, or the page states it elsewhere.
KEYS_STATED_ELSEWHERE = (
    "data.height", "data.width", "data.channels", "data.source", "data.protocol", "data.fit",
    "data.limit_train", "data.limit_test", "model.base_width", "model.discriminator_width",
    "model.memory_items", "model.division", "train.steps", "train.batch_size",
)  # fmt: skip


def make_overview(tables: Sequence[TableResults]) -> str:
    """Makes a line for each table that compares methods: the paper, our main rows and the best baseline."""
    lines = []
    for stored in tables:
        if stored.table.compares_divisions or stored.table.compares_dirt:
            continue
        baseline = best_baseline_mean(stored, stored.subjects, "auroc")
        printed = paper.mean_auroc(stored.table.name, ROW_TITLES["daad"])
        if paper.prints_subjects(stored.table.name):
            printed = paper.mean_over(stored.table.name, stored.subjects, ROW_TITLES["daad"])
        is_complete = set(stored.subjects) == set(stored.table.subjects)
        subjects = "" if is_complete else f" ({', '.join(stored.subjects)})"
        line = [stored.table.title + subjects, format_auroc(printed)]
        for row in OVERVIEW_ROWS:
            ours = mean_over_subjects(stored, row, "auroc")
            if ours is None:
                line.append(NONE)
                continue
            same = best_baseline_mean(stored, ours.subjects, "auroc")
            part = f" ({len(ours.subjects)} of {len(stored.subjects)})"
            line.append(format_result(ours, same) + part * (len(ours.subjects) < len(stored.subjects)))
        lines.append([*line, format_auroc(baseline)])
    return make_grid(["", "paper, DAAD", *(ROW_TITLES[row] for row in OVERVIEW_ROWS), "best baseline"], lines)


def make_means_table(stored: TableResults) -> str:
    """Makes the table of means over subjects: our rows, and then the methods that only the paper has."""
    table = stored.table
    paper_has_subjects = paper.prints_subjects(table.name)
    head = ["", "paper", "ours", f"{table.data_set.plural} run", "time of a cell", "images/s"]
    if paper_has_subjects:
        head[1:2] = [f"paper, all {len(table.subjects)}", f"paper, {table.data_set.plural} run"]
    lines = []
    for row in table.rows:
        title, printed = ROW_TITLES[row], paper.mean_auroc(table.name, ROW_TITLES[row])
        ours = mean_over_subjects(stored, row, "auroc")
        if ours is None and printed is None:
            continue
        baseline = best_baseline_mean(stored, ours.subjects, "auroc") if ours else None
        line = [title, format_auroc(printed)]
        if paper_has_subjects:
            printed_same = paper.mean_over(table.name, ours.subjects, title) if ours else None
            line.append(format_auroc(printed_same))
        line.append(format_result(ours, None if row in BASELINES else baseline))
        line.append(_count_subjects(stored, ours) if ours else NONE)
        lines.append([*line, *_format_pace(stored.row_results(row))])
    for title, printed in paper.other_methods(table.name).items():
        lines.append([title, format_auroc(printed), *[NONE] * (len(head) - 2)])
    return make_grid(head, lines)


def make_subjects_table(stored: TableResults) -> str:
    """Makes a line for each subject: our figures and, if the paper prints figures, the paper's figures."""
    table = stored.table
    rows = [row for row in table.rows if stored.row_results(row)]
    in_paper = [row for row in rows if paper.prints_subjects(table.name) and row not in BASELINES]
    head = [table.noun]
    for row in rows:
        head += [ROW_TITLES[row]] + ["paper"] * (row in in_paper)
    lines = []
    for subject in stored.subjects:
        baseline, line = best_baseline(stored, subject, "auroc"), [subject]
        for row in rows:
            ours = mean_over_seeds(stored, row, subject, "auroc")
            line.append(format_result(ours, None if row in BASELINES else baseline))
            if row in in_paper:
                line.append(format_auroc(paper.subject_auroc(table.name, subject, ROW_TITLES[row])))
        lines.append(line)
    return make_grid(head, lines)


def make_divisions_table(stored: TableResults) -> str:
    """Makes a line for each division: the AUROC and the errors of reconstructions."""
    head = ["blocks at every scale", "AUROC", "error, held-out normal", "error, normal", "error, anomalous"]
    baseline = best_baseline_mean(stored, stored.subjects, "auroc")
    lines = []
    for row in stored.table.rows:
        if not stored.row_results(row):
            continue
        auroc = mean_over_subjects(stored, row, "auroc")
        line = [ROW_TITLES[row], format_result(auroc, None if row in BASELINES else baseline)]
        for metric in ("held_out_error", "normal_error", "anomalous_error"):
            error = mean_over_subjects(stored, row, metric)
            line.append(f"{error.mean:.4f}" if error else NONE)
        lines.append(line)
    return make_grid(head, lines)


def find_extra_metrics(stored: TableResults) -> dict[str, str]:
    """Returns the titles of the metrics beside the image AUROC that any result has, by name."""
    return {
        metric: title
        for metric, title in EXTRA_METRICS.items()
        if any(metric in result.figures for result in stored.results)
    }


def make_extra_metrics_table(stored: TableResults) -> str:
    """Makes a line for each subject and each metric beside the image AUROC."""
    metrics = find_extra_metrics(stored)
    rows = [
        row
        for row in stored.table.rows
        if any(set(r.figures) & set(metrics) for r in stored.row_results(row))
    ]
    lines = []
    for subject in stored.subjects:
        for metric, title in metrics.items():
            baseline, line = best_baseline(stored, subject, metric), [subject, title]
            for row in rows:
                ours = mean_over_seeds(stored, row, subject, metric)
                line.append(format_result(ours, None if row in BASELINES else baseline))
            lines.append(line)
    return make_grid([stored.table.noun, "metric", *(ROW_TITLES[row] for row in rows)], lines)


def make_recipes_table(stored: TableResults) -> str:
    """Makes a line for each trained row, with the values of its recipes. Returns "" if no row was trained."""
    lines: list[list[str]] = []
    columns: list[str] = []
    for row in stored.table.variants:
        recipes = [_describe_recipe(stored.recipes[r.recipe]) for r in stored.row_results(row)]
        if not recipes:
            continue
        columns = list(recipes[0])
        # The cells of one row may have several recipes. Each different value is listed once.
        values = [" / ".join(dict.fromkeys(recipe[column] for recipe in recipes)) for column in columns]
        values.append(_describe_other_values([stored.recipes[r.recipe] for r in stored.row_results(row)]))
        same = next((line for line in lines if line[1:] == values), None)
        if same:
            same[0] += f"; {ROW_TITLES[row]}"
        else:
            lines.append([ROW_TITLES[row], *values])
    return make_grid(["", *columns, "other values"], lines) if lines else ""


def _describe_other_values(trees: Sequence[dict[str, Any]]) -> str:
    """Lists the values that differ from the defaults and have no column of their own.

    Args:
        trees: the recipes of a row's cells. If recipes differ in a value, each different value is listed
            once.
    """
    default = config_lib.flat(json.loads(config_lib.to_json(Config())))
    recipes = [config_lib.flat(tree) for tree in trees]
    keys = dict.fromkeys(key for recipe in recipes for key in recipe if key not in KEYS_STATED_ELSEWHERE)
    others = []
    for key in keys:
        values = list(dict.fromkeys(json.dumps(recipe.get(key, default.get(key))) for recipe in recipes))
        if values != [json.dumps(default.get(key))]:
            others.append(f"{key} = {' / '.join(values)}")
    return ", ".join(others) or NONE


def _describe_recipe(tree: dict[str, Any]) -> dict[str, str]:
    """Returns the columns of the recipes' table, by title, except the last column."""
    model, train = tree["model"], tree["train"]
    # Older recipes do not have this key, because all their memories were learned.
    learns = model.get("items") != "coreset"
    has_discriminator = learns and (tree["loss"]["adversarial"] > 0 or tree["loss"]["alignment"] > 0)
    division = [
        "x".join(map(str, cuts)) if items else NONE
        for cuts, items in zip(model["division"], model["memory_items"])
    ]
    return {
        "image": "{height} x {width} x {channels}".format(**tree["data"]),
        "width": str(model["base_width"]) if learns else NONE,
        "discriminator": str(model["discriminator_width"]) if has_discriminator else NONE,
        "memory items": ", ".join(map(str, model["memory_items"])),
        "division": ", ".join(division) if learns else NONE,
        "steps": str(train["steps"]) if learns else NONE,
        "batch": str(train["batch_size"]) if learns else NONE,
    }


def _count_subjects(stored: TableResults, ours: MeanAndSpread) -> str:
    """Says how many subjects have run: "2 of 15", or "10" if all default subjects of the table have run."""
    default = stored.table.default_subjects
    count = len(ours.subjects)
    return f"{count} of {len(default)}" if set(default) - set(ours.subjects) else f"{count}"


def _format_pace(results: list[Result]) -> tuple[str, str]:
    """Formats the time of a cell and the images/s of training: a median, or a range over several machines."""
    if not results:
        return NONE, NONE
    environments = dict.fromkeys(r.environment for r in results)
    machines = [[r for r in results if r.environment == environment] for environment in environments]
    times = [round(statistics.median(r.wall_s for r in machine)) for machine in machines]
    rates = [
        round(statistics.median(r.images_per_s for r in machine))
        for machine in machines
        if machine[0].images_per_s
    ]
    return f"{format_range(times)} s", format_range(rates) if rates else NONE
