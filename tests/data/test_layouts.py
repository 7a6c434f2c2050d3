"""The layouts of other tools and data sets, as they are on the disk, and what becomes of each file."""

import numpy as np
import pytest
from PIL import Image

from daad_jax.config import Config
from daad_jax.data import datasets
from daad_jax.data.folder_words import Meaning, read_folder_name, read_sibling_names
from daad_jax.data.layouts import assign_roles
from daad_jax.data.name_patterns import Patterns
from daad_jax.errors import UserError

SIZE = 8


@pytest.fixture
def config(tmp_path):
    config = Config()
    config.data.source, config.data.protocol, config.data.fit = "folder", "inspection", "resize"
    config.data.path, config.data.cache_dir = str(tmp_path / "set"), str(tmp_path / "cache")
    config.data.height = config.data.width = SIZE * 2
    return config


def write(root, names):
    """Writes images, and masks: a name ends in ":" and the number of marked pixels if it is a mask."""
    for name in names:
        name, _, marked = name.partition(":")
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((SIZE, SIZE), 90, np.uint8)
        if marked:
            pixels = np.zeros((SIZE, SIZE), np.uint8)
            pixels.ravel()[: int(marked)] = 255
        Image.fromarray(pixels).save(path)


def load(config, root, names):
    write(root / "set", names)
    return datasets.load(config)


def kinds_of(splits):
    """Name and kind of every image, by what it is for."""
    trained = dict(zip(splits.train.names + splits.calibration.names, ["good"] * 99))
    return trained, dict(zip(splits.test.names, splits.test.kinds))


def marked_images(splits):
    if splits.test.masks is None:
        return set()
    return {name for name, mask in zip(splits.test.names, splits.test.masks) if mask.any()}


# Name of the layout, files, images that train or are held out, tested images with their kinds, and tested
# images with a mask that is not empty.
LAYOUTS = {
    "good, crack, mask": (
        ["good/0.png", "good/1.png", "good/2.png", "good/3.png", "crack/0.png", "crack/1.png",
         "mask/0.png:3", "mask/1.png:4"],
        ["good/0.png", "good/1.png", "good/2.png", "good/3.png"],
        {"crack/0.png": "crack", "crack/1.png": "crack"},
        ["crack/0.png", "crack/1.png"],
    ),
    "OK, NG": (
        ["OK/a.bmp", "OK/b.bmp", "OK/c.bmp", "NG/d.bmp"],
        ["OK/a.bmp", "OK/b.bmp", "OK/c.bmp"], {"NG/d.bmp": "NG"}, [],
    ),
    "valid, invalid": (
        ["valid/a.png", "valid/b.png", "valid/d.png", "invalid/c.png"],
        ["valid/a.png", "valid/b.png", "valid/d.png"], {"invalid/c.png": "invalid"}, [],
    ),
    "Real-IAD": (
        ["OK/S1/0.jpg", "OK/S2/0.jpg", "OK/S3/0.jpg", "NG/QS/S4/0.jpg", "NG/QS/S4/0.png:5", "NG/HS/S5/0.jpg"],
        ["OK/S1/0.jpg", "OK/S2/0.jpg", "OK/S3/0.jpg"],
        {"NG/QS/S4/0.jpg": "QS", "NG/HS/S5/0.jpg": "HS"}, ["NG/QS/S4/0.jpg"],
    ),
    "VisA": (
        ["Data/Images/Normal/000.JPG", "Data/Images/Normal/001.JPG", "Data/Images/Normal/002.JPG",
         "Data/Images/Anomaly/000.JPG", "Data/Masks/Anomaly/000.png:5"],
        ["Data/Images/Normal/000.JPG", "Data/Images/Normal/001.JPG", "Data/Images/Normal/002.JPG"],
        {"Data/Images/Anomaly/000.JPG": "Anomaly"}, ["Data/Images/Anomaly/000.JPG"],
    ),
    "Train, Test": (
        ["Train/Good/1.png", "Train/Good/2.png", "Test/Good/1.png", "Test/Non-Good/1.png"],
        ["Train/Good/1.png", "Train/Good/2.png"],
        {"Test/Good/1.png": "good", "Test/Non-Good/1.png": "Non-Good"}, [],
    ),
    "MVTec AD": (
        ["train/good/000.png", "train/good/001.png", "test/good/000.png", "test/crack/000.png",
         "test/hole/000.png", "ground_truth/crack/000_mask.png:6", "ground_truth/hole/000_mask.png:7"],
        ["train/good/000.png", "train/good/001.png"],
        {"test/good/000.png": "good", "test/crack/000.png": "crack", "test/hole/000.png": "hole"},
        ["test/crack/000.png", "test/hole/000.png"],
    ),
    "BTAD": (
        ["train/ok/0.bmp", "train/ok/1.bmp", "test/ok/0.bmp", "test/ko/0.bmp", "ground_truth/ko/0.png:1"],
        ["train/ok/0.bmp", "train/ok/1.bmp"], {"test/ok/0.bmp": "good", "test/ko/0.bmp": "ko"},
        ["test/ko/0.bmp"],
    ),
    "MVTec 3D-AD": (
        ["train/good/rgb/0.png", "train/good/rgb/1.png", "train/good/xyz/0.tiff",
         "validation/good/rgb/0.png", "test/good/rgb/0.png", "test/good/gt/0.png:0", "test/good/xyz/0.tiff",
         "test/hole/rgb/0.png", "test/hole/gt/0.png:9", "test/hole/xyz/0.tiff"],
        ["train/good/rgb/0.png", "train/good/rgb/1.png", "validation/good/rgb/0.png"],
        {"test/good/rgb/0.png": "good", "test/hole/rgb/0.png": "hole"}, ["test/hole/rgb/0.png"],
    ),
    "MVTec LOCO AD": (
        ["train/good/000.png", "train/good/001.png", "validation/good/000.png", "test/good/000.png",
         "test/logical_anomalies/000.png", "ground_truth/logical_anomalies/000/000.png:2",
         "ground_truth/logical_anomalies/000/001.png:3"],
        ["train/good/000.png", "train/good/001.png", "validation/good/000.png"],
        {"test/good/000.png": "good", "test/logical_anomalies/000.png": "logical_anomalies"},
        ["test/logical_anomalies/000.png"],
    ),
    "MVTec AD 2": (
        ["train/good/000.png", "train/good/001.png", "validation/good/000.png", "test_public/good/000.png",
         "test_public/bad/000.png", "test_public/ground_truth/bad/000_mask.png:2", "test_private/000.png"],
        ["train/good/000.png", "train/good/001.png", "validation/good/000.png"],
        {"test_public/good/000.png": "good", "test_public/bad/000.png": "bad"}, ["test_public/bad/000.png"],
    ),
    "magnetic tiles": (
        ["MT_Free/Imgs/a.jpg", "MT_Free/Imgs/a.png:0", "MT_Free/Imgs/b.jpg", "MT_Free/Imgs/b.png:0",
         "MT_Free/Imgs/c.jpg", "MT_Free/Imgs/c.png:0", "MT_Crack/Imgs/a.jpg", "MT_Crack/Imgs/a.png:4"],
        ["MT_Free/Imgs/a.jpg", "MT_Free/Imgs/b.jpg", "MT_Free/Imgs/c.jpg"],
        {"MT_Crack/Imgs/a.jpg": "MT_Crack"}, ["MT_Crack/Imgs/a.jpg"],
    ),
    "KolektorSDD": (
        [f"kos{k}/Part{p}{end}" for k in (1, 2) for p in range(3)
         for end in (".jpg", f"_label.bmp:{3 if p == 2 else 0}")],
        ["kos1/Part0.jpg", "kos1/Part1.jpg", "kos2/Part0.jpg", "kos2/Part1.jpg"],
        {"kos1/Part2.jpg": "anomalous", "kos2/Part2.jpg": "anomalous"}, ["kos1/Part2.jpg", "kos2/Part2.jpg"],
    ),
    "KolektorSDD2": (
        ["train/1.png", "train/1_GT.png:0", "train/2.png", "train/2_GT.png:0", "train/3.png",
         "train/3_GT.png:5", "test/4.png", "test/4_GT.png:0", "test/5.png", "test/5_GT.png:6"],
        ["train/1.png", "train/2.png"], {"test/4.png": "good", "test/5.png": "anomalous"}, ["test/5.png"],
    ),
    "DAGM": (
        ["Class1/Train/1.PNG", "Class1/Train/2.PNG", "Class1/Train/3.PNG",
         "Class1/Train/Label/3_label.PNG:3", "Class1/Test/1.PNG", "Class1/Test/2.PNG",
         "Class1/Test/Label/2_label.PNG:3"],
        ["Class1/Train/1.PNG", "Class1/Train/2.PNG"],
        {"Class1/Test/1.PNG": "good", "Class1/Test/2.PNG": "anomalous"}, ["Class1/Test/2.PNG"],
    ),
    "images, masks": (
        ["images/1.jpg", "images/2.jpg", "images/3.jpg", "images/4.jpg", "masks/4.png:2"],
        ["images/1.jpg", "images/2.jpg", "images/3.jpg"], {"images/4.jpg": "anomalous"}, ["images/4.jpg"],
    ),
    "labelled validation": (
        ["train/good/1.png", "train/good/2.png", "val/good/1.png", "val/bad/2.png"],
        ["train/good/1.png", "train/good/2.png"], {"val/good/1.png": "good", "val/bad/2.png": "bad"}, [],
    ),
    "kinds below": (
        ["good/1.png", "good/2.png", "good/3.png", "defects/crack/1.png", "defects/hole/1.png"],
        ["good/1.png", "good/2.png", "good/3.png"],
        {"defects/crack/1.png": "crack", "defects/hole/1.png": "hole"}, [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(config, tmp_path, layout):
    names, normal, tested, marked = LAYOUTS[layout]
    splits = load(config, tmp_path, names)
    trained, kinds = kinds_of(splits)
    if "good" not in tested.values():  # then some of the good ones are tested
        kept = {name: kind for name, kind in kinds.items() if kind == "good"}
        assert len(kept) == max(1, round(len(normal) * config.data.test_fraction))
        assert not set(kept) & set(trained)
        trained, kinds = trained | kept, {n: k for n, k in kinds.items() if n not in kept}
    assert set(trained) == set(normal)
    assert kinds == tested
    assert marked_images(splits) == set(marked)
    np.testing.assert_array_equal(splits.test.labels, [kind != "good" for kind in splits.test.kinds])
    # Every file is listed once: each mask is used, and each file that is left out has a reason.
    files = {file.name: file for file in splits.account.files}
    assert set(files) == {name.partition(":")[0] for name in names}
    used = {name for name, file in files.items() if file.role not in ("mask", "left out")}
    assert used == {*normal, *tested}
    assert all(file.reason for file in files.values() if file.role == "left out")
    if validation := [name for name in normal if name.startswith("validation")]:
        assert splits.calibration.names == validation


def test_images_that_cannot_be_used_have_reasons(config, tmp_path):
    splits = load(
        config,
        tmp_path,
        ["train/good/1.png", "train/good/2.png", "train/bad/3.png", "test/4.png", "test/good/5.png",
         "test/bad/6.png", "preview.png", "validation/bad/7.png"],
    )  # fmt: skip
    reasons = {file.name: file.reason for file in splits.account.files if file.reason}
    assert reasons == {
        "train/bad/3.png": "anomalous in the training part",
        "test/4.png": "in a folder that does not say whether it is good",
        "preview.png": "outside of the train, validation and test folders",
        "validation/bad/7.png": "anomalous in the validation part",
    }


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["a/1.png", "b/1.png", "b/2.png"], r"images are good: a \(1\), b \(2\); set config\.data\.normal"),
        (["2024-01-01/1.png", "2024-01-02/1.png"], r"2024-01-01 \(1\), 2024-01-02 \(1\)"),
        (["1.png", "crack/2.png"], r"good: \. \(1\), crack \(1\)"),
        (["parts/1.png", "NG/2.png"], r"good: NG \(1\), parts \(1\)"),
        (["train/a/1.png", "train/b/1.png"], r"good: train/a \(1\), train/b \(1\)"),
        (["x/good/1.png", "x/bad/1.png", "y/good/1.png"], r"several data sets: x \(2\), y \(1\)"),
        (["masks/1.png"], r"holds no images \(1 mask\(s\)\).*config\.data\.normal"),
        (["crack/1.png", "mask/2.png"], "no mask has the name of an image"),
    ],
)  # fmt: skip
def test_what_is_not_clear_is_refused(config, tmp_path, names, says):
    with pytest.raises(UserError, match=says):
        load(config, tmp_path, names)


def test_flags_settle_it():
    names = [
        "day1/a/1.png",
        "day1/b/1.png",
        "day2/a/1.png",
        "c/2.png",
        "c/2_mask.png",
        "d/3.png",
        "labels/4.png",
    ]

    def roles(**flags):
        values = {"normal": "", "anomalous": "", "masks": ""} | flags
        found = assign_roles(names, Patterns.parse(**values), "set")
        return {name: a.kind if a.role == "image" else a.role for name, a in zip(names, found)}

    assert roles(normal="A", anomalous=" b, c/ ") == {
        "day1/a/1.png": "good", "day1/b/1.png": "day1", "day2/a/1.png": "good", "c/2.png": "c",
        "c/2_mask.png": "mask", "d/3.png": "left out", "labels/4.png": "mask",
    }  # fmt: skip
    # "*" is everything, but not what has another pattern or is a mask by its name.
    assert roles(normal="*", anomalous="day1/b")["d/3.png"] == "good"
    assert roles(normal="*", anomalous="day1/b")["day1/b/1.png"] == "day1"
    assert roles(normal="*")["c/2_mask.png"] == "mask"
    assert roles(normal="labels")["labels/4.png"] == "good"
    assert roles(anomalous="c", normal="2_mask.png, day1")["c/2_mask.png"] == "c"
    assert roles(normal="day*", masks="d")["d/3.png"] == "mask"
    with pytest.raises(
        UserError, match=r"config\.data\.normal: 'dya1' matches no image.*did you mean 'day1'"
    ):
        roles(normal="dya1")


def test_flags_settle_several_sets(config, tmp_path):
    config.data.normal, config.data.anomalous = "good", "bad"
    names = ["x/good/1.png", "x/bad/1.png", "y/good/1.png", "z/train/good/1.png"]
    splits = load(config, tmp_path, names)
    assert {f.name for f in splits.account.files if f.role == "training"} == {n for n in names if "good" in n}


def test_flags_keep_to_the_parts(config, tmp_path):
    config.data.normal, config.data.anomalous = "a", "b"
    names = [
        "train/a/1.png",
        "train/a/2.png",
        "train/b/3.png",
        "test/a/4.png",
        "test/b/5.png",
        "test/c/6.png",
    ]
    splits = load(config, tmp_path, names)
    assert kinds_of(splits)[1] == {"test/a/4.png": "good", "test/b/5.png": "b"}
    assert {f.name for f in splits.account.files if f.role == "left out"} == {"train/b/3.png", "test/c/6.png"}


@pytest.mark.parametrize(
    ("name", "part", "role"),
    [
        ("Non-Defective", "", "normal"), ("no defect", "", "normal"), ("Defect_Free", "", "normal"),
        ("i.O.", "", "normal"), ("n.i.O.", "", "anomalous"), ("NOK", "", "anomalous"),
        ("not_good", "", "anomalous"),
        ("GoodImages", "", "normal"), ("good 2", "", "normal"), ("images_bad", "", "anomalous"),
        ("Ground Truth", "", "mask"), ("crack_masks", "", "mask"), ("white_label", "", ""),
        ("Training", "train", ""), ("train_good", "train", "normal"), ("val2017", "held_out", ""),
        ("test_public", "test", ""), ("Imgs", "", "neutral"), ("good enough", "", ""), ("000", "", ""),
    ],
)  # fmt: skip
def test_names_of_folders(name, part, role):
    assert read_folder_name(name)[:2] == Meaning(part, role)[:2]


def test_a_word_that_all_siblings_share_says_nothing():
    found = read_sibling_names(["screw_good", "screw_scratch", "screw-NG"])
    assert [found[name].role for name in found] == ["normal", "", "anomalous"]
    assert read_sibling_names(["defect_a", "defect_b"])["defect_a"].role == ""


def test_several_unknown_folders_beside_a_test_folder_do_not_train(config, tmp_path):
    with pytest.raises(UserError, match=r"do not say which images are good: crack \(1\), hole \(1\);"):
        load(config, tmp_path, ["crack/0.png", "hole/1.png", "test/good/2.png"])
    # A single one must be the good one.
    names = ["bottles/0.png", "test/good/2.png", "test/bad/3.png"]
    found = assign_roles(names, Patterns.parse("", "", ""), "set")
    assert [(each.part, each.kind) for each in found] == [
        ("train", "good"),
        ("test", "good"),
        ("test", "bad"),
    ]
