"""Folders, protocols, the cache and the real sets."""

import os

import numpy as np
import pytest
from PIL import Image

from daad_jax.config import Config
from daad_jax.data import cache, datasets, protocol
from daad_jax.data.samples import Sample
from daad_jax.errors import UserError


@pytest.fixture
def config(tmp_path):
    config = Config()
    config.data.source = "folder"
    config.data.protocol = "inspection"
    config.data.path = str(tmp_path / "set")
    config.data.cache_dir = str(tmp_path / "cache")
    config.data.height = config.data.width = 16
    return config


def paint(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((16, 16, 3), value, np.uint8)).save(path)


def mvtec(root):
    for i in range(10):
        paint(root / f"train/good/{i}.png", i)
    paint(root / "test/good/a.png", 100)
    paint(root / "test/scratch/b.png", 200)
    mask = np.zeros((16, 16), np.uint8)
    mask[2:5, 3:9] = 255
    (root / "ground_truth/scratch").mkdir(parents=True)
    Image.fromarray(mask).save(root / "ground_truth/scratch/b_mask.png")


def test_mvtec_layout(config, tmp_path):
    mvtec(tmp_path / "set")
    splits = datasets.load(config)
    seen = {*splits.train.names, *splits.calibration.names}
    assert seen == {f"train/good/{i}.png" for i in range(10)}
    assert len(splits.train) == 9
    assert splits.test.names == ["test/good/a.png", "test/scratch/b.png"]
    assert splits.test.kinds == ["good", "scratch"]
    assert splits.test.labels.tolist() == [0, 1]
    assert splits.test.masks[0].sum() == 0
    assert splits.test.masks[1].sum() == 18
    assert (splits.test.images[1] == 200).all()


def test_a_changed_file_is_decoded_again(config, tmp_path):
    mvtec(tmp_path / "set")
    datasets.load(config)
    entries = set((tmp_path / "cache").iterdir())
    datasets.load(config)
    assert set((tmp_path / "cache").iterdir()) == entries
    paint(tmp_path / "set/test/good/a.png", 7)
    os.utime(tmp_path / "set/test/good/a.png", (1, 1))
    assert (datasets.load(config).test.images[0] == 7).all()


def test_just_good_images(config, tmp_path):
    for i in range(5):
        paint(tmp_path / f"set/deep/{i}.bmp", i)
    splits = datasets.load(config)
    assert (len(splits.train), len(splits.calibration), len(splits.test)) == (4, 1, 0)


def test_unreadable_images_stop_or_are_skipped(config, tmp_path):
    mvtec(tmp_path / "set")
    (tmp_path / "set/train/good/bad.png").write_text("no")
    with pytest.raises(UserError, match=r"bad\.png: unreadable"):
        datasets.load(config)
    assert not any((tmp_path / "cache").iterdir())
    config.data.on_bad_image = "skip"
    splits = datasets.load(config)
    assert len(splits.train) + len(splits.calibration) == 10
    assert "bad.png" in splits.notes[0]


def test_bad_folders(config, tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        datasets.load(config)
    (tmp_path / "set").mkdir()
    with pytest.raises(UserError, match="no images here"):
        datasets.load(config)
    (tmp_path / "set/train").mkdir()
    with pytest.raises(UserError, match="no normal images"):
        datasets.load(config)


def test_mixed_channels_can_be_refused(config, tmp_path):
    mvtec(tmp_path / "set")
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "set/train/good/grey.png")
    config.data.mixed_channels = "stop"
    with pytest.raises(UserError, match=r"grey\.png is grey but"):
        datasets.load(config)


def test_protocols():
    def empty():
        return np.zeros((1, 1, 1), np.uint8)

    samples = [Sample(str(i), kind, empty) for i, kind in enumerate(("cat", "dog", "cat", "eel"))]
    classes = ("cat", "dog", "eel")
    data = Config().data
    data.normal_class = "cat"
    assert protocol.labels(samples, classes, data).tolist() == [0, 1, 0, 1]
    data.normal_class = "1"
    assert protocol.labels(samples, classes, data).tolist() == [1, 0, 1, 1]
    data.protocol = "leave_one_out"
    assert protocol.labels(samples, classes, data).tolist() == [0, 1, 0, 0]
    data.normal_class = "dogg"
    with pytest.raises(UserError, match="did you mean 'dog'"):
        protocol.labels(samples, classes, data)


def test_hold_out_is_seeded_and_disjoint():
    data = Config().data
    train, held = protocol.hold_out(50, data, 3)
    assert sorted([*train, *held]) == list(range(50))
    assert len(held) == 5
    again = protocol.hold_out(50, data, 3)
    np.testing.assert_array_equal(held, again[1])
    assert held.tolist() != protocol.hold_out(50, data, 4)[1].tolist()
    with pytest.raises(UserError, match="at least 2"):
        protocol.hold_out(1, data, 0)


def test_luma():
    colour = np.array([[[255, 0, 0], [0, 255, 0]]], np.uint8)
    assert cache.to_channels(colour, 1).ravel().tolist() == [76, 150]


@pytest.mark.skipif("TFDS_DATA_DIR" not in os.environ, reason="TFDS_DATA_DIR is not set")
def test_real_mnist(config):
    config.data.source, config.data.name = "tfds", "mnist"
    config.data.protocol, config.data.normal_class = "one_class", "8"
    config.data.channels, config.data.fit = 1, "pad"
    config.data.height = config.data.width = 32
    splits = datasets.load(config)
    assert len(splits.train) + len(splits.calibration) == 5851
    assert len(splits.test) == 10000
    assert (splits.test.labels == 0).sum() == 974


@pytest.mark.skipif("DAAD_MVTEC_DIR" not in os.environ, reason="DAAD_MVTEC_DIR is not set")
def test_real_mvtec(config, tmp_path):
    config.data.source, config.data.name, config.data.path = "tfds", "mvtec_ad/bottle", ""
    config.data.data_dir, config.data.fit = str(tmp_path), "resize"
    config.data.height = config.data.width = 64  # at 16 the smallest masks vanish
    splits = datasets.load(config)
    assert len(splits.train) + len(splits.calibration) == 209
    assert len(splits.test) == 83
    assert sum(mask.any() for mask in splits.test.masks) == 63
    assert splits.test.labels.sum() == 63


def test_solar_cells(config, tmp_path):
    pytest.importorskip("elpv_dataset")
    config.data.source, config.data.name = "tfds", "solar_cells/mono"
    config.data.data_dir, config.data.fit, config.data.channels = str(tmp_path), "resize", 1
    splits = datasets.load(config)
    assert set(splits.test.names).isdisjoint(splits.train.names + splits.calibration.names)
    assert set(splits.test.kinds) == {"good", "defective mono"}


@pytest.mark.parametrize(
    ("name", "says"),
    [("mnits", "did you mean 'mnist'"), ("mvtec_ad/botle", "did you mean 'bottle'")],
)
def test_unknown_sets_name_the_nearest(config, name, says):
    config.data.source, config.data.name = "tfds", name
    with pytest.raises(UserError, match=says):
        datasets.load(config)
