"""What is run, and what makes a cell another one."""

import dataclasses

import pytest

from daad_jax.errors import UserError
from daad_jax.variants import VARIANTS
from reproduction import cells, paper
from reproduction.cells import BASELINES, TABLES, choose, make_cell

SEEDS = ["0", "1", "2"]


def test_a_table_is_every_row_of_every_class_and_seed():
    chosen = choose(TABLES["mnist"], [], [], SEEDS, False)
    assert len(chosen) == 10 * (len(BASELINES) + 3 * len(VARIANTS))
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
