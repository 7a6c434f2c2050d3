"""Defects mixed into training images: which images, where they go, and how many of them are suspected."""

import csv
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from daad_jax.config import Config
from daad_jax.data import datasets
from daad_jax.data.memory_source import check_splits
from daad_jax.data.samples import Split, Splits
from daad_jax.errors import UserError
from reproduction import cells, dirt, experiment
from reproduction.cells import DIRT_PERCENTS, DIRTY, TABLES


def make_split(first, count, labels=None, groups=None):
    """Images of one value each, which tells them apart."""
    images = np.stack([np.full((8, 8, 3), first + i, np.uint8) for i in range(count)])
    split = Split.of(images, labels, [f"image {first + i}" for i in range(count)])
    return Split(split.images, split.labels, split.kinds, split.names, groups=groups)


@pytest.fixture
def clean():
    """90 normal images (9 of them held out), and a test set of 10 normal and 20 anomalous images."""
    return Splits(make_split(0, 81), make_split(81, 9), make_split(100, 30, np.repeat([0, 1], [10, 20])))


def values(split):
    return split.images[:, 0, 0, 0].tolist()


def test_the_mixed_in_images_leave_the_test_set_in_all_rows(clean):
    by_percent = {p: dirt.mix_in(clean, p, 10, 0.1, seed=3) for p in (0, 5, 10)}
    assert [len(d.mixed_in) for d in by_percent.values()] == [0, 5, 10]  # 5 / 95 and 10 / 100 are defects
    assert set(by_percent[5].mixed_in) < set(by_percent[10].mixed_in)
    tests = [d.splits.test for d in by_percent.values()]
    assert values(tests[0]) == values(tests[1]) == values(tests[2])
    assert tests[0].labels.sum() == 10
    assert not set(tests[0].names) & set(by_percent[10].mixed_in)
    assert set(tests[0].names) | set(by_percent[10].mixed_in) == set(clean.test.names)
    assert values(by_percent[0].splits.train) == values(clean.train)
    assert values(by_percent[0].splits.calibration) == values(clean.calibration)


def test_mixed_in_images_count_as_normal_and_a_share_is_held_out(clean):
    splits, mixed_in = dirt.mix_in(clean, 10, 10, 0.1, seed=0)
    assert (len(splits.train), len(splits.calibration)) == (81 + 9, 9 + 1)
    added = values(splits.train)[81:] + values(splits.calibration)[9:]
    assert sorted(added) == sorted(int(name.split()[1]) for name in mixed_in)
    assert min(added) >= 110  # anomalous test images
    assert values(splits.train)[:81] == values(clean.train)
    for split in (splits.train, splits.calibration):
        assert not split.labels.any()
        assert set(split.kinds) == {"good"}
        assert [int(name.split()[1]) for name in split.names] == values(split)
    config = Config()
    config.data.height = config.data.width = 8
    assert len(check_splits(splits, config.data)) == 100  # what training asks of splits
    again = dirt.mix_in(clean, 10, 10, 0.1, seed=0)
    assert again.mixed_in == mixed_in
    assert dirt.mix_in(clean, 10, 10, 0.1, seed=1).mixed_in != mixed_in


def test_mixed_in_images_are_groups_of_their_own(clean):
    grouped = Splits(make_split(0, 81, groups=np.arange(81) // 9), clean.calibration, clean.test)
    train = dirt.mix_in(grouped, 10, 10, 0.1, seed=0).splits.train
    assert train.group_count == 9 + 9
    assert train.groups[:81].tolist() == (np.arange(81) // 9).tolist()


def test_too_few_defects_are_refused(clean):
    with pytest.raises(UserError, match=r"30 % of defects among 90 normal images are 39 defects, but .* 20"):
        dirt.mix_in(clean, 0, 30, 0.1, seed=0)


def write_suspects(folder, names, column="name"):
    with (folder / "suspects.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["rank", column, "score"])
        table.writerows([rank, name, 9 - rank] for rank, name in enumerate(names, 1))


def test_found_suspects(tmp_path):
    mixed_in = ["a, b", "c", "d"]
    assert dirt.count_found(tmp_path, mixed_in) is None
    write_suspects(tmp_path, ["good 1", "c", "a, b", "d", "good 2"])
    assert dirt.count_found(tmp_path, mixed_in) == 2  # "d" is the fourth, and three were mixed in
    assert dirt.count_found(tmp_path, []) == 0
    write_suspects(tmp_path, ["d"])
    assert dirt.count_found(tmp_path, mixed_in) == 1
    write_suspects(tmp_path, ["d"], "file")
    with pytest.raises(UserError, match=r"suspects\.csv: has no column 'name'"):
        dirt.count_found(tmp_path, mixed_in)


def test_a_dirty_cell_trains_on_the_mixed_images_and_tests_the_rest(clean, tmp_path, monkeypatch):
    trained = {}

    def train(config, folder, *, data):
        trained[config.seed] = data
        write_suspects(folder, data.train.names[::-1])

    def evaluate(_, test):
        scores = test.images.mean(axis=(1, 2, 3))
        return SimpleNamespace(
            image_metrics={"auroc": 0.9, "found": 3}, pixel_metrics=None, images_per_s=20.0, scores=scores
        )

    monkeypatch.setattr(datasets, "load", lambda config: clean)
    monkeypatch.setattr(experiment, "train", train)
    monkeypatch.setattr(experiment, "Detector", SimpleNamespace(load=lambda _: SimpleNamespace(step=1)))
    monkeypatch.setattr(experiment, "evaluate_split", evaluate)
    figures, images = {}, {}
    for percent in DIRT_PERCENTS:
        cell = cells.make_cell(TABLES["dirty"], "bottle", f"patchcore_{percent}", 4, False)
        folder = cell.folder(tmp_path)
        folder.mkdir(parents=True)
        (result,) = experiment.run_cell(cell, folder).results
        figures[percent], images[percent] = result.figures, result.images
        assert len(trained[4].test) == 20
    assert [images[p]["mixed_in"] for p in DIRT_PERCENTS] == [0, 5, 10]
    assert [images[p]["train"] + images[p]["held_out"] for p in DIRT_PERCENTS] == [90, 95, 100]
    assert {images[p]["anomalous"] for p in DIRT_PERCENTS} == {10}
    # The last of the training images are the mixed-in ones, and one of ten is held out.
    assert [figures[p]["found_suspects"] for p in DIRT_PERCENTS] == [0, 5, 9]
    assert figures[10]["auroc_low"] == 1  # anomalous images have larger values
    assert "levelled_auroc" not in figures[10]


def test_rows_of_the_table():
    assert {(row.variant, row.percent) for row in DIRTY.values()} == {
        (variant, percent) for variant in ("patchcore", "daad_features") for percent in (0, 5, 10)
    }
    assert cells.ROW_TITLES["daad_features_5"] == "DAAD on features, 5 % defects"
    assert TABLES["dirty"].picture_subject == ""
    assert all(Path(row).name == row for row in DIRTY)
