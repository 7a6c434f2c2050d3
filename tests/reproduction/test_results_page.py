"""docs/results.md from stored results: what it says, and that it appears whole."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from daad_jax import config as config_lib
from daad_jax.config import Config
from daad_jax.errors import UserError
from reproduction import pictures, results, results_page
from reproduction.cells import TABLES, make_cell, make_recipe
from reproduction.results import Result, TableResults
from reproduction.summary import best_baseline_mean, mean_over

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"python": "3.11.7", "packages": {"jax": "0.10.0", "numpy": "2.4.0"}, "device": "CPU, 2 cores"}
HISTOGRAM = {"low": 0.5, "high": 2.5, "threshold": 1.5, "normal": [5, 3, 0, 0], "anomalous": [0, 1, 4, 9]}


def test_tables_share_results_of_one_recipe():
    """A part of the inspection table that is a category of MVTec AD need not be measured twice."""
    category, part = ("bottle", "daad", 0), ("bottle", "daad", 1)
    mvtec = make_results("mvtec_ad", {category: 0.9, ("bottle", "nearest_l2", None): 0.8})
    inspection = make_results("inspection", {part: 0.7, ("tire", "daad", 0): 0.6})
    other_recipe = dataclasses.replace(
        make_results("mvtec_ad", {("screw", "daad", 0): 0.5}).results[0], recipe="x"
    )
    mvtec = mvtec.merge(TableResults(mvtec.table, {"x": {}}, {"e": ENVIRONMENT}, [other_recipe]))
    categories, parts = results.share([mvtec, inspection])
    assert {r.key: r.figures["auroc"] for r in parts.results} == {
        category: 0.9, part: 0.7, ("bottle", "nearest_l2", -1): 0.8, ("tire", "daad", 0): 0.6,
    }  # fmt: skip
    assert {r.key for r in categories.results} == {r.key for r in mvtec.results} | {part}
    own = make_results("inspection", {category: 0.1})
    shared = results.share([own, mvtec])[0].results
    assert [r.figures["auroc"] for r in shared] == [0.8, 0.1]
    digits = make_results("mnist", {("0", "nearest_l2", None): 0.9, ("8", "nearest_l2", None): 0.7})
    empty = TableResults(TABLES["granularity"])  # shows the digit 8 alone
    assert not results.share([empty, digits])[0].results
    one = make_results("granularity", {("8", "1x1", 0): 0.6})
    assert [r.figures["auroc"] for r in results.share([one, digits])[0].results] == [0.7, 0.6]


def make_results(name, figures):
    """Results of a table from {(subject, row, seed): AUROC or figures}."""
    table = TABLES[name]
    stored = TableResults(table)
    for (subject, row, seed), given in figures.items():
        cell = make_cell(table, subject, row, seed, smoke=False)
        trains = seed is not None
        result = Result(
            subject=subject,
            row=row,
            seed=seed,
            recipe=cell.recipe,
            environment="e",
            date="2026-11-25",
            step=600 if trains else 0,
            images={"train": 90, "held_out": 10, "normal": 20, "anomalous": 63},
            figures={"auroc": given} if isinstance(given, float) else given,
            images_per_s=80.0 if trains else 0.0,
            wall_s=30.0 if trains else 1.0,
            histogram=HISTOGRAM if subject == table.picture_subject and trains else None,
        )
        stored = stored.merge(
            TableResults(table, {cell.recipe: make_recipe(cell)}, {"e": ENVIRONMENT}, [result])
        )
    return stored


@pytest.fixture
def mvtec():
    """DAAD beats the baselines only on bottle, and brightness tells screw apart."""
    return make_results(
        "mvtec_ad",
        {
            ("bottle", "mean_intensity", None): 0.6,
            ("screw", "mean_intensity", None): 1.0,
            ("bottle", "nearest_cosine", None): {"auroc": 0.9, "aupro": 0.7, "levelled_auroc": 0.91},
            ("screw", "nearest_cosine", None): {"auroc": 0.5, "aupro": 0.8, "levelled_auroc": 0.55},
            ("bottle", "daad", 0): {"auroc": 0.94, "aupro": 0.75, "levelled_auroc": 0.93},
            ("bottle", "daad", 1): {"auroc": 0.98, "aupro": 0.77, "levelled_auroc": 0.95},
            ("screw", "daad", 0): {"auroc": 0.98, "aupro": 0.75, "levelled_auroc": 0.65},
            ("screw", "daad", 1): {"auroc": 0.96, "aupro": 0.85, "levelled_auroc": 0.75},
        },
    )


def table_lines(text):
    return [line for line in text.splitlines() if line.startswith("|")]


def test_a_whole_table(mvtec):
    text = results_page.render([mvtec], set())
    rows = table_lines(text)
    for row in (
        "|  | paper, all 15 | paper, categories run | ours | categories run | time of a cell | images/s |",
        "| mean intensity | – | – | 0.800 | 2 of 15 | 1 s | – |",
        "| nearest image, cosine | – | – | 0.700 | 2 of 15 | 1 s | – |",
        # The means of the two seeds are 0.96 and 0.97: their deviation is 0.01 / sqrt(2).
        "| DAAD | 0.845 | 0.988 | 0.965 ± 0.007 | 2 of 15 | 30 s | 80 |",
        "| DAAD+ | 0.895 | – | – | – | – | – |",
        "| category | mean intensity | nearest image, cosine | DAAD | paper |",
        "| bottle | 0.600 | 0.900 | 0.960 ± 0.028 | 0.975 |",
        "| screw | 1.000 | 0.500 | 0.970 ± 0.014 † | 1.000 |",
        "| bottle | AUPRO | 0.700 | 0.760 ± 0.014 |",
        "| screw | AUPRO | 0.800 | 0.800 ± 0.071 † |",
        "| screw | image AUROC, brightness-corrected | 0.550 | 0.700 ± 0.071 |",
    ):
        assert row in rows
    words = " ".join(text.split())
    assert "Mean intensity alone separates the test set of screw." in words
    assert "Full test sets: 20 normal and 63 anomalous images." in words
    assert "Last step (600), seeds 0, 1, 90 images for training, 10 held out." in words
    assert "Not run: cable, capsule, carpet," in words
    assert "2026-11-25 on CPU, 2 cores (Python 3.11.7, jax 0.10.0, numpy 2.4.0)." in words
    assert "reproduce.py mvtec_ad --seeds=0,1 --only=bottle,screw --variants=mean_intensity," in words
    assert "Not finished" not in words
    assert "The paper claims" not in words  # no order of rows that were not run


def test_times_of_several_machines_are_a_range():
    stored = make_results("mnist", {("8", "ae", 0): 0.9, ("8", "ae", 1): 0.9, ("8", "memae", 0): 0.9})
    fast = dataclasses.replace(
        stored.row_results("ae")[0], environment="gpu", wall_s=2.0, images_per_s=4000.0
    )
    stored = stored.merge(TableResults(stored.table, stored.recipes, {"gpu": ENVIRONMENT}, [fast]))
    text = results_page.render([stored], set())
    assert "| 2 to 30 s | 80 to 4000 |" in next(x for x in text.splitlines() if x.startswith("| AE |"))
    assert "| 30 s | 80 |" in next(x for x in text.splitlines() if x.startswith("| MemAE |"))


def test_the_order_of_the_rows_as_it_falls():
    rows = {"ae": 0.8, "ae_skip": 0.7, "memae": 0.85, "daad": 0.9, "daad_plus": 0.95}

    def words(figures):
        stored = make_results("mnist", {("8", row, 0): auroc for row, auroc in figures.items()})
        return " ".join(results_page.render([stored], set()).split())

    assert (
        "AE+Skip 0.700 < AE 0.800 < MemAE 0.850 < DAAD 0.900 < DAAD+ 0.950. The paper claims this order."
        in words(rows)
    )
    assert "DAAD+ 0.600 < AE+Skip 0.700 < AE 0.800" in words(rows | {"daad_plus": 0.6})
    assert ". The paper claims another order, AE+Skip < AE < MemAE < DAAD < DAAD+." in words(
        rows | {"daad_plus": 0.6}
    )


def test_a_contradiction_is_compared_with_the_spread_over_seeds():
    rows = {"ae": 0.8, "ae_skip": 0.7, "memae": 0.85, "daad": 0.95, "daad_plus": 0.94}

    def words(spread, seeds=(0, 1, 2)):
        cells = {("8", row, i): auroc + spread * (i - 1) for row, auroc in rows.items() for i in seeds}
        return " ".join(results_page.render([make_results("mnist", cells)], set()).split())

    claim = "The paper claims another order, AE+Skip < AE < MemAE < DAAD < DAAD+."
    claim = f"MemAE 0.850 < DAAD+ 0.940 < DAAD 0.950. {claim}"
    assert f"{claim} No difference that contradicts the claim exceeds the spread over seeds." in words(0.02)
    assert f"{claim} These differences exceed the spread over seeds: DAAD above DAAD+." in words(0.005)
    of_one_seed = words(0.02, seeds=(1,))  # one seed has no spread
    assert claim in of_one_seed
    assert f"{claim} These" not in of_one_seed
    assert f"{claim} No difference" not in of_one_seed


def test_the_order_is_of_subjects_that_all_rows_have():
    rows = {"ae": 0.8, "ae_skip": 0.7, "memae": 0.85, "daad": 0.9, "daad_plus": 0.95}
    cells = {("8", row, 0): auroc for row, auroc in rows.items()} | {("3", "daad_plus", 0): 0.1}
    text = " ".join(results_page.render([make_results("mnist", cells)], set()).split())
    assert "Order of the means over 8: AE+Skip 0.700 < AE 0.800" in text
    assert "DAAD 0.900 < DAAD+ 0.950. The paper claims this order." in text
    nothing_shared = make_results("mnist", {(str(i), row, 0): 0.5 for i, row in enumerate(rows)})
    assert "Order of the means" not in results_page.render([nothing_shared], set())


def test_where_brightness_separates_the_corrected_auroc_is_put_in_order():
    rows = {"ae": 0.8, "ae_skip": 0.7, "memae": 0.85, "daad": 0.9, "daad_plus": 0.95}
    cells = {("screw", row, 0): {"auroc": 1 - x, "levelled_auroc": x} for row, x in rows.items()}
    cells |= {("bottle", row, 0): {"auroc": x, "levelled_auroc": 1 - x} for row, x in rows.items()}
    brightness = {("screw", "mean_intensity", None): 0.99, ("bottle", "mean_intensity", None): 0.6}
    text = " ".join(results_page.render([make_results("mvtec_ad", cells | brightness)], set()).split())
    assert "Order of the means: AE+Skip 0.700" in text
    assert "DAAD 0.900 < DAAD+ 0.950. The paper claims this order." in text
    assert "For screw the brightness-corrected AUROC counts, see below." in text


def test_the_order_of_pixel_figures_is_their_own():
    rows = {"ae": 0.8, "ae_skip": 0.7, "memae": 0.85, "daad": 0.9, "daad_plus": 0.95}
    cells = {("screw", row, 0): {"auroc": 0.5, "pixel_auroc": x, "aupro": 1 - x} for row, x in rows.items()}
    brightness = {("screw", "mean_intensity", None): 0.99}
    text = " ".join(results_page.render([make_results("mvtec_ad", cells | brightness)], set()).split())
    by = "Order of the means by {0} (the paper does not print {0}): {1}"
    assert by.format("pixel AUROC", "AE+Skip 0.700 < AE 0.800 < MemAE 0.850") in text
    assert by.format("AUPRO", "DAAD+ 0.050 < DAAD 0.100") in text
    assert text.count("The paper claims this order") == text.count("The paper claims another order") == 1


def test_the_order_over_tables():
    rows = ("ae", "ae_skip", "memae", "daad", "daad_plus")
    one = make_results("mnist", {("8", row, 0): x for row, x in zip(rows, (0.8, 0.7, 0.9, 0.95, 0.93))})
    other = make_results("cifar10", {("cat", row, 0): x for row, x in zip(rows, (0.6, 0.5, 0.6, 0.6, 0.7))})
    text = " ".join(results_page.render([one, other], set()).split())
    assert "Order of the means over MNIST, CIFAR-10: AE+Skip 0.600 < AE 0.700" in text
    assert "< MemAE 0.750 < DAAD 0.775 < DAAD+ 0.815. The paper claims this order." in text
    assert "Order over the tables" not in results_page.render([one], set())


def test_one_seed_has_no_spread_and_missing_cells_are_counted():
    one = make_results("mnist", {("8", "ae", 0): 0.9})
    assert "| 8 | 0.900 |" in table_lines(results_page.render([one], set()))
    gap = make_results("mnist", {("8", "ae", 0): 0.9, ("8", "ae", 1): 0.7, ("3", "ae", 0): 0.5})
    text = results_page.render([gap], set())
    assert "**Not finished: 3 of 4 cells have run.**" in " ".join(text.split())
    # Only seed 0 has both digits: no spread of their mean.
    assert "| AE | – | 0.650 | 2 of 10 | 30 s | 80 |" in table_lines(text)


def test_the_recipes_table(mvtec):
    """The columns, and beside them all values that are not the default."""
    plain, other = Config(), Config()
    plain.loss.adversarial = plain.loss.alignment = 0.0
    other.model.temperature, other.model.skips = 0.05, (True, False, True)
    made = [json.loads(config_lib.to_json(config)) for config in (plain, other)]

    def row(*recipes):
        chosen = [
            dataclasses.replace(mvtec.row_results("daad")[i], recipe=str(i)) for i in range(len(recipes))
        ]
        by_name = {str(i): recipe for i, recipe in enumerate(recipes)}
        text = results_page.render([TableResults(mvtec.table, by_name, mvtec.environments, chosen)], set())
        return table_lines(text)[-1]

    memory = "500, 500, 500, 500 | 1x1x1, 1x1x1, 2x2x1, 4x4x1 | 2000 | 64"
    weights = "loss.adversarial = 0.0, loss.alignment = 0.0"
    both = "model.skips = [true, true, true] / [true, false, true], model.temperature = 1.0 / 0.05, "
    both += "loss.adversarial = 0.0 / 1.0, loss.alignment = 0.0 / 1.0"
    assert row(made[0]) == f"| DAAD | 32 x 32 x 3 | 64 | – | {memory} | {weights} |"
    assert row(*made) == f"| DAAD | 32 x 32 x 3 | 64 | – / 64 | {memory} | {both} |"
    other.model.memory_items = (500, 0, 0, 500)  # no division where there is no memory
    assert "| 500, 0, 0, 500 | 1x1x1, –, –, 4x4x1 |" in row(json.loads(config_lib.to_json(other)))


def test_every_table_has_its_section(mvtec, tmp_path):
    law = {"held_out_error": 0.01, "normal_error": 0.011, "anomalous_error": 0.0345}
    granularity = make_results(
        "granularity",
        {
            ("8", "nearest_l2", None): 0.885,
            ("8", "1x1", 0): {"auroc": 0.9, **law},
            ("8", "pixels", 0): {"auroc": 0.7, **law},
        },
    )
    for stored in (mvtec, granularity):
        results.save(results.results_path(tmp_path, stored.table), stored)
    results_page.write(tmp_path)
    text = (tmp_path / "results.md").read_text()
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## MVTec AD", "## Granularity"]
    assert "| one block | 0.900 | 0.0100 | 0.0110 | 0.0345 |" in table_lines(text)
    assert "| pixel-wise | 0.700 † | 0.0100 | 0.0110 | 0.0345 |" in table_lines(text)
    assert "Not run: `mnist`, `cifar10`, `solar_cells`" in text
    named = {part.split(")")[0] for part in text.split("](results/")[1:]}
    there = {path.name for path in (tmp_path / "results").iterdir()}
    assert named == there  # all that is linked exists, and all that exists is linked
    assert "mvtec_ad-scores.png" in there
    again = (tmp_path / "results" / "mvtec_ad-scores.png").read_bytes()
    results_page.write(tmp_path)
    assert (tmp_path / "results.md").read_text() == text
    assert (tmp_path / "results" / "mvtec_ad-scores.png").read_bytes() == again


@pytest.mark.parametrize("damage", ["", "[]", '{"format": 0, "table": "mnist"}', '{"format": 1}'])
def test_damaged_results_leave_the_page_as_it_is(mvtec, tmp_path, damage):
    results.save(results.results_path(tmp_path, mvtec.table), mvtec)
    results_page.write(tmp_path)
    before = (tmp_path / "results.md").read_text()
    (tmp_path / "results" / "mnist.json").write_text(damage)
    with pytest.raises(UserError, match=r"mnist\.json: no results of mnist"):
        results_page.write(tmp_path)
    assert (tmp_path / "results.md").read_text() == before


def test_results_survive_their_file(mvtec, tmp_path):
    path = tmp_path / "x.json"
    results.save(path, mvtec)
    assert results.load(path, mvtec.table) == mvtec
    assert len(path.read_text().splitlines()) == 2 + len(mvtec.results) + len(mvtec.recipes) + 9
    tree = json.loads(path.read_text())
    tree["cells"][0]["figures"]["auroc"] = "0.9"
    path.write_text(json.dumps(tree))
    with pytest.raises(UserError, match="not a number"):
        results.load(path, mvtec.table)


def test_a_new_result_replaces_the_old_one_and_old_recipes_go(mvtec):
    again = make_results("mvtec_ad", {("bottle", "daad", 0): 0.5})
    merged = mvtec.merge(again)
    assert len(merged.results) == len(mvtec.results)
    assert [r.figures["auroc"] for r in merged.row_results("daad")][:2] == [0.5, 0.98]
    assert merged.select_current(smoke=False) == merged
    assert merged.select_current(smoke=True).results == []
    old = dataclasses.replace(mvtec.row_results("daad")[0], recipe="another", seed=5)
    mixed = mvtec.merge(TableResults(mvtec.table, {"another": {}}, mvtec.environments, [old]))
    assert len(mixed.results) == len(mvtec.results) + 1
    assert mixed.select_current(smoke=False) == mvtec


def test_figures_of_removed_recipes_are_counted(mvtec):
    def text(stored):
        return " ".join(results_page.render([stored], set()).split())

    first = mvtec.row_results("daad")[0]
    older = TableResults(
        mvtec.table,
        {"older": mvtec.recipes[first.recipe]},
        mvtec.environments,
        [dataclasses.replace(first, recipe="older")],
    )
    note = f"1 of {len(mvtec.results)} figures belong to recipes that are no longer in configs/."
    assert note in text(mvtec.merge(older))
    assert "no longer" not in text(mvtec)


def test_reconstructions_of_all_rows_in_one_picture(tmp_path):
    out, docs = tmp_path / "out", tmp_path / "docs"
    for name, place in (("mnist", docs / "results"), ("mvtec_ad", out)):
        subject = TABLES[name].picture_subject
        stored = make_results(name, {(subject, row, 0): 0.9 for row in ("ae", "daad")})
        assert pictures.draw_reconstructions(stored, out, docs) is None
        for result in stored.results:
            folder = make_cell(stored.table, subject, result.row, 0, False).folder(out)
            folder.mkdir(parents=True)
            images = np.zeros((3, 16, 16, 1), np.uint8)
            arrays = {"images": images, "reconstructions": images + 9, "labels": np.array([0, 0, 1])}
            np.savez(folder / "shown.npz", kinds=np.array(["8", "8", "$3"]), **arrays)
        place.mkdir(parents=True, exist_ok=True)
        path = pictures.draw_reconstructions(stored, out, docs)
        assert path == place / f"{name}-reconstructions.png"
        with Image.open(path) as picture:
            assert picture.width > 300


def test_a_restored_recipe_is_named_as_ours(tmp_path):
    for name, subject, is_restored in (("cifar10", "automobile", True), ("mnist", "8", False)):
        docs = tmp_path / name
        stored = make_results(name, {(subject, "daad_plus", 0): 0.7})
        results.save(results.results_path(docs, stored.table), stored)
        results_page.write(docs)
        assert ("ours, not the paper's" in (docs / "results.md").read_text()) == is_restored


@pytest.mark.parametrize(
    ("name", "subjects", "title"),
    [
        ("mnist", TABLES["mnist"].subjects, "MNIST"),
        ("cifar10", TABLES["cifar10"].subjects, "CIFAR-10"),
        ("mvtec_ad", ("bottle",), "MVTec AD bottle"),
        ("solar_cells", ("mono",), "solar cells, mono"),
    ],
)
def test_the_readme_says_what_is_stored(name, subjects, title):
    stored = next(each for each in results.load_all(ROOT / "docs") if each.table.name == name)
    line = next(x for x in (ROOT / "README.md").read_text().splitlines() if x.startswith(f"| {title}"))
    figures = [mean_over(stored, row, dict.fromkeys(subjects, "auroc")) for row in ("daad", "daad_plus")]
    ours = [f"{f.mean:.3f}" + (f" ± {f.spread:.3f}" if f.spread is not None else "") for f in figures]
    baseline = f"{best_baseline_mean(stored, subjects, 'auroc'):.3f}"
    assert [word.strip() for word in line.split("|")[3:-1]] == [*ours, baseline]
