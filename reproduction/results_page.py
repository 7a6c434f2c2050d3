"""Writes docs/results.md from the stored results alone."""

from collections.abc import Sequence
from pathlib import Path

from daad_jax import config as config_lib
from daad_jax import files
from daad_jax.files import explain_write_errors
from reproduction import inspection_page, order, pictures, results, results_tables
from reproduction.cells import ROW_TITLES
from reproduction.markdown import format_range, wrap
from reproduction.results import Result, TableResults
from reproduction.summary import brightness_separable

SEPARABLE = (
    "**Brightness alone separates the test set of {}.** There the image AUROC says nothing about defects; "
    "the sections have brightness-corrected figures."
)
OVERVIEW = (
    "The table has the mean image AUROC: the probability that an anomalous image scores higher than a normal "
    "one. 1 is perfect and 0.5 is chance. *Best baseline* is the best score that needs no network. **†** "
    "marks a figure of ours that is no better than the best baseline. `±` is the standard deviation over "
    "seeds. The sections below have every method, class and recipe."
)
HEAD = (
    "**How it was measured.** Figures of ours come from the last training step, never from a chosen one. The "
    "threshold and the units of both distances come from held-out normal images, and no test label takes "
    "part. Cells ran beside other work, so the times of two rows cannot be compared. A time is the median "
    "over the cells of a row; a range covers several machines. A difference exceeds the spread over seeds if "
    "it is larger than both rows' standard deviations.",
    "**How recipes were chosen.** Without test labels, with four exceptions. The selection criterion was "
    "settled while MNIST's test results were known. Two recipes were kept although another recipe had a "
    "higher criterion value and test results were known: MNIST's width, and the division rates for "
    "poly-crystalline cells. The cheap recipe of MVTec AD was tried because its test result on bottle was "
    "known ([recipes.md](recipes.md)).",
    "**Baselines.** *Mean intensity* is the mean over all pixels of an image. Its figure is max(AUROC, 1 - "
    "AUROC): the labels choose the direction, so the figure is the most that brightness could reach. "
    "*Nearest image* is the distance to the nearest of all normal training images: 1 - cos after smoothing "
    "with sigma = 1 pixel, or plain L2.",
    "**The paper's figures** stand only in columns called paper. Where the paper prints one figure of its "
    "own method, the row is DAAD.",
    "**Initial weights.** Up to 2026-11-26, jax.random drew them; since that day NumPy does, from the same "
    "distributions ([design.md](design.md)). The seeds of a row may be of both kinds.",
    "`python reproduce.py` writes this page from the figures in [results/](results), and `python "
    "reproduce.py --report_only` writes it again without running anything.",
)


def write(docs: Path) -> None:
    """Draws the charts and writes results.md. The page is replaced as a whole, or does not change.

    Args:
        docs: the folder of results.md and results/.

    Raises:
        UserError: stored results cannot be read, or the folder cannot be written.
    """
    tables = results.load_all(docs)
    folder = docs / "results"
    with explain_write_errors(docs, "give another --docs"):
        folder.mkdir(parents=True, exist_ok=True)
        for stored in tables:
            pictures.draw_histograms(stored, folder)
            pictures.draw_curve(stored, folder)
        picture_names = {path.name for path in folder.glob("*.png")}
        files.write_text(docs / "results.md", render(tables, picture_names))


def render(tables: Sequence[TableResults], picture_names: set[str]) -> str:
    """Renders the text of the page.

    Args:
        tables: the results of all tables, in their order.
        picture_names: the file names of the pictures that exist.
    """
    with_results = [stored for stored in tables if stored.results]
    without_results = [f"`{stored.table.name}`" for stored in tables if not stored.results]
    overview = [wrap(OVERVIEW), results_tables.make_overview(with_results)] if with_results else []
    separable = dict.fromkeys(subject for stored in with_results for subject in brightness_separable(stored))
    if separable:
        overview.append(wrap(SEPARABLE.format(", ".join(separable))))
    parts = ["\n\n".join(["# Results", *overview, *map(wrap, HEAD)]) + "\n"]
    parts += [_make_section(stored, picture_names) for stored in with_results]
    if text := order.describe_order_over_tables(with_results):
        parts.append(f"## Order over the tables\n\n{wrap(text)}\n")
    if without_results:
        parts.append(f"Not run: {', '.join(without_results)} (`python reproduce.py TABLE`).\n")
    return "\n".join(parts)


def _make_section(stored: TableResults, picture_names: set[str]) -> str:
    blocks = [f"## {stored.table.title}"]
    if stored.table.compares_divisions:
        blocks += [_explain_divisions(stored), results_tables.make_divisions_table(stored)]
    elif stored.table.compares_dirt:
        blocks += inspection_page.make_dirty(stored)
    elif stored.table.has_many_sources:
        blocks += inspection_page.make_inspection(stored)
    else:
        blocks += [
            results_tables.make_means_table(stored),
            wrap(_explain_feature_rows(stored)),
            wrap(order.describe_order(stored)),
            results_tables.make_subjects_table(stored),
        ]
    if not stored.table.has_many_sources:
        blocks += _show_extra_metrics(stored)
    blocks.append(wrap(_describe_measurement(stored)))
    blocks += _show_pictures(stored, picture_names)
    blocks += _show_recipes(stored)
    blocks.append(f"    {_make_command(stored)}")
    return "\n\n".join(block for block in blocks if block) + "\n"


def _explain_feature_rows(stored: TableResults) -> str:
    """Explains how rows on features differ from the others; "" if the table has no results of such rows."""
    titles = [ROW_TITLES[row] for row in stored.table.feature_rows if stored.row_results(row)]
    if not titles:
        return ""
    return (
        f"{', '.join(titles)}: this row reads features of a network that was trained on the photos of "
        "ImageNet. The rows above it, and the methods of the paper, know only the training images of this "
        "data set. This row therefore does not measure the paper's task."
    )


def _explain_divisions(stored: TableResults) -> str:
    return wrap(
        "The paper's law: a finer division reconstructs all images better, normal or not, and the gap "
        "between normal and anomalous images is largest between the extremes. All rows are variant DAAD "
        f"of {stored.table.noun} {', '.join(stored.subjects)}; only the division rates differ. A feature "
        "map is cut into this many blocks along both axes, or into single pixels if the map has fewer. "
        "The error is the mean square, for pixels in [0, 1]."
    )


def _show_extra_metrics(stored: TableResults) -> list[str]:
    """Shows pixel metrics and the brightness-corrected AUROC; nothing if no result has such a metric."""
    metrics = results_tables.find_extra_metrics(stored)
    if not metrics:
        return []
    text = (
        "Brightness-corrected: every test image is scaled to the mean intensity of the training images "
        "before it is scored, so brightness alone cannot separate the test set."
    )
    if separable := brightness_separable(stored):
        instead = f"{'the pixel metrics and ' * ('aupro' in metrics)}the brightness-corrected AUROC"
        text += (
            f" **Mean intensity alone separates the test set of {', '.join(separable)}. There the image "
            f"AUROC says nothing about defects; compare {instead} instead.**"
        )
    orders = [order.describe_order(stored, m, metrics[m]) for m in ("pixel_auroc", "aupro") if m in metrics]
    return [wrap(text), results_tables.make_extra_metrics_table(stored), *(wrap(text) for text in orders)]


def _describe_measurement(stored: TableResults) -> str:
    """Says how, when and where the figures were measured, and which figures are missing or outdated."""
    measured = stored.results
    trained = [r for r in measured if r.step]
    limits = {stored.recipes[r.recipe]["data"]["limit_test"] for r in measured}
    is_smoke = limits != {0}

    test_sets = "**Test sets cut down for a smoke run**" if is_smoke else "Full test sets"
    normal, anomalous = (format_range(r.images[k] for r in measured) for k in ("normal", "anomalous"))
    notes = [f"{test_sets}: {normal} normal and {anomalous} anomalous images."]
    if trained:
        notes += _describe_training(trained)

    # Outdated and missing figures, and images that may not be shown.
    outdated = len(measured) - len(stored.select_current(is_smoke).results)
    if outdated:
        notes.append(
            f"**{outdated} of {len(measured)} figures belong to recipes that are no longer in configs/.**"
        )
    absent = [s for s in stored.table.default_subjects if s not in stored.subjects]
    if absent:
        notes.append(f"Not run: {', '.join(absent)}.")
    if not stored.table.data_set.may_publish_images:
        elsewhere = "; reconstructions are in the folder of the runs" * bool(stored.table.picture_subject)
        notes.append(
            f"The images are licensed under {stored.table.data_set.restrictive_license}, so this page does "
            f"not show them{elsewhere}."
        )

    # Dates and machines.
    dates = sorted({r.date for r in measured})
    period = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"{' '.join(notes)} Measured {period} on {_list_environments(stored)}."


def _describe_training(trained: Sequence[Result]) -> list[str]:
    seeds = sorted({r.seed for r in trained if r.seed is not None})
    steps = [r.step for r in trained if r.images_per_s]  # the other rows fill their memories, without steps
    notes = [
        f"{f'Last step ({format_range(steps)}), seed' if steps else 'Seed'}{'s' * (len(seeds) > 1)} "
        f"{', '.join(map(str, seeds))}, {format_range(r.images['train'] for r in trained)} images for "
        f"training, {format_range(r.images['held_out'] for r in trained)} held out."
    ]
    expected = len({r.row for r in trained}) * len(seeds) * len({r.subject for r in trained})
    if len(trained) < expected:
        notes.append(f"**Not finished: {len(trained)} of {expected} cells have run.**")
    return notes


def _list_environments(stored: TableResults) -> str:
    texts = []
    for tree in stored.environments.values():
        packages = ", ".join(f"{name} {version}" for name, version in tree["packages"].items())
        texts.append(f"{tree['device']} (Python {tree['python']}, {packages})")
    return "; ".join(sorted(set(texts)))


def _show_pictures(stored: TableResults, picture_names: set[str]) -> list[str]:
    subject = f"{stored.table.noun} {stored.table.picture_subject}"
    captions = {
        "curve": "AUROC and reconstruction error over division rates",
        "scores": f"Scores if {subject} is normal",
        "reconstructions": f"Reconstructions if {subject} is normal",
    }
    names = {kind: pictures.picture_name(stored.table, kind) for kind in captions}
    return [f"![{captions[k]}](results/{name})" for k, name in names.items() if name in picture_names]


def _show_recipes(stored: TableResults) -> list[str]:
    grid = results_tables.make_recipes_table(stored)
    if not grid:
        return []
    path = f"results/{stored.table.name}.json"
    text = (
        "Recipes. Values of a list belong to the scales, bottleneck first. The whole configurations are in "
        f"[{path}]({path})."
    )
    if any(config_lib.flat(tree).get("train.restore") for tree in stored.recipes.values()):
        text += (
            " The networks were trained to restore their degraded input (`train.restore`). "
            "This training is ours, not the paper's, so the figures do not measure the paper's method alone."
        )
    return [wrap(text), grid]


def _make_command(stored: TableResults) -> str:
    """Returns the command that measures the figures again."""
    table = stored.table
    rows = [row for row in table.rows if stored.row_results(row)]
    seeds = sorted({r.seed for r in stored.results if r.seed is not None})
    words = ["python reproduce.py", table.name]
    if any(stored.recipes[r.recipe]["data"]["limit_test"] for r in stored.results):
        words.append("--smoke")
    if seeds:
        words.append(f"--seeds={','.join(map(str, seeds))}")
    if set(stored.subjects) != set(table.default_subjects):
        words.append(f"--only={','.join(stored.subjects)}")
    if set(rows) != set(table.rows):
        words.append(f"--variants={','.join(rows)}")
    return " ".join(words)
