"""What becomes of the images of a run when other images come."""

import numpy as np
import pytest
from PIL import Image

from daad_jax.config import DataConfig
from daad_jax.data import datasets
from daad_jax.data.history import CALIBRATED, TRAINED, UNUSED, History
from daad_jax.data.samples import NormalImage
from daad_jax.errors import UserError
from tests.tiny import tiny_config

CONFIG = DataConfig(calibration_fraction=0.2)


def image(number, role="", name=""):
    return NormalImage(name or f"{number}.png", number, f"sha {number}", role)


def era(numbers, held_out):
    return tuple(image(n, CALIBRATED if n in held_out else TRAINED) for n in numbers)


def cut(history, numbers, digest="other", config=CONFIG):
    """The numbers of the images that train, and of those that are held out."""
    images = [image(n) for n in numbers]
    train, held_out = history.cut(images, digest, config, seed=0)
    return {numbers[i] for i in train}, {numbers[i] for i in held_out}


def test_the_same_images_keep_their_roles():
    images = [*era(range(10), {2, 5}), image(10, UNUSED), image(2, TRAINED, "copy of 2.png")]
    train, held_out = History("same", tuple(images)).cut(images, "same", CONFIG, seed=0)
    assert train.tolist() == [0, 1, 3, 4, 6, 7, 8, 9, 11]
    assert held_out.tolist() == [2, 5]


def test_old_images_keep_their_roles_and_new_ones_are_cut():
    history = History("d", era(range(20), {3, 8, 11, 19}))
    train, held_out = cut(history, list(range(30)))
    assert {3, 8, 11, 19} <= held_out
    assert set(range(20)) - {3, 8, 11, 19} <= train
    assert len(held_out - set(range(20))) == 2  # a fifth of the ten new ones
    assert train | held_out == set(range(30))
    assert not train & held_out


def test_what_has_trained_never_is_held_out_again():
    """Over many random eras in which images come, go and return, against a plain set of all that trained."""
    for seed in range(20):
        rng, history, ever = np.random.default_rng(seed), History("0", None), set()
        for number in range(8):
            present = sorted(rng.choice(40, rng.integers(8, 30), replace=False).tolist())
            if number == 0:
                train, held_out = set(present[2:]), set(present[:2])
            else:
                try:
                    train, held_out = cut(history, present, config=CONFIG)
                except UserError:
                    assert set(present) <= ever
                    continue
            assert not held_out & ever
            assert train | held_out == set(present)
            ever |= train
            history = history.extend(era(present, held_out), str(number))
            assert {i.checksum for i in history.trained} == ever


def test_a_copy_of_an_image_that_trained_trains():
    copy = image(1, CALIBRATED, "copy.png")
    history = History("d", (image(1, TRAINED), image(2, CALIBRATED), image(3, CALIBRATED), copy))
    # A file that another version of a library decodes otherwise is the same file.
    renamed = [image(1, name="renamed.png"), image(2), image(3), NormalImage("1.png", 99, "sha 1")]
    train, held_out = history.cut(renamed, "other", CONFIG, seed=0)
    assert (train.tolist(), held_out.tolist()) == ([0, 3], [1, 2])


@pytest.mark.parametrize(
    ("numbers", "says"), [([0, 1, 4], "because all of them have trained this run"), ([2, 3], "to train on")]
)
def test_both_sides_need_an_image(numbers, says):
    with pytest.raises(UserError, match=says):
        cut(History("d", era(range(5), {2, 3})), numbers)


def test_one_new_image_trains_unless_no_other_is_held_out():
    history = History("d", era(range(5), {4}))
    assert cut(history, [0, 1, 4, 7]) == ({0, 1, 7}, {4})
    assert cut(history, [0, 1, 7]) == ({0, 1}, {7})


def test_a_limit_keeps_what_is_known_first():
    config = DataConfig(calibration_fraction=0.5, limit_train=6)
    train, held_out = cut(History("d", era(range(4), {3})), list(range(20)), config=config)
    assert {0, 1, 2} <= train
    assert 3 in held_out
    assert len(train) + len(held_out) == 6
    full = History("d", era(range(8), {3}))
    assert cut(full, list(range(20)), config=config) == ({0, 1, 2, 4, 5, 6, 7}, {3})


def test_a_run_that_does_not_list_its_images_decides_nothing():
    assert History("d", None).cut([image(1)], "other", CONFIG, 0) is None


def test_images_are_known_by_the_digests_of_their_files(tmp_path):
    import hashlib

    config = tiny_config(
        data__source="folder", data__protocol="inspection", data__path=str(tmp_path / "images"),
        data__cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    (tmp_path / "images").mkdir()
    for i in range(10):
        Image.fromarray(np.full((16, 16, 3), i, np.uint8)).save(tmp_path / "images" / f"{i}.png")
    splits = datasets.load(config)
    expected = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (tmp_path / "images").iterdir()}
    assert {i.name: i.sha256 for i in splits.normal} == expected
    assert [i.name for i in splits.normal if i.role == TRAINED] == splits.train.names
    assert [i.name for i in splits.normal if i.role == CALIBRATED] == splits.calibration.names
