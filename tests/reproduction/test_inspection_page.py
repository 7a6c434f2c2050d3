"""The sections of sets from several sources, from made-up results."""

import pytest

from reproduction import order, results_page
from reproduction.cells import TABLES, make_cell, make_recipe
from reproduction.results import Result, TableResults

ENVIRONMENT = {"python": "3.11.7", "packages": {"jax": "0.10.0"}, "device": "CPU, 2 cores"}


def make_results(name, figures, images=None):
    """Results of a table from {(subject, row, seed): figures}."""
    stored = TableResults(TABLES[name])
    for (subject, row, seed), given in figures.items():
        cell = make_cell(stored.table, subject, row, seed, smoke=False)
        rate = 0.0 if seed is None or cell.config.uses_coreset else 50.0
        counts = {"train": 90, "held_out": 10, "normal": 20, "anomalous": 63} | (images or {}).get(row, {})
        result = Result(
            subject=subject, row=row, seed=seed, recipe=cell.recipe, environment="e", date="2026-11-28",
            step=0 if seed is None else 500 if rate else 1, images=counts, figures=given, images_per_s=rate,
            wall_s=9.0,
        )  # fmt: skip
        recipes = {cell.recipe: make_recipe(cell)}
        stored = stored.merge(TableResults(stored.table, recipes, {"e": ENVIRONMENT}, [result]))
    return stored


@pytest.fixture
def inspection():
    """DAAD on features is ahead for tire, behind for mono, and within the spread for bottle."""
    figures = {
        ("tire", "mean_intensity", None): {"auroc": 0.6, "auroc_low": 0.5, "auroc_high": 0.7},
        ("bottle", "mean_intensity", None): {"auroc": 0.97, "auroc_low": 0.9, "auroc_high": 1.0},
        ("tire", "daad", 0): {"auroc": 0.55, "train_s": 300.0, "scored_per_s": 800.0, "checkpoint_mb": 6.0},
    }
    for subject, patchcore, daad in (("tire", 0.7, 0.75), ("bottle", 0.99, 0.992), ("mono", 0.96, 0.94)):
        for row, auroc in (("patchcore", patchcore), ("daad_features", daad)):
            for seed in (0, 1, 2):
                value = auroc + 0.004 * (seed - 1)
                figures[subject, row, seed] = {
                    "auroc": value, "auroc_low": value - 0.1, "auroc_high": min(1.0, value + 0.01 * seed),
                    "train_s": 20.0 + seed, "scored_per_s": 8.04, "checkpoint_mb": 4.9,
                }  # fmt: skip
    return make_results("inspection", figures)


def table_lines(text):
    return [line for line in text.splitlines() if line.startswith("|")]


def test_the_inspection_section(inspection):
    text = results_page.render([inspection], set())
    lines, words = table_lines(text), " ".join(text.split())
    for line in (
        "|  | image AUROC | pixel AUROC | AUPRO | parts run | seconds to train | images/s | MB |",
        "| mean intensity | 0.785 | – | – | 2 of 7 | – | – | – |",
        "| DAAD | 0.550 † | – | – | 1 of 7 | 300 | 800 | 6.0 |",
        "| PatchCore | 0.883 ± 0.004 | – | – | 3 of 7 | 21 | 8.0 | 4.9 |",
        "|  | bottle | mono | tire |",
        "| mean intensity | 0.970 [0.900, 1.000] | – | 0.600 [0.500, 0.700] |",
        # The upper ends of the seeds are 0.986, 1 and 1 for bottle, and 0.696, 0.71 and 0.724 for tire.
        "| PatchCore | 0.990 ± 0.004 [0.890, 0.995] | 0.960 ± 0.004 [0.860, 0.970] "
        "| 0.700 ± 0.004 [0.600, 0.710] |",
    ):
        assert line in lines
    assert (
        "DAAD on features against PatchCore by image AUROC: ahead by more than the spread over seeds for "
        "tire (+0.050); behind by more than the spread for mono (-0.020); no difference beyond the spread "
        "for bottle (+0.002)." in words
    )
    assert "DAAD+ on features against" not in words  # it was not run
    assert "Last step (500), seeds 0, 1, 2," in words
    assert "The images are licensed under licenses for non-commercial use" in words
    assert "Not run: screw, poly, kolektor, metal_plate." in words
    # Memories that are filled from the data have no width, no steps and no batch.
    recipe = next(line for line in reversed(lines) if line.startswith("| PatchCore |"))
    assert recipe.startswith("| PatchCore | 224 x 224 x 3 / 224 x 224 x 1 | – | – | 4000 | – | – | – | ")
    assert "reproduce.py inspection --seeds=0,1,2 --only=bottle,mono,tire --variants=mean_intensity," in words


def test_memories_without_networks_have_no_last_step():
    stored = make_results("inspection", {("tire", "patchcore", 0): {"auroc": 0.7}})
    words = " ".join(results_page.render([stored], set()).split())
    assert "Seed 0, 90 images for training" in words
    assert "Last step" not in words.split("## Inspection")[1]


def test_brightness_is_named_where_it_separates(inspection):
    assert "Brightness-corrected" not in results_page.render([inspection], set())
    corrected = {("bottle", "patchcore", 0): {"auroc": 0.9, "levelled_auroc": 0.8}}
    text = results_page.render([inspection.merge(make_results("inspection", corrected))], set())
    assert "### Brightness-corrected image AUROC" in text.splitlines()
    words = " ".join(text.split())
    assert "Mean intensity alone separates the test set of bottle." in words


def test_one_seed_has_no_spread_to_compare_with():
    rows = {"patchcore": 0.9, "daad_features": 0.95}
    stored = make_results("inspection", {("tire", row, 0): {"auroc": x} for row, x in rows.items()})
    text = order.describe_lead(stored, "daad_features", "patchcore", "auroc", "image AUROC")
    assert text.endswith("by image AUROC: without a spread to compare with for tire (+0.050).")
    assert order.describe_lead(stored, "daad_features", "patchcore", "aupro", "AUPRO") == ""


def test_parts_do_not_count_twice_in_the_order_over_tables():
    rows = ("ae_skip", "ae", "memae", "daad", "daad_plus")
    aurocs = {row: {"auroc": 0.5 + 0.05 * i} for i, row in enumerate(rows)}
    tables = [
        make_results(name, {(subject, row, 0): figures for row, figures in aurocs.items()})
        for name, subject in (("mnist", "8"), ("mvtec_ad", "bottle"), ("inspection", "bottle"))
    ]
    text = " ".join(results_page.render(tables, set()).split())
    assert "Order of the means over MNIST, MVTec AD: AE+Skip 0.500" in text
    assert text.count("The paper claims this order.") == 4  # one for each table, and one over two of them


def test_the_dirty_section():
    """The fall is taken seed by seed, so what a seed changes in all columns does not count."""
    figures, images = {}, {"patchcore_5": {"mixed_in": 11}, "patchcore_10": {"mixed_in": 23}}
    for seed in (0, 1):
        clean = 0.9 + 0.08 * seed
        figures["bottle", "patchcore_0", seed] = {"auroc": clean}
        figures["bottle", "patchcore_5", seed] = {"auroc": clean - 0.01, "found_suspects": 10.0 + seed}
        figures["bottle", "patchcore_10", seed] = {"auroc": clean - 0.02 - 0.002 * seed}
    figures["mono", "daad_features_0", 0] = {"auroc": 0.95}
    text = results_page.render([make_results("dirty", figures, images)], set())
    lines = table_lines(text)
    for line in (
        "| part |  | image AUROC, 0 % | image AUROC, 5 % | image AUROC, 10 % | fall at 5 % | fall at 10 % "
        "| found at 5 % | found at 10 % |",
        "| bottle | PatchCore | 0.940 ± 0.057 | 0.930 ± 0.057 | 0.919 ± 0.055 | 0.010 ± 0.000 "
        "| 0.021 ± 0.001 | 10.5 of 11 | – |",
        "| mono | DAAD on features | 0.950 | – | – | – | – | – | – |",
    ):
        assert line in lines
    words = " ".join(text.split())
    assert "Not run: metal_plate." in words
    assert "so this page does not show them." in words  # nobody draws pictures of this table
