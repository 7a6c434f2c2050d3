"""Evaluation of images that are not the run's own: another test set, moved images, another TFDS directory."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from daad_jax.data.test_sets import load_test
from daad_jax.errors import UserError
from daad_jax.evaluation import outputs
from daad_jax.evaluation.outputs import evaluate
from daad_jax.files import new_folder
from daad_jax.training import run_data
from daad_jax.training.workdir import claim_workdir
from tests.data.test_tfds_source import config_of, prepare
from tests.tiny import tiny_config
from tests.untrained_run import make_run

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(0)


def draw(folder, count, blot=False):
    folder.mkdir(parents=True)
    for i in range(count):
        image = RNG.integers(90, 110, (16, 16, 3), np.uint8)
        if blot:
            image[4:9, 4:9] = 255
        Image.fromarray(image).save(folder / f"{i}.png")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run on `set`, and another labelled folder `second` without images to train on."""
    root = tmp_path_factory.mktemp("other")
    draw(root / "set" / "train" / "good", 20)
    draw(root / "set" / "test" / "good", 3)
    draw(root / "set" / "test" / "blot", 4, blot=True)
    draw(root / "second" / "good", 5)
    draw(root / "second" / "blot", 6, blot=True)
    mask = np.zeros((16, 16), np.uint8)
    mask[4:9, 4:9] = 255
    (root / "second" / "ground_truth" / "blot").mkdir(parents=True)
    for i in range(6):
        Image.fromarray(mask).save(root / "second" / "ground_truth" / "blot" / f"{i}_mask.png")
    os.environ["DAAD_CACHE_DIR"] = str(root / "cache")
    config = tiny_config(
        data__source="folder", data__path="set", data__protocol="inspection", train__steps=1,
    )  # fmt: skip
    here = os.getcwd()
    os.chdir(root)
    make_run(root / "run", config)
    os.chdir(here)
    yield root
    del os.environ["DAAD_CACHE_DIR"]


def rows(folder):
    return list(csv.DictReader((folder / "scores.csv").read_text().splitlines()))


def test_run_and_images_moved(place, tmp_path, monkeypatch):
    """The run's own images get the same scores from another directory, and after the run was moved."""
    run = tmp_path / "run"
    shutil.copytree(place / "run", run)
    shutil.copytree(place / "set", tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    evaluate(run)
    evaluate(Path("run"), data=Path("moved"))
    assert len(rows(run)) == 7
    assert rows(run / "evaluations" / "moved") == rows(run)
    with pytest.raises(UserError, match="--out run: exists already"):
        new_folder(Path("run"), run / "evaluations" / "moved", "")
    assert new_folder(None, run / "evaluations" / "moved", "") == run / "evaluations" / "moved-2"
    assert new_folder(Path("results"), run / "evaluations" / "moved", "") == Path("results")


def test_another_test_set_gets_a_folder_of_its_own(place):
    """By the command, from another working directory."""
    own = {path: path.read_bytes() for path in (place / "run").iterdir() if path.is_file()}
    child = subprocess.run(
        [sys.executable, ROOT / "evaluate.py", "--workdir=../run", "--data=../second"],
        cwd=place / "set", env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    folder = place / "run" / "evaluations" / "second"
    names = {"scores.csv", "evaluation.json", "report.html", "scores.png", "gallery.png", "data.json"}
    assert {path.name for path in folder.iterdir()} == names
    assert {path: path.read_bytes() for path in own} == own
    table = rows(folder)
    assert len(table) == 11
    assert [int(row["label"]) for row in table] == [int("blot" in row["name"]) for row in table]
    figures = json.loads((folder / "evaluation.json").read_text())
    assert figures["found"] + figures["missed"] == 6
    assert "pixel_auroc" in figures
    stored = json.loads((folder / "data.json").read_text())
    assert stored["path"] == str(place / "second")
    assert len({file["sha256"] for file in stored["files"] if file["role"].startswith("test")}) == 11
    assert len([file for file in stored["files"] if file["sha256"] and not file["reason"]]) == 17
    assert f"<bdi>{place / 'second'}</bdi>" in (folder / "report.html").read_text()


def test_what_trained_or_was_held_out_is_not_tested(place, tmp_path):
    mixed, known = tmp_path / "mixed", run_data.read(place / "run")
    shutil.copytree(place / "second", mixed)
    for path in (place / "set" / "train" / "good").iterdir():
        if path.stem < "15":
            shutil.copy(path, mixed / "good" / f"known-{path.name}")
        else:  # the same pixels in another file
            Image.open(path).save(mixed / "good" / f"known-{path.stem}.bmp")
    images = load_test(tiny_config(data__protocol="inspection"), mixed, known.history)
    assert len(images.test) == 11
    assert not any("known" in name for name in images.test.names)
    limited = tiny_config(data__protocol="inspection", data__limit_test=2)
    few = load_test(limited, mixed, known.history)
    assert (len(few.test), few.notes[:2]) == (4, images.notes)
    assert few.notes[2].startswith(f"7 images of {mixed} are not tested")
    trained, held_out = images.notes
    assert trained.startswith(f"18 of the 31 images of {mixed} have trained this run, so they are not tested")
    assert held_out.startswith(f"2 of the 31 images of {mixed} were held out to set its threshold")


def test_the_labels_of_a_run_with_classes(tmp_path):
    config = tiny_config(data__name="mnist", data__normal_class="8", data__cache_dir=str(tmp_path / "cache"))
    for digit in "378":
        draw(tmp_path / "digits" / digit, 2)
    test = load_test(config, tmp_path / "digits").test
    labels = dict(zip(test.names, test.labels.tolist()))
    assert labels == {f"{digit}/{i}.png": int(digit != "8") for digit in "378" for i in range(2)}
    config.data.protocol = "leave_one_out"
    test = load_test(config, tmp_path / "digits").test
    assert dict(zip(test.names, test.labels.tolist())) == {name: 1 - label for name, label in labels.items()}
    draw(tmp_path / "digits" / "scratch", 2)
    others = load_test(config, tmp_path / "digits")
    assert len(others.test) == 6
    assert others.account.rows[-1].left_out == {
        "not matched by config.data.normal or config.data.anomalous": 2
    }
    draw(tmp_path / "digits" / "good", 1)
    assert load_test(config, tmp_path / "digits").test.labels.sum() == 8


def test_names_of_folders_that_only_the_training_set_has(place):
    config = tiny_config(data__protocol="inspection", data__normal="fine", data__anomalous="torn")
    test = load_test(config, place / "second").test
    assert test.labels.tolist() == [int("blot" in name) for name in test.names]
    assert len(test) == 11


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda f: None, "this folder does not exist; give a folder of labelled images"),
        (lambda f: f.mkdir(), "this folder holds no images; give a folder with images"),
        (lambda f: draw(f, 3), "has 3 normal and 0 anomalous images"),
        (lambda f: draw(f / "train" / "good", 2), "has 0 normal and 0 anomalous images"),
        (lambda f: draw(f / "good", 2), "has 2 normal and 0 anomalous images"),
    ],
)
def test_folders_that_cannot_be_tested(place, tmp_path, make, says):
    make(tmp_path / "folder")
    with pytest.raises(UserError, match=says):
        evaluate(place / "run", data=tmp_path / "folder")
    assert not (place / "run" / "evaluations" / "folder").exists()


def test_options_that_do_not_go_together(place, tmp_path):
    with pytest.raises(UserError, match="--data and --data_dir exclude each other"):
        evaluate(place / "run", data=tmp_path, data_dir="x")
    with pytest.raises(UserError, match="--data_dir: this run has no TFDS data set; give"):
        evaluate(place / "run", data_dir="x")


def test_a_tfds_directory_that_has_moved(tmp_path, monkeypatch):
    prepare(tmp_path / "tfds")
    monkeypatch.chdir(tmp_path)
    config, run = config_of(tmp_path), tmp_path / "run"
    config.data.data_dir = "tfds"
    with claim_workdir(run, config):
        run_data.claim_data(run, config, run_data.load_splits(run, config), False)
    (run / "checkpoints" / "1").mkdir(parents=True)
    expected = run_data.load_splits(run, config).test
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert outputs._load_test(run, config, None, "").test.names == expected.names
    (tmp_path / "tfds").rename(tmp_path / "moved")
    tested = outputs._load_test(run, config, None, "../moved")
    assert (tested.name, tested.place) == ("own_parts", str(tmp_path / "moved"))
    np.testing.assert_array_equal(tested.test.images[:], expected.images[:])
    with pytest.raises(UserError, match="'own_parts': no such data set"):
        outputs._load_test(run, config, None, "")
