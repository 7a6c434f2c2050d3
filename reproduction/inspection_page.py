"""Writes the sections of docs/results.md about several sources of images: inspection, dirty training sets."""

import statistics

from reproduction import order
from reproduction.cells import BASELINES, DIRT_PERCENTS, DIRTY, DIRTY_VARIANTS, ROW_TITLES
from reproduction.markdown import NONE, format_range, format_result, make_grid, wrap
from reproduction.results import Result, TableResults
from reproduction.summary import (
    MeanAndSpread,
    best_baseline,
    best_baseline_mean,
    brightness_separable,
    mean_over_seeds,
    mean_over_subjects,
    summarise_seeds,
)

METRICS = {
    "auroc": "Image AUROC",
    "levelled_auroc": "Brightness-corrected image AUROC",
    "pixel_auroc": "Pixel AUROC",
    "aupro": "AUPRO",
}
RIVAL = "patchcore"
COMPARED = ("daad_features", "daad_plus_features")  # these rows are compared with the rival

ABOUT_INSPECTION = (
    "Seven sets of images of inspected parts: bottle and screw (MVTec AD), mono and poly (solar cells), tire "
    "(MVTec 3D-AD, its colour images), kolektor (KolektorSDD, whole surfaces) and metal_plate (MPDD). The "
    "last three have the recipe `folder`; the others have the recipe of their data set. AE to DAAD+ read "
    "pixels. The rows below them read features of a frozen network: the memories of PatchCore and of DAAD "
    "are filled with blocks of the training images, and DAAD+ learns to reconstruct the features.",
    "*Seconds to train* go from decoded images to the saved checkpoint: they include reading the images from "
    "the cache, compiling, calibrating and saving. *Images/s* is the rate at which decoded test images are "
    "scored, several at once. *MB* (10^6 bytes) is the size of the checkpoint on the disk: with the frozen "
    "network, and with the optimiser's state of networks that learn. All three are medians over the cells of "
    "a row.",
)
ABOUT_INTERVALS = (
    "In brackets: an interval of 95 % of the image AUROC for the choice of the test images, from 1000 "
    "bootstrap samples in which the images of each label are drawn separately. Its ends are means over the "
    "seeds."
)
ABOUT_BRIGHTNESS = (
    "Brightness-corrected: every test image is scaled to the mean intensity of the training images before it "
    "is scored, so brightness alone cannot separate the test set."
)
ABOUT_DIRT = (
    "Good images that people collect have defects that nobody saw. Here 0, 5 and 10 % of the training images "
    "(with the held-out ones) are anomalous test images that count as normal. They are drawn by the seed, "
    "and the 5 % are a part of the 10 %. The images of the 10 % are left out of the test set in all three "
    "columns, so the columns have the same test images. *Fall* is the image AUROC without defects minus the "
    "one with them, seed by seed. *Found* counts the mixed-in images among the N training images that a run "
    "suspects most (`suspects.csv`), if N are mixed in. This table has no baselines."
)


def make_inspection(stored: TableResults) -> list[str]:
    """Makes the text and tables of the inspection section, without the text about the measurement."""
    blocks = [*map(wrap, ABOUT_INSPECTION), make_costs_table(stored), wrap(order.describe_order(stored))]
    for metric, title in METRICS.items():
        if not any(metric in r.figures for r in stored.results):
            continue
        about = {"auroc": ABOUT_INTERVALS, "levelled_auroc": _explain_brightness(stored)}.get(metric, "")
        words = title if title.isupper() else title[0].lower() + title[1:]
        leads = [order.describe_lead(stored, row, RIVAL, metric, words) for row in COMPARED]
        blocks += [f"### {title}", wrap(about), make_metric_table(stored, metric), *map(wrap, leads)]
    return blocks


def make_costs_table(stored: TableResults) -> str:
    """Makes a line for each row: means over the subjects, and the costs to train, score and keep a model."""
    head = ["", "image AUROC", "pixel AUROC", "AUPRO", "parts run", "seconds to train", "images/s", "MB"]
    lines = []
    for row in stored.table.rows:
        measured = stored.row_results(row)
        if not measured:
            continue
        means = [mean_over_subjects(stored, row, metric) for metric in ("auroc", "pixel_auroc", "aupro")]
        line = [ROW_TITLES[row]]
        for metric, mean in zip(("auroc", "pixel_auroc", "aupro"), means):
            baseline = best_baseline_mean(stored, mean.subjects, metric) if mean else None
            line.append(format_result(mean, None if row in BASELINES else baseline))
        line.append(f"{len({r.subject for r in measured})} of {len(stored.table.default_subjects)}")
        line += [_format_cost(measured, key) for key in ("train_s", "scored_per_s", "checkpoint_mb")]
        lines.append(line)
    return make_grid(head, lines)


def make_metric_table(stored: TableResults, metric: str) -> str:
    """Makes a table with a line for each row that has the metric, and a column for each subject.

    The ends of the bootstrap interval stand in brackets behind each image AUROC.
    """
    subjects, lines = stored.subjects, []
    for row in stored.table.rows:
        figures = [mean_over_seeds(stored, row, subject, metric) for subject in subjects]
        if not any(figures):
            continue
        line = [ROW_TITLES[row]]
        for subject, figure in zip(subjects, figures):
            baseline = None if row in BASELINES else best_baseline(stored, subject, metric)
            interval = _format_interval(stored, row, subject) if metric == "auroc" else ""
            line.append(format_result(figure, baseline) + interval)
        lines.append(line)
    return make_grid(["", *subjects], lines)


def make_dirty(stored: TableResults) -> list[str]:
    """Makes the text and the table of the dirty section, without the text about the measurement."""
    return [wrap(ABOUT_DIRT), make_dirt_table(stored)]


def make_dirt_table(stored: TableResults) -> str:
    """Makes a line for each subject and variant: the AUROCs, their fall, and the number of images found."""
    clean, *dirty = DIRT_PERCENTS
    head = [stored.table.noun, "", *(f"image AUROC, {p} %" for p in DIRT_PERCENTS)]
    head += [f"fall at {p} %" for p in dirty] + [f"found at {p} %" for p in dirty]
    lines = []
    for subject in stored.subjects:
        for variant in DIRTY_VARIANTS:
            rows = {DIRTY[row].percent: row for row in DIRTY if DIRTY[row].variant == variant}
            figures = [mean_over_seeds(stored, rows[p], subject, "auroc") for p in DIRT_PERCENTS]
            if not any(figures):
                continue
            falls = [_fall(stored, subject, rows[clean], rows[p]) for p in dirty]
            line = [subject, ROW_TITLES[variant]]
            line += [format_result(figure, None) for figure in (*figures, *falls)]
            lines.append(line + [_format_found(stored, subject, rows[p]) for p in dirty])
    return make_grid(head, lines)


def _fall(stored: TableResults, subject: str, clean: str, dirty: str) -> MeanAndSpread | None:
    """Computes the mean and spread of the fall of the AUROC, over the seeds that have both rows."""
    before, after = (
        {r.seed: r.figures["auroc"] for r in stored.row_results(row) if r.subject == subject}
        for row in (clean, dirty)
    )
    falls = [before[seed] - after[seed] for seed in before if seed in after]
    return summarise_seeds(falls, subject) if falls else None


def _format_found(stored: TableResults, subject: str, row: str) -> str:
    """Formats the mean number of mixed-in images that were found over seeds, for instance "9.7 of 11"."""
    found = [r for r in stored.row_results(row) if r.subject == subject and "found_suspects" in r.figures]
    if not found:
        return NONE
    mean = statistics.mean(r.figures["found_suspects"] for r in found)
    return f"{mean:.1f} of {format_range(r.images['mixed_in'] for r in found)}"


def _format_interval(stored: TableResults, row: str, subject: str) -> str:
    ends = [mean_over_seeds(stored, row, subject, key) for key in ("auroc_low", "auroc_high")]
    low, high = (f"{end.mean:.3f}" if end else NONE for end in ends)
    return "" if None in ends else f" [{low}, {high}]"


def _format_cost(measured: list[Result], key: str) -> str:
    """Formats the median over cells; with several machines, the range of the medians of the machines."""
    by_machine: dict[str, list[float]] = {}
    for result in measured:
        if key in result.figures:
            by_machine.setdefault(result.environment, []).append(result.figures[key])
    medians = sorted(statistics.median(values) for values in by_machine.values())
    if not medians:
        return NONE
    ends = (f"{value:.1f}" if value < 10 else f"{value:.0f}" for value in (medians[0], medians[-1]))
    return " to ".join(dict.fromkeys(ends))


def _explain_brightness(stored: TableResults) -> str:
    separable = brightness_separable(stored)
    if not separable:
        return ABOUT_BRIGHTNESS
    return (
        f"{ABOUT_BRIGHTNESS} **Mean intensity alone separates the test set of {', '.join(separable)}. There "
        "the image AUROC says nothing about defects; compare the brightness-corrected AUROC and the pixel "
        "metrics instead.**"
    )
