"""A run and its images: more good images later, another working directory, images in memory."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from daad_jax import Split, Splits
from daad_jax.data import datasets
from daad_jax.errors import UserError
from daad_jax.training import checkpoint, run_data
from daad_jax.training.loop import train
from daad_jax.training.workdir import claim_workdir
from tests.tiny import tiny_config

ROOT = Path(__file__).parents[2]
IMAGES = np.random.default_rng(0).integers(0, 256, (120, 16, 16, 3), np.uint8)


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A tiny run on a folder of images, by a relative path."""
    monkeypatch.setenv("DAAD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tiny_config(
        data__source="folder", data__path="images", data__protocol="inspection",
        model__division=((1, 1, 1), (1, 1, 1)), train__steps=1, train__batch_size=4, train__devices=1,
        train__log_every=1, train__checkpoint_every=1,
    )  # fmt: skip


def draw(folder, numbers):
    folder.mkdir(parents=True, exist_ok=True)
    for i in numbers:
        Image.fromarray(IMAGES[i]).save(folder / f"{i}.png")


def claim(config, run, step, data=None, fresh=False):
    """What `train` does before its first step, and a checkpoint of that step, as far as its name tells."""
    config.train.steps = step
    with claim_workdir(run, config):
        splits = run_data.load_splits(run, config, data, typed_now=True)
        said = run_data.claim_data(run, config, splits, fresh)
    (run / "checkpoints" / str(step)).mkdir(parents=True, exist_ok=True)
    return said


def names(config, run):
    splits = run_data.load_splits(run, config)
    return set(splits.train.names), set(splits.calibration.names)


def held_out_pixels(config, run):
    """The held-out images that a command asks for."""
    return {pixels.tobytes() for pixels in run_data.load_held_out(run, config).images[:]}


def number(name):
    return int(name.split(".")[0])


def test_more_good_images_later(config, tmp_path):
    run, folder = tmp_path / "run", tmp_path / "images"
    draw(folder, range(20))
    assert claim(config, run, 1) == ""
    first_trained, first_held_out = names(config, run)
    assert len(first_held_out) == 2

    # Two have gone, one of them held out; 30 are new; one that trained has another name.
    gone = {min(first_trained), min(first_held_out)}
    for name in gone:
        (folder / name).unlink()
    renamed = max(first_trained)
    (folder / renamed).rename(folder / "renamed.png")
    draw(folder, range(20, 50))
    before = (run / "data.json").read_bytes()
    with pytest.raises(UserError, match=r"give a new --workdir .* or --fresh_hold_out and"):
        claim(config, run, 2)
    with pytest.raises(UserError, match=r"raise config\.train\.steps above 1"):
        claim(config, run, 1, fresh=True)
    assert (run / "data.json").read_bytes() == before
    # A command that asks for held-out images gets none that has trained, before the run goes on and after.
    assert not held_out_pixels(config, run) & {IMAGES[number(name)].tobytes() for name in first_trained}

    said = claim(config, run, 2, fresh=True)
    assert "30 are new to this run. 27 of them train, and 3 are held out." in said
    trained, held_out = names(config, run)
    assert "renamed.png" in trained
    assert first_held_out - gone <= held_out
    assert first_trained - gone - {renamed} <= trained
    assert len(held_out - first_held_out) == 3  # a tenth of the new ones
    pixels = held_out_pixels(config, run)
    assert pixels == {IMAGES[number(name)].tobytes() for name in held_out}
    ever_trained = first_trained | (trained - {"renamed.png"})
    assert not pixels & {IMAGES[number(name)].tobytes() for name in ever_trained}

    # A plain resume, and one with the option, go on with that very split.
    for step, fresh in ((3, False), (4, True)):
        assert claim(config, run, step, fresh=fresh) == ""
        assert names(config, run) == (trained, held_out)

    # An image that trained at first, and was away since, comes back: it trains.
    draw(folder, map(number, gone))
    claim(config, run, 5, fresh=True)
    assert min(first_trained) in names(config, run)[0]


def test_memories_that_are_filled_already_take_no_new_images(config, tmp_path):
    run, folder = tmp_path / "run", tmp_path / "images"
    draw(folder, range(20))
    config.model.items = "coreset"
    claim(config, run, 1)
    before = (run / "data.json").read_bytes()
    assert claim(config, run, 1, fresh=True) == ""  # the same images
    draw(folder, range(20, 50))
    for fresh in (False, True):
        with pytest.raises(UserError, match=r"filled only once; give a new --workdir .* with calibrate"):
            claim(config, run, 2, fresh=fresh)
    assert (run / "data.json").read_bytes() == before


# Runs train.py, and is killed as soon as the first step after the resume is logged.
KILLED = """
import os, runpy, signal, sys
from daad_jax.training import logs
logs.FileLog.write = lambda self, step, metrics: os.kill(os.getpid(), signal.SIGKILL)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_a_kill_after_a_fresh_hold_out_changes_no_split(config, tmp_path):
    """By the command itself, which is killed before it saves."""
    run, folder = tmp_path / "run", tmp_path / "images"
    draw(folder, range(20))
    train(config, run)
    first_trained, _ = names(config, run)
    draw(folder, range(20, 40))
    words = [
        "-c", KILLED, ROOT / "train.py", f"--config=stored:{run / 'config.json'}", f"--workdir={run}",
        "--config.train.steps=2", "--fresh_hold_out",
    ]  # fmt: skip
    child = subprocess.run(
        [sys.executable, *map(str, words)], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert "20 are new to this run. 18 of them train, and 2 are held out." in child.stdout
    assert int(checkpoint.load(run)[0].step) == 1
    stored, split = (run / "data.json").read_bytes(), names(config, run)
    assert not split[1] & first_trained
    config.train.steps = 2
    assert train(config, run).held_out_images == 4
    assert ((run / "data.json").read_bytes(), names(config, run)) == (stored, split)
    assert len(checkpoint.load(run)[2].scores) == 4


def test_a_file_of_an_earlier_version_still_works(config, tmp_path):
    run, folder = tmp_path / "run", tmp_path / "images"
    draw(folder, range(20))
    claim(config, run, 1)
    split, file = names(config, run), run / "data.json"
    stored = json.loads(file.read_text())
    file.write_text(json.dumps({key: stored[key] for key in ("normal_images", "normal_digest")}))
    draw(folder, [20])
    with pytest.raises(UserError, match=r"other images \(20 good images there, 21 now\)"):
        claim(config, run, 2)
    with pytest.raises(UserError, match="does not say which images have trained"):
        claim(config, run, 2, fresh=True)
    with pytest.raises(UserError, match="does not say which of them were held out"):
        run_data.load_held_out(run, config)
    (folder / "20.png").unlink()
    claim(config, run, 2)
    assert json.loads(file.read_text()) == stored
    assert names(config, run) == split
    file.unlink()
    with pytest.raises(UserError, match=r"data\.json: this file is missing"):
        claim(config, run, 3, fresh=True)


@pytest.mark.parametrize("lost", ["", "format", "sha256"])
def test_a_changed_record_is_refused(config, tmp_path, lost):
    """Else an image that has trained might be taken for a new one, and be held out."""
    draw(tmp_path / "images", range(20))
    claim(config, tmp_path / "run", 1)
    file = tmp_path / "run" / "data.json"
    stored = json.loads(file.read_text())
    stored["images"][3]["checksum"] = stored["images"][4]["checksum"]
    stored.pop(lost, None)
    file.write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r"data\.json: this file is damaged; remove it"):
        run_data.read(tmp_path / "run")


def test_what_others_wrote_into_the_file_stays(config, tmp_path):
    draw(tmp_path / "images", range(20))
    claim(config, tmp_path / "run", 1)
    file = tmp_path / "run" / "data.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"remark": ["by us"]}))
    draw(tmp_path / "images", [20, 21])
    claim(config, tmp_path / "run", 2, fresh=True)
    stored = json.loads(file.read_text())
    assert stored["remark"] == ["by us"]
    assert len(stored["files"]) == 22


def test_what_trained_or_was_held_out_is_never_tested(config, tmp_path):
    """Where good images for testing are drawn from all good images, because a folder has none."""
    run, set_ = tmp_path / "run", tmp_path / "images"
    draw(set_ / "good", range(20))
    claim(config, run, 1)
    draw(set_ / "bad", range(100, 104))
    draw(set_ / "good", range(20, 40))
    claim(config, run, 2, fresh=True)
    splits = run_data.load_splits(run, config)
    tested = {name for name, label in zip(splits.test.names, splits.test.labels) if not label}
    assert len(tested) == 4  # a fifth of the new ones
    assert tested.isdisjoint(f"good/{i}.png" for i in range(20))
    assert tested.isdisjoint([*splits.train.names, *splits.calibration.names])


def test_new_images_of_a_known_group_go_with_the_group(config, tmp_path):
    run, config.data.group = tmp_path / "run", r"^(\d+)\d\."  # the tens
    config.data.calibration_fraction = 0.4
    draw(tmp_path / "images", range(10, 50))
    claim(config, run, 1)
    before = run_data.load_splits(run, config)
    draw(tmp_path / "images", range(50, 90))
    for path in (tmp_path / "images").iterdir():  # half of every group comes later
        if path.stem[1] >= "5":
            path.unlink()
    claim(config, run, 2, fresh=True)
    draw(tmp_path / "images", range(10, 90))
    claim(config, run, 3, fresh=True)
    after = run_data.load_splits(run, config)
    tens = [{name[0] for name in split.names} for split in (after.train, after.calibration)]
    assert len(after.train) + len(after.calibration) == 80
    assert tens[0].isdisjoint(tens[1])
    assert {name[0] for name in before.train.names} <= tens[0]
    assert {name[0] for name in before.calibration.names} <= tens[1]


def test_a_run_is_found_and_goes_on_from_another_directory(config, tmp_path, monkeypatch):
    draw(tmp_path / "images", range(20))
    claim(config, tmp_path / "run", 1)
    split = names(config, tmp_path / "run")
    stored = json.loads((tmp_path / "run" / "data.json").read_text())
    assert stored["paths"] == {"path": str(tmp_path / "images"), "data_dir": ""}
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["path"] == "images"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert names(config, tmp_path / "run") == split
    claim(config, tmp_path / "run", 2)
    assert json.loads((tmp_path / "run" / "data.json").read_text()) == stored

    # Run and images move apart; the images are the same, so the run goes on.
    shutil.move(tmp_path / "images", tmp_path / "moved")
    shutil.move(tmp_path / "run", tmp_path / "elsewhere" / "run")
    run = tmp_path / "elsewhere" / "run"
    with pytest.raises(UserError, match=f"{tmp_path / 'images'} and .*elsewhere/images: the"):
        run_data.load_splits(run, config)
    config.data.path, config.name = str(tmp_path / "moved"), "another name"
    claim(config, run, 3)
    assert names(config, run) == split


def sources(tmp_path):
    """Twenty images in every form that `train` takes."""
    draw(tmp_path / "files", range(20))
    paths = [tmp_path / "files" / f"{i}.png" for i in range(20)]
    return {
        "array": IMAGES[:20],
        "generator": (image for image in IMAGES[:20]),
        "paths": [str(path) if i % 2 else path for i, path in enumerate(paths)],
        "mixed": [paths[0], paths[1].read_bytes(), Image.fromarray(IMAGES[2]), *IMAGES[3:20]],
    }


def test_every_kind_of_images_in_memory_gives_the_same_splits(config, tmp_path):
    loaded = {kind: datasets.load_from_memory(given, config) for kind, given in sources(tmp_path).items()}
    expected = loaded["array"]
    assert (len(expected.train), len(expected.calibration), len(expected.test)) == (18, 2, 0)
    at = [int(name.split()[1]) for name in expected.train.names]
    np.testing.assert_array_equal(expected.train.images[:], IMAGES[at])
    for kind, splits in loaded.items():
        assert splits.normal_digest == expected.normal_digest, kind
        np.testing.assert_array_equal(splits.calibration.images[:], expected.calibration.images[:])
    # A file is known by its digest, so that it can be recognised in a folder.
    assert all(image.sha256 for image in loaded["paths"].normal)
    grey = datasets.load_from_memory(IMAGES[:20, :, :, 0], config)
    np.testing.assert_array_equal(grey.train.images[:], np.repeat(IMAGES[at][..., :1], 3, -1))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "no images were given to train on"),
        ([IMAGES[0]], r"1 normal training image\(s\); at least 2 are needed"),
        ([IMAGES[0], "missing.png"], r"missing\.png: this file does not exist, or set .*on_bad_image"),
        ([IMAGES[0], None], "image 1: an object of type NoneType is no image"),
        (IMAGES[:3, :8], "image 0: the image has 8 x 16 pixels"),
        (7, "an object of type int is no image"),
    ],
)
def test_images_in_memory_that_cannot_be_used(config, given, says):
    with pytest.raises(UserError, match=says):
        datasets.load_from_memory(given, config)
    config.data.on_bad_image = "skip"
    skipping = datasets.load_from_memory([*IMAGES[:3], b"no image"], config)
    assert len(skipping.train) + len(skipping.calibration) == 3


def test_a_run_on_images_in_memory(config, tmp_path):
    run = tmp_path / "run"
    result = train(config, run, data=IMAGES[:20])
    assert dataclasses.astuple(result) == (1, 18, 2, 0)
    assert config.data.source == "folder"  # the caller's own is not changed
    stored = checkpoint.load(run)[1]
    assert stored.data.source == "memory"
    with pytest.raises(UserError, match=r"given in Python.*give train the same data again.*--data FOLDER"):
        run_data.load_splits(run, stored)
    with pytest.raises(UserError, match="given in Python"):
        train(stored, tmp_path / "other")
    config.data.source = "memory"
    with pytest.raises(UserError, match="was trained on other images"):
        claim(config, run, 2, IMAGES[:30])
    claim(config, run, 2, IMAGES[:20])
    assert "10 are new to this run. 9 of them train" in claim(config, run, 3, IMAGES[:30], fresh=True)


def test_splits_of_ones_own(config, tmp_path):
    run, config.data.source = tmp_path / "run", "memory"
    test = Split.of(IMAGES[30:36], [0, 0, 0, 1, 1, 1])
    splits = Splits(Split.of(IMAGES[:20]), Split.of(IMAGES[20:25], names=list("abcde")), test)
    claim(config, run, 1, splits)
    loaded = run_data.load_splits(run, config, splits)
    assert [loaded.train, loaded.calibration, loaded.test] == [splits.train, splits.calibration, test]
    swapped = dataclasses.replace(splits, train=splits.calibration, calibration=splits.train)
    with pytest.raises(UserError, match="was trained on other images"):
        claim(config, run, 2, swapped)
    with pytest.raises(UserError, match="image 0 has trained this run, so it cannot be held out"):
        claim(config, run, 2, swapped, fresh=True)
    claim(config, run, 2, splits)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train": Split.of(IMAGES[:3, :8])}, r"data\.train\.images: has images of shape \(8, 16, 3\)"),
        ({"calibration": Split.of(IMAGES[:3] / 255)}, r"data\.calibration\.images: .*float64"),
        ({"calibration": Split.of(IMAGES[:0])}, r"data\.calibration: must have normal images"),
        ({"train": Split.of(IMAGES[:2], [0, 1])}, r"data\.train: must have normal images"),
        ({"test": Split.of(IMAGES[:2], [0])}, r"data\.test: needs as many labels"),
    ],
)
def test_splits_that_cannot_be_used(config, changes, says):
    good = Splits(Split.of(IMAGES[:3]), Split.of(IMAGES[3:5]), Split.of(IMAGES[:0]))
    with pytest.raises(UserError, match=says):
        datasets.load_from_memory(dataclasses.replace(good, **changes), config)
