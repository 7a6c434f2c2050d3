"""Any TFDS data set: own builders, with and without their code, and what cannot be used."""

import numpy as np
import pytest
from PIL import Image

from daad_jax import load_recipe
from daad_jax.config import Config
from daad_jax.data import datasets
from daad_jax.errors import UserError

tfds = pytest.importorskip("tensorflow_datasets")
PARTS = {"train": 12, "test": 6}


def picture(value):
    return Image.fromarray(np.full((20, 24, 3), value, np.uint8))


def features(**others):
    return {
        "photo": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
        "shape": tfds.features.ClassLabel(names=["bolt", "nut", "ring"]),
    } | others


def example(i):
    return {"photo": picture(10 * i), "shape": i % 3}


def prepare(directory, name="OwnParts", splits=PARTS, make=example, **others):
    """Prepares a data set as a user's own builder does. TFDS forgets the builder's code afterwards."""

    directory.mkdir(parents=True, exist_ok=True)

    def split_generators(self, _):
        return {part: ((i, make(i)) for i in range(count)) for part, count in splits.items()}

    body = {
        "__module__": __name__,
        "VERSION": tfds.core.Version("1.0.0"),
        "_info": lambda self: self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features(**others))
        ),
        "_split_generators": split_generators,
        "_generate_examples": lambda self: None,
        "pkg_dir_path": directory,
    }
    builder = type(name, (tfds.core.GeneratorBasedBuilder,), body, skip_registration=True)
    tfds.disable_progress_bar()
    builder(data_dir=str(directory), file_format="array_record").download_and_prepare()


def config_of(tmp_path, name="own_parts:nut", **changes) -> Config:
    config = load_recipe(f"tfds:{name}")
    config.data.data_dir, config.data.cache_dir = str(tmp_path / "tfds"), str(tmp_path / "cache")
    config.data.height = config.data.width = 32
    for key, value in changes.items():
        setattr(config.data, key, value)
    return config


def test_a_set_that_is_only_prepared(tmp_path):
    prepare(tmp_path / "tfds")
    splits = datasets.load(config_of(tmp_path))
    values = [i[0, 0, 0] for split in (splits.train, splits.calibration) for i in split.images[:]]
    assert sorted(values) == [10, 40, 70, 100]  # TFDS shuffles, so the pixels say which image it is
    assert set(splits.train.kinds + splits.calibration.kinds) == {"nut"}
    test = splits.test
    numbers = [int(value) // 10 for value in test.images[:][:, 0, 0, 0]]
    assert sorted(numbers) == list(range(6))
    assert test.kinds == [["bolt", "nut", "ring"][n % 3] for n in numbers]
    assert test.labels.tolist() == [int(n % 3 != 1) for n in numbers]
    assert test.names == [f"test/{i:05d}" for i in range(6)]
    assert test.masks is None


def test_another_protocol_by_an_option(tmp_path):
    prepare(tmp_path / "tfds")
    splits = datasets.load(config_of(tmp_path, protocol="leave_one_out"))
    assert set(splits.train.kinds + splits.calibration.kinds) == {"bolt", "ring"}
    assert splits.test.labels.tolist() == [int(kind == "nut") for kind in splits.test.kinds]
    with pytest.raises(UserError, match="set 'one_class' or 'leave_one_out'"):
        datasets.load(config_of(tmp_path, protocol="inspection"))


@pytest.mark.parametrize(
    ("splits", "tested"),
    [({"train": 9, "validation": 6}, 6), ({"train": 9}, 0), ({"train": 9, "extra": 3}, 0)],
)
def test_the_split_that_is_tested(tmp_path, splits, tested):
    prepare(tmp_path / "tfds", splits=splits)
    test = datasets.load(config_of(tmp_path)).test
    assert len(test) == tested
    assert all(name.startswith("validation/") for name in test.names)


def test_a_test_split_without_labels_is_passed_over(tmp_path):
    """TFDS marks the images of a competition's test split by the label -1."""
    numbers = iter(range(1000))

    def make(i):
        return example(i) | {"shape": -1 if next(numbers) >= 15 else i % 3}

    prepare(tmp_path / "tfds", splits={"train": 9, "validation": 6, "test": 3}, make=make)
    assert len(datasets.load(config_of(tmp_path)).test) == 6


IMAGE = {"shape": (None, None, 3), "encoding_format": "png"}


@pytest.mark.parametrize(
    ("others", "says"),
    [
        ({"behind": tfds.features.Image(**IMAGE)}, r"2 features \(behind, photo\) are of the type image"),
        (
            {"maker": tfds.features.ClassLabel(names=["a", "b"])},
            r"2 features \(.*\) are of the type class label",
        ),
        ({"shape": tfds.features.Text()}, "no feature is of the type class label.* photo"),
        ({"photo": tfds.features.Text()}, "no feature is of the type image"),
    ],
)
def test_features_that_do_not_say_what_is_meant_are_named(tmp_path, others, says):
    def make(i):
        values = {"behind": picture(0), "maker": 0} | example(i)
        kinds = {k: f for k, f in features(**others).items()}
        return {k: "text" if isinstance(f, tfds.features.Text) else values[k] for k, f in kinds.items()}

    prepare(tmp_path / "tfds", make=make, **others)
    with pytest.raises(UserError, match=says):
        datasets.load(config_of(tmp_path))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("own_parts:", "normal_class = '': no such class; known: bolt, nut, ring"),
        ("own_parts:nuts", "'nuts': no such class; did you mean 'nut'"),
        ("own_part:nut", "'own_part': no such data set; TFDS does not know it, and it is not prepared in"),
        ("fashion_mnis:1", "did you mean 'fashion_mnist'"),
        ("", "this is no name of a TFDS data set; give NAME or NAME/CONFIG"),
        ("own_parts/file=x:nut", "this is no name"),
        ("../own_parts:nut", "this is no name"),
    ],
)
def test_names_that_are_not_there(tmp_path, name, says):
    prepare(tmp_path / "tfds")
    with pytest.raises(UserError, match=says):
        datasets.load(config_of(tmp_path, name))


def test_files_that_need_tensorflow_are_one_line(tmp_path):
    prepare(tmp_path / "tfds")
    folder = tmp_path / "tfds" / "own_parts" / "1.0.0"
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(UserError, match=r"of the format tfrecord.*tfds build --file_format=array_record"):
        datasets.load(config_of(tmp_path))


def test_the_words_of_the_recipe():
    for words, name, normal_class in (
        ("flowers:rose", "flowers", "rose"),
        ("flowers/big:rose", "flowers/big", "rose"),
        ("flowers:1.2.3:rose", "flowers:1.2.3", "rose"),
        ("flowers/big:1.2.3", "flowers/big:1.2.3", ""),
        ("flowers", "flowers", ""),
        ("flowers:a:b", "flowers", "a:b"),
    ):
        data = load_recipe(f"tfds:{words},memae,smoke").data
        assert (data.source, data.name, data.normal_class) == ("tfds", name, normal_class)
    assert load_recipe("tfds:flowers/big:rose").name == "tfds-flowers-big-rose"


def test_a_set_of_the_catalogue_may_be_called_by_its_name(tmp_path):
    with pytest.raises(UserError, match="'9x': no such class"):
        datasets.load(config_of(tmp_path, "mnist:9x"))
