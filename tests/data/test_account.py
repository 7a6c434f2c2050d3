"""The account of a folder against a plain walk: random folders of all layouts, depths, links and masks."""

import hashlib
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from daad_jax.config import Config
from daad_jax.data import account, datasets
from daad_jax.data.samples import AccountRow, FileRecord
from daad_jax.errors import UserError

SIDE = 4


def load(root, **changes):
    config = Config()
    config.data.source, config.data.protocol, config.data.fit = "folder", "inspection", "resize"
    config.data.path, config.data.cache_dir = str(root), str(root.parent / "cache")
    config.data.height = config.data.width = SIDE
    for key, value in changes.items():
        setattr(config.data, key, value)
    return datasets.load(config)


# What a random folder is made of. Every image has its own grey level, and marked pixels of masks are 255, so
# that a mask among the images shows.
GOOD = st.sampled_from(["good", "Good", "OK", "Normal", "non-defective"])
DEFECTS = st.lists(st.sampled_from(["crack", "Hole", "NG", "scratch 1"]), min_size=1, max_size=2, unique=True)
DEEP = st.sampled_from(["", "/a", "/2024-01-01/b"])
SUFFIX = st.sampled_from([".png", ".PNG", ".bmp", ".tif", ""])
MASK_FOLDER = st.sampled_from(["ground_truth", "Masks", "label"])
MASK_SUFFIX = st.sampled_from([".png", ".bmp", "_mask.PNG", "_GT.tif", "_label_1.png"])
JUNK = st.lists(
    st.sampled_from(
        ["notes.txt", ".DS_Store", "._0.png", ".git/x.png", "sub/Thumbs.db", "empty.png", "words", "pipe.png",
         "broken.png", "self", "twice", "lost+found/y.png"]
    ),
    max_size=4, unique=True,
)  # fmt: skip


def write_image(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((SIDE, SIDE), value, np.uint8)).save(path, format=None if path.suffix else "png")


def write_mask(path, is_empty=False):
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[1:3, 1:3] = 0 if is_empty else 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)


def write_junk(root, names, real_folder):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name == "pipe.png":
            os.mkfifo(path)
        elif name == "broken.png":
            path.symlink_to("nowhere.png")
        elif name == "self":
            path.symlink_to(root)
        elif name == "twice":
            path.symlink_to(real_folder)
        elif name == "empty.png":
            path.touch()
        elif name.endswith((".git/x.png", "lost+found/y.png")):
            write_image(path, 255)
        else:
            path.write_text("no image")


@st.composite
def folders(draw):
    """The files of a folder: images with what they are, and masks with the image each belongs to."""
    good, defects, deep = draw(GOOD), draw(DEFECTS), draw(DEEP)
    with_parts, masks_at = draw(st.booleans()), draw(MASK_FOLDER)
    train, test = (
        (draw(st.sampled_from([("train/", "test/"), ("Train/", "TEST/")]))) if with_parts else ("", "")
    )
    images, masks = {}, {}
    for i in range(draw(st.integers(3, 5))):
        images[f"{train}{good}{deep}/{i}{draw(SUFFIX)}"] = "good"
    if with_parts:
        images[f"{test}{good}/0{draw(SUFFIX)}"] = "test good"
    for defect in defects:
        for i in range(draw(st.integers(1, 3))):
            name = f"{test}{defect}{deep}/{i}"
            images[name + draw(SUFFIX)] = "defect"
            for _ in range(draw(st.integers(0, 2))):
                masks[f"{masks_at}/{defect}{deep}/{i}{draw(MASK_SUFFIX)}"] = name
        if draw(st.booleans()):
            masks[f"{masks_at}/{defect}{deep}/orphan{draw(MASK_SUFFIX)}"] = ""
    return images, masks, draw(JUNK)


@settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(made=folders())
def test_the_account_is_that_of_a_plain_walk(tmp_path, made):
    images, masks, junk = made
    shutil.rmtree(tmp_path / "set", ignore_errors=True)
    root = tmp_path / "set"
    for value, name in enumerate(images):
        write_image(root / name, 10 + value)
    for name in masks:
        write_mask(root / name)
    write_junk(root, junk, root / next(iter(images)).rpartition("/")[0])
    splits = load(root)

    # Every file once, by a walk of our own. Links to folders stand for themselves: none is followed here.
    walked = set()
    for place, inner, files in os.walk(root):
        links = [name for name in inner if Path(place, name).is_symlink()]
        walked |= {Path(place, name).relative_to(root).as_posix() for name in [*files, *links]}
    records = {file.name: file for file in splits.account.files}
    assert set(records) == walked
    assert len(records) == len(splits.account.files)

    # Used and left out images add up to all images.
    assert {name for name, file in records.items() if file.role in account.IMAGE_ROLES} == set(images)
    assert {name for name, file in records.items() if file.role == "mask"} == set(masks)
    assert {name for name, file in records.items() if file.role == "left out"} == walked - {*images, *masks}
    for name, file in records.items():
        is_used = name in images or bool(masks.get(name))
        assert (file.reason == "") == is_used, file
        is_read = is_used and hashlib.sha256((root / name).read_bytes()).hexdigest()
        assert file.sha256 == (is_read or "")
    assert sum(row.files for row in splits.account.rows) == len(walked)
    used = sum(row.used for row in splits.account.rows if row.role != "mask")
    assert used == len(splits.train) + len(splits.calibration) + len(splits.test) == len(images)

    assert load(root).account == splits.account  # this time from the cache
    stored = json.loads(json.dumps(account.to_tree(splits.account)))
    assert [AccountRow(**row) for row in stored["rows"]] == splits.account.rows
    assert [FileRecord(**file) for file in stored["files"]] == splits.account.files

    # No anomalous image and no mask trains.
    values = {name: 10 + value for value, name in enumerate(images)}
    for split in (splits.train, splits.calibration):
        assert all(images[name] == "good" for name in split.names)
        np.testing.assert_array_equal(split.images[:][:, 0, 0, 0], [values[name] for name in split.names])
    assert {images[name] for name, label in zip(splits.test.names, splits.test.labels) if label} == {"defect"}
    assert all(
        images[name] != "defect" for name, label in zip(splits.test.names, splits.test.labels) if not label
    )

    # Each mask marks its own image, and no other.
    stems = set(masks.values()) - {""}
    for index, name in enumerate(splits.test.names):
        is_marked = splits.test.masks is not None and splits.test.masks[index].any()
        assert is_marked == (os.path.splitext(name)[0] in stems), name
    of_image = Counter(stem for stem in masks.values() if stem)
    assert all(records[name].masks == of_image[os.path.splitext(name)[0]] for name in images)


@settings(
    max_examples=30,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    names=st.lists(
        st.builds(
            "/".join,
            st.tuples(
                st.sampled_from(["a", "b", "train", "test", "good", "bad", "masks", "images", "x y"]),
                st.sampled_from(["good", "NG", "gt", "c", "val", "mask images"]),
                st.sampled_from(["0.png", "0_mask.png", "1.jpg", "1.png", "2.bmp", "2_GT.bmp", "n.txt"]),
            ),
        ),
        min_size=1, max_size=8, unique=True,
    )
)  # fmt: skip
def test_no_folder_at_all_trains_on_what_is_called_anomalous_or_a_mask(tmp_path, names):
    """Folders that make no sense are refused, or every file is accounted for."""
    shutil.rmtree(tmp_path / "set", ignore_errors=True)
    for name in names:
        if name.endswith(".txt"):
            (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "set" / name).write_text("no image")
        else:
            write_mask(tmp_path / "set" / name)
    try:
        splits = load(tmp_path / "set")
    except UserError:
        return
    assert sorted(file.name for file in splits.account.files) == sorted(names)
    for name in splits.train.names + splits.calibration.names:
        assert not {"bad", "NG", "masks", "gt", "mask images"} & set(name.split("/")[:-1]) or (
            # The deepest name decides: "bad/good" is good.
            name.split("/")[:2] == ["bad", "good"]
        )
        assert not any(name.endswith(end) for end in ("_mask.png", "_GT.bmp")) or not any(
            other.rpartition(".")[0] == name.rpartition("_")[0] for other in names
        )


def test_the_table_is_short_and_says_what_is_left_out():
    rows = [AccountRow("test, anomalous", f"test/{i}", 2, 2, 2, 2, {}) for i in range(20)]
    rows += [AccountRow("mask", f"ground_truth/{i}", 2, 0, 0, 1, {"empty": 1}) for i in range(20)]
    rows += [
        AccountRow("left out", name, 3, 0, 0, 0, {"hidden": 1, reason: 2}) for name, reason in ("ab", "cd")
    ]
    shown = account.format_table(account.shorten(rows)).splitlines()
    assert [line.split("  ")[0] for line in shown] == ["role", "test, anomalous", "mask", "left out"]
    assert shown[1].split() == ["test,", "anomalous", "20", "folders", "40", "40", "40", "40"]
    assert shown[2].split() == ["mask", "20", "folders", "40", "-", "-", "20", "20", "empty"]
    assert shown[3].endswith("0  2 hidden, 2 b, 2 d")
    assert len(account.shorten(rows[:11])) == 11
    long = AccountRow("training", "x" * 99, 1, 1, 0, 1, {})
    assert len(account.format_table([long]).splitlines()[1]) < 100


def test_limits_and_unreadable_images_are_in_the_account():
    files = [FileRecord(f"good/{i}.png", "training") for i in range(5)]
    unreadable, used = {"good/0.png": ["0.png: cannot be read"]}, Counter({"good/1.png": 1})
    found = account.of_files(files, unreadable, used, {"good/4.png": "have trained"})
    (row,) = found.rows
    assert (row.files, row.images, row.used) == (5, 5, 1)
    assert row.left_out == {"unreadable": 1, account.LIMITED: 2, "have trained": 1}
    reasons = ["0.png: cannot be read", "", account.LIMITED, account.LIMITED, "have trained"]
    assert [file.reason for file in found.files] == reasons


def test_a_source_without_files_has_a_row_for_each_part():
    found = account.of_parts([("training", "train", 10, 7), ("test, good", "test", 3, 3)])
    assert account.format_table(found.rows).splitlines()[1].split()[:6] == [
        "training",
        "train",
        "-",
        "10",
        "-",
        "7",
    ]
    assert found.files == []


@pytest.mark.skipif("DAAD_INSPECTION_DIR" not in os.environ, reason="DAAD_INSPECTION_DIR is not set")
@pytest.mark.parametrize(
    ("name", "good", "held_out", "tested", "masks"),
    [
        ("mvtec3d_tire", 210, 29, 25, 87),
        ("kolektor_sdd", 202, 0, 131, 50),
        ("mpdd_metal_plate", 54, 0, 26, 71),
    ],
)
def test_real_sets(tmp_path, name, good, held_out, tested, masks):
    path = Path(os.environ["DAAD_INSPECTION_DIR"]) / name
    splits = load(path, cache_dir=str(tmp_path), height=32, width=32)
    images = Counter({role: 0 for role in account.ROLES})
    for row in splits.account.rows:
        images[row.role] += row.used
    assert [images[role] for role in account.ROLES] == [good, held_out, tested, masks, masks, 0]
    assert sum(1 for file in path.rglob("*") if file.is_file()) == len(splits.account.files)
    if held_out:
        assert all(name.startswith("validation/") for name in splits.calibration.names)
        assert len(splits.train) == good
