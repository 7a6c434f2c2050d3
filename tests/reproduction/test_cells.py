"""Which cells run, what makes a cell another one, and what a new data set needs."""

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest

from daad_jax import config as config_lib
from daad_jax import recipes
from daad_jax.config import Config
from daad_jax.data import datasets
from daad_jax.data.catalogue import DATA_SETS, DataSet
from daad_jax.errors import UserError
from daad_jax.recipes import load_recipe
from daad_jax.variants import PIXEL_VARIANTS
from reproduction import cells, paper, results, results_page
from reproduction.cells import BASELINES, TABLES, Cell, choose, make_cell, make_recipe
from reproduction.results import Result, TableResults

SEEDS = ["0", "1", "2"]


def test_a_table_is_every_row_of_every_class_and_seed():
    chosen = choose(TABLES["mnist"], [], [], SEEDS, False)
    assert len(chosen) == 10 * (len(BASELINES) + 3 * len(PIXEL_VARIANTS))
    assert len({(c.subject, c.row, c.seed) for c in chosen}) == len(chosen)
    assert {c.config.data.normal_class for c in chosen} == set("0123456789")
    seeds = [c.seed for c in chosen if c.seed is not None]
    assert seeds == sorted(seeds)  # an early end leaves whole seeds
    assert all(c.config.seed == (c.seed or 0) for c in chosen)
    assert {c.config.data.limit_test for c in chosen} == {0}
    assert {c.config.data.limit_test for c in choose(TABLES["mnist"], [], [], SEEDS, True)} == {50}


def test_part_of_a_table():
    chosen = choose(TABLES["cifar10"], ["ship"], ["memae", "nearest_l2"], ["7"], False)
    assert [(c.subject, c.row, c.seed) for c in chosen] == [
        ("ship", "nearest_l2", None),
        ("ship", "memae", 7),
    ]
    assert chosen[1].config.model.skips == (False,) * (chosen[1].config.model.levels - 1)


def test_divisions_are_from_one_block_to_pixels():
    chosen = choose(TABLES["granularity"], [], ["1x1", "4x4", "pixels"], ["0"], False)
    config = chosen[0].config
    sizes = [config.data.height // 2**k for k in range(config.model.levels, 0, -1)]
    assert [c.config.model.division for c in chosen] == [
        tuple((min(n, size), min(n, size), 1) for size in sizes) for n in (1, 4, 10**6)
    ]
    assert {c.subject for c in chosen} == {"8"}
    assert not any(c.config.uses_discriminator for c in chosen)


@pytest.mark.parametrize(
    ("only", "rows", "seeds", "says"),
    [
        (["automobil"], [], SEEDS, "'automobil': no such class; did you mean 'automobile'"),
        ([], ["dad_plus"], SEEDS, "no such variant; did you mean 'daad_plus'"),
        ([], ["zzz"], SEEDS, "known: mean_intensity, nearest_cosine"),
        ([], [], ["-1"], "--seeds: '-1'"),
        ([], [], ["²"], "--seeds: '²'"),
        ([], [], [str(2**31)], "--seeds"),
        ([], [], [], "--seeds is empty"),
    ],
)
def test_unknown_names(only, rows, seeds, says):
    with pytest.raises(UserError, match=says):
        choose(TABLES["cifar10"], only, rows, seeds, False)


def test_an_unknown_table():
    with pytest.raises(UserError, match="'mnits': no such table; did you mean 'mnist'"):
        cells.table_named("mnits")


def changed(cell, key, value):
    config = dataclasses.replace(cell.config)
    node, _, leaf = key.rpartition(".")
    if node:
        setattr(config, node, dataclasses.replace(getattr(config, node), **{leaf: value}))
    else:
        setattr(config, leaf, value)
    return dataclasses.replace(cell, config=config)


def test_a_recipe_is_what_a_result_depends_on(tmp_path):
    cell = make_cell(TABLES["mnist"], "3", "daad", 0, False)
    for key, value in {
        "train.learning_rate": 7e-5,
        "model.base_width": 5,
        "score.smoothing": 0.5,
        "data.limit_test": 9,
    }.items():
        assert changed(cell, key, value).recipe != cell.recipe
    for key, value in {
        "name": "x",
        "seed": 4,
        "train.checkpoint_every": 7,
        "data.data_dir": "/elsewhere",
        "data.normal_class": "4",
    }.items():
        assert changed(cell, key, value).recipe == cell.recipe
    for subject, row, seed in (("4", "daad", 0), ("3", "daad", 1), ("3", "daad_plus", 0)):
        other = make_cell(TABLES["mnist"], subject, row, seed, False)
        assert other.folder(tmp_path) != cell.folder(tmp_path)


def test_a_memory_counts_where_something_is_remembered():
    for row, counts in (("ae", (False, False)), ("memae", (True, False)), ("daad", (True, True))):
        cell = make_cell(TABLES["mnist"], "3", row, 0, False)
        bottleneck, *rest = cell.config.model.division
        coarsest = changed(cell, "model.division", ((2, 2, 1), *rest))
        finest = changed(cell, "model.division", (bottleneck, *rest[:-1], (4, 4, 1)))
        assert (coarsest.recipe != cell.recipe, finest.recipe != cell.recipe) == counts
        sharper = changed(cell, "model.temperature", 0.01), changed(cell, "model.shrink", 0.01)
        assert all((other.recipe != cell.recipe) == (row != "ae") for other in sharper)


def test_a_baseline_depends_on_its_data_alone():
    cell = make_cell(TABLES["mnist"], "3", "nearest_l2", None, False)
    assert changed(cell, "model.base_width", 5).recipe == cell.recipe
    assert changed(cell, "data.height", 64).recipe != cell.recipe


def test_the_papers_figures_agree_with_its_means():
    for column, printed in zip(paper.MVTEC_COLUMNS, paper.MVTEC_MEAN):
        assert paper.mean_over("mvtec_ad", list(paper.MVTEC), column) == pytest.approx(printed, abs=6e-4)
    assert paper.mean_over("mvtec_ad", ["bottle", "screw"], "DAAD+") == pytest.approx((0.976 + 0.987) / 2)
    assert paper.mean_auroc("mnist", "DAAD") == 0.990
    assert paper.mean_auroc("mnist", "AE") is None
    assert "MemAE" not in paper.other_methods("cifar10")


def test_recipes_default_to_the_subject_of_the_catalogue():
    for data_set in DATA_SETS.values():
        data = load_recipe(data_set.name).data
        part = data.name.partition("/")[2]
        assert (part or data.normal_class) == data_set.default_subject


RECIPE = """
from daad_jax import variants
from daad_jax.config import Config


def get_config(argument=""):
    value, variant, smoke = variants.parse(argument, "shirt")
    config = Config()
    config.data.name = "clothes"
    config.data.normal_class = value
    return variants.finish(config, "clothes", value, variant, smoke)
"""


@pytest.fixture
def clothes(monkeypatch, tmp_path):
    """A made-up data set: one entry in the catalogue, and one recipe."""
    entry = DataSet("clothes", "Clothes", "garment", "garments", "shirt", classes=("shirt", "shoe", "bag"))
    monkeypatch.setitem(DATA_SETS, "clothes", entry)
    monkeypatch.setattr(recipes, "folder", lambda: tmp_path)
    (tmp_path / "clothes.py").write_text(RECIPE)
    monkeypatch.setattr(cells, "TABLES", cells.make_tables(DATA_SETS.values()))
    return entry


def test_a_new_data_set_is_an_entry_and_a_recipe(clothes, monkeypatch):
    table = cells.table_named("clothes")
    assert (table.title, table.subjects, table.picture_subject) == ("Clothes", clothes.classes, "shirt")
    chosen = choose(table, [], [], SEEDS, False)
    assert len(chosen) == 3 * (len(BASELINES) + 3 * len(PIXEL_VARIANTS))
    assert {c.config.data.normal_class for c in chosen} == set(clothes.classes)
    assert {c.config.data.name for c in chosen} == {"clothes"}
    with pytest.raises(UserError, match="'shirts': no such garment; did you mean 'shirt'"):
        choose(table, ["shirts"], [], SEEDS, False)
    with pytest.raises(UserError, match="'cloths': no such table; did you mean 'clothes'"):
        cells.table_named("cloths")

    # The name and the class in a configuration are checked before anything is opened.
    monkeypatch.setattr(datasets, "open_tfds", lambda _: pytest.fail("opened"))
    config = load_recipe("clothes:sho")
    with pytest.raises(UserError, match="'sho': no such class; did you mean 'shoe'"):
        datasets.load(config)
    config.data.name = "cloths"
    with pytest.raises(UserError, match="'cloths': no such data set; did you mean 'clothes'"):
        datasets.load(config)


def test_a_new_data_set_has_its_place_on_the_page(clothes, tmp_path):
    assert "`clothes`" in results_page.render(results.load_all(tmp_path), set())
    (cell,) = choose(cells.table_named("clothes"), ["bag"], ["daad"], ["0"], False)
    result = Result(
        subject="bag", row="daad", seed=0, recipe=cell.recipe, environment="e", date="2026-11-27", step=9,
        images={"train": 9, "held_out": 1, "normal": 2, "anomalous": 4}, figures={"auroc": 0.75},
        images_per_s=1.0, wall_s=2.0,
    )  # fmt: skip
    environment = {"python": "3", "packages": {}, "device": "CPU"}
    stored = TableResults(cell.table, {cell.recipe: make_recipe(cell)}, {"e": environment}, [result])
    results.save(results.results_path(tmp_path, cell.table), stored)
    text = results_page.render(results.load_all(tmp_path), set())
    assert "## Clothes" in text
    assert "| DAAD | – | 0.750 | 1 of 3 | 2 s | 1 |" in text
    assert "Not run: shirt, shoe." in text


@pytest.mark.parametrize(
    ("row", "blocks", "digest", "folder"),
    [
        ("daad", None, "f14ca8f2d2", "mnist/3-daad-seed1-f14ca8f2d2"),
        ("nearest_l2", None, "04c34d3e87", "mnist/3-nearest_l2-04c34d3e87"),
        ("4x4", 4, "aec69b3074", "mnist/3-4x4-seed1-aec69b3074"),
    ],
)
def test_stored_results_keep_their_digests_and_folders(row, blocks, digest, folder):
    """Stored results and runs are found by these names, so a change of code must not change them."""
    config = Config()
    config.data.name, config.data.height, config.data.channels = "mnist", 64, 1
    config.model.memory_items, config.train.steps = (10, 0, 20, 30), 300
    if blocks:
        config.model.division = cells.make_division(config, blocks)
    cell = Cell(TABLES["mnist"], "3", row, None if row in BASELINES else 1, config)
    assert cell.recipe == digest
    assert cell.folder(Path("out")) == Path("out") / folder


def test_stored_recipes_are_found_by_the_digest_of_their_values():
    """A plain second computation of every key in docs/results/*.json."""
    default = config_lib.flat(json.loads(config_lib.to_json(Config())))
    for path in sorted((Path(__file__).parents[2] / "docs" / "results").glob("*.json")):
        stored = json.loads(path.read_text())
        assert len(results.load(path, TABLES[path.stem]).results) == len(stored["cells"])
        for digest, tree in stored["recipes"].items():
            changed = {k: v for k, v in config_lib.flat(tree).items() if v != default[k]}
            assert hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:10] == digest


def test_memories_that_are_filled_from_the_data_depend_on_no_network():
    cell = make_cell(TABLES["inspection"], "tire", "patchcore", 0, False)
    for key, value in {
        "model.base_width": 5,
        "model.division": ((3, 3, 1),) * 4,
        "loss.reconstruction": 7.0,
        "train.steps": 9,
        "data.path": "/elsewhere",
    }.items():
        assert changed(cell, key, value).recipe == cell.recipe
    for key, value in {
        "model.memory_items": (7,),
        "model.blocks": (16,),
        "score.pooling": 2,
        "data.height": 256,
    }.items():
        assert changed(cell, key, value).recipe != cell.recipe
    learned = make_cell(TABLES["inspection"], "tire", "daad_plus_features", 0, False)
    assert changed(learned, "train.steps", 9).recipe != learned.recipe
