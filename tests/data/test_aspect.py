"""The size of a run follows the shape of its training images."""

import numpy as np
import pytest
from PIL import Image

import daad_jax
from daad_jax.config import Config, DataConfig
from daad_jax.data import aspect, datasets
from daad_jax.data.samples import Split, Splits
from daad_jax.errors import UserError
from daad_jax.training import run_data
from daad_jax.validation import validate

RNG = np.random.default_rng(0)


def configure(path="", **values):
    config = Config()
    config.data = DataConfig(
        source="folder", protocol="inspection", path=str(path), cache_dir=str(path), height=64, width=64,
        channels=1, fit="aspect",
    )  # fmt: skip
    for key, value in values.items():
        setattr(config.data, key, value)
    return config


def random_image(height, width):
    return RNG.integers(0, 256, (height, width), np.uint8)


@pytest.mark.parametrize(
    ("sizes", "found"),
    [
        ([(100, 100)], (64, 64)),
        ([(100, 110)], (64, 64)),  # nearer to a square than to the next multiple of 32
        ([(100, 150)], (64, 96)),
        ([(1270, 500)], (160, 64)),
        ([(100, 2000)], (64, 192)),  # at most three times as long
        ([(100, 150)] * 3 + [(300, 100)] * 2, (64, 96)),  # the median
        ([], (64, 64)),
    ],
)
def test_the_longer_side_follows_the_median_aspect(sizes, found):
    data, notes = aspect.decide(sizes, configure().data)
    assert (data.height, data.width, data.fit) == (*found, "resize")
    assert len(notes) == (found != (64, 64))


def test_a_folder_tells_its_size_without_anomalous_and_unreadable_images(tmp_path):
    folder = tmp_path / "set"
    for part, size, count in (("train/good", (60, 140), 6), ("test/bad", (90, 30), 8)):
        (folder / part).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(random_image(*size)).save(folder / part / f"{number}.png")
    (folder / "train/good/damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    splits = datasets.load(configure(folder, cache_dir=str(tmp_path / "cache"), on_bad_image="skip"))
    assert splits.train.images.shape[1:] == splits.test.images.shape[1:] == (64, 160, 1)
    assert (splits.data.height, splits.data.width, splits.data.fit) == (64, 160, "resize")
    assert (
        "The training images are usually 2.33 times as wide as high, so the model reads 64 x 160 pixels "
        "(config.data.fit = 'aspect')." in splits.notes
    )


def test_images_turned_by_their_camera_count_upright(tmp_path):
    (tmp_path / "set").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a right angle
    for number in range(4):
        Image.fromarray(random_image(40, 80)).save(tmp_path / f"set/{number}.jpg", exif=exif)
    splits = datasets.load(configure(tmp_path / "set", cache_dir=str(tmp_path / "cache")))
    assert splits.train.images.shape[1:3] == (128, 64)


def test_images_in_memory_tell_their_size_and_none_is_lost(tmp_path):
    images = [random_image(50, 100) for _ in range(20)]
    splits = datasets.load_from_memory((image for image in images), configure(source="memory"))
    assert splits.train.images.shape[1:3] == (64, 128)
    assert len(splits.train) + len(splits.calibration) == 20


def test_tiles_are_squares_whatever_the_shape_of_the_images(tmp_path):
    (tmp_path / "set").mkdir()
    for number in range(4):
        Image.fromarray(random_image(100, 400)).save(tmp_path / f"set/{number}.png")
    splits = datasets.load(configure(tmp_path / "set", cache_dir=str(tmp_path / "cache"), tiles=100))
    of_arrays = datasets.load_from_memory([random_image(100, 400)] * 4, configure(source="memory", tiles=100))
    for found in (splits, of_arrays):
        assert (found.data.fit, found.train.images.shape[1:]) == ("resize", (64, 64, 1))
        assert len(found.train.images) == 5 * len(found.train)


def test_prepared_images_keep_their_size():
    def split(count):
        return Split(
            images=RNG.integers(0, 256, (count, 32, 96, 1), np.uint8), labels=np.zeros(count, np.int8),
            kinds=["good"] * count, names=[str(i) for i in range(count)],
        )  # fmt: skip

    splits = Splits(train=split(4), calibration=split(2), test=split(0))
    data = datasets.load_from_memory(splits, configure(source="memory")).data
    assert (data.height, data.width, data.fit) == (32, 96, "resize")


@pytest.mark.parametrize("values", [{"width": 96}, {"height": 48, "width": 48}])
def test_an_aspect_needs_one_side_that_is_a_multiple_of_32(values):
    config = configure(**values)
    config.model.levels = 3
    with pytest.raises(UserError, match=r"'aspect' needs data.height = data.width, a multiple of 32"):
        validate(config)


def test_a_run_is_not_continued_with_images_of_another_shape(tmp_path):
    stored, now = configure(height=64, width=96), configure(height=96, width=64)
    with pytest.raises(UserError, match=r"trained on images of 64 x 96 pixels.*asks for 96 x 64"):
        run_data.require_same_size(tmp_path, stored, now)


@pytest.mark.slow
def test_a_run_trains_and_scores_in_the_shape_of_its_images(tmp_path):
    config = configure(source="memory", height=32, width=32)
    model, train = config.model, config.train
    model.levels, model.skips, model.base_width, model.discriminator_width = 2, (True,), 4, 4
    model.memory_items, model.division = (4, 4), ((1, 1, 1),) * 2
    train.steps, train.batch_size = 2, 8
    config.score.false_alarm_rate = 0.5
    images = [random_image(40, 80) for _ in range(24)]
    daad_jax.train(config, tmp_path / "run", data=images)
    detector = daad_jax.Detector.load(tmp_path / "run")
    assert (detector.config.data.height, detector.config.data.width) == (32, 64)
    assert detector.score(images[:2]).images.shape == (2, 32, 64, 1)
    # A training that goes on finds the same size.
    train.steps = 4
    assert daad_jax.train(config, tmp_path / "run", data=images).step == 4
