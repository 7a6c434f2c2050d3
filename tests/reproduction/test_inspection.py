"""Two tables join sets of several sources: their cells, and the parts that are left out without images."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from daad_jax import variants
from daad_jax.data import datasets
from daad_jax.errors import UserError
from reproduction import cells, inspection, results, run
from reproduction.cells import BASELINES, DIRTY, TABLES, choose, make_cell
from reproduction.inspection import PARTS

TABLE = TABLES["inspection"]


@pytest.fixture(autouse=True)
def no_images(monkeypatch, tmp_path):
    """No set is on this machine, except those that a test makes."""
    monkeypatch.setenv("DAAD_INSPECTION_DIR", str(tmp_path / "sets"))
    monkeypatch.setenv("DAAD_MVTEC_DIR", str(tmp_path / "nothing"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("DAAD_CACHE_DIR", str(tmp_path / "cache"))


def make_set(root: Path, name: str, broken: bool = False) -> None:
    """A set in MVTec AD's layout: noise is normal, and with a white blot it is not."""
    rng = np.random.default_rng(0)
    for part, count in (("train/good", 12), ("test/good", 5), ("test/blot", 6), ("ground_truth/blot", 6)):
        folder = root / name / part
        folder.mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 60, (24, 24, 3), np.uint8)
            if "blot" in part:
                pixels[4:12, 4 + i : 12 + i] = 255
            if "truth" in part:
                Image.fromarray((pixels[..., 0] == 255).astype(np.uint8) * 255).save(folder / f"{i}_mask.png")
            else:
                Image.fromarray(pixels).save(folder / f"{i}.png")
    if broken:
        (root / name / "train/good/0.png").write_text("no")


def test_each_part_has_its_recipe(tmp_path):
    chosen = choose(TABLE, [], ["daad"], ["0"], False)
    assert [c.subject for c in chosen] == list(PARTS)
    sources = {c.subject: (c.config.data.source, c.config.data.name, c.config.data.path) for c in chosen}
    assert sources["screw"] == ("tfds", "mvtec_ad/screw", "")
    assert sources["poly"] == ("tfds", "solar_cells/poly", "")
    assert sources["tire"][::2] == ("folder", str(tmp_path / "sets" / "mvtec3d_tire"))
    assert {c.config.data.protocol for c in chosen} == {"inspection"}
    names = [c.config.name for c in choose(TABLE, ["tire", "kolektor"], ["ae"], ["0"], True)]
    assert names == ["tire-ae-smoke", "kolektor-ae-smoke"]


def test_rows_and_variants():
    assert TABLE.rows == (*BASELINES, *variants.VARIANTS)
    assert TABLES["mvtec_ad"].rows == (*BASELINES, *variants.PIXEL_VARIANTS)
    assert len(choose(TABLE, [], [], ["0", "1"], False)) == 7 * (len(BASELINES) + 2 * len(variants.VARIANTS))
    chosen = choose(TABLES["dirty"], [], [], ["3"], False)
    assert [c.subject for c in chosen[::6]] == ["bottle", "metal_plate", "mono"]
    assert [c.row for c in chosen[:6]] == list(DIRTY)
    for cell in chosen:
        same = make_cell(TABLE, cell.subject, DIRTY[cell.row].variant, 3, False)
        assert same.config == cell.config
    assert len({c.folder(Path("out")) for c in chosen}) == len(chosen)
    with pytest.raises(UserError, match="'tyre': no such part; did you mean 'tire'"):
        choose(TABLE, ["tyre"], [], ["0"], False)


def test_a_recipe_is_the_same_on_every_machine(monkeypatch):
    one = make_cell(TABLE, "tire", "patchcore", 0, False)
    monkeypatch.delenv("DAAD_INSPECTION_DIR")
    other = make_cell(TABLE, "tire", "patchcore", 0, False)
    assert one.config.data.path
    assert not other.config.data.path
    assert one.folder(Path("out")) == other.folder(Path("out"))


def test_sets_that_are_missing_are_left_out_with_the_reason(tmp_path, capsys):
    make_set(tmp_path / "sets", "mvtec3d_tire")
    make_set(tmp_path / "sets", "mpdd_metal_plate", broken=True)
    places = run.Places(tmp_path / "out", tmp_path / "docs")
    only = ["bottle", "tire", "kolektor", "metal_plate"]
    rows = ["mean_intensity", "nearest_l2"]
    failed = run.reproduce(TABLE, choose(TABLE, only, rows, ["0"], False), places)
    out = capsys.readouterr().out
    assert "not run, because DAAD_MVTEC_DIR has no images for: bottle" in out
    assert "not run, because DAAD_INSPECTION_DIR has no images for: kolektor" in out
    # A set that cannot be read costs no other set.
    assert [line.split(":")[0] for line in failed] == [f"inspection metal_plate {row}" for row in rows]
    assert all("0.png: the image cannot be read" in line for line in failed)
    stored = results.load(results.results_path(places.docs, TABLE), TABLE)
    assert [r.key for r in stored.results] == [("tire", row, -1) for row in rows]
    brightness, nearest = (r.figures for r in stored.results)
    assert (brightness["auroc"], brightness["auroc_low"], brightness["auroc_high"]) == (1, 1, 1)
    assert set(nearest) == {"auroc", "auroc_low", "auroc_high", "pixel_auroc", "aupro", "levelled_auroc"}
    text = (places.docs / "results.md").read_text()
    assert "| nearest image, L2 | 1.000 [1.000, 1.000] |" in text
    run.dry_run(TABLE, choose(TABLE, ["tire", "kolektor"], rows, ["0"], False), places)
    assert "done         inspection tire nearest_l2" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("is_set", [True, False])
def test_without_any_set_the_remedy_is_named(tmp_path, monkeypatch, is_set):
    if not is_set:
        monkeypatch.delenv("DAAD_INSPECTION_DIR")
    chosen = choose(TABLE, ["tire"], ["mean_intensity"], ["0"], False)
    places = run.Places(tmp_path / "out", tmp_path / "docs")
    with pytest.raises(UserError, match="set DAAD_INSPECTION_DIR to the folder that holds mvtec3d_tire"):
        run.reproduce(TABLE, chosen, places)
    run.dry_run(TABLE, chosen, places)


def test_folders_of_one_recipe_are_different_sources(tmp_path, monkeypatch):
    """All of them have the same `data.name`, which a folder does not use."""
    for part in ("tire", "kolektor"):
        make_set(tmp_path / "sets", PARTS[part].folder)
    opened = []
    monkeypatch.setattr(datasets, "load", lambda config: opened.append(Path(config.data.path).name))
    run._find_refused_sources(choose(TABLE, ["tire", "kolektor"], ["ae", "daad"], ["0"], False))
    assert opened == ["mvtec3d_tire", "kolektor_sdd"]


def test_a_cell_stores_what_it_costs(tmp_path, monkeypatch):
    """With a network that is small, as a stand-in for all rows that train."""
    finish = variants.finish

    def shrink(config, *rest):
        config = finish(config, *rest)
        config.data.height = config.data.width = 16
        model, config.train.steps, config.train.batch_size = config.model, 2, 4
        model.levels, model.base_width, model.memory_items = 1, 2, (2,)
        model.skips, model.division, config.train.log_every = (), ((1, 1, 1),), 1
        config.train.devices = 1
        return config

    monkeypatch.setattr(variants, "finish", shrink)
    make_set(tmp_path / "sets", "mpdd_metal_plate")
    places = run.Places(tmp_path / "out", tmp_path / "docs")
    (cell,) = choose(TABLE, ["metal_plate"], ["ae"], ["0"], False)
    assert run.reproduce(TABLE, [cell], places) == []
    (result,) = results.load(results.results_path(places.docs, TABLE), TABLE).results
    figures = result.figures
    assert 0 < figures["train_s"] <= result.wall_s
    assert figures["scored_per_s"] > 0
    saved = cell.folder(places.out) / "checkpoints" / "2"
    size = sum(path.stat().st_size for path in saved.rglob("*") if path.is_file())
    assert figures["checkpoint_mb"] == pytest.approx(size / 1e6, abs=1e-6)
    assert 0 <= figures["auroc_low"] <= figures["auroc_high"] <= 1


def test_catalogue_entries_of_the_tables_are_of_no_source():
    """A configuration cannot name them; they only collect parts."""
    config = make_cell(TABLE, "mono", "ae", 0, False).config
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, name="inspection/mono"))
    with pytest.raises(UserError, match="no such data set"):
        datasets.load(config)
    assert set(inspection.DIRTY.subjects) <= set(PARTS)
    assert cells.table_named("dirty").rows == tuple(DIRTY)
